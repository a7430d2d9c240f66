"""The report and the page of several bundles in Chromium: readable, and alone with themselves.

SLMKIT_PICTURES_OF=dist/home-android-int4 writes the screenshots of that bundle's report that the
documentation shows.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

from slmkit.bundle.manifest import read_manifest
from slmkit.bundle.report.comparison import comparison_page
from slmkit.bundle.roles import REPORT
from tiny_bundles import ort_bundle

Scheme = Literal["light", "dark"]
IMAGES = Path(__file__).resolve().parents[3] / "docs" / "pages" / "images"
PICTURED = os.environ.get("SLMKIT_PICTURES_OF")  # a bundle
LARGEST = 150_000  # bytes of a picture
PICTURES: dict[str, tuple[Scheme, int, str]] = {  # colors, width, the heading at the top
    "report-light.png": ("light", 1000, "h1"),
    "report-dark.png": ("dark", 1000, "h2:text('Errors by position')"),
    "report-phone.png": ("light", 390, "h2:text('A sample answer, side by side')"),
}
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
PLOTS = """[...document.querySelectorAll("svg")].map(each => each.getBoundingClientRect())
.map(size => [size.width, size.height])"""
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


@contextmanager
def opened(browser: Browser, scheme: Scheme, width: int) -> Iterator[Page]:
    """A page of its own, with nothing loaded yet."""
    size = ViewportSize(width=width, height=800)
    context = browser.new_context(color_scheme=scheme, viewport=size)
    yield context.new_page()
    context.close()


def look(browser: Browser, path: Path, scheme: Scheme, width: int) -> Seen:
    asked: list[str] = []
    said: list[str] = []
    with opened(browser, scheme, width) as page:
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(path.as_uri(), wait_until="networkidle")
        wide, paper = page.evaluate(LOOK)
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


@pytest.mark.parametrize("name", PICTURES)
def test_a_screenshot_of_each_screen_is_small(browser, pages, tmp_path, name):
    scheme, width, top = PICTURES[name]
    report = Path(PICTURED).resolve() / REPORT if PICTURED else pages["report"]
    place = (IMAGES if PICTURED else tmp_path) / name
    with opened(browser, scheme, width) as page:
        page.goto(report.as_uri(), wait_until="networkidle")
        page.locator(top).evaluate("each => each.scrollIntoView()")
        page.screenshot(path=place)
        drawn = page.evaluate(PLOTS)
    assert width_of(place) == width and 5_000 < place.stat().st_size < LARGEST
    assert len(drawn) >= 7 and all(wide >= 480 and high > 100 for wide, high in drawn)


@pytest.mark.parametrize("name", PICTURES)
def test_the_documentation_s_screenshots_are_those_of_a_screen(name):
    assert width_of(IMAGES / name) == PICTURES[name][1]
    assert (IMAGES / name).stat().st_size < LARGEST


def width_of(picture: Path) -> int:
    """Of a PNG, in pixels, by its header."""
    data = picture.read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    return int.from_bytes(data[16:20], "big")
