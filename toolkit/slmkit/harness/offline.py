"""Keep lm-evaluation-harness to local data: nothing is fetched, no data brings code."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from slmkit.errors import SlmkitError

SWITCHES = {
    "HF_DATASETS_OFFLINE": "1",
    "HF_EVALUATE_OFFLINE": "1",
    "HF_HUB_OFFLINE": "1",
    "DISABLE_MULTIPROC": "1",  # the harness would fork for bootstrapped standard errors
}
FORMATS = ("arrow", "csv", "json", "parquet", "text")  # of data files; "pandas" would unpickle
SAVED = ("dataset_dict.json", "state.json")  # what Dataset.save_to_disk leaves
FOLDERS = "in --data, in the tasks' folder, and here"


@contextlib.contextmanager
def offline(places: Sequence[Path], scratch: Path) -> Iterator[None]:
    """While inside, the harness reads data sets from ``places`` alone, renders templates of tasks
    in a sandbox, and loads no metric of other people.

    ``places``: where relative names are looked for, in this order. ``scratch``: a folder for the
    Arrow files that data sets are turned into.
    """
    refused: list[SlmkitError] = []
    # Imported first: what they read of the environment is then the user's, afterwards too.
    import datasets
    import datasets.data_files
    import evaluate
    import huggingface_hub.constants
    import lm_eval.api.task
    import lm_eval.utils

    with contextlib.ExitStack() as stack:
        for name, value in SWITCHES.items():
            stack.enter_context(_replaced_item(os.environ, name, value))
        stack.enter_context(_replaced(huggingface_hub.constants, "HF_HUB_OFFLINE", True))
        stack.enter_context(_replaced(datasets.config, "HF_HUB_OFFLINE", True))
        local = local_loader(datasets.load_dataset, datasets.load_from_disk, places, scratch)
        stack.enter_context(_replaced(datasets, "load_dataset", local))
        resolve = _without_addresses(datasets.data_files.resolve_pattern)
        stack.enter_context(_replaced(datasets.data_files, "resolve_pattern", resolve))
        stack.enter_context(_replaced(evaluate, "load", _no_metric(refused)))
        stack.enter_context(_replaced(lm_eval.utils, "env", _sandboxed(lm_eval.utils.env)))
        stack.enter_context(_replaced(lm_eval.api.task, "tqdm", _no_bar))
        stack.enter_context(_without_bars(datasets))
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))  # the harness prints
        try:
            yield
        finally:
            if refused:  # the harness swallowed it, and failed later or went on without
                raise refused[0]


def local_loader(
    load: Callable[..., Any], load_saved: Callable[..., Any], places: Sequence[Path], scratch: Path
) -> Callable[..., Any]:
    """``datasets.load_dataset`` for local files and folders only."""

    def load_dataset(path: str, name: str | None = None, **options: Any) -> Any:
        options.pop("trust_remote_code", None)
        if path in FORMATS:
            files = _local_files(options.pop("data_files", None), places, path)
            return load(path, name, data_files=files, cache_dir=str(scratch), **options)
        folder = dataset_folder(path, places)
        saved = [each for each in (folder / (name or ""), folder) if _is_saved(each)]
        if saved:
            return load_saved(str(saved[0]))
        return load(str(folder), name, cache_dir=str(scratch), **options)

    return load_dataset


def dataset_folder(name: str, places: Sequence[Path]) -> Path:
    """The local folder of a data set: its whole name under one of ``places``, or its last part.

    Raises SlmkitError with the places that were searched.
    """
    for place in places:
        for candidate in (place / name, place / Path(name).name):
            if "://" not in name and candidate.is_dir():
                return candidate
    raise SlmkitError(
        f"the task's data set {name} is not among the local folders",
        f"nothing is fetched: it is looked for as a folder {name} or {Path(name).name}, {FOLDERS}",
    )


def _local_files(files: Any, places: Sequence[Path], kind: str) -> Any:
    """``data_files`` of a task with the full names of files that exist."""
    if isinstance(files, Mapping):
        return {split: _local_files(each, places, kind) for split, each in files.items()}
    if isinstance(files, Sequence) and not isinstance(files, str):
        return [_local_files(each, places, kind) for each in files]
    if not isinstance(files, str):
        raise SlmkitError(
            f"a task with dataset_path: {kind} names no file",
            "give it dataset_kwargs: {data_files: {test: FILE}}",
        )
    for place in places:
        if "://" not in files and (place / files).is_file():
            return str(place / files)
    raise SlmkitError(
        f"the task's data file {files} is not there",
        f"nothing is fetched: it is looked for {FOLDERS}",
    )


def _without_addresses(resolve: Callable[..., Any]) -> Callable[..., Any]:
    """``datasets.data_files.resolve_pattern``, through which every file of a data set is found,
    those of its README.md too: offline or not, it would ask a server for an address."""

    def resolve_pattern(pattern: str, *args: Any, **options: Any) -> Any:
        if "://" in pattern:
            raise SlmkitError(
                f"a data set names the address {pattern}",
                "nothing is fetched: download the file, and name it in the data set's README.md",
            )
        return resolve(pattern, *args, **options)

    return resolve_pattern


def _is_saved(folder: Path) -> bool:
    return any((folder / each).is_file() for each in SAVED)


def _no_metric(refused: list[SlmkitError]) -> Callable[..., Any]:
    """In place of ``evaluate.load``, which runs Python code that it fetches or finds."""

    def load(name: str, *args: Any, **options: Any) -> Any:
        error = SlmkitError(
            f"the metric {name} is not one of lm-evaluation-harness's own",
            "those of the library evaluate are programs of other people, and stay off",
        )
        refused.append(error)
        raise error

    return load


def _sandboxed(environment: Any) -> Any:
    """The harness's Jinja environment for templates of tasks, in a sandbox."""
    from jinja2.sandbox import SandboxedEnvironment

    sandbox = SandboxedEnvironment(
        loader=environment.loader,
        undefined=environment.undefined,
        keep_trailing_newline=environment.keep_trailing_newline,
    )
    sandbox.filters.update(environment.filters)
    return sandbox


def _no_bar(steps: Iterable[Any], **options: Any) -> Iterable[Any]:
    """In place of tqdm: progress is reported by slmkit."""
    return steps


@contextlib.contextmanager
def _without_bars(datasets: Any) -> Iterator[None]:
    """The library datasets shows no progress bars for a while."""
    if datasets.are_progress_bars_disabled():
        yield
        return
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        datasets.enable_progress_bars()


@contextlib.contextmanager
def _replaced(holder: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute has another value for a while; it must exist, or a guard would be lost."""
    before = getattr(holder, name)
    setattr(holder, name, value)
    try:
        yield
    finally:
        setattr(holder, name, before)


@contextlib.contextmanager
def _replaced_item(holder: Any, name: str, value: str) -> Iterator[None]:
    before = holder.get(name)
    holder[name] = value
    try:
        yield
    finally:
        if before is None:
            holder.pop(name, None)
        else:
            holder[name] = before
