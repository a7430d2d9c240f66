"""Open and check a checkpoint folder: config, spec, weights and tokenizer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from slmkit.checkpoint.model_card import CARD
from slmkit.checkpoint.shards import INDEX, Shards
from slmkit.checkpoint.tokenizer import FILES, Tokenizer
from slmkit.errors import CheckpointError
from slmkit.interpreters.recorder import Model, summarize
from slmkit.models.config import Config, read_config
from slmkit.models.registry import architecture, read_spec
from slmkit.models.spec import Spec
from slmkit.system.plain_files import leaves

SAMPLE_MODEL = Path(__file__).resolve().parents[1] / "sample_model"
SAMPLE_NAME = "home"
CONFIG = "config.json"


@dataclass(frozen=True)
class Checkpoint:
    """An open checkpoint; weights are memory-mapped."""

    folder: Path
    config: Config
    model: Model  # recorded once, when the folder was opened
    shards: Shards
    tokenizer: Tokenizer

    @property
    def spec(self) -> Spec:
        """The model's facts."""
        return self.model.spec

    @property
    def name(self) -> str:
        """The model's name, from its folder."""
        return model_name(self.folder)

    def at_context(self, context: int) -> Checkpoint:
        """The checkpoint with its spec for a context length of ``context`` tokens."""
        return replace(self, model=self.model.at_context(context))


def open_checkpoint(folder: Path, chat_template: str | None = None) -> Checkpoint:
    """Open a checkpoint and check its weights and tokenizer against config.json.

    ``chat_template``: the name of one of several chat templates.
    Raises CheckpointError, with a hint, for anything missing, damaged, mismatched or unsupported.
    """
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder} is not a folder", "--model wants a Hugging Face checkpoint folder"
        )
    stored = [path.name for path in folder.glob("*.safetensors")]
    refuse_links(folder, CONFIG, INDEX, CARD, *FILES, *stored)
    config, spec = read_facts(folder / CONFIG)
    family = architecture(spec)
    shards = Shards(folder, family.transforms, family.stacked)
    model = summarize(spec)
    shards.check(model.weights, spec.tied)
    tokenizer = Tokenizer(folder, chat_template)
    if tokenizer.size > spec.vocabulary:
        raise CheckpointError(
            f"tokenizer.json has {tokenizer.size} tokens, config.json's vocab_size is "
            f"{spec.vocabulary}",
            "tokenizer and weights are of different models",
        )
    return Checkpoint(folder, config, model, shards, tokenizer)


def refuse_links(folder: Path, *names: str) -> None:
    """Raise CheckpointError for a link out of the folder: what it leads to may be no part of the
    model, and files of a checkpoint are copied into bundles."""
    for path in (folder / name for name in names):
        if path.is_symlink() and leaves(folder, path):
            raise CheckpointError(
                f"{path.name} is a link out of {folder}, to {path.resolve()}",
                "copy the file into the folder, if it belongs to the model",
            )


def read_facts(path: Path) -> tuple[Config, Spec]:
    """Read a config.json: its keys, and the spec. Raises CheckpointError."""
    config = read_config(path)
    _refuse_quantized(config)
    return config, read_spec(config)


def model_name(path: Path) -> str:
    """A model's name: its folder's name, or its file's; the sample model's is "home"."""
    path = path.resolve()
    if path == SAMPLE_MODEL:
        return SAMPLE_NAME
    if path.name == CONFIG:
        return path.parent.name
    return path.stem if path.is_file() else path.name


def _refuse_quantized(config: Config) -> None:
    section = config.section("quantization_config")
    if section is not None:
        method = section.values.get("quant_method", "unknown")
        raise CheckpointError(
            f"the checkpoint is already quantized ({method})",
            "slmkit quantizes float weights itself: give it the original checkpoint",
        )
