"""Task files that bring Python code are found before anything of them is run."""

from __future__ import annotations

import pytest

from slmkit.errors import SlmkitError, UsageError
from slmkit.harness.task_files import check_tasks, code_of

PLAIN = "task: plain\ndoc_to_text: '{{text}}'\n"


def folder_of(path, **files):
    for name, text in files.items():
        file = path / name.replace("__", "/").replace("_yaml", ".yaml")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "task: a\nprocess_docs: !function tools.clean\n",
        "task: a\nmetric_list: [{metric: !function tools.clean}]\n",
        "task: a\nprocess_docs: !<!function> tools.clean\n",
        "base: &anchor {x: !function tools.clean}\ntask: *anchor\n",
        "{!function tools.clean : 1}\n",
        "task: a\n---\nx: !function tools.clean\n",
    ],
)
def test_a_function_is_found_wherever_it_stands(text, tmp_path):
    folder = folder_of(tmp_path, inner__a_yaml=text)
    with pytest.raises(UsageError, match=r"a\.yaml would run Python code: !function tools\.clean"):
        check_tasks(folder, allow_code=False)
    check_tasks(folder, allow_code=True)


def test_included_files_are_read_too_wherever_they_are(tmp_path):
    outside = folder_of(tmp_path / "outside", part="x: !function tools.clean\n")
    text = f"task: a\ninclude: [b, {outside / 'part'}]\n"
    folder = folder_of(tmp_path / "tasks", a_yaml=text, b="include: a.yaml\n")
    found = list(code_of([folder / "a.yaml"]))
    assert [(each.file.name, each.name) for each in found] == [("part", "tools.clean")]
    with pytest.raises(UsageError):
        check_tasks(folder, allow_code=False)


def test_plain_tasks_pass(tmp_path):
    check_tasks(folder_of(tmp_path, a_yaml=PLAIN), allow_code=False)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a_yaml": "task: [unclosed"}, "is no YAML file"),
        ({"a_yaml": PLAIN + "include: missing\n"}, "is no YAML file"),
        ({"a": PLAIN}, "has no YAML file"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(files, message, tmp_path):
    with pytest.raises(SlmkitError, match=message) as caught:
        check_tasks(folder_of(tmp_path, **files), allow_code=False)
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_a_folder_that_is_none_is_named(tmp_path):
    with pytest.raises(UsageError, match="is not a folder"):
        check_tasks(tmp_path / "none", allow_code=False)
