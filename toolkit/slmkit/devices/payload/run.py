"""Run one artifact on a device over prompts and golden sequences; needs NumPy and the runtime only.

usage: python run.py JOB.json OUT [JOB.json OUT ...]

OUT/result.json appears last, in one step, or not at all. Beside it lies outputs.npz: of every
position of the golden sequences the logits of some columns, log(sum(exp)) and the best token.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

HWCAPS = {  # Linux, arch/arm64/include/uapi/asm/hwcap.h: (AT_HWCAP or AT_HWCAP2, bit)
    "fp": (16, 0),
    "asimd": (16, 1),
    "atomics": (16, 8),
    "fphp": (16, 9),
    "asimdhp": (16, 10),
    "asimddp": (16, 20),
    "sve": (16, 22),
    "sve2": (26, 1),
    "i8mm": (26, 13),
    "bf16": (26, 14),
    "sme": (26, 23),
    "sme2": (26, 37),
}
BEST = 8  # ids of a decoded position that are kept
DIGITS = 5  # after the point, of their logits


def run(job: dict[str, Any], folder: Path, out: Path) -> dict[str, Any]:
    """Load, answer the prompts, then follow the golden sequences."""
    from engine import open_engine  # type: ignore[import-not-found]  # it lies beside this file

    before, begin = peak_memory(), time.perf_counter()
    threads = job["threads"] or cores()
    engine = open_engine(folder, job["artifact"], threads)
    loaded = time.perf_counter() - begin
    lengths, count = job["lengths"], job["decode"]
    ids, cold, warm = np.asarray(job["ids"], np.int64), None, []
    for length in lengths:
        first = answer(engine, ids[:length], count)
        cold = cold or first
        warm.append(answer(engine, ids[:length], count))
    memory = peak_memory()
    cases, timings = follow(engine, job["cases"], job["columns"], out)
    return {
        "runtime": engine.runtime,
        "threads": threads,
        "load_s": loaded,
        "memory_before": before,
        "memory": memory if lengths else peak_memory(),
        "cold": cold or timings[0],
        "warm": warm,
        "cases": cases,
        "device": device(),
    }


def answer(engine: Any, ids: Any, count: int) -> dict[str, Any]:
    """Read a prompt into an empty cache, then decode ``count`` tokens greedily."""
    engine.reset()
    begin = time.perf_counter()
    token = int(engine.prefill(ids).argmax())
    read = time.perf_counter()
    for _ in range(count):
        token = int(engine.feed(np.asarray([token], np.int64))[-1].argmax())
    end = time.perf_counter()
    return timing(len(ids), read - begin, count, end - read)


def timing(prompt: int, prefill_s: float, decoded: int, decode_s: float) -> dict[str, Any]:
    """One answer's times, in seconds."""
    times = {"prefill_s": prefill_s, "decode_s": decode_s}
    return {"prompt": prompt, "decoded": decoded, **times}


def follow(
    engine: Any, cases: list[Any], columns: list[int], out: Path
) -> tuple[list[Any], list[Any]]:
    """Every golden sequence, piece by piece, the prompt first. Writes outputs.npz; the best ids of
    the decoded positions, and the times."""
    found, timings, parts = [], [], []
    for case in cases:
        engine.reset()
        prompt, rows = case["prompt"], []
        begin = read = time.perf_counter()
        fed = 0
        for piece in case["pieces"]:
            rows.append(np.array(engine.feed(np.asarray(piece, np.int64))))
            fed += len(piece)
            if fed == prompt:
                read = time.perf_counter()
        end = time.perf_counter()
        logits = np.concatenate(rows)
        norm = log_norms(logits)
        timings.append(timing(prompt, read - begin, max(fed - prompt, 1), end - read))
        parts.append((logits[:, columns], norm, logits.argmax(axis=1)))
        chosen = range(prompt - 1, len(logits))
        found.append(
            {"name": case["name"], "positions": [best(logits[at], norm[at]) for at in chosen]}
        )
    if parts:
        values, norms, tops = (np.concatenate(each) for each in zip(*parts, strict=True))
        np.savez(out / "outputs.npz", values=values, norm=norms, best=tops)
    return found, timings


def log_norms(logits: Any) -> Any:
    """log(sum(exp)) per row, (T, V) -> (T,); NaN where a logit is NaN or infinite."""
    rows = logits.astype(np.float64)
    most = rows.max(axis=1)
    with np.errstate(all="ignore"):
        norms = most + np.log(np.exp(rows - most[:, None]).sum(axis=1))
    return np.where(np.isfinite(rows).all(axis=1), norms, np.nan)


def best(row: Any, norm: float) -> dict[str, Any]:
    """One position: its best ids, the best first, their logits, and the norm."""
    order = np.argsort(-row, kind="stable")[:BEST]
    logits = [rounded(row[at]) for at in order]
    return {"ids": order.tolist(), "logits": logits, "norm": rounded(norm)}


def rounded(value: float) -> float | None:
    """For JSON, which has no NaN: None."""
    return round(float(value), DIGITS) if np.isfinite(value) else None


def device() -> dict[str, Any]:
    """Facts of this machine."""
    facts = _cpu_facts()
    model = facts.get("model name") or facts.get("hardware") or _of_board() or platform.machine()
    return {
        "model": model,
        "os": f"{platform.system()} {platform.release()}",
        "abi": platform.machine(),
        "cpu_features": sorted(set((facts.get("flags") or "").split()) or _hwcaps()),
        "cores": cores(),
        "memory": _memory(),
        "busy": _busy(),
        "thermal": _thermal(),
    }


def cores() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_memory() -> int | None:
    """Bytes that this process held at most; None where the system does not tell."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def _cpu_facts() -> dict[str, str]:
    found: dict[str, str] = {}
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return found
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon:
            found.setdefault(key.strip().lower(), value.strip())
    return found if platform.machine() != "aarch64" else {**found, "flags": ""}


def _of_board() -> str:
    """The name of a board, such as "Raspberry Pi 5 Model B"; empty if there is none."""
    try:
        return Path("/proc/device-tree/model").read_text().strip("\0\n ")
    except OSError:
        return ""


def _hwcaps() -> set[str]:
    """Features of an arm64 processor, as its kernel tells programs."""
    if platform.machine() != "aarch64":
        return set()
    ask = ctypes.CDLL(None).getauxval
    ask.restype, ask.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    return {name for name, (word, bit) in HWCAPS.items() if ask(word) >> bit & 1}


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _busy() -> float | None:
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None


def _thermal() -> str | None:
    """The warmest zone that the kernel tells of; None where it tells of none."""
    found = []
    for zone in Path("/sys/class/thermal").glob("thermal_zone*/temp"):
        try:
            found.append(int(zone.read_text()) / 1000)
        except (OSError, ValueError):
            continue
    return f"{max(found):.0f} degrees Celsius at the end" if found else None


def do(job_file: Path, out: Path) -> None:
    """One job."""
    job = json.loads(job_file.read_text())
    out.mkdir(parents=True, exist_ok=True)
    result = run(job, Path(job["folder"]), out)
    part = out / "result.json.part"
    part.write_text(json.dumps(result))
    part.replace(out / "result.json")


def main() -> None:
    """Do the jobs; the failure of one is a line on stderr and exit code 1."""
    sys.path.insert(0, str(Path(__file__).parent))
    paths = [Path(word) for word in sys.argv[1:]]
    for job_file, out in zip(paths[::2], paths[1::2], strict=True):
        do(job_file, out)


if __name__ == "__main__":
    main()
