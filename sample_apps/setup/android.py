"""Compile, test and pack the Android sample app without Gradle, with the tools that android.sh fetches.

    android.py test APP OUT          the unit tests of app/src/test on this computer's JVM
    android.py apk APP OUT.apk       a signed APK for arm64 phones, checked

APP is a folder like sample_apps/android with its models in app/src/main/assets, or in --assets. Android Studio and
Gradle read the same sources; what is proved here, and what is not, says the README of sample_apps/android.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).resolve().parent
MINUTES = 5  # of a tool
PAGE = 16384  # bytes: libraries are mapped out of the APK, on phones with pages of 4 or 16 KB
ENTRY, EXTRA = 30, 4  # bytes of a local header of a ZIP file, and of the header of its extra field
PADDING = b"\xd9\x35"  # the kind of an extra field that zipalign writes
COMPILER = "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"
JAVA = ("java", "-Xmx1g", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


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


def fetched() -> Path:
    """The folder of the tools; the first call fetches them. Raises Failed."""
    done = subprocess.run(
        [HERE / "android.sh"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Failed(f"Android's tools cannot be had: {done.stderr.strip()[-500:]}")
    return Path(done.stdout.strip())


def path_of(jars: Iterable[Path]) -> str:
    """A class path."""
    return os.pathsep.join(str(jar) for jar in jars)


class App:
    """The sources of an app, and the tools for them."""

    def __init__(self, app: Path, tools: Path, assets: Path | None = None) -> None:
        self.app, self.tools = app / "app", tools
        self.main = self.app / "src" / "main"
        self.assets = assets or self.main / "assets"
        self.gradle = (self.app / "build.gradle.kts").read_text(encoding="utf-8")

    def setting(self, name: str) -> str:
        """A value out of build.gradle.kts, which has each once."""
        (value,) = re.findall(rf'^ *{name} = "?([\w.]+)"?$', self.gradle, re.MULTILINE)
        return str(value)

    def sources(self, *flavors: str) -> list[Path]:
        """Kotlin files of the app."""
        folders = [self.app / "src" / name / "kotlin" for name in ("main", *flavors)]
        return [path for folder in folders for path in sorted(folder.rglob("*.kt"))]

    def jars(self, *names: str) -> list[Path]:
        """Tools that are jars, and what every part of the app needs."""
        return [
            self.tools / f"{name}.jar" for name in ("kotlin-stdlib", "kotlinx-coroutines", *names)
        ]

    def kotlin(
        self, sources: Sequence[Path], out: Path, classes: Sequence[Path], *more: str
    ) -> None:
        """Compile; a warning is an error."""
        compiler = path_of(sorted((self.tools / "kotlinc").glob("*.jar")))
        options = ("-no-stdlib", "-no-reflect", "-jvm-target", "11", "-Werror", *more)
        run(
            *JAVA, "-cp", compiler, COMPILER, *options, "-cp", path_of(classes), "-d", out, *sources
        )

    def for_jvm(self, out: Path, flavor: str, tests: Sequence[Path], *jars: Path) -> list[Path]:
        """Compile what is free of Android, and tests; the class path that runs them."""
        found = [path for path in self.sources(flavor) if "import android." not in path.read_text()]
        classes = [*self.jars("onnxruntime-java", "junit4", "hamcrest"), *jars]
        self.kotlin([*found, *tests], out, classes)
        return [out, *classes]

    def unit_tests(
        self, classes: Sequence[Path], names: Sequence[str], **properties: str | Path
    ) -> str:
        """Run JUnit on ONNX Runtime's newest library for this computer."""
        given = {"onnxruntime.native.path": self.tools / "native", "slmkit.assets": self.assets}
        options = [f"-D{key}={value}" for key, value in {**given, **properties}.items()]
        words = ("-cp", path_of(classes), "org.junit.runner.JUnitCore", *names)
        return run(
            *JAVA, *options, *words, SLMKIT_ORT=str(onnxruntime()), ORT_DISABLE_TELEMETRY="1"
        )

    def for_android(self, out: Path, flavor: str, *jars: Path) -> list[Path]:
        """Compile against Android's own classes; the class files' folder and the libraries."""
        libraries = [*self.jars("onnxruntime-android"), *jars]
        android = [self.tools / "android.jar", self.tools / "android-later.jar"]
        self.kotlin(self.sources(flavor), out, [out, *android, *libraries], "-no-jdk")
        return [out, *libraries]

    def resources(self, work: Path) -> Path:
        """Resources and assets as an APK without code; R's classes. Checked by aapt2 against API 36."""
        manifest = (self.main / "AndroidManifest.xml").read_text(encoding="utf-8")
        namespace = self.setting("namespace")
        named = manifest.replace("<manifest ", f'<manifest package="{namespace}" ', 1)
        (work / "AndroidManifest.xml").write_text(named, encoding="utf-8")
        aapt2, base = self.tools / "aapt2", work / "base.apk"
        run(aapt2, "compile", "-o", work / "resources.zip", "--dir", self.main / "res")
        values = (
            *("--min-sdk-version", self.setting("minSdk")),
            *("--target-sdk-version", self.setting("targetSdk")),
            *("--version-code", self.setting("versionCode")),
            *("--version-name", self.setting("versionName")),
            *("--rename-manifest-package", self.setting("applicationId")),
            *(word for kind in ("onnx", "data", "litertlm") for word in ("-0", kind)),
        )
        models = ("-A", self.assets) if self.assets.is_dir() else ()  # else they are pushed
        files = ("--manifest", work / "AndroidManifest.xml", *models, work / "resources.zip")
        run(
            aapt2,
            "link",
            "-o",
            base,
            "-I",
            self.tools / "framework.apk",
            *values,
            "--java",
            work / "r",
            *files,
        )
        run(
            "javac",
            "--release",
            "8",
            "-Xlint:-options",
            "-d",
            work / "classes",
            *(work / "r").rglob("*.java"),
        )
        return base

    def apk(self, out: Path, work: Path) -> dict[str, int]:
        """A signed APK for arm64, checked by aapt2 and apksigner; bytes of its parts. ``work``: an empty folder."""
        base = self.resources(work)
        classes, *libraries = self.for_android(work / "classes", "plain")
        (work / "dex").mkdir()
        run(
            *(
                "java",
                "-Xmx1g",
                "-cp",
                self.tools / "bundletool.jar",
                "com.android.tools.r8.D8",
                "--release",
            ),
            *(
                "--min-api",
                self.setting("minSdk"),
                "--lib",
                self.tools / "android.jar",
                "--output",
                work / "dex",
            ),
            *sorted(classes.rglob("*.class")),
            *libraries,
        )
        packed = work / "unsigned.apk"
        pack(base, packed, sorted((work / "dex").glob("*.dex")), self.tools / "jni" / "arm64-v8a")
        sign(packed, out, self.tools)
        check(out, self.tools)
        return parts(out)


def onnxruntime() -> Path:
    """The library of the Python package."""
    found = find_spec("onnxruntime")
    if found is None or found.origin is None:
        raise Failed('onnxruntime is not installed: pip install "slmkit[ort]"')
    (library,) = (Path(found.origin).parent / "capi").glob("libonnxruntime.so.*")
    return library


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
    run("java", "-cp", _signer(tools), "com.android.apksigner.ApkSignerTool", *words)


def check(apk: Path, tools: Path) -> None:
    """Raises Failed if the signature does not hold, or a library or an asset lies where it cannot be mapped."""
    said = run(
        "java",
        "-cp",
        _signer(tools),
        "com.android.apksigner.ApkSignerTool",
        "verify",
        "--verbose",
        apk,
    )
    for scheme in ("v2", "v3"):
        if not re.search(rf"Verified using {scheme} .*: true", said):
            raise Failed(f"{apk} is not signed by {scheme}:\n{said}")
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


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("verb", choices=("test", "apk"))
    parser.add_argument("app", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--assets", type=Path)
    parser.add_argument("--vectors", type=Path)
    words = parser.parse_args()
    try:
        app = App(words.app.resolve(), fetched(), words.assets and words.assets.resolve())
        if words.verb == "apk":
            with TemporaryDirectory() as work:
                sizes = app.apk(words.out.resolve(), Path(work))
            for kind, size in {**sizes, "in all": sum(sizes.values())}.items():
                print(f"{size / 1e6:6.2f} MB {kind}")  # noqa: T201
        else:
            tests = sorted((app.app / "src" / "test" / "kotlin").rglob("*.kt"))
            classes = app.for_jvm(words.out.resolve(), "plain", tests)
            given = {"slmkit.vectors": words.vectors.resolve()} if words.vectors else {}
            print(app.unit_tests(classes, named(tests), **given))  # noqa: T201
    except Failed as failed:
        sys.exit(str(failed))


def named(tests: Sequence[Path]) -> list[str]:
    """Names of the test classes of Kotlin files."""
    chosen = [path for path in tests if path.stem.endswith("Test")]
    return [f"{_package(path)}.{path.stem}" for path in chosen]


def _package(path: Path) -> str:
    (name,) = re.findall(r"^package (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return str(name)


if __name__ == "__main__":
    main()
