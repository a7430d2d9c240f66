"""The report and the page of several bundles in Chromium: readable, and alone with themselves."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, ViewportSize, sync_playwright

from slmkit.bundle.manifest import read_manifest
from slmkit.bundle.report.comparison import comparison_page
from slmkit.bundle.roles import REPORT
from tiny_bundles import ort_bundle

Scheme = Literal["light", "dark"]
VARIABLE = "SLMKIT_CHROMIUM"  # the path of a Chromium that is not on PATH
CHROMIUM = os.environ.get(VARIABLE) or shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = (  # no look-ups of its own
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
)
PAPER = {"light": "rgb(255, 255, 255)", "dark": "rgb(13, 17, 23)"}
LOOK = "[document.documentElement.scrollWidth, getComputedStyle(document.body).backgroundColor]"
BAD = """<script>console.error("bad")</script><p style="width: 2000px">wide</p><img src="x.png">"""
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason=f"no chromium on PATH, and {VARIABLE} names none"
)


@dataclass(frozen=True)
class Seen:
    """One look at a page."""

    width: int  # of what the page holds, in pixels
    paper: str  # its color
    asked: list[str]  # addresses, but for the page's own
    said: list[str]  # on the console


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=[*QUIET, *root])
        yield found
        found.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("made")
    bundle = ort_bundle(folder)
    manifest = read_manifest(bundle)
    several = folder / "several.html"
    names = ("tiny-android-int4", "tiny-android-int4-of-last-week")
    several.write_text(comparison_page(dict.fromkeys(names, manifest)), encoding="utf-8")
    return {"report": bundle / REPORT, "comparison": several}


def look(browser: Browser, path: Path, scheme: Scheme, width: int) -> Seen:
    size = ViewportSize(width=width, height=800)
    context = browser.new_context(color_scheme=scheme, viewport=size)
    page, asked, said = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(path.as_uri(), wait_until="networkidle")
    wide, paper = page.evaluate(LOOK)
    context.close()
    return Seen(wide, paper, [url for url in asked if url != path.as_uri()], said)


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["report", "comparison"])
def test_a_page_fits_the_screen_and_asks_for_nothing(browser, pages, name, scheme, width):
    seen = look(browser, pages[name], scheme, width)
    assert seen == Seen(width, PAPER[scheme], [], [])


def test_a_page_that_is_wide_and_asks_is_noticed(browser, tmp_path):
    path = tmp_path / "bad.html"
    path.write_text(BAD)
    seen = look(browser, path, "light", 390)
    assert seen.width >= 2000 and "bad" in seen.said
    assert [url.endswith("/x.png") for url in seen.asked] == [True]
