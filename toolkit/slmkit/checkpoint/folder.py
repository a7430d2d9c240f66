"""Open and check a checkpoint folder: config, spec, weights and tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from slmkit.checkpoint.adapters.merged import MergedWeights, merged
from slmkit.checkpoint.adapters.own_tokenizer import tokenizer_notices
from slmkit.checkpoint.formats.gguf.unpack import ENDING
from slmkit.checkpoint.formats.packed.file import FORMATS, PackedFile
from slmkit.checkpoint.formats.weights import open_weights
from slmkit.checkpoint.model_card import CARD
from slmkit.checkpoint.places.hub import repository_name
from slmkit.checkpoint.places.located import located
from slmkit.checkpoint.shards import Shards
from slmkit.checkpoint.tokenizer import BUILD_DAY, FILES, Tokenizer
from slmkit.checkpoint.weight_files import ADAPTERS, INDEX
from slmkit.errors import CheckpointError
from slmkit.interpreters.recorder import Model, summarize
from slmkit.models.config import Config, read_config
from slmkit.models.registry import MODELS, architecture, other_family, read_spec
from slmkit.models.spec import Spec
from slmkit.models.text_part import is_larger
from slmkit.system.plain_files import leaves

SAMPLE_MODEL = Path(__file__).resolve().parents[1] / "sample_model"
SAMPLE_NAME = "home"
CONFIG = "config.json"
QUANTIZED = "quantization_config"
COMPUTED_QUANTIZED = ("bitnet",)  # float tensors that the model rounds when it computes
OTHER_FAMILY = (
    "config.json: architectures names {}, which is not of model_type {}: the latter is built"
)
LARGER = "config.json is of a larger model ({}): its text part ({}) is built, the rest left out"
PREDICTING = "num_nextn_predict_layers"  # layers after the model's own, for further tokens


@dataclass(frozen=True)
class Checkpoint:
    """An open checkpoint; weights are memory-mapped."""

    folder: Path
    config: Config
    model: Model  # recorded once, when the folder was opened
    shards: Shards | MergedWeights  # with adapters, if any were named
    tokenizer: Tokenizer
    notices: tuple[str, ...] = ()  # what a user should know, a sentence each
    adapters: tuple[Path, ...] = ()  # folders of those that are merged into the weights

    @property
    def spec(self) -> Spec:
        """The model's facts."""
        return self.model.spec

    @property
    def name(self) -> str:
        """The model's name, from its folder."""
        return model_name(self.folder)

    def at_build_day(self) -> Checkpoint:
        """The checkpoint with prompts that are the same on every day. Raises CheckpointError if it
        has several chat templates and none was chosen."""
        tokenizer = self.tokenizer.on(BUILD_DAY)
        if tokenizer.template is None and tokenizer.templates.texts:
            raise tokenizer.templates.missing()
        return replace(self, tokenizer=tokenizer)

    def at_context(self, context: int) -> Checkpoint:
        """The checkpoint with its spec for a context length of ``context`` tokens."""
        return replace(self, model=self.model.at_context(context))


def open_checkpoint(
    folder: Path, chat_template: str | None = None, adapters: Sequence[Path] = ()
) -> Checkpoint:
    """Open a checkpoint and check its weights and tokenizer against config.json.

    ``chat_template``: the name of one of several chat templates. ``adapters``: folders of LoRA
    adapters, which are merged into the weights in this order.
    Raises CheckpointError, with a hint, for anything missing, damaged, mismatched or unsupported.
    """
    folder = located(folder)
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder} is not a folder",
            "--model wants a Hugging Face checkpoint folder, a .gguf file or org/name of the hub",
        )
    stored = [path.name for path in folder.glob("*.safetensors")]
    refuse_links(folder, CONFIG, INDEX, CARD, *FILES, *stored)
    for each in adapters:
        refuse_links(each, *ADAPTERS, *FILES)
    config = read_config(folder / CONFIG)
    spec = read_spec(config)
    model = summarize(spec)
    adapted = any(each.resolve() == folder.resolve() for each in adapters)
    base = _open_weights(folder, config, model, adapted)
    shards = merged(base, model, adapters, architecture(spec).transforms)
    tokenizer = Tokenizer(folder, chat_template, spec.vocabulary)
    larger = [LARGER.format(config.values["model_type"], spec.model_type)]
    notices = [*(larger if is_larger(config, MODELS) else []), *shards.notices]
    if other := other_family(config):
        notices.append(OTHER_FAMILY.format(other, spec.model_type))
    notices += tokenizer.notices()
    notices += [notice for each in adapters for notice in tokenizer_notices(each, folder)]
    return Checkpoint(folder, config, model, shards, tokenizer, tuple(notices), tuple(adapters))


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
    """Read a config.json: its keys, and the spec. Raises CheckpointError.

    A quantized model is refused here, unless weights lie beside that may be floats nonetheless.
    """
    config = read_config(path)
    if config.section(QUANTIZED) and not has_weights(path.parent):
        raise _quantized(config)
    return config, read_spec(config)


def has_weights(folder: Path) -> bool:
    """Whether a folder holds any file of weights."""
    return any(folder.glob("*.safetensors")) or any(folder.glob(f"*{ENDING}"))


def model_name(path: Path) -> str:
    """A model's name: its folder's name, or its file's; the sample model's is "home"."""
    path = path.resolve()
    if path == SAMPLE_MODEL:
        return SAMPLE_NAME
    if path.name == CONFIG:
        return path.parent.name
    if name := repository_name(path):
        return name
    return path.stem if path.is_file() else path.name


def _open_weights(folder: Path, config: Config, model: Model, adapted: bool) -> Shards:
    """The weights, checked. Raises CheckpointError; for a quantized model it says so.

    A tool that merges or dequantizes may leave ``quantization_config`` behind over float tensors.
    """
    spec, quantized = model.spec, config.section(QUANTIZED)
    family = architecture(spec)
    if quantized and quantized.values.get("quant_method") in COMPUTED_QUANTIZED:
        raise _quantized(config)
    weights = open_weights(folder, config, model, adapted)
    packed = any(isinstance(file, PackedFile) for file in weights.files)
    shards = Shards(weights, family.transforms, family.stacked)
    predicting = config.integer(PREDICTING, 0, least=0)
    try:
        shards.check(model.weights, spec.tied, spec.layers, predicting)
    except CheckpointError:
        if quantized and not packed:
            raise _quantized(config) from None
        raise
    if quantized and not packed:
        method = quantized.values.get("quant_method", "unknown")
        shards.notices.append(
            f"config.json has a quantization_config ({method}), but all tensors are plain floats: "
            "it is taken as left over"
        )
    return shards


def _quantized(config: Config) -> CheckpointError:
    method = config.required_section(QUANTIZED).values.get("quant_method", "unknown")
    return CheckpointError(
        f"the checkpoint is already quantized ({method})",
        "give it the original checkpoint, or one whose packed weights are those of "
        f"{', '.join(FORMATS)}",
    )
