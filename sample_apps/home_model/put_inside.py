"""Put the sample model into both sample apps, as ``slmkit app new`` puts a bundle's into a project.

python sample_apps/home_model/put_inside.py                      builds it (`make home-inside`)
python sample_apps/home_model/put_inside.py android=BUNDLE ios=BUNDLE    takes bundles of it
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import slmkit
from slmkit.app.project import CASES, CHAT, MODEL, TOKENS

APPS = Path(__file__).resolve().parents[1]
ARTIFACTS = {"android": "ort", "ios": "coreml"}  # which an app runs without another flavor


def put(platform: str, bundle: Path | None, work: Path) -> None:
    """Replace the model of one app. ``bundle``: built in ``work`` if there is none."""
    artifact = ARTIFACTS[platform]
    if bundle is None:
        bundle = slmkit.build(target=platform, artifacts=[artifact], out=work / platform).path
    project = slmkit.new_app(bundle, platform, work / f"app-{platform}", artifact=artifact)
    new, place = work / f"app-{platform}" / project.models, APPS / platform / project.models
    shutil.rmtree(place / MODEL, ignore_errors=True)
    shutil.copytree(new / MODEL, place / MODEL)
    for name in (CHAT, CASES, TOKENS):
        shutil.copyfile(new / name, place / name)
    print(f"{place}: {artifact} of {bundle}")  # noqa: T201


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundles", nargs="*", metavar="PLATFORM=BUNDLE")
    given = dict(each.split("=", 1) for each in parser.parse_args().bundles)
    with tempfile.TemporaryDirectory() as work:
        for platform in given or ARTIFACTS:
            place = given.get(platform)
            put(platform, place and Path(place), Path(work))


if __name__ == "__main__":
    main()
