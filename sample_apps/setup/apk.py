"""APK files: packed with libraries that can be mapped, signed for debugging, checked."""

from __future__ import annotations

import os
import re
import subprocess
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

MINUTES = 5  # of a tool
PAGE = 16384  # bytes: libraries are mapped out of the APK, on phones with pages of 4 or 16 KB
ENTRY, EXTRA = 30, 4  # bytes of a local header of a ZIP file, and of the header of its extra field
PADDING = b"\xd9\x35"  # the kind of an extra field that zipalign writes
SIGNER = "com.android.apksigner.ApkSignerTool"


class Failed(Exception):
    """A tool that is there failed: its words."""


def run(*words: str | Path, place: Path | None = None, **environment: str) -> str:
    """Run a tool; what it prints. Raises Failed."""
    done = subprocess.run(
        [str(word) for word in words],
        cwd=place,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=60 * MINUTES,
    )
    if done.returncode:
        raise Failed(f"{' '.join(map(str, words))[:300]}\n{done.stdout}")
    return done.stdout


def path_of(jars: Iterable[Path]) -> str:
    """A class path."""
    return os.pathsep.join(str(jar) for jar in jars)


def pack(base: Path, out: Path, code: Sequence[Path], libraries: Path) -> None:
    """Add code and libraries to an APK, and align what is not compressed.

    Debian's zipalign knows pages of 4 KB alone.
    """
    with zipfile.ZipFile(base) as old, zipfile.ZipFile(out, "w") as new:
        for entry in old.infolist():
            _write(new, entry.filename, old.read(entry), entry.compress_type)
        for path in code:
            _write(new, path.name, path.read_bytes(), zipfile.ZIP_DEFLATED)
        for path in sorted(libraries.glob("*.so")):
            name = f"lib/{libraries.name}/{path.name}"
            _write(new, name, path.read_bytes(), zipfile.ZIP_STORED)


def _write(apk: zipfile.ZipFile, name: str, data: bytes, kind: int) -> None:
    entry = zipfile.ZipInfo(name, (1981, 1, 1, 1, 1, 2))
    entry.compress_type = kind
    if kind == zipfile.ZIP_STORED and apk.fp is not None:
        gap = -(apk.fp.tell() + ENTRY + len(name.encode())) % _step(name)
        gap += _step(name) if 0 < gap < EXTRA else 0
        entry.extra = (
            PADDING + (gap - EXTRA).to_bytes(2, "little") + bytes(gap - EXTRA) if gap else b""
        )
    apk.writestr(entry, data)


def _step(name: str) -> int:
    return PAGE if name.endswith(".so") else 4


def sign(apk: Path, out: Path, tools: Path) -> None:
    """Sign with a key for debugging, made once."""
    key = tools / "debug.p12"
    if not key.exists():
        run(
            *(
                "keytool",
                "-genkeypair",
                "-keystore",
                key,
                "-storetype",
                "PKCS12",
                "-storepass",
                "android",
            ),
            *(
                "-alias",
                "debug",
                "-keyalg",
                "RSA",
                "-keysize",
                "2048",
                "-validity",
                "10000",
                "-dname",
                "CN=debug",
            ),
        )
    words = ("sign", "--ks", key, "--ks-pass", "pass:android", "--out", out, apk)
    run("java", "-cp", _signer(tools), SIGNER, *words)


def check(apk: Path, tools: Path) -> None:
    """Raise Failed if the signature does not hold, or a stored file cannot be mapped."""
    words = ("verify", "--verbose", apk)
    said = run("java", "-cp", _signer(tools), SIGNER, *words)
    for scheme in ("v2", "v3"):
        if not re.search(rf"Verified using {scheme} .*: true", said):
            raise Failed(f"{apk} is not signed by {scheme}:\n{said}")
    check_places(apk)


def check_places(apk: Path) -> None:
    """Raise Failed if a library does not begin at a page, or another stored file at a word."""
    for name, at in stored(apk).items():
        if at % _step(name):
            raise Failed(f"{name} begins at {at} in {apk}, not at a multiple of {_step(name)}")


def stored(apk: Path) -> dict[str, int]:
    """Where the bytes of each entry that is not compressed begin."""
    found = {}
    with zipfile.ZipFile(apk) as entries, open(apk, "rb") as file:
        for entry in entries.infolist():
            file.seek(entry.header_offset + ENTRY - 4)
            name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
            if entry.compress_type == zipfile.ZIP_STORED:
                found[entry.filename] = entry.header_offset + ENTRY + name + extra
    return found


def _signer(tools: Path) -> str:
    return path_of([tools / "apksigner.jar", tools / "apksig.jar"])


def parts(apk: Path) -> dict[str, int]:
    """Bytes of an APK by what they are for."""
    kinds = {"lib/": "libraries", "assets/": "models", "classes": "code"}
    sizes = dict.fromkeys([*kinds.values(), "rest"], 0)
    with zipfile.ZipFile(apk) as entries:
        for entry in entries.infolist():
            kind = next((kinds[each] for each in kinds if entry.filename.startswith(each)), "rest")
            sizes[kind] += entry.compress_size
    sizes["rest"] = apk.stat().st_size - sum(sizes.values()) + sizes["rest"]
    return sizes
