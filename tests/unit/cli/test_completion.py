"""Shell completion, asked as a shell asks."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from slmkit.cli.main import main


def completed(line):
    words = {
        "COMP_WORDS": f"slmkit {line}",
        "COMP_CWORD": str(len(f"slmkit {line}".split(" ")) - 1),
    }
    result = CliRunner().invoke(
        main, prog_name="slmkit", env={"_SLMKIT_COMPLETE": "bash_complete", **words}
    )
    return [each.partition(",")[2] for each in result.stdout.splitlines()]


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("ch", ["chat"]),
        ("build --target ", ["android", "ios"]),
        ("build --recipe int4-c", ["int4-compact", "int4-coreml-gpu"]),
        ("build --artifacts ort,li", ["ort,litert"]),
        ("run bundle --artifact h", ["hexagon"]),
        ("build --jun", ["--junit"]),
    ],
)
def test_names_are_completed(line, names):
    assert completed(line) == names
