"""The report of a bundle: complete, self-contained, and nothing in it is HTML of others."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from click.testing import CliRunner

from slmkit.bundle.manifest import read_manifest
from slmkit.bundle.report.comparison import comparison_page
from slmkit.bundle.report.facts import artifact_facts, phone_forecast
from slmkit.bundle.report.pages import html_report, markdown_report
from slmkit.bundle.roles import REPORT, SUMMARY, shipped
from slmkit.cli.main import main
from slmkit.errors import UsageError
from slmkit.planning.memory import gigabytes
from slmkit.system.progress import Silent
from slmkit.workflows.build import build
from tiny_models import ort_request, tiny_config, write_checkpoint

VOID = {"meta", "br", "path", "use", "rect", "line", "circle"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    model = write_checkpoint(folder / "tiny", tiny_config("llama"))
    return build(ort_request(model, "int4", folder), Silent()).folder


class Tags(HTMLParser):
    """The tags of a page, and whether each that opens is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def tags(page):
    parser = Tags()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser.seen


def test_a_bundle_has_the_reports_and_lists_them(bundle):
    manifest = read_manifest(bundle)
    roles = {file.path: file.role for file in manifest.files}
    for name, page in ((REPORT, html_report), (SUMMARY, markdown_report)):
        assert roles[name] == "docs"
        assert (bundle / name).read_text(encoding="utf-8") == page(manifest, bundle.name)


def test_the_page_loads_nothing_and_runs_nothing(bundle):
    page = (bundle / REPORT).read_text(encoding="utf-8")
    found = tags(page)
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in found}
    places = [
        value
        for _, attributes in found
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href") and not (value or "").startswith("#")
    ]
    assert places == []
    assert not re.search(r"url\((?!#)|@import", page)
    assert "default-src 'none'" in page and "prefers-color-scheme: dark" in page


def test_plots_have_a_name_and_the_page_s_colors(bundle):
    page = (bundle / REPORT).read_text(encoding="utf-8")
    drawn = [attributes for tag, attributes in tags(page) if tag == "svg"]
    assert len(drawn) == 4 and all(each["role"] == "img" and each["aria-label"] for each in drawn)
    assert "currentColor" in page and not re.search("#01020[345]", page)


def test_every_line_of_the_proof_is_told(bundle):
    manifest = read_manifest(bundle)
    page, text = html_report(manifest, "mine"), markdown_report(manifest, "mine")
    for line in manifest.parity:
        assert f"{line.artifact} {line.mode}" in page and f"| {line.artifact} {line.mode} |" in text
    for why in manifest.not_executed:
        assert why in text


def test_the_facts_of_an_artifact(bundle):
    manifest = read_manifest(bundle)
    (facts,) = artifact_facts(manifest)
    (artifact,) = manifest.artifacts
    files = shipped(manifest, artifact)
    assert facts.passed and facts.size == sum(file.size for file in files)
    assert facts.memory == artifact.memory
    assert facts.files[0].size == max(file.size for file in files)
    assert gigabytes(facts.size) in markdown_report(manifest, "mine")
    assert facts.price == "not measured"  # weights are random


def test_every_stage_is_told_with_its_time(bundle):
    manifest = read_manifest(bundle)
    page, text = html_report(manifest, "mine"), markdown_report(manifest, "mine")
    assert manifest.stages and "Time of the build" in page
    for each in manifest.stages:
        assert f">{each.label}<" in page and f"| {each.label} |" in text
        assert f"{each.seconds:,.1f} s" in text
    older = manifest.model_copy(update={"stages": ()})
    assert "Time of the build" not in html_report(older, "mine") + markdown_report(older, "mine")


def test_memory_by_part_adds_up_and_the_forecast_names_phones(bundle):
    manifest = read_manifest(bundle)
    page, text = html_report(manifest, "mine"), markdown_report(manifest, "mine")
    memory = manifest.artifacts[0].memory
    assert sum(memory.parts.values()) == memory.total
    row = " | ".join(map(gigabytes, (*memory.parts.values(), memory.total)))
    assert f"| ort | {row} |" in text
    forecast = phone_forecast(manifest)
    assert forecast.phones and manifest.artifacts[0].work is not None
    for each in forecast.phones:
        assert f"{each.phone} ({each.chip})" in page and f"{each.phone} ({each.chip})" in text
    older = tuple(replace(each, work=None) for each in manifest.artifacts)
    changed = manifest.model_copy(update={"artifacts": older})
    assert not phone_forecast(changed).phones
    assert "Forecast" not in html_report(changed, "mine") + markdown_report(changed, "mine")


def test_bundles_side_by_side_on_a_page(bundle, tmp_path):
    manifest = read_manifest(bundle)
    page = comparison_page({"<one>": manifest, "other": manifest})
    found = tags(page)
    assert not {"script", "link", "img", "iframe", "object", "one"} & {tag for tag, _ in found}
    assert sum(tag == "svg" for tag, _ in found) == 2
    for line in manifest.parity:
        for name in ("&lt;one&gt;", "other"):
            assert f"{name}: {line.artifact} {line.mode}" in page
    assert gigabytes(artifact_facts(manifest)[0].size) in page
    with pytest.raises(UsageError, match="compares nothing"):
        comparison_page({"one": manifest})


def test_compare_writes_the_page_of_bundles(bundle, tmp_path):
    other, page = shutil.copytree(bundle, tmp_path / "other"), tmp_path / "page.html"
    run = CliRunner().invoke
    done = run(main, ["compare", str(bundle), str(other), "--html", str(page)])
    assert done.exit_code == 0 and "2 bundles side by side" in done.stdout
    assert "other: ort" in page.read_text(encoding="utf-8")
    for words, said in (
        (["compare", str(bundle), str(bundle), "--html", str(page)], "named twice"),
        (["compare", str(bundle), str(other), str(other)], "two are measured"),
        (["compare", str(bundle), str(other), "--html", str(page), "--tokens", "9"], "--tokens"),
        (["compare", str(bundle), str(other), "--html", "no/such/page.html"], "no such folder"),
    ):
        refused = run(main, words)
        assert refused.exit_code == 2 and said in refused.stderr, refused.stderr
    refused = run(main, ["compare", str(bundle), str(tmp_path), "--html", str(tmp_path / "no")])
    assert refused.exit_code == 1 and "not a bundle" in refused.stderr
    assert not (tmp_path / "no").exists()


def test_a_failed_or_endless_number_is_said(bundle):
    manifest = read_manifest(bundle)
    first = manifest.parity[0]
    wrong = replace(first.metrics, snr_db=float("nan"), kl=float("nan"))
    bad = replace(first, metrics=wrong, failures=("it is wrong",))
    changed = manifest.model_copy(update={"parity": (bad, *manifest.parity[1:])})
    for page in (html_report(changed, "mine"), markdown_report(changed, "mine")):
        assert "failed" in page and "NaN" in page


def test_a_name_is_no_html(bundle):
    manifest = read_manifest(bundle)
    model = manifest.model.model_copy(update={"name": "<script>alert(1)</script>"})
    page = html_report(manifest.model_copy(update={"model": model}), "<b>mine")
    assert "script" not in {tag for tag, _ in tags(page)} and "&lt;b&gt;mine" in page
