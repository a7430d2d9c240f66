"""A library is a .tar of object files: reading it back, and writing the same one every time."""

from __future__ import annotations

import io
import struct
import tarfile
from collections.abc import Mapping
from pathlib import Path

ELF, MACH_O = b"\x7fELF", b"\xcf\xfa\xed\xfe"
AARCH64, ARM64 = 183, 0x0100000C  # e_machine; cputype


def objects(path: Path) -> dict[str, bytes]:
    """The object files of a library by name."""
    with tarfile.open(path) as archive:
        return {
            member.name.removeprefix("./"): stream.read()
            for member in archive.getmembers()
            if (stream := archive.extractfile(member)) is not None
        }


def write_objects(path: Path, found: Mapping[str, bytes]) -> None:
    """Object files in the order of their names, without times and owners."""
    with tarfile.open(path, "w") as archive:
        for name in sorted(found):
            member = tarfile.TarInfo(name)
            member.size = len(found[name])
            archive.addfile(member, io.BytesIO(found[name]))


def form_of(data: bytes) -> str:
    """Format and machine of an object file."""
    if data[:4] == ELF:
        (machine,) = struct.unpack_from("<H", data, 18)
        return "ELF aarch64" if machine == AARCH64 else f"ELF machine {machine}"
    if data[:4] == MACH_O:
        (kind,) = struct.unpack_from("<I", data, 4)
        return "Mach-O arm64" if kind == ARM64 else f"Mach-O cputype {kind:#x}"
    return "no object file"
