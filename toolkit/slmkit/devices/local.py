"""Facts of this computer, for a report."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from slmkit.devices.report import Device

CPU_FACTS = Path("/proc/cpuinfo")  # of Linux
MODEL_KEYS = ("model name", "hardware", "cpu model")  # by architecture, in lower case
FEATURE_KEYS = ("flags", "features")


def this_device() -> Device:
    """The computer that runs slmkit."""
    facts = _cpu_facts()
    model = next((facts[key] for key in MODEL_KEYS if key in facts), platform.processor())
    features = next((facts[key] for key in FEATURE_KEYS if key in facts), "")
    return Device(
        where="local",
        model=model or platform.machine(),
        os=f"{platform.system()} {platform.release()}",
        abi=platform.machine(),
        cpu_features=tuple(sorted(features.split())),
        cores=available_cores(),
        memory=_memory(),
    )


def load_average() -> float | None:
    """Processes that wanted a core during the last minute; None where the system does not tell."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):  # Windows has none
        return None


def available_cores() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_facts() -> dict[str, str]:
    """Of the first processor, by key in lower case."""
    found: dict[str, str] = {}
    if CPU_FACTS.exists():
        for line in CPU_FACTS.read_text(encoding="utf-8", errors="replace").splitlines():
            key, colon, value = line.partition(":")
            if colon:
                found.setdefault(key.strip().lower(), value.strip())
    return found


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has neither
        return None
