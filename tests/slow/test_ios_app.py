"""The iOS sample app under Swift on Linux: the core's tests, and the types of the app.

Not executed: Xcode, Core ML, the simulator, a phone. The app's types are checked against stubs,
which are our reading of Apple's interfaces.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, pre_tokenizers

from app_tools import APPS, SETUP, tools
from slmkit.app.json_lines import write_lines
from slmkit.app.tokens import tokens_of

NO_NAMESPACES = 77  # exit code of in_root.sh
KINDS = ("gemma", "gpt2", "home", "llama3", "phi3", "qwen2")
TEXTS = 60  # random ones of each kind
PARTS = 40  # of a text, at most
LONG_S = "\u017f"  # folds to s
LETTERS = (
    f"abcdefgstTSdmlvre'{LONG_S}  \n\n\r\t\u00a0\u2003\u0085\x0b\x0c\x1c\u200b\u2581<>|012345678"
    "\u00b2\u00bd\u0663\u2167\u00e9\u00f1日本語한국어ไทยहिन्दी\u0301\u0308🎉👩\u200d💻\u00df\u0130\u212a\u212b"
    '\ufb06\uf900.,!?_-/\\{}[]()"@#$%^&*+=~`'
)
WORDS = ("the", " lights", "turn", "'s", "'LL", f"'{LONG_S}", "     ", "1234567", "\r\n", "<0x41>")


@pytest.fixture(scope="module")
def swift():
    tree = tools("swift.sh")

    def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
        words = [str(SETUP / "in_root.sh"), str(tree), str(folder), *command]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode == NO_NAMESPACES:
            pytest.skip(done.stdout.strip())
        return done

    return run


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The app with the vectors of every kind, and those of random texts."""
    folder = tmp_path_factory.mktemp("app") / "ios"
    shutil.copytree(APPS / "ios", folder, ignore=shutil.ignore_patterns(".build"))
    for kind in KINDS:
        shutil.copytree(APPS / "vectors" / kind, folder / "vectors" / kind)
        library = Tokenizer.from_file(str(APPS / "vectors" / kind / "tokenizer.json"))
        write_random_texts(folder / "vectors" / f"random-{kind}", library)
        library.add_tokens([
            AddedToken("<a b>", lstrip=True, normalized=False),
            AddedToken("<c>", rstrip=True, normalized=False),
            AddedToken("<c>d", lstrip=True, rstrip=True, normalized=False),
        ])  # fmt: skip
        library.add_special_tokens([AddedToken("é!", normalized=False)])
        write_random_texts(folder / "vectors" / f"random-{kind}-added", library)
    library = Tokenizer.from_file(str(APPS / "vectors" / "gpt2" / "tokenizer.json"))
    steps = [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    library.pre_tokenizer = pre_tokenizers.Sequence(steps)
    write_random_texts(folder / "vectors" / "random-digits", library)
    return folder


def write_random_texts(folder: Path, library: Tokenizer) -> None:
    """Vectors of texts of all that tokenizers tell apart, the same ones every time."""
    draw = random.Random(folder.name)  # noqa: S311 - the same texts every time
    added = [token.content for token in library.get_added_tokens_decoder().values()]
    vectors = []
    for _ in range(TEXTS):
        parts = draw.choices((added, WORDS, LETTERS), (1, 2, 7), k=draw.randint(0, PARTS))
        text = "".join(draw.choice(each) for each in parts)
        ids = library.encode(text, add_special_tokens=False).ids
        shown, decoded = (library.decode(ids, skip_special_tokens=skip) for skip in (True, False))
        vectors.append({"text": text, "ids": ids, "decoded": decoded, "shown": shown})
    others: dict[str, list[int]] = {"chat": [], "sampler": [], "greedy": [], "stop_ids": []}
    folder.mkdir()
    (folder / "vectors.json").write_text(
        json.dumps({"name": folder.name, "tokenizer": vectors, **others})
    )
    (folder / "chat.json").write_text(json.dumps({"refused": "none is needed", "start_ids": []}))
    write_lines(tokens_of(json.loads(library.to_str())), folder / "tokens.json")


def test_the_core_agrees_with_python(swift, project):
    done = swift(project, "bash", "test.sh", "/project/build")
    assert done.returncode == 0, done.stdout[-3000:]
    ran = re.findall(
        r"Executed (\d+) tests?, with (?:(\d+) tests? skipped and )?(\d+) failures", done.stdout
    )
    assert int(ran[-1][0]) > 12 and ran[-1][1:] == ("", "0")


def test_another_id_in_the_vectors_is_found(swift, project):
    path = project / "vectors" / "gpt2" / "vectors.json"
    kept = path.read_text("utf-8")
    values = json.loads(kept)
    values["tokenizer"][0]["ids"][0] += 1
    path.write_text(json.dumps(values))
    try:
        done = swift(project, "bash", "test.sh", "/project/build")
    finally:
        path.write_text(kept, "utf-8")
    assert done.returncode
    assert "VectorTests.testTokenizersEncode" in done.stdout


def test_the_app_has_the_types_of_its_modules(swift, project):
    done = swift(project, "bash", "typecheck.sh", "/project/modules")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("type-checked\n")


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        (
            "CoreMLBackend.swift",
            "configuration.functionName = name",
            "configuration.functionName = 1",
        ),
        ("ChatModel.swift", "@MainActor @Observable", "@Observable"),  # shared between tasks
        (
            "SystemLanguageModel.swift",
            "struct Executor: LanguageModelExecutor {",
            "struct Executor {",
        ),
    ],
)
def test_a_wrong_type_is_found(swift, project, file, old, new):
    path = project / "App" / file
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")
    try:
        done = swift(project, "bash", "typecheck.sh", "/project/modules")
    finally:
        path.write_text(text, "utf-8")
    assert done.returncode and file in done.stderr


def test_the_app_s_code_has_the_layout_of_swift_format(swift, project):
    done = swift(project, "swift-format", "lint", "--strict", "--recursive", "App", "SlmkitCore")
    assert done.returncode == 0, done.stderr
