"""Host code for arm64: linked with Debian's cross tools, and run under qemu on the sample model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from arm64_machine import Arm64
from artifacts import FLOAT32_FLOOR, emitted, ids_for, reference_of, token_snr_db
from mlc_artifacts import mlc_job
from slmkit_mlc import writer
from slmkit_mlc.compiler.library import read_objects
from slmkit_mlc.kernels.cpu_schedules import TileProducts
from slmkit_mlc.lowering.definition import definition_for
from slmkit_mlc.lowering.program import PARITY_FUNCTIONS, Writer

pytestmark = pytest.mark.arm64
HOME = Path(__file__).resolve().parents[2] / "toolkit" / "slmkit" / "sample_model"
STEPS = [8, 9, 10, 11]  # a chunk, then tokens
RUNTIME = {  # what TVM's runtime gives to a library
    "TVMFFIEnvModLookupFromImports",
    "TVMFFIEnvModRegisterSystemLibSymbol",
    "TVMFFIErrorSetRaisedFromCStrParts",
    "TVMFFIFunctionCall",
    "TVMFFIHandleInitOnce",
}
GUEST = """
import sys, numpy as np, tvm, tvm_ffi
from tvm import relax
library, params, names, ids, out = sys.argv[1:]
builtin = lambda name: tvm.get_global_func("vm.builtin." + name)
machine = relax.VirtualMachine(tvm.runtime.load_module(library), tvm.cpu())
builtin("tensor_cache.load")(params, 1, 0)
params = builtin("param_array_from_cache_by_name")(open(names).read().split())
sizes = (4, 64, 16, 16, 0)
cache = machine["create_tir_paged_kv_cache"](*(tvm_ffi.Shape((size,)) for size in sizes))
builtin("kv_state_add_sequence")(cache, 0)
found = []
ids = np.load(ids).astype(np.int32)
for part in [ids[:8], ids[8:9], ids[9:10], ids[10:11]]:
    rows = machine["embed"](tvm.runtime.tensor(part), params).numpy()[None]
    builtin("kv_state_begin_forward")(cache, tvm_ffi.Shape((0,)), tvm_ffi.Shape((len(part),)))
    name = "decode" if len(part) == 1 else "batch_verify"
    found.append(machine[name](tvm.runtime.tensor(rows), cache, params)[0].numpy()[0])
    builtin("kv_state_end_forward")(cache)
np.save(out, np.concatenate(found))
"""


@pytest.fixture(scope="module")
def arm64(tmp_path_factory) -> Arm64:
    return Arm64(tmp_path_factory.mktemp("arm64"))


def test_a_library_links_and_needs_nothing_but_tvm_s_runtime(arm64, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "runtime", lambda: None)
    job = mlc_job(tiny("qwen2"), tmp_path, options={"gpus": ["adreno"]})
    facts = emitted(job, tmp_path / "mlc").facts["libraries"]["adreno"]
    paths = []
    for name, data in read_objects(tmp_path / "mlc" / facts["file"]).items():
        (tmp_path / name).write_bytes(data)
        paths.append(str(tmp_path / name))
    arm64.link(str(tmp_path / "all.so"), paths)
    lines = [line.split() for line in arm64.tool("nm", "-D", tmp_path / "all.so").splitlines()]
    assert {line[-1] for line in lines if line[-2] == "U"} <= RUNTIME
    defined = {line[-1] for line in lines if line[-2] in "TDRB"}
    assert f"{facts['prefix']}__tvm_ffi__library_bin" in defined


def test_the_sample_model_runs_on_arm64_and_agrees(arm64, tmp_path):
    import tvm

    from slmkit_mlc.compiler.compile import build

    job = mlc_job(HOME, tmp_path)
    definition = definition_for(job)
    writer.write_params(definition, job, tmp_path / "params")
    target = tvm.target.Target(
        {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a76", "opt-level": 1}
    )
    mod = Writer(definition.program("float32")).module(target, PARITY_FUNCTIONS, [])
    executable = build(mod, target, TileProducts(), definition, {})
    executable.export_library(str(tmp_path / "model.so"), fcompile=arm64.link)
    names = " ".join(param.name for param in definition.table.params)
    (tmp_path / "names").write_text(names)
    (tmp_path / "guest.py").write_text(GUEST)
    ids = ids_for(job)[: STEPS[-1]]
    np.save(tmp_path / "ids.npy", ids)
    arm64.python(
        tmp_path / "guest.py",
        tmp_path / "model.so",
        tmp_path / "params",
        tmp_path / "names",
        tmp_path / "ids.npy",
        tmp_path / "logits.npy",
    )
    expected = reference_of(job)[: len(ids)]
    assert token_snr_db(expected, np.load(tmp_path / "logits.npy")).min() > FLOAT32_FLOOR
