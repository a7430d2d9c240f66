"""Fixtures that several rooms' tests share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

import optional_data
import tiers
from tiny_models import tiny_config, write_checkpoint

# A busy machine is no failure; CI repeats the same examples, every other run draws new ones.
settings.register_profile(
    "slmkit",
    deadline=None,
    database=None,
    derandomize="CI" in os.environ,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("slmkit")


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[..., Path]:
    """Makes a tiny checkpoint: ``tiny("qwen2", vocab_size=400)``."""

    def make(architecture: str = "llama", **changes: Any) -> Path:
        config = tiny_config(architecture, **changes)
        return write_checkpoint(tmp_path / f"tiny-{architecture}", config)

    return make


@pytest.fixture(autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test touches the user's cache, or leaves anything in the system's temporary folder."""
    monkeypatch.setenv("SLMKIT_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setenv("TMPDIR", str(tmp_path_factory.mktemp("scratch")))
    monkeypatch.setattr(tempfile, "tempdir", None)  # read TMPDIR again


@pytest.fixture
def from_index(monkeypatch):
    """slmkit as a package that was installed, not the clone that it is here."""
    monkeypatch.setattr("slmkit.system.installing.clone_folder", lambda: None)


def pytest_addoption(parser: pytest.Parser) -> None:
    """--write-golden renews the recorder's texts."""
    parser.addoption("--write-golden", action="store_true", help="renew golden files")


def pytest_configure(config: pytest.Config) -> None:
    """Counts what is left out; one thread for a worker's products, as workers are many."""
    config.pluginmanager.register(tiers.LeftOut())
    if getattr(config.option, "numprocesses", None):
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks whole files."""
    tiers.mark_full(items)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests that read other people's data are skipped where it is not."""
    reason = optional_data.missing(item)
    if reason:
        pytest.skip(reason)


# Files whose tests share what is slow to make: one process runs all of a file.
TOGETHER = (
    "bundle/test_bundle.py",
    "bundle/test_export.py",
    "cli/test_cli.py",
    "coreml/test_planted_bugs.py",
    "devices/test_by_app.py",
    "devices/test_mac.py",
    "hexagon/test_bundle.py",
    "hexagon/test_planted_bugs.py",
    "hexagon/test_scan.py",
    "harness/test_harness.py",
    "litert/test_bundle.py",
    "litert/test_lowering.py",
    "litert/test_planted_bugs.py",
    "mlc/test_library.py",
    "mlc/test_lowering.py",
    "mlc/test_planted_bugs.py",
    "ort/test_adapters.py",
    "ort/test_planted_bugs.py",
    "sample_apps/test_app_projects.py",
    "slow/test_adb.py",
    "slow/test_android_app.py",
    "slow/test_arm64_rows.py",
    "slow/test_ios_app.py",
    "slow/test_mlc_arm64.py",
    "slow/test_qemu_arm64.py",
    "slow/test_resolution.py",
    "slow/test_ssh.py",
    "slow/test_wheel.py",
    "unit/test_docs.py",
    "workflows/test_build.py",
    "workflows/test_codes.py",
    "workflows/test_compare.py",
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """``--dist loadgroup`` by files: pytest 9.2 no longer takes the names that pytest-xdist 3.8
    gives to marked tests, so that its own groups have no effect."""
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):
        """Each test by itself, but for those of some files."""

        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return file if file.endswith(TOGETHER) else nodeid

    return Together(config, log) if config.getvalue("dist") == "loadgroup" else None
