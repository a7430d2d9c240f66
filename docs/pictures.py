"""Draw the parity tables of bundles as SVG: python docs/pictures.py dist/home-android-int4 ...

The picture shows what `slmkit build` printed: the same table, from the bundle's manifest.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import TerminalTheme

from slmkit.bundle.manifest import read_manifest
from slmkit.cli.tables.parity import parity_table

IMAGES = Path(__file__).parent / "pages" / "images"
WIDTH = 81  # columns of the terminal that is drawn
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
xmlns="http://www.w3.org/2000/svg" role="img" aria-label="The parity table of a build">
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
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(parity_table(manifest.parity, quality=manifest.quality), highlight=False)
    title = f"slmkit build --target {manifest.target}: the model {manifest.model.name}"
    return console.export_svg(title=title, theme=THEME, code_format=FORM, unique_id="parity")


def place_of(bundle: Path) -> Path:
    """The picture of a bundle's target: the README shows the one of android."""
    target = read_manifest(bundle).target
    return IMAGES / ("parity.svg" if target == "android" else f"parity-{target}.svg")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        sys.exit("usage: python docs/pictures.py BUNDLE ...")
    for each in map(Path, sys.argv[1:]):
        place_of(each).write_text(parity_picture(each), encoding="utf-8")
