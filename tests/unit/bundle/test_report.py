"""The report of a bundle: complete, self-contained, and nothing in it is HTML of others."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from click.testing import CliRunner

from slmkit.bundle.manifest import read_manifest
from slmkit.bundle.report.comparison import comparison_page
from slmkit.bundle.report.details import DETAILS, SCHEMA, Details, read_details, schema
from slmkit.bundle.report.facts import artifact_facts, phone_forecast
from slmkit.bundle.report.pages import html_report, markdown_report
from slmkit.bundle.roles import REPORT, SUMMARY, shipped
from slmkit.checkpoint.tokenizer import Tokenizer
from slmkit.cli.main import main
from slmkit.errors import UsageError
from slmkit.parity.golden_file import load_golden
from slmkit.planning.forecast import Work
from slmkit.planning.memory import gigabytes
from tiny_bundles import ort_bundle

VOID = {"meta", "br", "path", "use", "rect", "line", "circle"}


def details_in(bundle) -> Details:
    details = read_details(bundle)
    assert details is not None
    return details


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return ort_bundle(tmp_path_factory.mktemp("made"))


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
        text = page(manifest, bundle.name, read_details(bundle))
        assert (bundle / name).read_text(encoding="utf-8") == text


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
    assert len(drawn) == 8 and all(each["role"] == "img" and each["aria-label"] for each in drawn)
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
    for told in (page, text):
        assert "Memory alone" in told and "decode" not in told.partition("Forecast")[2][:600]
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


def test_details_of_the_build_are_on_both_pages(bundle):
    manifest, details = read_manifest(bundle), details_in(bundle)
    page, text = (write(manifest, "mine", details) for write in (html_report, markdown_report))
    for each in (page, text):
        assert "A sample answer, side by side" in each and "Errors by layer" in each
        assert "Loss of quantization by layer and by weight" in each and details.worst[0].of in each
        for side in details.sides:
            assert side.name in each
    for title in ("SNR by position of codes", "SNR by position of ort", "layer by layer"):
        assert f"{title}" in page
    older = html_report(manifest, "mine") + markdown_report(manifest, "mine")
    assert "sample answer" not in older and "by position" not in older


def test_details_are_of_the_first_golden_prompt(bundle):
    manifest, details = read_manifest(bundle), details_in(bundle)
    golden = load_golden(bundle / manifest.artifacts[0].golden)
    ids, length = golden.sequences[0], golden.prompt_lengths[0]
    tokenizer = Tokenizer(bundle / manifest.tokenizer)
    assert details.prompt == tokenizer.decode(ids[:length].tolist())
    assert details.prompt_length == length
    assert [each.name for each in details.sides] == [
        "float weights",
        f"{manifest.calibration[0].encoding} codes",
        *(f"ort {mode.name}" for mode in manifest.artifacts[0].modes),
    ]
    floats, codes, exact, _ = details.sides
    assert floats.snr_db == () and all(floats.as_float)
    assert len(codes.snr_db) == len(exact.snr_db) == len(ids)
    best = golden.outputs.best[golden.decoded()[0]][: len(codes.tokens)]
    assert [tokenizer.decode([each], special=True) for each in best.tolist()] == list(codes.tokens)
    assert exact.tokens == codes.tokens and min(exact.snr_db) > 100 > max(codes.snr_db)
    for side in details.sides:
        same = [one == two for one, two in zip(side.tokens, floats.tokens, strict=True)]
        assert all(text for text, best in zip(same, side.as_float, strict=True) if best)


def test_losses_and_layers_of_details_are_all_there(bundle):
    manifest, details = read_manifest(bundle), details_in(bundle)
    (report,) = manifest.calibration
    layers = list(range(manifest.model.num_hidden_layers))
    assert [each.layer for each in details.stream] == layers == details.stream_layers
    assert all(0 < each.snr_db < 60 for each in details.stream)  # of int4
    assert sum(each.matrices for each in details.layers) == report.matrices
    assert sum(each.matrices for each in details.kinds) == report.matrices
    losses = [each.loss for each in details.worst]
    assert losses == sorted(losses, reverse=True) and losses[-1] > 0


def test_a_report_of_codes_that_no_text_chose_says_that_no_loss_was_measured(bundle):
    manifest, details = read_manifest(bundle), details_in(bundle)
    bare = details.model_copy(update={"layers": (), "kinds": (), "worst": ()})
    for write in (html_report, markdown_report):
        assert "No loss by layer and by weight" in write(manifest, "mine", bare)
        assert "No loss by layer and by weight" not in write(manifest, "mine", details)


def test_speeds_are_forecast_of_a_model_like_those_that_were_measured(bundle):
    manifest = read_manifest(bundle)
    (artifact,) = manifest.artifacts
    own = replace(artifact, work=Work(read=900e6, body=1.5e9))
    changed = manifest.model_copy(update={"artifacts": (own,)})
    for write in (html_report, markdown_report):
        told = write(changed, "mine")
        assert "decode" in told.partition("Forecast")[2][:600] and "Memory alone" not in told


@pytest.mark.parametrize("text", ["", "{", "[]", '{"prompt": 1}', "\x00"])
def test_details_that_cannot_be_read_are_left_out(bundle, tmp_path, text):
    (tmp_path / DETAILS).parent.mkdir()
    (tmp_path / DETAILS).write_text(text)
    assert read_details(tmp_path) is None
    assert "sample answer" not in html_report(read_manifest(bundle), "mine", read_details(tmp_path))


def test_a_token_is_no_html_and_no_cell(bundle):
    details = details_in(bundle)
    tokens = ("<b>", "`|", "\n", *details.sides[1].tokens[3:])
    codes = details.sides[1].model_copy(update={"tokens": tokens})
    changed = details.model_copy(
        update={"sides": (details.sides[0], codes), "prompt": "<i>", "continued": "<u>"}
    )
    manifest = read_manifest(bundle)
    page, text = (write(manifest, "mine", changed) for write in (html_report, markdown_report))
    assert not {"b", "i", "u"} & {tag for tag, _ in tags(page)} and "&lt;b&gt;" in page
    assert "`'\\|` `\\n`" in text


def test_the_published_schema_of_details_is_the_code_s(bundle, request):
    import jsonschema

    text = json.dumps(schema(), indent=2) + "\n"
    if request.config.getoption("--write-golden"):
        SCHEMA.write_text(text, encoding="utf-8")
    assert SCHEMA.read_text(encoding="utf-8") == text
    values = json.loads((bundle / DETAILS).read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(json.loads(text)).validate(values)
