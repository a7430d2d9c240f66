"""Commands about the files of a bundle: verify compares them with the manifest, sign vouches."""

from __future__ import annotations

from pathlib import Path

import click

from slmkit.cli.options import FOLDER, command, json_option, print_json


@click.command()
@click.argument("bundle", type=FOLDER)
@click.option("--key", type=FOLDER, help="A public key in PEM: check the signature too.")
@json_option
@command
def verify(bundle: Path, key: Path | None, as_json: bool) -> None:
    """Check every file of a bundle against the hashes of its manifest, and its signature."""
    from slmkit import api

    opened = api.Bundle(bundle)
    count = opened.verify(key)
    if as_json:
        found = {"bundle": str(bundle), "files": count, "bytes": opened.size}
        return print_json({**found, "signature": "not checked" if key is None else "good"})
    click.echo(f"{count} files are what the manifest says")
    if key is not None:
        click.echo(f"and all of it is what was signed with the key of {key}")


@click.command()
@click.argument("bundle", type=FOLDER)
@click.option(
    "--key",
    type=FOLDER,
    required=True,
    help="A private key of an elliptic curve (P-256, P-384, P-521) in PEM.",
)
@click.option("--password", help="Of an encrypted key; better in SLMKIT_SIGN_PASSWORD.")
@json_option
@command
def sign(bundle: Path, key: Path, password: str | None, as_json: bool) -> None:
    """Sign a bundle: model.sig says who vouches for every file of it."""
    from slmkit import api
    from slmkit.bundle.verify import SIGNATURE

    count = api.Bundle(bundle).sign(key, password)
    if as_json:
        return print_json({"signature": str(bundle / SIGNATURE), "files": count})
    click.echo(f"{count} files are signed, in {bundle / SIGNATURE}")
