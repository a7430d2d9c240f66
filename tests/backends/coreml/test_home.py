"""The sample model as Core ML packages: the floors, its job, and the bits of weight.bin."""

from __future__ import annotations

import dataclasses

import pytest

from artifacts import FLOAT32_FLOOR, emitted, reference_of, rule, run, snr_db
from coreml_artifacts import FLOAT16_FLOOR, coreml_job
from home_answers import SENTENCES, right_answers
from slmkit.backend.registry import find_backend
from slmkit.checkpoint.folder import SAMPLE_MODEL, open_checkpoint
from slmkit_coreml.files import weight_files
from slmkit_coreml.options import table_bytes
from slmkit_coreml.package import WEIGHTS
from tiers import SCHEMES, some

TAKEN = ("lut4-g16", "lut6-g16", "int8-per-channel", "int4-g32")
FEW_WRONG = 1  # of SENTENCES


def home_job(scratch, scheme: str, **options):
    """The sample model, all weights in one scheme but the embedding, which has 6 or 8 bits."""
    table = "lut6-g16" if scheme.startswith("lut") else "int8-per-channel"
    rules = [rule(scheme), rule(table, "model.embed_tokens")]
    job = coreml_job(SAMPLE_MODEL, scratch, rules, **options)
    return dataclasses.replace(job, context_length=128, prefill_chunk=64)


@pytest.mark.parametrize("scheme", some(TAKEN, TAKEN[0], why=SCHEMES))
def test_home_keeps_the_floors_and_does_its_job(tmp_path, scheme):
    job = home_job(tmp_path, scheme, layout="gpu" if scheme == "int4-g32" else "ane")
    artifact, expected = emitted(job, tmp_path / "coreml"), reference_of(job)
    assert snr_db(expected, run(tmp_path / "coreml", artifact, "float32", job)) > FLOAT32_FLOOR
    assert snr_db(expected, run(tmp_path / "coreml", artifact, "float16", job)) > FLOAT16_FLOOR
    runner = find_backend("coreml").open_runner(tmp_path / "coreml", artifact, "float16")
    tokenizer = open_checkpoint(SAMPLE_MODEL).tokenizer
    assert right_answers(runner, tokenizer) >= SENTENCES - FEW_WRONG


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("scheme", some(TAKEN, TAKEN[0], why=SCHEMES))
def test_weight_bin_is_as_large_as_its_bits_say(tmp_path, scheme, whole):
    """The embedding stands once in it, whether it is the head's weight alone or looked up too."""
    options = {"self_contained": whole}
    job = home_job(tmp_path, scheme, **options)
    emitted(job, tmp_path / "coreml")
    size = (tmp_path / "coreml" / "model.mlpackage" / WEIGHTS / "weight.bin").stat().st_size
    bits = 0
    for name in job.model.multiplied:
        codes, (rows, width) = job.codes.schemes[name], job.codes.shapes[name]
        bits += rows * width * codes.bits
        bits += 16 * -(-rows // 16) * 2**codes.bits if codes.encoding == "palette" else 0
        bits += 16 * job.codes.scales(name).size if codes.encoding != "palette" else 0
    vectors = sum(shape[0] for shape in job.model.shapes.values() if len(shape) == 1)
    tables = table_bytes(job.model, job.context_length) if whole else 0
    assert bits / 8 + 2 * vectors <= size <= 1.03 * (bits / 8 + 2 * vectors) + tables
    planned = weight_files(job.model, job.codes.schemes, options, job.context_length)[0]
    assert planned.name == "model.mlpackage"
    assert size <= planned.size <= 1.05 * size
