"""Fixtures that several rooms' tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tiny_models import tiny_config, write_checkpoint


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Path]:
    """Makes a tiny checkpoint: ``tiny("qwen2", vocab_size=400)``."""

    def make(architecture: str = "llama", **changes: Any) -> Path:
        config = tiny_config(architecture, **changes)
        return write_checkpoint(tmp_path / f"tiny-{architecture}", config)

    return make


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test touches the user's cache."""
    monkeypatch.setenv("SLMKIT_CACHE", str(tmp_path_factory.mktemp("cache")))


def pytest_addoption(parser: pytest.Parser) -> None:
    """--write-golden renews the recorder's texts."""
    parser.addoption("--write-golden", action="store_true", help="renew tests/golden")
