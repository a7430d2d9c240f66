"""A checkpoint folder, whole: spec, named tensors, tokenizer; checked before anything is built."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from slmkit.checkpoint.shards import Shards
from slmkit.checkpoint.tokenizer import Tokenizer
from slmkit.errors import CheckpointError
from slmkit.interpreters.recorder import Model, summarize
from slmkit.models.config import Config, read_config
from slmkit.models.registry import architecture, read_spec
from slmkit.models.spec import Spec

SAMPLE_MODEL = Path(__file__).resolve().parents[1] / "sample_model"
SAMPLE_NAME = "home"
CONFIG = "config.json"


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint; tensors are read when asked for."""

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
        """What the model is called."""
        return model_name(self.folder)

    def at_context(self, context: int) -> Checkpoint:
        """The same, with the facts that hold in a context of this many tokens."""
        return replace(self, model=self.model.at_context(context))


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read and check a folder. Raises CheckpointError with what is wrong and what to do."""
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder} is not a folder", "--model wants a Hugging Face checkpoint folder"
        )
    config, spec = read_facts(folder / CONFIG)
    how = architecture(spec)
    shards = Shards(folder, how.transforms, how.stacked)
    model = summarize(spec)
    shards.check(model.weights, spec.tied)
    tokenizer = Tokenizer(folder)
    if tokenizer.size > spec.vocabulary:
        raise CheckpointError(
            f"tokenizer.json has {tokenizer.size} tokens, config.json's vocab_size is "
            f"{spec.vocabulary}",
            "tokenizer and weights are of different models",
        )
    return Checkpoint(folder, config, model, shards, tokenizer)


def read_facts(path: Path) -> tuple[Config, Spec]:
    """A config.json, and what it says of the model. Raises CheckpointError."""
    config = read_config(path)
    _refuse_quantized(config)
    return config, read_spec(config)


def model_name(path: Path) -> str:
    """What a model is called: its folder's name, or its file's; the sample model's is "home"."""
    whole = path.resolve()
    if whole == SAMPLE_MODEL:
        return SAMPLE_NAME
    if whole.name == CONFIG:
        return whole.parent.name
    return whole.stem if whole.is_file() else whole.name


def _refuse_quantized(config: Config) -> None:
    section = config.section("quantization_config")
    if section is not None:
        method = section.values.get("quant_method", "unknown")
        raise CheckpointError(
            f"the checkpoint is already quantized ({method})",
            "slmkit quantizes float weights itself: give it the original checkpoint",
        )
