"""Measure a build of the coreml artifact: seconds by stage, memory, package size.

python tests/benchmarks/coreml_build.py CHECKPOINT FOLDER [--recipe int4] [--context 512]

Limits: 60 seconds and 3 GB for the shape of Qwen2.5-0.5B. A torch trace with coremltools 9 was
measured on this kind of machine at 96 seconds and 7.94 GB, for one fixed graph without a KV cache
and without a parity check.
"""

from __future__ import annotations

import json
import shutil
import sys

from process_cost import build_command, build_parser, measure_stages

from slmkit.bundle.manifest import read_manifest

LIMIT_SECONDS, LIMIT_GB = 60, 3
PEER = {"seconds": 96, "largest_process_gb": 7.94, "proof": "none"}


def main() -> None:
    """Build without a cache; print JSON."""
    options = build_parser(__doc__).parse_args()
    shutil.rmtree(options.folder, ignore_errors=True)
    cost, seconds = measure_stages(build_command(options, "ios", "coreml", options.folder))
    (bundle,) = options.folder.iterdir()
    facts = read_manifest(bundle).artifact("coreml").facts
    emission = seconds["quantize"] + seconds["emit coreml"]
    result = {
        "recipe": options.recipe,
        "quantize and emit seconds": round(emission, 1),
        "limit seconds": LIMIT_SECONDS,
        "limit gb": LIMIT_GB,
        "with the whole proof": cost,
        "stages": seconds,
        "weight.bin mb": [round(each["weights"] / 1e6, 1) for each in facts["packages"]],
        "predicted to stay": {name: each["predicted"] for name, each in facts["residency"].items()},
        "torch trace + coremltools, as measured before": PEER,
    }
    sys.stdout.write(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
