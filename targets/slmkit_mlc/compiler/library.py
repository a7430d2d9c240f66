"""A model library: a .tar of object files, read, and written with the same bytes every time."""

from __future__ import annotations

import io
import struct
import tarfile
from collections.abc import Mapping
from pathlib import Path

ELF, MACH_O = b"\x7fELF", b"\xcf\xfa\xed\xfe"  # first bytes of an object file
AARCH64, ARM64 = 183, 0x0100000C  # e_machine of ELF; cputype of Mach-O


def read_objects(path: Path) -> dict[str, bytes]:
    """The object files of a library by name."""
    objects = {}
    with tarfile.open(path) as archive:
        for member in archive.getmembers():
            stream = archive.extractfile(member)
            if stream is not None:
                objects[member.name.removeprefix("./")] = stream.read()
    return objects


def write_objects(path: Path, objects: Mapping[str, bytes]) -> None:
    """Write object files in the order of their names, without times and owners."""
    with tarfile.open(path, "w") as archive:
        for name in sorted(objects):
            member = tarfile.TarInfo(name)
            member.size = len(objects[name])
            archive.addfile(member, io.BytesIO(objects[name]))


def object_format(data: bytes) -> str:
    """Format and machine of an object file, such as "ELF aarch64" or "Mach-O arm64"."""
    if data[:4] == ELF:
        (machine,) = struct.unpack_from("<H", data, 18)
        return "ELF aarch64" if machine == AARCH64 else f"ELF machine {machine}"
    if data[:4] == MACH_O:
        (cpu_type,) = struct.unpack_from("<I", data, 4)
        return "Mach-O arm64" if cpu_type == ARM64 else f"Mach-O cputype {cpu_type:#x}"
    return "no object file"
