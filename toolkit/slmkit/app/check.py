"""Checks of an app project: those of every computer, then those that the tools at hand allow."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from slmkit.app.cases import Cases
from slmkit.app.chat_form import ChatForm
from slmkit.app.project import (
    CASES,
    CHAT,
    MODEL,
    TOKENIZER,
    TOKENS,
    VECTORS,
    Project,
    read_project,
)
from slmkit.app.template import Check, Template, read_template, setup_folder
from slmkit.app.tokens import Tokens, read_tokens
from slmkit.app.vectors import Vectors
from slmkit.bundle.export import EXPORT, Export
from slmkit.bundle.verify import check_files
from slmkit.checkpoint.isolated_tokenizer import IsolatedTokenizer
from slmkit.errors import AppError, SlmkitError
from slmkit.system.scratch import scratch

Model = TypeVar("Model", bound=BaseModel)
PASSED, FAILED, NOT_EXECUTED = "passed", "failed", "not executed"
FIND_SECONDS = 60  # to say where the tools are
COULD_NOT = 77  # a command's exit code where this computer lacks something; it says what
LAST = 1500  # characters of a tool's last words, where it failed


@dataclass(frozen=True)
class Checked:
    """One check: what came of it ("passed", "failed" or "not executed"), and why."""

    name: str
    outcome: str
    why: str = ""


@dataclass(frozen=True)
class AppReport:
    """All checks of a project."""

    project: Project
    checks: tuple[Checked, ...]

    def check(self) -> None:
        """Raise AppError that names each check that failed."""
        failed = [each.name for each in self.checks if each.outcome == FAILED]
        if failed:
            raise AppError(f"the app fails: {', '.join(failed)}", "the report says why")

    def as_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        project = self.project.model_dump(mode="json")
        return {"project": project, "checks": [vars(each) for each in self.checks]}


def check_app(folder: str | Path) -> AppReport:
    """Run every check of a project that this computer can. Raises BundleError if it is none."""
    folder = Path(folder)
    project = read_project(folder)
    _, template = read_template(project.platform)
    return AppReport(
        project,
        (
            _checked("files and hashes", lambda: _check_files(folder, project)),
            _checked("golden cases", lambda: _check_cases(folder, project)),
            _vectors(folder, project),
            *(_by_tools(folder, project, template, check) for check in template.checks),
            *(Checked(name, NOT_EXECUTED, why) for name, why in template.not_executed.items()),
        ),
    )


def _checked(name: str, check: Callable[[], None]) -> Checked:
    try:
        check()
    except (SlmkitError, OSError, ValueError) as error:
        return Checked(name, FAILED, str(error))
    return Checked(name, PASSED)


def _check_files(folder: Path, project: Project) -> None:
    model = folder / project.models / MODEL
    check_files(model, _read(model / EXPORT, Export).files)


def _check_cases(folder: Path, project: Project) -> None:
    """Raises ValueError for steps whose numbers cannot be."""
    for case in _read(folder / project.models / CASES, Cases).cases:
        for number, step in enumerate(case.steps):
            logits = [logit for _, logit in step.top]
            if logits != sorted(logits, reverse=True) or step.norm < max(logits):
                raise ValueError(f"step {number} of {case.name!r} has logits that cannot be")


def _vectors(folder: Path, project: Project) -> Checked:
    name = "tokenizer and chat, in Python"
    if project.vectors is None:
        why = f"the runtime of {project.artifact} tokenizes and renders itself"
        return Checked(name, NOT_EXECUTED, why)
    return _checked(name, lambda: _check_vectors(folder, project))


def _check_vectors(folder: Path, project: Project) -> None:
    """The tokens and the chat form that the app reads, against the tokenizer.json that they were
    made of. Raises ValueError, RefusedError."""
    model = folder / project.models / MODEL
    path = model / (_read(model / EXPORT, Export).tokenizer or "") / TOKENIZER
    if _read(folder / project.models / TOKENS, Tokens) != read_tokens(path):
        raise ValueError(f"{TOKENS} is not what {TOKENIZER} says")
    library = IsolatedTokenizer(path)
    vectors = _read(folder / str(project.vectors) / VECTORS, Vectors)
    for each in vectors.tokenizer:
        ids = library.encode(each.text, add_special_tokens=False).ids
        texts = (library.decode(ids, skip) for skip in (False, True))
        if (tuple(ids), *texts) != (each.ids, each.decoded, each.shown):
            raise ValueError(f"{TOKENIZER} makes other ids or text of {each.text!r}")
    if vectors.chat:
        form = _read(folder / project.models / CHAT, ChatForm)
        for chat in vectors.chat:
            if form.render([said.model_dump() for said in chat.messages]) != chat.text:
                raise ValueError(f"{CHAT} makes another text of {chat.messages}")


def _by_tools(folder: Path, project: Project, template: Template, check: Check) -> Checked:
    """A check of the template's, if the tools that it needs were fetched."""
    if project.artifact not in check.artifacts:
        return Checked(check.name, NOT_EXECUTED, f"it is for {', '.join(check.artifacts)}")
    script = setup_folder() / check.tools
    tools = _tools(script)
    if tools is None:
        return Checked(check.name, NOT_EXECUTED, f"its tools are not here: run {script}")
    with scratch() as work:
        places = {
            "python": Path(sys.executable),
            "setup": setup_folder(),
            "project": folder.resolve(),
            "models": (folder / project.models).resolve(),
            "vectors": (folder / template.vectors).resolve(),
            "tools": tools,
            "out": work / "out",
        }
        words = [word.format(**places) for word in check.command]
        try:
            code, said = _run(words, work, 60 * check.minutes)
        except subprocess.TimeoutExpired:
            return Checked(check.name, FAILED, f"it took more than {check.minutes:g} minutes")
    if code == COULD_NOT:
        return Checked(check.name, NOT_EXECUTED, said.rpartition("\n")[2])
    if code:
        return Checked(check.name, FAILED, said[-LAST:])
    return Checked(check.name, PASSED, said.rpartition("\n")[2])


def _run(words: Sequence[str], place: Path, seconds: float) -> tuple[int, str]:
    """A command's exit code and output; its children end with it. Raises TimeoutExpired."""
    with subprocess.Popen(
        words,
        cwd=place,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            said, _ = process.communicate(timeout=seconds)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode, said.strip()


def _tools(script: Path) -> Path | None:
    """The folder that a setup script has filled; None: it was never run."""
    try:
        done = subprocess.run(
            [script, "--where"], capture_output=True, text=True, timeout=FIND_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    folder = Path(done.stdout.strip() or "?")
    return folder if done.returncode == 0 and folder.is_dir() else None


def _read(path: Path, kind: type[Model]) -> Model:
    """A JSON file of ours. Raises ValueError."""
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} is damaged: {error}") from None
