"""Libraries of a tiny model: what MLC's engine looks up is there, and kernels are fused."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from artifacts import emitted, run
from mlc_artifacts import mlc_job
from slmkit.backend.build_cache import using_cache
from slmkit.errors import BackendError
from slmkit.system.cache import Cache
from slmkit.system.subprocess_worker import call
from slmkit_mlc import libraries, writer
from slmkit_mlc.compiler.library import object_format, read_objects
from slmkit_mlc.contract import LIBRARY_SYMBOL, contract
from slmkit_mlc.gpus import known_gpus
from slmkit_mlc.lowering.definition import read_definition
from slmkit_mlc.lowering.signatures import expected_signatures
from slmkit_mlc.verify import opencl
from tiers import SCHEMES, some
from tiny_models import tiny_config, write_checkpoint

GPUS = {"adreno": "android", "mali": "android", "apple": "ios"}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The artifacts of both platforms, without executing their kernels."""
    folder = tmp_path_factory.mktemp("libraries")
    model = write_checkpoint(folder / "tiny model", tiny_config("qwen2"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "runtime", lambda: None)
        found = {}
        for target in ("android", "ios"):
            job = mlc_job(model, folder / f"c-{target}", target=target)
            found[target] = folder / target, emitted(job, folder / target)
    return found


def library_of(written, gpu):
    folder, artifact = written[GPUS[gpu]]
    return folder, artifact, artifact.facts["libraries"][gpu]


@pytest.mark.parametrize("gpu", GPUS)
def test_a_library_is_two_objects_with_the_loader_s_symbol(written, gpu):
    folder, _, facts = library_of(written, gpu)
    found = read_objects(folder / facts["file"])
    assert sorted(found) == sorted(["lib0.o", f"{facts['prefix']}devc.o"])
    expected = contract()["objects"][known_gpus()[gpu].target["kind"]]
    assert {object_format(data) for data in found.values()} == {expected}
    assert f"{facts['prefix']}{LIBRARY_SYMBOL}".encode() in b"".join(found.values())
    assert facts["prefix"] == facts["model_lib"].replace("-", "_") + "_"


@pytest.mark.parametrize("gpu", GPUS)
def test_functions_and_signatures_are_the_contract_s(written, gpu):
    folder, _, facts = library_of(written, gpu)
    expected = expected_signatures(read_definition(folder), known_gpus()[gpu])
    assert facts["functions"] == expected
    inside = b"".join(read_objects(folder / facts["file"]).values())
    for name in expected:
        assert name.encode() in inside
    assert ("argsort_probs" in expected) == (gpu == "apple")


@pytest.mark.parametrize("gpu", GPUS)
def test_the_library_says_what_it_is(written, gpu):
    """Its ``_metadata`` is text inside of it: every field of the contract, parameters in order."""
    folder, artifact, facts = library_of(written, gpu)
    inside = b"".join(read_objects(folder / facts["file"]).values())
    start = inside.index(b'{"model_type": "qwen2"')
    said, _ = json.JSONDecoder().raw_decode(inside[start : start + 200_000].decode("latin-1"))
    wanted = contract()["metadata"]
    assert set(wanted) <= set(said)
    assert set(said["kv_cache"]) == set(wanted["kv_cache"])
    params = read_definition(folder).table.params
    assert [(each["name"], tuple(each["shape"]), each["dtype"]) for each in said["params"]] == [
        (param.name, param.shape, param.dtype) for param in params
    ]
    assert all(set(wanted["params"]) <= set(each) for each in said["params"])
    assert said["memory_usage"] == facts["memory"]
    assert said["memory_usage"]["prefill"] > said["memory_usage"]["decode"] > 0
    assert said["quantization"] == artifact.facts["quantization"] == "slm_int4"


@pytest.mark.parametrize("target", ["android", "ios"])
def test_the_folder_of_parameters_is_what_an_app_loads(written, target):
    folder, artifact = written[target]
    config = json.loads((folder / "params" / "mlc-chat-config.json").read_text())
    assert set(contract()["chat_config"]) <= set(config)
    assert set(contract()["model_config"]) <= set(config["model_config"])
    for name in config["tokenizer_files"]:
        assert (folder / "params" / name).is_file()
    assert config["prefill_chunk_size"] == artifact.facts["prefill"]
    cache = json.loads((folder / "params" / "tensor-cache.json").read_text())
    for shard in cache["records"]:
        assert (folder / "params" / shard["dataPath"]).stat().st_size == shard["nbytes"]


def test_a_library_that_lacks_a_function_is_refused(written):
    from slmkit_mlc.compiler.compile import gpu_module
    from slmkit_mlc.lowering.program import Writer
    from slmkit_mlc.lowering.signatures import check_signatures

    definition, gpu = read_definition(written["android"][0]), known_gpus()["adreno"]
    mod = Writer(definition.program("float16")).module(gpu.code_target, ("decode",), [])
    with pytest.raises(BackendError, match="batch_prefill is missing"):
        check_signatures(mod, definition, gpu)
    spec = replace(definition.spec, vocabulary=321)
    wider = replace(definition, model=replace(definition.model, spec=spec))
    with pytest.raises(BackendError, match=r"decode is .* not .*321"):
        check_signatures(gpu_module(definition, gpu), wider, gpu)


@pytest.mark.parametrize("gpu", some(["adreno", "mali"], "adreno", why=SCHEMES))
def test_no_kernel_writes_a_dequantized_weight(written, gpu):
    """Read off the library's own source: of a kernel that reads words of codes, the buffers that
    it stores to are as large as its result (or its activations, laid out anew), never as the
    weight; and each such kernel multiplies, or looks rows up."""
    from slmkit_mlc.verify.cpu_build import CpuBuild, kernel_source
    from slmkit_mlc.verify.host_code import compile_host_code

    folder, _, facts = library_of(written, gpu)
    if opencl.runtime() is None:
        pytest.skip("no OpenCL runtime is installed: the extra opencl")
    sizes: dict[str, dict[str, int]] = {}
    definition = read_definition(folder)
    code = compile_host_code(
        definition,
        known_gpus()[gpu],
        observe_scheduled=lambda mod: sizes.update(static_sizes(mod)),
    )
    build = CpuBuild(definition, code, folder / facts["file"])
    readers = [
        kernel
        for kernel in build.kernels.values()
        if "uint* restrict" in kernel.source and "__global uint*" in signature(kernel)
    ]
    assert len(readers) >= 10
    weights = {name: rows for name, rows in sizes.items() if "dequantize" in name}
    assert weights
    for kernel in readers:
        stored = set(re.findall(r"(\w+)_ptr\[[^;=]*\] = ", kernel_source(kernel)))
        stored |= set(re.findall(r"vstore\d\([^;]*, (\w+)_ptr \+", kernel_source(kernel)))
        globals_ = set(re.findall(r"__global \w+\* restrict (\w+)_ptr", signature(kernel)))
        function = max((name for name in sizes if kernel.name.startswith(name)), key=len)
        for name in stored & globals_:
            assert sizes[function][name] < sizes[function]["dequantized"], (kernel.name, name)


def signature(kernel) -> str:
    start = kernel.source.rindex(f"__kernel void {kernel.name}(")
    return kernel.source[start : kernel.source.index("{", start)]


def static_sizes(mod) -> dict[str, dict[str, int]]:
    """Numbers of each buffer of kernels that read codes; a symbolic length counts as one chunk."""
    from tvm import tirx

    found = {}
    for own, function in mod.functions_items():
        if not isinstance(function, tirx.PrimFunc) or "dequantize" not in own.name_hint:
            continue
        numbers = {}
        for param in [*function.params, *function.body.block.alloc_buffers]:
            lengths = [int(each) if isinstance(each, tirx.IntImm) else 1 for each in param.shape]
            numbers[param.name] = int(np.prod(lengths))
        words = [
            int(np.prod([int(n) for n in p.shape]))
            for p in function.params
            if str(p.dtype) == "uint32"
        ]
        found[own.name_hint] = {**numbers, "dequantized": min(words) * 4}
    return found


@pytest.mark.full(SCHEMES)
def test_the_same_job_gives_the_same_bytes(written, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "runtime", lambda: None)
    folder, _ = written["android"]
    job = mlc_job(folder.parent / "tiny model", tmp_path, options={"gpus": ["adreno"]})
    emitted(job, tmp_path / "again")
    for path in sorted((tmp_path / "again").rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (folder / path.relative_to(tmp_path / "again")).read_bytes()


def test_other_weights_take_the_library_out_of_the_cache(written, tmp_path, monkeypatch):
    """And another program, or another version of the code, does not."""
    monkeypatch.setattr(writer, "runtime", lambda: None)
    known = written["android"][0].parent / "tiny model"
    other = write_checkpoint(tmp_path / "tiny model", tiny_config("qwen2"), seed=1)
    more = {"options": {"gpus": ["adreno"]}, "cache": tmp_path / "cache"}
    first = emitted(mlc_job(known, tmp_path / "1", **more), tmp_path / "first")

    def compile_anew(*_):
        raise AssertionError("compiled again")

    monkeypatch.setattr(libraries, "call", compile_anew)
    second = emitted(mlc_job(other, tmp_path / "2", **more), tmp_path / "second")
    assert second.facts == first.facts
    file = first.facts["libraries"]["adreno"]["file"]
    assert (tmp_path / "second" / file).read_bytes() == (tmp_path / "first" / file).read_bytes()
    for number, changed in enumerate([{"prefill_chunk": 4}, {"context_length": 12}]):
        with pytest.raises(AssertionError, match="compiled again"):
            emitted(mlc_job(other, tmp_path / "3", **more | changed), tmp_path / f"other-{number}")
    monkeypatch.setattr(libraries, "source_digest", lambda package: "changed")
    with pytest.raises(AssertionError, match="compiled again"):
        emitted(mlc_job(other, tmp_path / "4", **more), tmp_path / "third")


def test_a_check_of_kernels_holds_for_the_same_library_alone(written, tmp_path, monkeypatch):
    folder, _, facts = library_of(written, "adreno")
    if opencl.runtime() is None:
        pytest.skip("no OpenCL runtime is installed: the extra opencl")
    job = mlc_job(folder.parent / "tiny model", tmp_path / "job", cache=tmp_path / "cache")
    library, gpu = folder / facts["file"], known_gpus()["adreno"]
    calls: list[dict] = []

    def work(_, payload, *more):
        calls.append(payload)
        if len(calls) == 1:
            raise BackendError("another result", "none")
        compiling = payload["compile"]
        found: dict[str, dict] = {"checked": {"worst_db": 70.0 + len(calls)}}
        if compiling:
            Path(compiling["out"]).write_bytes(library.read_bytes())
            found["compiled"] = {"functions": {}, "memory": {}}
        (Path(payload["check"]["out"]) / "host.vm").write_text("code")
        return found

    def build(job=job):
        out = folder / "again.tar"
        try:
            return libraries.find_or_build(job, gpu, "name", "q", out, True)["kernels"]
        finally:
            out.unlink(missing_ok=True)

    monkeypatch.setattr(libraries, "call", work)
    with pytest.raises(BackendError, match="another result"):
        build()
    for _ in range(2):  # an error is not remembered, a result is
        assert build() == {"worst_db": 72.0}
    known = libraries.find_check(Cache(tmp_path / "cache"), gpu, folder, library)
    assert known is not None
    assert (known / "host.vm").read_text() == "code"
    monkeypatch.setattr(libraries, "_processor", lambda: ["another"])
    assert libraries.find_check(Cache(tmp_path / "cache"), gpu, folder, library) is None
    assert build() == {"worst_db": 73.0}
    assert calls[-1]["compile"] is None
    assert build(replace(job, cache=None)) == {"worst_db": 74.0}


def test_a_run_takes_the_code_that_its_build_has_executed(written, tmp_path, monkeypatch):
    """And has the same logits as with code that is compiled anew."""
    from slmkit_mlc.verify import host_code

    folder, _, _ = library_of(written, "adreno")
    if opencl.runtime() is None:
        pytest.skip("no OpenCL runtime is installed: the extra opencl")
    more = {"options": {"gpus": ["adreno"]}, "cache": tmp_path / "cache"}
    job = mlc_job(folder.parent / "tiny model", tmp_path / "job", **more)
    artifact = emitted(job, tmp_path / "mlc")
    expected = run(tmp_path / "mlc", artifact, "adreno", job)

    def compile_anew(*_):
        raise AssertionError("compiled again")

    monkeypatch.setattr(host_code, "compile_host_code", compile_anew)
    with using_cache(tmp_path / "cache"):
        np.testing.assert_array_equal(run(tmp_path / "mlc", artifact, "adreno", job), expected)
    with pytest.raises(AssertionError, match="compiled again"):
        run(tmp_path / "mlc", artifact, "adreno", job)


def test_a_compiler_that_dies_is_a_sentence_that_names_the_function(written, tmp_path):
    """As dlight's own matmul rule for Metal ends it, after more than a minute (``gpus.json`` has
    the detour); here a rule does so at once."""
    folder, _ = written["ios"]
    payload = {
        "folder": str(folder),
        "gpu": known_gpus()["apple"].as_json,
        "compile": {
            "name": "tiny-model-apple",
            "quantization": "x",
            "out": str(tmp_path / "x.tar"),
        },
        "check": None,
    }
    said = r"compiles for apple, while scheduling \w+, died \(SIGSEGV\)"
    with pytest.raises(BackendError, match=said):
        call("mlc_artifacts:compile_and_crash", payload, lambda *_: None, "compiles for apple")
    assert not (tmp_path / "x.tar").exists()
