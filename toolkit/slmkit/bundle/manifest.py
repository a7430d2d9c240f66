"""manifest.json: a bundle's table of contents, its schema, and what is checked when it is read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from slmkit.backend.artifact import Artifact
from slmkit.checkpoint.adapters.merged import AdapterFacts
from slmkit.checkpoint.generation import Generation
from slmkit.errors import BundleError
from slmkit.evaluation.gate import Quality
from slmkit.parity.metrics import Comparison
from slmkit.parity.prompts import PromptComparison
from slmkit.planning.calibration_report import CalibrationReport
from slmkit.planning.forecast import Work
from slmkit.planning.memory import MemoryPlan
from slmkit.recipe.recipe import Recipe
from slmkit.system.ledger import StageCost
from slmkit.system.plain_files import parse_json, read_text

STRICT = ConfigDict(extra="forbid", frozen=True)
MANIFEST = "manifest.json"
LONGEST = 1 << 26  # bytes of a manifest.json
SCHEMA = Path(__file__).with_name("manifest.schema.json")  # published; a test keeps it equal


def inside(path: str) -> str:
    """A relative path with forward slashes that stays in its folder."""
    parts = PurePosixPath(path).parts
    if not path or "\\" in path or path.startswith("/") or ".." in parts or ":" in path:
        raise ValueError(f"{path!r} does not stay in the bundle's folder")
    return path


Inside = Annotated[str, AfterValidator(inside)]


# What a file is there for: an app loads it; what ships was compiled from it; parity needs it; it is
# to be read.
Role = Literal["ships", "source", "proof", "docs"]


class File(BaseModel):
    """One file of the bundle."""

    model_config = STRICT

    path: Inside
    size: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    role: Role | None = None  # older bundles do not say


class ModelFacts(BaseModel):
    """Facts of the model; widths by the names of config.json."""

    model_config = STRICT

    name: str
    model_type: str
    parameters: int
    num_hidden_layers: int
    hidden_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    tied: bool
    trained_context: int
    checkpoint_sha256: str
    adapters: tuple[AdapterFacts, ...] = ()  # merged into its weights, in this order


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class BundledArtifact(Artifact):
    """An artifact in a bundle: its folder, its golden answers, its memory and work."""

    folder: Inside
    golden: Inside  # the reference's answers on this artifact's codes: for later parity
    memory: MemoryPlan  # bytes that an app needs with it
    work: Work | None = None  # of one token, for a forecast of speed; older bundles have none
    libraries: dict[str, str | None]  # versions of the libraries that wrote it


class Manifest(BaseModel):
    """The whole manifest."""

    model_config = STRICT

    schema_version: Literal[2] = 2  # 1: artifacts without a state, bundles of the first preview
    slmkit: str
    target: str
    model: ModelFacts
    recipe: Recipe  # with the bounds that held
    context_length: int
    stream_scale: float = 1.0  # factor on the residual stream, so that float16 holds it
    tokenizer: Inside  # folder
    chat_template: str | None = None  # the name of one of several; None: the only or default one
    stop_ids: tuple[int, ...]
    generation: Generation = Generation()  # as the model's author says
    artifacts: tuple[BundledArtifact, ...]
    parity: tuple[Comparison, ...]  # at build time
    prompts: tuple[PromptComparison, ...] = ()  # at build time; older bundles have none
    quality: Quality | None = None  # at build time, on held-out text; older bundles have none
    calibration: tuple[CalibrationReport, ...] = ()  # of encodings with codes chosen on text
    notices: tuple[str, ...] = ()  # of the checkpoint: what was left out, added or chosen
    not_executed: tuple[str, ...]  # runtimes that this build could not run, and why
    stages: tuple[StageCost, ...] = ()  # of the build; older bundles have none
    failures: tuple[str, ...] = ()  # bounds that the build broke: no app may ship such a bundle
    files: tuple[File, ...]

    def refuse_failed(self) -> None:
        """Raise BundleError for a bundle that failed its proof and was kept to be looked at."""
        if self.failures:
            raise BundleError(
                f"the bundle failed its proof, so that nothing of it ships: {self.failures[0]}",
                "it was kept by --keep-failed to be looked at; build it again with another recipe",
            )

    def artifact(self, name: str | None) -> BundledArtifact:
        """An artifact by name; the first one by default. Raises BundleError."""
        for artifact in self.artifacts:
            if name in (None, artifact.name):
                return artifact
        names = ", ".join(artifact.name for artifact in self.artifacts)
        raise BundleError(f"the bundle has no artifact {name!r}", f"it has: {names}")

    @model_validator(mode="after")
    def _names_stay_inside(self) -> Manifest:
        """Refuse facts that a backend's runner would read as a path out of the bundle."""
        for artifact in self.artifacts:
            for text in _texts(artifact.facts):
                if text.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", text):
                    raise ValueError(f"{text!r} does not stay in the bundle's folder")
        return self

    @property
    def size(self) -> int:
        """Bytes of all files but the manifest."""
        return sum(file.size for file in self.files)


def _texts(values: Any) -> Iterator[str]:
    """Every text in JSON values."""
    if isinstance(values, str):
        yield values
    elif isinstance(values, Mapping):
        for each in values.values():
            yield from _texts(each)
    elif isinstance(values, list | tuple):
        for each in values:
            yield from _texts(each)


def write_manifest(manifest: Manifest, folder: Path) -> None:
    """Write manifest.json: the same manifest gives the same bytes."""
    text = json.dumps(manifest.model_dump(mode="json"), indent=2, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """Read and check a bundle's manifest. Raises BundleError."""
    path = folder / MANIFEST
    if not path.is_file():
        raise BundleError(
            f"{folder} is not a bundle: it has no {MANIFEST}",
            "give a folder that slmkit build wrote",
        )
    try:
        values = parse_json(read_text(path, LONGEST))
        # Lists become the recipe's tuples again through JSON's own rules.
        return Manifest.model_validate_json(json.dumps(values))
    except (ValidationError, OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} is damaged: {_first(error)}", "build the bundle again") from None


def schema() -> dict[str, Any]:
    """The JSON Schema of manifest.json."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Manifest.model_json_schema(mode="serialization"),
    }


def _first(error: Exception) -> str:
    if isinstance(error, ValidationError):
        item = error.errors()[0]
        return f"{'.'.join(map(str, item['loc']))}: {item['msg']}"
    return str(error)
