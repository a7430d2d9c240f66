"""JUnit's XML and GitHub's summary: of what passed, what failed, and what was not executed."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from slmkit.bundle.manifest import read_manifest
from slmkit.cli.ci import SUMMARY, tell_ci
from slmkit.cli.main import main
from slmkit.parity.prompts import PromptComparison
from tiny_bundles import ort_bundle

UNRUN = PromptComparison("ort", "it is not installed\x07", executed=False)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return ort_bundle(tmp_path_factory.mktemp("made"))


def told(tmp_path, found, quality, prompts):
    file = tmp_path / "report.xml"
    tell_ci("build", found, quality, prompts, file)
    return ElementTree.fromstring(file.read_text(encoding="utf-8"))  # noqa: S314 - our own


def test_every_comparison_is_a_test(bundle, tmp_path):
    manifest = read_manifest(bundle)
    suite = told(tmp_path, manifest.parity, manifest.quality, [UNRUN])
    assert suite.get("tests") == str(len(manifest.parity) + 1) == str(len(suite))
    assert (suite.get("failures"), suite.get("skipped")) == ("0", "1")
    assert [case.find("skipped") is not None for case in suite] == [False] * (len(suite) - 1) + [
        True
    ]


def test_a_failure_says_why(bundle, tmp_path):
    manifest = read_manifest(bundle)
    bad = replace(manifest.parity[0], failures=("SNR 3 dB < 100",))
    suite = told(tmp_path, [bad, *manifest.parity[1:]], None, ())
    (failure,) = suite.iter("failure")
    assert suite.get("failures") == "1" and failure.get("message") == "SNR 3 dB < 100"


def test_github_s_summary_grows(bundle, tmp_path, monkeypatch):
    manifest, file = read_manifest(bundle), tmp_path / "summary.md"
    file.write_text("before\n")
    monkeypatch.setenv(SUMMARY, str(file))
    bad = replace(manifest.parity[0], failures=("SNR 3 dB < 100",))
    tell_ci("build", manifest.parity, None, [UNRUN], None)
    tell_ci("parity", [bad], None, (), None)
    text = file.read_text()
    count = len(manifest.parity)
    assert text.startswith(f"before\n### slmkit build\n\n{count} of {count} checks passed")
    assert "not executed: ort: it is not installed" in text
    assert "### slmkit parity\n\n0 of 1 checks passed" in text and "| SNR 3 dB < 100 |" in text


def test_the_command_writes_the_file(bundle, tmp_path):
    file = tmp_path / "parity.xml"
    result = CliRunner().invoke(main, ["parity", str(bundle), "--junit", str(file)])
    assert result.exit_code == 0, result.output
    assert 'name="slmkit parity"' in file.read_text()


def test_a_folder_that_is_not_there_is_refused_at_once(bundle):
    words = ["parity", str(bundle), "--junit", "nowhere/x.xml"]
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2 and "there is no such folder" in result.stderr
