"""Tiny architectures as .tflite, run by LiteRT's interpreter, against the reference on codes."""

from __future__ import annotations

import numpy as np
import pytest

from artifacts import FLOAT32_FLOOR, emitted, ids_for, reference_of, run, token_snr_db
from litert_artifacts import TAKEN, check_floors, litert_job
from own_process import printed
from slmkit.backend.registry import find_backend
from slmkit.errors import BackendError
from slmkit.recipe.scheme import Scheme
from slmkit_litert.lowering import weight_binding
from slmkit_litert.lowering.weight_binding import read_model, weights_of
from slmkit_litert.lowering.weight_layout import COLUMNS, MASK, SELECTION, part_of, weight_layout
from slmkit_litert.weights import dequantize, pack_signed
from slmkit_litert.writer import check_bytes
from tiers import SCHEMES, some
from tiny_models import scale_weights

INTEGERS = [scheme for scheme in TAKEN if scheme.startswith("int")]


@pytest.mark.parametrize("scheme", some(TAKEN, "int4-per-channel", why=SCHEMES))
def test_every_scheme_keeps_the_floors(tiny, tmp_path, scheme):
    check_floors(litert_job(tiny("llama-biases"), tmp_path, scheme), tmp_path / "litert")


def test_widths_that_no_group_divides(tiny, tmp_path):
    job = litert_job(tiny("llama-narrow-heads"), tmp_path, "int4-g32")
    check_floors(job, tmp_path / "litert")


@pytest.mark.parametrize("scheme", some([*TAKEN, ""], "int8-per-channel", "", why=SCHEMES))
def test_the_file_holds_the_codes_of_the_bundle(tiny, tmp_path, scheme):
    job = litert_job(tiny("llama-tied"), tmp_path, scheme)
    emitted(job, tmp_path / "litert")
    stored = weights_of(*read_model(tmp_path / "litert" / "model.tflite"))
    for name, shape in job.model.shapes.items():
        tensor = f"{name}.weight" if len(shape) == 2 else name
        matrix = len(shape) == 2
        expected = job.codes.rows(tensor, slice(None)) if matrix else job.codes.vector(tensor)
        meant = dequantize(stored[tensor])[..., : shape[-1]]  # without what fills a last group
        np.testing.assert_array_equal(meant, expected)


def test_signatures_and_a_tied_head_share_their_buffers(tiny, tmp_path):
    job = litert_job(tiny("llama-tied"), tmp_path, "int8-per-channel")
    emitted(job, tmp_path / "litert")
    size = (tmp_path / "litert" / "model.tflite").stat().st_size
    matrices = sum(np.prod(shape) for shape in job.model.shapes.values() if len(shape) == 2)
    assert size < matrices + 150_000  # the graph, scales and rope tables


def test_a_changed_byte_is_found(tiny, tmp_path):
    job = litert_job(tiny("llama"), tmp_path)
    emitted(job, tmp_path / "litert")
    path = tmp_path / "litert" / "model.tflite"
    layout = weight_layout(job.model, job.codes.schemes)
    check_bytes(job, layout, path)
    model, whole = read_model(path)
    stored = weights_of(model, whole)["model.layers.0.mlp.up_proj.weight"].data
    raw = path.read_bytes()
    at = raw.index(bytes(stored))
    path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
    with pytest.raises(BackendError, match=r"other bytes for model\.layers\.0\.mlp\.up_proj"):
        check_bytes(job, layout, path)


def test_buffers_beyond_a_small_limit_lie_outside(tiny, tmp_path, monkeypatch):
    """The flatbuffer's 2 GB, made small: the same logits with every weight outside or inside."""
    job = litert_job(tiny("llama"), tmp_path)
    outside = emitted(job, tmp_path / "outside")
    graph, whole = read_model(tmp_path / "outside" / "model.tflite")
    assert sum(buffer.size for buffer in graph.buffers) > 0.4 * len(whole)
    monkeypatch.setattr(weight_binding, "INLINE_LIMIT", 1 << 40)
    inside = emitted(job, tmp_path / "inside")
    np.testing.assert_array_equal(
        run(tmp_path / "outside", outside, "float32", job),
        run(tmp_path / "inside", inside, "float32", job),
    )


def test_the_same_job_gives_the_same_bytes(tiny, tmp_path):
    job = litert_job(tiny("qwen3"), tmp_path)
    for name in ("one", "two"):
        emitted(job, tmp_path / name)
    one, two = ((tmp_path / name / "model.tflite").read_bytes() for name in ("one", "two"))
    assert one == two


def test_a_runner_forgets(tiny, tmp_path):
    job = litert_job(tiny("llama"), tmp_path)
    artifact = emitted(job, tmp_path / "litert")
    runner = find_backend("litert").open_runner(tmp_path / "litert", artifact, "shipped")
    first = runner.feed(ids_for(job)[:9])
    runner.feed(ids_for(job)[9:12])
    runner.reset()
    np.testing.assert_array_equal(runner.feed(ids_for(job)[:9]), first)


def test_taps_of_a_debug_build_are_the_reference_s(tiny, tmp_path):
    job = litert_job(tiny("llama"), tmp_path, debug=True)
    artifact = emitted(job, tmp_path / "litert")
    runner = find_backend("litert").open_runner(tmp_path / "litert", artifact, "float32")
    runner.feed(ids_for(job)[:5])
    assert len(runner.taps) >= job.spec.layers
    assert {each.shape[0] for each in runner.taps.values()} == {5}


def test_what_litert_cannot_take_is_named(tiny, tmp_path):
    job = litert_job(tiny("llama"), tmp_path)
    palette = Scheme(encoding="palette", bits=4, group_rows=16)
    uneven = Scheme(encoding="group-wise", bits=4, group_size=32, symmetric=False)
    grouped = Scheme(encoding="group-wise", bits=8, group_size=32)
    schemes = {
        **job.codes.schemes,
        "model.layers.0.mlp.down_proj": palette,
        "lm_head": uneven,
        "model.embed_tokens": grouped,
    }
    found = find_backend("litert").problems(job.model, schemes, {"colour": 1})
    assert len(found) == 4
    assert all(word in " ".join(found) for word in ("palettes", "asymmetric", "8-bit groups"))


def test_nibbles_are_packed_low_first_without_padding_rows():
    packed = pack_signed(np.array([[1, -1, 7], [-8, 0, 2]], np.int8))
    assert packed.tolist() == [0xF1, 0x87, 0x20]


def test_a_tied_head_s_outlier_channels_do_not_cost_the_others(tiny, tmp_path):
    """A few are a hundred times larger, and the columns that read them as much smaller: as shipped
    the head keeps what it loses with other channels in their place."""
    folder = tiny("llama-tied")
    large = [3, 10, 40]
    scale_weights(folder, "model.norm.weight", 100, at=large)
    scale_weights(folder, "model.embed_tokens.weight", 0.01, at=(slice(None), large))
    median = {}
    for prepared in (True, False):  # unprepared codes name the first channels
        job = litert_job(folder, tmp_path / f"{prepared}", "int8-per-channel", prepared=prepared)
        out = tmp_path / f"{prepared}" / "litert"
        artifact, expected = emitted(job, out), reference_of(job)
        assert (set(large) <= set(job.codes.outliers["model.embed_tokens"])) == prepared
        assert token_snr_db(expected, run(out, artifact, "float32", job)).min() > FLOAT32_FLOOR
        median[prepared] = np.median(token_snr_db(expected, run(out, artifact, "shipped", job)))
    assert median[True] > median[False] + 5


@pytest.mark.parametrize("ending", [SELECTION, MASK, COLUMNS])
def test_a_changed_weight_of_outlier_channels_is_found(tiny, tmp_path, ending):
    job = litert_job(tiny("llama-tied"), tmp_path, "int8-per-channel", prepared=True)
    artifact = emitted(job, tmp_path / "litert")
    path = tmp_path / "litert" / "model.tflite"
    stored = weights_of(*read_model(path))[f"model.embed_tokens{ending}"].data.copy()
    raw, wrong = path.read_bytes(), np.roll(stored, len(stored) // 2)
    assert raw.count(stored.tobytes()) >= 1
    path.write_bytes(raw.replace(stored.tobytes(), wrong.tobytes()))
    with pytest.raises(BackendError, match="other bytes for model"):
        check_bytes(job, weight_layout(job.model, job.codes.schemes), path)
    found = run(tmp_path / "litert", artifact, "float32", job)
    assert token_snr_db(reference_of(job), found).min() < FLOAT32_FLOOR


@pytest.mark.parametrize("scheme", some(INTEGERS, "int4-g32", why=SCHEMES))
def test_an_input_in_parts_keeps_the_floors_and_the_codes(tiny, tmp_path, monkeypatch, scheme):
    monkeypatch.setattr("slmkit.activations.input_parts.LEAST", 32)
    job = litert_job(tiny("llama"), tmp_path, scheme)
    check_floors(job, tmp_path / "litert")
    path, name = tmp_path / "litert" / "model.tflite", "model.layers.0.mlp.down_proj"
    stored = weights_of(*read_model(path))
    assert job.codes.input_parts.get(name, 1) == (1 if scheme.endswith("g64") else 3)
    if scheme.endswith("g64"):  # 96 channels are no two parts of whole groups
        return
    parts = [stored[part_of(name, number)] for number in range(3)]
    assert f"{name}.weight" not in stored
    whole = np.concatenate([dequantize(part) for part in parts], axis=1)
    np.testing.assert_array_equal(whole, job.codes.rows(f"{name}.weight", slice(None)))


def test_a_changed_byte_of_a_part_is_found(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("slmkit.activations.input_parts.LEAST", 32)
    job = litert_job(tiny("llama"), tmp_path)
    artifact, path = emitted(job, tmp_path / "litert"), tmp_path / "litert" / "model.tflite"
    part = part_of("model.layers.1.mlp.down_proj", 2)
    stored = bytes(weights_of(*read_model(path))[part].data)
    path.write_bytes(path.read_bytes().replace(stored, stored[1:] + stored[:1]))
    with pytest.raises(BackendError, match=r"other bytes for .*1\.mlp\.down_proj\.inputs\.2"):
        check_bytes(job, weight_layout(job.model, job.codes.schemes), path)
    found = run(tmp_path / "litert", artifact, "float32", job)
    assert token_snr_db(reference_of(job), found).min() < FLOAT32_FLOOR


def test_a_trace_imports_tensorflow_alone(tiny, tmp_path):
    """keras, which TensorFlow imports, takes scikit-learn, pandas and matplotlib along."""
    said = (
        "import sys; from pathlib import Path\n"
        "from artifacts import emitted\n"
        "from litert_artifacts import litert_job\n"
        "from slmkit_litert.lowering import graph_template\n"
        "graph_template.call = lambda job, given, *more: graph_template.trace_job(given, more)\n"
        "job = litert_job(Path(sys.argv[1]), Path(sys.argv[2]), cache=None)\n"
        "emitted(job, Path(sys.argv[2]) / 'litert')\n"
        "assert 'tensorflow' in sys.modules\n"
        "print([name for name in ('keras', 'sklearn', 'matplotlib') if name in sys.modules])\n"
    )
    assert printed(said, tiny("llama"), tmp_path) == "[]"
