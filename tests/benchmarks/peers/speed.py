"""The question and the answer that all scripts beside this one have in common.

They run in environments of their own, without slmkit.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path


def asked(about: str | None) -> argparse.Namespace:
    """The model, and how many tokens to read and to decode."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("model", type=Path)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--decode", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


def say(prefill: float, decode: float) -> None:
    """Print tokens per second, as the last line, and end: some runtimes hang in destructors."""
    print(json.dumps({"prefill": prefill, "decode": decode}), flush=True)  # noqa: T201
    os._exit(0)
