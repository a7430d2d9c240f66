"""Draw bundles as SVG: python docs/pictures.py dist/home-android-int4 ...

One picture shows what `slmkit parity` prints, from the bundle's manifest. Of a bundle for Android
others show its USE.md, the end of its build, and a chat with it, for which it runs. Screenshots of
its report are made by tests/unit/bundle/test_report_in_browser.py.
"""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.markdown import Markdown
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from slmkit.bundle.manifest import read_manifest
from slmkit.bundle.roles import USE
from slmkit.cli.tables.parity import parity_table
from slmkit.cli.tables.summary import next_steps, summary_table, warnings_note

IMAGES = Path(__file__).parent / "pages" / "images"
WIDTH = 81  # columns of the terminal that is drawn
TERMINAL = 80  # of a usual one
TYPED = ("turn off the kitchen lights at 7 pm", "/reset", "set a timer for 5 minutes")
THEME = TerminalTheme(
    background=(255, 255, 255),
    foreground=(36, 41, 47),
    normal=[
        (36, 41, 47),
        (180, 35, 24),
        (26, 127, 55),
        (154, 103, 0),
        (9, 105, 218),
        (130, 80, 223),
        (27, 124, 131),
        (110, 119, 129),
    ],
)
# rich's own form names fonts on a server; this one uses the reader's.
FORM = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" \
xmlns="http://www.w3.org/2000/svg" role="img" aria-label="TITLE">
<style>
.{unique_id}-matrix {{ font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, \
"DejaVu Sans Mono", monospace; font-size: {char_height}px; line-height: {line_height}px; \
font-variant-east-asian: full-width; }}
.{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: sans-serif; }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
</clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" \
clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def parity_picture(bundle: Path) -> str:
    """The parity table of a bundle, as the text of an SVG."""
    manifest = read_manifest(bundle)
    title = f"slmkit build --target {manifest.target}: the model {manifest.model.name}"
    return _drawn(parity_table(manifest.parity, quality=manifest.quality), title, "parity", WIDTH)


def use_picture(bundle: Path, lines: int = 100) -> str:
    """The first ``lines`` of a bundle's USE.md, as the text of an SVG."""
    text = (bundle / USE).read_text(encoding="utf-8").splitlines()[:lines]
    page = Markdown("\n".join(text), code_theme="friendly")
    return _drawn(page, f"{USE} of {bundle.name}", "use", 120)


def build_picture(bundle: Path) -> str:
    """The end of a bundle's build, as the text of an SVG."""
    manifest, place = read_manifest(bundle), _shown_place(bundle)
    notes = warnings_note(manifest)
    steps = next_steps(manifest, place)
    lines = Group(summary_table(manifest), *([notes] if notes else []), steps, f"bundle {place}")
    return _drawn(lines, f"slmkit build --target {manifest.target}", "build", TERMINAL)


def chat_picture(bundle: Path) -> str:
    """A chat with a bundle, which answers now, as the text of an SVG. The sample model knows one
    command at a time: /reset forgets the last one."""
    command = [sys.executable, "-m", "slmkit", "chat", str(bundle)]
    typed = "".join(f"{line}\n" for line in TYPED)
    said = subprocess.run(
        command,
        input=typed,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=True,
    ).stdout.splitlines()
    about, *answers = said
    rows = [f"$ slmkit chat {_shown_place(bundle)}", about]
    for line, answer in zip(TYPED, answers, strict=True):
        rows += [f"> {line}", answer]
    return _drawn(Text("\n".join(rows)), "slmkit chat", "chat", TERMINAL)


def _shown_place(bundle: Path) -> Path:
    """The bundle's path where a reader builds it."""
    return Path("dist") / bundle.name


def _drawn(content: RenderableType, title: str, name: str, width: int) -> str:
    console = Console(record=True, width=width, file=io.StringIO(), force_terminal=True)
    console.print(content, highlight=False)
    form = FORM.replace("TITLE", title)
    return console.export_svg(title=title, theme=THEME, code_format=form, unique_id=name)


def place_of(bundle: Path) -> Path:
    """The picture of a bundle's target: the README shows the one of android."""
    target = read_manifest(bundle).target
    return IMAGES / ("parity.svg" if target == "android" else f"parity-{target}.svg")


OF_ANDROID = {"use": use_picture, "build": build_picture, "chat": chat_picture}

if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit("usage: python docs/pictures.py BUNDLE ...")
    for each in map(Path, sys.argv[1:]):
        place_of(each).write_text(parity_picture(each), encoding="utf-8")
        if place_of(each).name == "parity.svg":
            for name, draw in OF_ANDROID.items():
                (IMAGES / f"{name}.svg").write_text(draw(each), encoding="utf-8")
