"""Reports of devices beside a bundle's own proof: proof/devices/NAME.json, and on its pages."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from pydantic import ValidationError

from slmkit.backend.artifact import PROOF
from slmkit.bundle.folder import written
from slmkit.bundle.manifest import File, read_manifest, write_manifest
from slmkit.bundle.report.details import read_details
from slmkit.bundle.report.facts import DeviceLine
from slmkit.bundle.report.pages import html_report, markdown_report
from slmkit.bundle.roles import REPORT, SUMMARY, with_roles
from slmkit.bundle.verify import check_files
from slmkit.devices.report import DeviceReport, Run, tokens_text
from slmkit.errors import BundleError
from slmkit.system.cache import file_hash

FOLDER = f"{PROOF}/devices"
PROVED, MEASURED = "parity", "bench"  # what a report is of: each has a file of its own


def report_name(where: str, kind: str) -> str:
    """The file of a place's report: "qemu-arm64:a76" -> "proof/devices/qemu-arm64-a76.json"."""
    name = re.sub(r"[^A-Za-z0-9._@-]+", "-", where).strip("-.") or "device"
    return f"{FOLDER}/{name}{'' if kind == PROVED else f'.{kind}'}.json"


def join_report(bundle: Path, report: DeviceReport, kind: str) -> str:
    """Put a report into a bundle, in place of an older one of its device, and renew the bundle's
    pages and manifest: all in one step. The file's name in the bundle.

    Raises BundleError if the bundle was changed, or cannot be written.
    """
    bundle = bundle.resolve()
    manifest, name = read_manifest(bundle), report_name(report.device.where, kind)
    new = {name, REPORT, SUMMARY}
    kept = [file for file in manifest.files if file.path not in new]
    check_files(bundle, [file for file in kept if file.path.startswith(f"{FOLDER}/")])
    with written(bundle, force=True) as folder:
        for file in kept:
            _link(bundle / file.path, folder / file.path)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
        lines = device_lines(folder, [*(file.path for file in kept), name])
        details = read_details(folder)
        pages = {
            REPORT: html_report(manifest, bundle.name, details, lines),
            SUMMARY: markdown_report(manifest, bundle.name, details, lines),
        }
        for page, text in pages.items():
            (folder / page).write_text(text, encoding="utf-8")
        files = sorted([*kept, *(_file(folder, each) for each in new)], key=lambda each: each.path)
        roles = with_roles(files, manifest.artifacts, manifest.tokenizer)
        write_manifest(manifest.model_copy(update={"files": roles}), folder)
    return name


def device_reports(folder: Path, names: list[str]) -> list[DeviceReport]:
    """The reports among a bundle's files, by name. Raises BundleError for one that is damaged."""
    found = []
    for name in sorted(names):
        if name.startswith(f"{FOLDER}/") and name.endswith(".json"):
            text = (folder / name).read_text(encoding="utf-8")
            try:
                found.append(DeviceReport.model_validate_json(text))
            except ValidationError:
                raise BundleError(f"{name} is no report of a device", "remove it") from None
    return found


def device_lines(folder: Path, names: list[str]) -> tuple[DeviceLine, ...]:
    """The lines of a bundle's pages about devices."""
    return tuple(_line(each, run) for each in device_reports(folder, names) for run in each.runs)


def _line(report: DeviceReport, run: Run) -> DeviceLine:
    device, speeds = report.device, ""
    if run.warm and not device.emulated and (run.tokens is None or run.tokens.passed):
        longest = run.longest
        speeds = (
            f"{longest.prefill.median:.3g} and {longest.decode.median:.3g} tokens/s "
            f"after {longest.prompt}"
        )
    return DeviceLine(
        device=f"{device.where}, {device.emulated or device.model}",
        artifact=f"{run.name} {run.mode}",
        runtime=run.runtime,
        tokens="not compared" if run.tokens is None else tokens_text(run.tokens),
        passed=run.tokens is None or run.tokens.passed,
        speeds=speeds,
        notices=run.notices,
    )


def _link(path: Path, to: Path) -> None:
    """The same file in the new folder: linked, or copied where that is not possible."""
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path, to, follow_symlinks=False)
    except FileNotFoundError:
        raise BundleError(f"{path} is missing", "build or copy the bundle again") from None
    except OSError:
        shutil.copy2(path, to, follow_symlinks=False)


def _file(folder: Path, name: str) -> File:
    path = folder / name
    return File(path=name, size=path.stat().st_size, sha256=file_hash(path))
