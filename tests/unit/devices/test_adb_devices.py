"""adb's list of devices: recorded answers, and whatever else may stand there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmkit.devices.places.adb import ASKS, Adb, Seen, chosen, parse_devices
from slmkit.devices.places.box import Box
from slmkit.errors import BackendError

RECORDED = """* daemon not running; starting now at tcp:5037
* daemon started successfully
List of devices attached
emulator-5554          device product:sdk_gphone64_arm64 model:sdk_gphone64_arm64 transport_id:1
0123456789ABCDEF       unauthorized usb:1-1 transport_id:2
192.168.1.7:5555       offline transport_id:3
XYZ                    no permissions (missing udev rules? user is in the plugdev group)

"""


def test_recorded_states_are_told_apart():
    found = parse_devices(RECORDED)
    assert [(each.serial, each.state) for each in found] == [
        ("emulator-5554", "device"),
        ("0123456789ABCDEF", "unauthorized"),
        ("192.168.1.7:5555", "offline"),
        ("XYZ", "no permissions"),
    ]
    assert found[0].about.startswith("product:")


@pytest.mark.parametrize("state", ASKS)
def test_a_device_that_asks_something_is_refused_with_what_to_do(state):
    with pytest.raises(BackendError, match=f"the device A is {state}") as error:
        chosen([Seen("A", state, "")], "")
    assert error.value.hint == ASKS[state]


@given(st.text(max_size=200))
def test_no_output_of_adb_breaks_the_parser(text):
    for each in parse_devices(text):
        assert each.serial


SERIALS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20)


@given(st.dictionaries(SERIALS, st.sampled_from(["device", *ASKS]), max_size=5))
def test_what_adb_lists_is_what_is_read(devices):
    devices = {key: each for key, each in devices.items() if not key.startswith("*")}
    text = "\n".join(f"{key}\t{each} transport_id:1" for key, each in devices.items())
    found = {each.serial: each.state for each in parse_devices(f"List of devices attached\n{text}")}
    assert found == devices


def test_no_adb_is_said(tmp_path):
    with pytest.raises(BackendError, match="there is no adb here"):
        Adb("", (str(tmp_path / "adb"),), Box(tmp_path, "3.11", ()))
