"""Compile, test and pack the Android sample app without Gradle, with the tools of android.sh.

    android.py test APP OUT          the unit tests of app/src/test on this computer's JVM
    android.py apk APP OUT.apk       a signed APK for arm64 phones, checked

APP is a folder like sample_apps/android, with its models in app/src/main/assets or in --assets.
Android Studio and Gradle read the same sources; what is proved here, and what is not, says the
README of sample_apps/android.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from apk import Failed, check, pack, parts, path_of, run, sign

HERE = Path(__file__).resolve().parent
COMPILER = "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler"
RUNNER = "dev.slmkit.setup.TestsKt"
LIBRARIES = (
    "kotlin-stdlib",
    "kotlinx-coroutines",
    "kotlinx-serialization-core",
    "kotlinx-serialization-json",
)
COULD_NOT = 77  # exit code where this computer lacks something
JAVA = ("java", "-Xmx1g", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


class Missing(Failed):
    """This computer lacks something that the app itself does not need."""


def fetched() -> Path:
    """The folder of the tools; the first call fetches them. Raises Failed."""
    done = subprocess.run(
        [HERE / "android.sh"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Failed(f"Android's tools cannot be had: {done.stderr.strip()[-500:]}")
    return Path(done.stdout.strip())


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
        return [self.tools / f"{name}.jar" for name in (*LIBRARIES, *names)]

    def kotlin(
        self, sources: Sequence[Path], out: Path, classes: Sequence[Path], *more: str
    ) -> None:
        """Compile; a warning is an error."""
        compiler = path_of(sorted((self.tools / "kotlinc").glob("*.jar")))
        plugin = f"-Xplugin={self.tools / 'serialization-plugin.jar'}"
        options = (plugin, "-no-stdlib", "-no-reflect", "-jvm-target", "11", "-Werror", *more)
        run(
            *JAVA, "-cp", compiler, COMPILER, *options, "-cp", path_of(classes), "-d", out, *sources
        )

    def for_jvm(self, out: Path, flavor: str, tests: Sequence[Path], *jars: Path) -> list[Path]:
        """Compile what is free of Android, and tests; the class path that runs them."""
        found = [path for path in self.sources(flavor) if "import android." not in path.read_text()]
        classes = [*self.jars("onnxruntime-java", "junit4", "hamcrest"), *jars]
        self.kotlin([*found, *tests, HERE / "Tests.kt"], out, classes)
        return [out, *classes]

    def unit_tests(
        self, classes: Sequence[Path], names: Sequence[str], **properties: str | Path
    ) -> str:
        """Run JUnit on ONNX Runtime's newest library for this computer; the last line says how many
        tests were executed."""
        given = {"onnxruntime.native.path": self.tools / "native", "slmkit.assets": self.assets}
        options = [f"-D{key}={value}" for key, value in {**given, **properties}.items()]
        words = ("-cp", path_of(classes), RUNNER, *names)
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
        """An APK of resources and assets, by aapt2 against API 36; classes of R beside it."""
        manifest = (self.main / "AndroidManifest.xml").read_text(encoding="utf-8")
        namespace = self.setting("namespace")
        named = manifest.replace("<manifest ", f'<manifest package="{namespace}" ', 1)
        # Gradle's plugin adds this by itself, and warns of a manifest that has it.
        named = named.replace("<application", '<application android:extractNativeLibs="false"', 1)
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
        """A signed APK for arm64, checked; bytes of its parts. ``work``: an empty folder."""
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
    """The library of the Python package. Raises Missing."""
    found = find_spec("onnxruntime")
    if found is None or found.origin is None:
        raise Missing('onnxruntime is not installed: pip install "slmkit[ort]"')
    (library,) = (Path(found.origin).parent / "capi").glob("libonnxruntime.so.*")
    return library


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
    except Missing as missing:
        print(missing)  # noqa: T201
        sys.exit(COULD_NOT)
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
