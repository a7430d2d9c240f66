"""Export a bundle's codes as a GGUF file, and let llama.cpp run it where that is installed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slmkit import __version__
from slmkit.bundle.export import EXPORT, KIND
from slmkit.bundle.folder import written
from slmkit.bundle.manifest import BundledArtifact, Manifest, read_manifest
from slmkit.bundle.verify import verify
from slmkit.checkpoint.folder import Checkpoint
from slmkit.checkpoint.formats.gguf.metadata import LEAVE, metadata_of
from slmkit.checkpoint.formats.gguf.tokens import tokens_of
from slmkit.checkpoint.formats.gguf.write import write_gguf
from slmkit.checkpoint.model_card import license_of
from slmkit.errors import RefusedError
from slmkit.interpreters.recorder import summarize
from slmkit.models.config import read_json
from slmkit.parity.golden_file import load_golden
from slmkit.parity.llama_cpp import PACKAGE, LlamaCppParity, compare_llama_cpp, is_installed
from slmkit.quant.codes import CodesFile
from slmkit.system.cache import Cache, CacheChoice, chosen_folder, work_folder
from slmkit.system.progress import Progress, Silent
from slmkit.workflows.codes import bundle_codes, checkpoint_of

FORM = "gguf"  # of ``slmkit export --as``
NOT_RUN = f"llama.cpp did not run the file: pip install {PACKAGE}"


@dataclass(frozen=True)
class GgufExport:
    """A written GGUF file."""

    slmkit: str  # version
    model: str
    artifact: str  # whose codes they are
    recipe: str
    file: str
    size: int  # bytes
    format: str = FORM
    parity: LlamaCppParity | None = None
    not_executed: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For ``--json`` and the file beside."""
        return asdict(self)


def export_gguf(
    bundle: Path,
    model: Path,
    place: Path,
    artifact: str | None = None,
    force: bool = False,
    cache: CacheChoice = True,
    progress: Progress | None = None,
) -> GgufExport:
    """Write the codes of an artifact as a GGUF file into the folder ``place``.

    ``model``: the checkpoint that the bundle was built from. llama.cpp's answers are compared with
    the reference's that the bundle keeps. Raises RefusedError for what GGUF does not hold exactly,
    BundleError for another checkpoint, ParityError if llama.cpp computes another model.
    """
    verify(bundle)
    manifest = read_manifest(bundle)
    manifest.refuse_failed()
    chosen, checkpoint = manifest.artifact(artifact), checkpoint_of(manifest, model)
    progress, kept = progress or Silent(), chosen_folder(cache)
    with work_folder(kept) as work, written(place, force, KIND) as folder:
        where = Cache(kept or work / "cache")
        codes = bundle_codes(bundle, manifest, checkpoint, chosen.name, where, progress)
        path = folder / f"{manifest.model.name}-{manifest.recipe.name}.gguf"
        _write(path, manifest, checkpoint, codes, progress)
        parity = _compare(bundle, chosen, checkpoint, path, progress)
        found = GgufExport(
            __version__,
            manifest.model.name,
            chosen.name,
            manifest.recipe.name,
            path.name,
            path.stat().st_size,
            parity=parity,
            not_executed=() if parity else (NOT_RUN,),
        )
        text = json.dumps(found.as_json(), indent=1, ensure_ascii=False)
        (folder / EXPORT).write_text(text + "\n", encoding="utf-8")
    return found


def _write(
    path: Path, manifest: Manifest, checkpoint: Checkpoint, codes: CodesFile, progress: Progress
) -> None:
    if codes.stream_scale != 1:
        raise RefusedError(
            f"the bundle holds the residual stream times {codes.stream_scale:g}, for which GGUF "
            "has no key",
            LEAVE,
        )
    facts = metadata_of(checkpoint.spec, checkpoint.config)
    metadata = {**_about(manifest, checkpoint), **_tokens(checkpoint)}
    model = summarize(checkpoint.spec)
    progress.stage("write GGUF", model.parameters)
    write_gguf(path, model, facts, codes, metadata, progress.advance)


def _about(manifest: Manifest, checkpoint: Checkpoint) -> dict[str, Any]:
    named = license_of(checkpoint.folder)
    return {
        "general.name": manifest.model.name,
        "general.quantized_by": f"slmkit {manifest.slmkit}, recipe {manifest.recipe.name}",
        **({"general.license": named} if named else {}),
    }


def _tokens(checkpoint: Checkpoint) -> dict[str, Any]:
    tokenizer = checkpoint.tokenizer
    bos = tokenizer.token_id("bos_token")
    adds_bos = bos is not None and tokenizer.encode("a")[:1] == [bos]
    values = read_json(checkpoint.folder / "tokenizer.json")
    found = tokens_of(values, tokenizer.special, checkpoint.spec.vocabulary, adds_bos)
    for key, number in zip(("eos", "eot", "eom"), tokenizer.stop_ids, strict=False):
        found[f"tokenizer.ggml.{key}_token_id"] = number
    if tokenizer.template is not None:
        found["tokenizer.chat_template"] = tokenizer.template
    return found


def _compare(
    bundle: Path,
    artifact: BundledArtifact,
    checkpoint: Checkpoint,
    path: Path,
    progress: Progress,
) -> LlamaCppParity | None:
    """None where llama.cpp is not installed. Raises ParityError."""
    if not is_installed():
        return None
    golden, tokenizer = load_golden(bundle / artifact.golden), checkpoint.tokenizer
    filler = next(
        number
        for letter in "aeiotn"
        for number in tokenizer.encode(letter, special=False)
        if tokenizer.decode([number]).strip() == letter
    )
    found = compare_llama_cpp(path, golden, checkpoint.spec.vocabulary, filler, progress)
    found.check()
    return found
