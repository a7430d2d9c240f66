"""Bugs planted into a written .tflite or its host: the float32 gate must find each."""

from __future__ import annotations

import copy
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from artifacts import FLOAT32_FLOOR, emitted, reference_of, run, token_snr_db
from litert_artifacts import litert_job
from slmkit.errors import BackendError
from slmkit.ops import Rope
from slmkit_litert import runner as host
from slmkit_litert.lowering.weight_binding import read_model, weights_of
from tiny_models import tiny_config, write_checkpoint

EPS, THETA = 1e-3, 10000.0
LAYER = "model.layers.0"
FLIPS, CAUGHT = 30, 27  # padding of a buffer may be hit, or a name


class Planted:
    """A copy of the artifact's file, open for surgery; patches of the host."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, job) -> None:
        self.path, self.patch, self.job = folder / "model.tflite", patch, job
        found = weights_of(*read_model(self.path))
        self.stored = {name: copy.deepcopy(each) for name, each in found.items()}  # off the file

    def scales(self, name: str) -> np.ndarray:
        """The scales of a weight that has some."""
        found = self.stored[f"{name}.weight"].scales
        assert found is not None
        return found

    def replace(self, old: np.ndarray, new: np.ndarray) -> None:
        """Other bytes in the place of those, wherever they are."""
        raw, one, other = self.path.read_bytes(), old.tobytes(), new.tobytes()
        assert len(one) == len(other) > 0
        assert one in raw
        self.path.write_bytes(raw.replace(one, other))


def wrong_rope_theta(planted: Planted) -> None:
    width, positions = planted.job.spec.head_width, np.arange(planted.job.context_length)
    frequencies = (2 * THETA) ** (-np.arange(0, width, 2) / width)
    wrong = Rope(tuple(frequencies.tolist())).table(positions)
    for old, new in zip(planted.job.spec.rope.table(positions), wrong, strict=True):
        planted.replace(old, new)


def swapped_kv_heads(planted: Planted) -> None:
    name = f"{LAYER}.self_attn.k_proj"
    data, scales = planted.stored[f"{name}.weight"].data, planted.scales(name)
    planted.replace(data, np.roll(data, len(data) // 2))
    planted.replace(scales, np.roll(scales, len(scales) // 2, axis=0))


def missing_eps(planted: Planted) -> None:
    planted.replace(np.array(EPS, np.float32), np.array(0, np.float32))


def transposed_scales(planted: Planted) -> None:
    scales = planted.scales(f"{LAYER}.self_attn.o_proj")
    planted.replace(scales, scales.T.reshape(scales.shape))


def swapped_gate_and_up(planted: Planted) -> None:
    gate, up = (planted.stored[f"{LAYER}.mlp.{part}_proj.weight"] for part in ("gate", "up"))
    planted.replace(gate.data, up.data[::-1])  # never both at once in one file
    planted.replace(up.data, gate.data)
    planted.replace(up.data[::-1], up.data)
    planted.replace(*(planted.scales(f"{LAYER}.mlp.{part}_proj") for part in ("gate", "up")))


def swapped_nibbles(planted: Planted) -> None:
    data = planted.stored[f"{LAYER}.mlp.down_proj.weight"].data
    planted.replace(data, (data >> 4) | (data << 4))


def scales_of_another_row(planted: Planted) -> None:
    scales = planted.scales(f"{LAYER}.mlp.up_proj")
    planted.replace(scales, np.roll(scales, 1, axis=0))


def wrong_position_in_decode(planted: Planted) -> None:
    right = host.LitertRunner._run

    def late(self, name, tokens, ids, position):
        return right(self, name, tokens, ids, position + (tokens == 1))

    planted.patch.setattr(host.LitertRunner, "_run", late)


def mask_off_by_one(planted: Planted) -> None:
    right = host.causal_mask
    planted.patch.setattr(host, "causal_mask", lambda positions, total: right(positions + 1, total))


def stale_cache(planted: Planted) -> None:
    """The new values of layer 1 are lost."""
    right = host.LitertRunner._caches

    def forgetful(self, found):
        return {**right(self, found), "kv_cache_v_1": self.caches["kv_cache_v_1"]}

    planted.patch.setattr(host.LitertRunner, "_caches", forgetful)


BUGS = [
    wrong_rope_theta,
    swapped_kv_heads,
    missing_eps,
    transposed_scales,
    swapped_gate_and_up,
    swapped_nibbles,
    scales_of_another_row,
    wrong_position_in_decode,
    mask_off_by_one,
    stale_cache,
]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    config = tiny_config("llama", rms_norm_eps=EPS, rope_theta=THETA)
    job = litert_job(write_checkpoint(folder / "model", config), folder, "int4-g32")
    return folder / "litert", emitted(job, folder / "litert"), job, reference_of(job)


def worst_db(original, folder: Path, patch, plant) -> float:
    source, artifact, job, expected = original
    shutil.copytree(source, folder)
    plant(Planted(folder, patch, job))
    try:
        found = run(folder, artifact, "float32", job)
    except BackendError as error:
        assert "prefill leaves another kv_cache" in str(error)
        return -math.inf
    return float(token_snr_db(expected, found).min())


def test_nan_is_an_answer_and_no_difference_of_caches(original, tmp_path, monkeypatch):
    source, artifact, job, _ = original
    folder = Path(shutil.copytree(source, tmp_path / "l"))
    planted = Planted(folder, monkeypatch, job)
    scales = planted.scales(f"{LAYER}.mlp.up_proj")
    planted.replace(scales, np.full_like(scales, np.nan))
    assert np.isnan(run(folder, artifact, "float32", job)).all()


def test_the_surgery_itself_changes_nothing(original, tmp_path, monkeypatch):
    assert worst_db(original, tmp_path / "l", monkeypatch, lambda planted: None) > FLOAT32_FLOOR


@pytest.mark.parametrize("plant", BUGS, ids=lambda plant: plant.__name__)
def test_parity_catches(original, tmp_path, monkeypatch, plant):
    found = worst_db(original, tmp_path / "l", monkeypatch, plant)
    assert not found >= FLOAT32_FLOOR, f"{found:.1f} dB"


def test_most_single_bit_flips_in_the_weights_are_caught(original, tmp_path, monkeypatch):
    random, caught = np.random.default_rng(11), 0
    names = sorted(original[2].model.multiplied)  # of a table, few rows are read
    for number in range(FLIPS):

        def flip(planted: Planted) -> None:
            data = planted.stored[f"{names[random.integers(len(names))]}.weight"].data
            wrong = data.copy()
            wrong[random.integers(len(data))] ^= np.uint8(1 << random.integers(8))
            planted.replace(data, wrong)

        caught += not worst_db(original, tmp_path / str(number), monkeypatch, flip) >= FLOAT32_FLOOR
    assert caught >= CAUGHT, f"{caught} of {FLIPS}"
