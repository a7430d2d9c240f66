"""Adapters beside the artifact: in ONNX Runtime itself and in onnxruntime-genai, and proved there.

Parity can fail: each bug below is planted into the file that the runtime loads.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import safetensors.numpy

from artifacts import SCHEMES, emitted, make_job, reference_of, run, snr_db
from peft_adapters import stored, write_adapter
from slmkit import api
from slmkit.backend.interface import Runner
from slmkit.backend.registry import find_backend
from slmkit.bundle.adapter import ADAPTER
from slmkit.bundle.manifest import read_manifest
from slmkit.checkpoint.adapters.change import LowRank
from slmkit.checkpoint.adapters.peft_folder import open_adapter
from slmkit.checkpoint.folder import open_checkpoint
from slmkit.errors import RefusedError, SlmkitError, UsageError
from slmkit.interpreters.reference import logits
from slmkit.parity.adapted import AdaptedCodes
from slmkit.parity.proof import Proof
from slmkit.planning.codes import codes_of
from slmkit.planning.memory import matrix_schemes
from slmkit.planning.prepare import prepare
from slmkit.recipe.recipe import Recipe, load_recipe
from slmkit.system.cache import Cache
from slmkit.system.progress import Silent
from slmkit.workflows.adapter import FailedAdapter, emit_adapter, prove
from slmkit.workflows.codes import bundle_codes, checkpoint_of
from tiny_models import tiny_config, write_checkpoint

ORT: Any = find_backend("ort")  # which takes adapters
LINEARS = ("q_proj", "k_proj", "down_proj", "up_proj", "lm_head")
FLOOR = 100  # dB, of float32


class Built:
    """A tiny bundle with places for adapters, an adapter, and what the proof of both needs."""

    def __init__(self, folder: Path) -> None:
        self.work = folder
        self.model = write_checkpoint(folder / "tiny", tiny_config("llama"))
        options = {"ort": {"adapters": "all"}}
        about: dict[str, Any] = {"target": "android", "artifacts": ["ort"], "context": 128}
        cache = folder / "cache"
        self.bundle = api.build(
            self.model, **about, options=options, out=folder / "dist", cache=cache
        ).path
        self.adapter = write_adapter(folder / "adapter", self.model, LINEARS)
        self.manifest = read_manifest(self.bundle)
        self.artifact = self.manifest.artifact("ort")
        self.checkpoint = checkpoint_of(self.manifest, self.model)
        self.low_ranks = open_adapter(self.adapter, self.checkpoint.model).low_ranks
        self.cache = cache

    def add(self, out: Path, **more: Any) -> api.BesideAdapter:
        about: dict[str, Any] = {"model": self.model, "cache": self.cache, **more}
        return api.add_adapter(self.bundle, self.adapter, out, **about)

    def hashes(self) -> dict[str, str]:
        files = (path for path in self.bundle.rglob("*") if path.is_file())
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def runner(self, adapter: Path | None = None) -> Runner:
        backend, about = ORT, (self.bundle / "ort", self.artifact, "shipped")
        if adapter is None:
            return backend.open_runner(*about)
        return backend.open_adapted_runner(*about, adapter)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return Built(tmp_path_factory.mktemp("adapters"))


def test_it_is_proved_beside_a_base_whose_bytes_stay(built, tmp_path):
    before = built.hashes()
    found = built.add(tmp_path / "out")
    assert built.hashes() == before
    assert [each.mode for each in found.parity] == ["exact", "shipped"]
    assert found.parity[0].metrics.snr_db > FLOOR and found.effect_db < 40
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [found.file, ADAPTER]
    with pytest.raises(SlmkitError, match="exists"):
        built.add(tmp_path / "out")
    first = (tmp_path / "out" / found.file).read_bytes()
    built.add(tmp_path / "out", force=True)
    assert (tmp_path / "out" / found.file).read_bytes() == first


def prove_with(built, tmp_path, change, adapter=True):
    """Prove a file that was written from changed low ranks."""
    (tmp_path / "out").mkdir()
    file = emit_adapter(built.artifact, change(dict(built.low_ranks)), tmp_path / "out", tmp_path)
    progress, bounds = Silent(), built.manifest.recipe.parity
    proof = Proof(built.bundle, {"ort": built.artifact}, bounds, tmp_path, progress)
    proof.adapter = tmp_path / "out" / file if adapter else None
    about = built.bundle, built.manifest, built.checkpoint, "ort", Cache(built.cache), progress
    codes = bundle_codes(*about)
    return prove(proof, built.manifest, built.artifact, built.checkpoint, codes, built.low_ranks)


def q(layer):
    return f"model.layers.{layer}.self_attn.q_proj"


def wrong_alpha(low):
    return {name: LowRank(2 * each.up, each.down) for name, each in low.items()}


def rslora_of_one(low):
    return low | {q(1): LowRank(low[q(1)].up * np.float32(2), low[q(1)].down)}


def swapped_layers(low):
    return low | {q(0): low[q(1)], q(1): low[q(0)]}


def swapped_halves(low):
    """A in the place of B and the other way round, which a square matrix lets happen."""
    return low | {q(0): LowRank(low[q(0)].down.T.copy(), low[q(0)].up.T.copy())}


def missing_layer(low):
    return {name: each for name, each in low.items() if ".layers.1." not in name}


def missing_matrix(low):
    return {name: each for name, each in low.items() if name != "model.layers.1.mlp.down_proj"}


def of_no_effect(low):
    return {name: LowRank(0 * each.up, each.down) for name, each in low.items()}


BUGS = [
    wrong_alpha,
    rslora_of_one,
    swapped_layers,
    swapped_halves,
    missing_layer,
    missing_matrix,
    of_no_effect,
]


@pytest.mark.parametrize("bug", BUGS)
def test_parity_finds(built, tmp_path, bug):
    with pytest.raises(FailedAdapter, match=r"ort exact: .*SNR"):
        prove_with(built, tmp_path, bug)


def test_parity_finds_a_runtime_that_ignores_it(built, tmp_path):
    """As ONNX Runtime does, with a warning in its log, where inputs are bound to a session."""
    with pytest.raises(FailedAdapter, match=r"ort exact: .*SNR"):
        prove_with(built, tmp_path, lambda low: low, adapter=False)


def test_the_right_one_passes_the_same_proof(built, tmp_path):
    found, effect = prove_with(built, tmp_path, lambda low: low)
    assert all(each.passed for each in found) and found[0].metrics.snr_db > FLOOR > effect


def test_an_effect_too_small_to_see_is_refused(built, tmp_path):
    small = {
        n: LowRank(each.up * np.float32(1e-7), each.down) for n, each in built.low_ranks.items()
    }
    with_small = replace_low(built, small)
    with pytest.raises(RefusedError, match="less than parity could see"):
        prove_with(with_small, tmp_path, lambda low: low)


def replace_low(built, low_ranks):
    changed = object.__new__(Built)
    changed.__dict__ = {**built.__dict__, "low_ranks": low_ranks}
    return changed


def test_genai_answers_with_it_as_our_runner_does(built, tmp_path):
    genai = pytest.importorskip("onnxruntime_genai", reason="needs the extra genai")

    found, ids = built.add(tmp_path / "out"), [1, 17, 45, 200, 99]
    model = genai.Model(str(built.bundle / "ort"))
    adapters = genai.Adapters(model)
    adapters.load(str(tmp_path / "out" / found.file), "mine")

    def tokens(name):
        parameters = genai.GeneratorParams(model)
        parameters.set_search_options(max_length=len(ids) + 20, do_sample=False)
        generator = genai.Generator(model, parameters)
        if name:
            generator.set_active_adapter(adapters, name)
        generator.append_tokens(np.array(ids, dtype=np.int32))
        answer: list[int] = []
        while not generator.is_done() and len(answer) < 20:
            generator.generate_next_token()
            answer.append(int(generator.get_next_tokens()[0]))
        return answer

    def ours(adapter):
        runner = built.runner(adapter)
        answer: list[int] = []
        fed = np.array(ids)
        while len(answer) < 20:
            fed = runner.feed(fed)[-1:].argmax(axis=1)
            answer.append(int(fed[0]))
        return answer

    adapted, plain = tokens("mine"), tokens(None)
    assert adapted != plain
    stop = len(adapted)  # it ends at a stop id
    assert adapted == ours(tmp_path / "out" / found.file)[:stop]
    assert plain == ours(None)[: len(plain)]


def test_a_file_that_is_none_is_refused_in_words(built, tmp_path):
    (tmp_path / "adapter.onnx_adapter").write_bytes(b"none" * 30)
    with pytest.raises(SlmkitError, match=r"cannot load adapter\.onnx_adapter"):
        built.runner(tmp_path / "adapter.onnx_adapter")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"modules_to_save": ["norm"]}, "a whole model.norm.weight, which would take"),
        ({"use_dora": True}, "is a DoRA"),
    ],
)
def test_what_is_more_than_a_low_rank_is_refused_by_name(built, tmp_path, settings, said):
    adapter = write_adapter(tmp_path / "a", built.model, **settings)
    more = {"base_model.model.model.norm.weight": np.ones(64, np.float32)}
    if "use_dora" in settings:
        more = {
            f"{name.partition('.lora_B')[0]}.lora_magnitude_vector": np.ones(len(each), np.float32)
            for name, each in stored(adapter).items()
            if "lora_B" in name
        }
    safetensors.numpy.save_file(stored(adapter) | more, adapter / "adapter_model.safetensors")
    with pytest.raises(RefusedError, match=said) as caught:
        api.add_adapter(built.bundle, adapter, tmp_path / "o", model=built.model, cache=built.cache)
    assert "slmkit build --adapter" in caught.value.hint
    assert not (tmp_path / "o").exists()


def test_an_untrained_one_and_another_model_are_refused(built, tmp_path):
    zero = write_adapter(tmp_path / "zero", built.model, size=0)
    with pytest.raises(RefusedError, match="all of its B are zero"):
        api.add_adapter(built.bundle, zero, tmp_path / "o", model=built.model, cache=built.cache)
    with pytest.raises(UsageError, match="does not hold the weights"):
        api.add_adapter(built.bundle, zero, tmp_path / "o", cache=built.cache)


@pytest.mark.parametrize("architecture", ["qwen2", "gemma2", "phi3", "qwen2-moe", "granite-hybrid"])
def test_places_of_every_architecture_compute_what_the_reference_does(tiny, tmp_path, architecture):
    """Empty, they change nothing; with an adapter they add it."""
    folder = tiny(architecture)
    job = make_job("ort", folder, tmp_path, options={"adapters": "all"})
    artifact = emitted(job, tmp_path / "ort")
    assert snr_db(reference_of(job), run(tmp_path / "ort", artifact, "exact", job)) > FLOOR
    names = {name for place in artifact.facts["adapters"] for name in place["weights"]}
    assert names and not any(".experts." in name for name in names)
    random = np.random.default_rng(3)
    low_ranks = {}
    for at, name in enumerate(sorted(names)[::2]):
        outputs, inputs = job.model.shapes[name]
        up, down = (
            0.2 * random.standard_normal(s) for s in ((outputs, 1 + at % 3), (1 + at % 3, inputs))
        )
        low_ranks[name] = LowRank(up.astype(np.float32), down.astype(np.float32))
    backend = ORT
    assert backend.adapter_problems(artifact, list(low_ranks)) == []
    file = tmp_path / backend.emit_adapter(artifact, low_ranks, tmp_path)
    ids = np.arange(5, 40)
    expected = logits(AdaptedCodes(job.codes, low_ranks), job.spec, [ids])[0]
    runner = backend.open_adapted_runner(tmp_path / "ort", artifact, "exact", file)
    got = np.concatenate([runner.feed(part) for part in np.split(ids, [20, 33, 34])])
    assert snr_db(expected, got) > FLOOR
    assert snr_db(expected, logits(job.codes, job.spec, [ids])[0]) < 40


def test_only_the_linears_that_are_named_have_places(tiny, tmp_path):
    folder = tiny("llama")
    job = make_job("ort", folder, tmp_path, options={"adapters": ["q_proj"]})
    artifact = emitted(job, tmp_path / "ort")
    joined = [place["weights"] for place in artifact.facts["adapters"]]
    assert len(joined) == 2 and all(any(n.endswith("q_proj") for n in each) for each in joined)
    backend = ORT
    (problem,) = backend.adapter_problems(artifact, ["model.layers.0.mlp.up_proj"])
    assert "no place for an adapter of model.layers.0.mlp.up_proj" in problem
    plain = emitted(make_job("ort", folder, tmp_path), tmp_path / "plain")
    assert "adapters" not in plain.facts
    (problem,) = backend.adapter_problems(plain, [q(0)])
    assert "without places for adapters" in problem
    session = onnxruntime.InferenceSession(str(tmp_path / "plain" / "model.onnx"))
    names = [each.name for each in session.get_overridable_initializers()]
    assert names == ["logits_from"]  # no place for an adapter


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (True, "expected all, or a list"),
        ([], "expected all, or a list"),
        ([1], "expected all, or a list"),
        ("q_proj", "expected all, or a list"),
        (["q_proj", "w9"], "names w9, and no linear"),
        (["experts.0.up_proj"], "no linear that takes adapters"),
    ],
)
def test_an_option_that_fits_nothing_is_refused(tiny, value, said):
    model = open_checkpoint(tiny("qwen2-moe")).model
    (problem,) = find_backend("ort").problems(model, {}, {"adapters": value})
    assert said in problem


def test_factors_on_the_weights_are_those_of_the_adapter_too(tiny, tmp_path):
    """SmoothQuant's and the stream's: weights in float16 with factors, the adapter with the same,
    are the float model with the adapter merged."""
    folder = tiny("llama")
    adapter = write_adapter(tmp_path / "a", folder, LINEARS[:-1])
    checkpoint, merged = open_checkpoint(folder), open_checkpoint(folder, adapters=[adapter])
    values = {**load_recipe("int4").model_dump(), "smoothquant": 0.5}
    values["weights"] = [{"match": ["*"], "scheme": SCHEMES["float16"]}]
    recipe = Recipe.model_validate(values)
    schemes, cache = matrix_schemes(checkpoint.model, recipe), Cache(tmp_path / "c")
    runs = [np.arange(at, at + 60) for at in range(5, 100, 8)]
    ready = replace(prepare(checkpoint, recipe, runs, cache, Silent()), stream_scale=0.25)
    codes, factors = (
        codes_of(checkpoint, schemes, cache, Silent(), ready),
        ready.factors(checkpoint, schemes),
    )
    plain = open_adapter(adapter, checkpoint.model).low_ranks
    scaled = {name: each.scaled(factors.get(name)) for name, each in plain.items()}
    ids, spec = np.arange(3, 50), checkpoint.spec.scaled(codes.stream_scale)
    expected = logits(merged.shards, merged.spec, [ids])[0]
    assert snr_db(expected, logits(AdaptedCodes(codes, scaled), spec, [ids])[0]) > 50
    assert snr_db(expected, logits(AdaptedCodes(codes, plain), spec, [ids])[0]) < 30
