"""Will it stay on the Neural Engine? Sourced rules (rules.json), run on the saved package."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from coremltools.proto import MIL_pb2, Model_pb2

from slmkit_coreml.contract import ALIGNMENT, HEAD_ROWS
from slmkit_coreml.package import MODEL, WEIGHTS

FILE_LIMIT = 10**9  # bytes of weights
ELSEWHERE = frozenset(
    {
        "argsort",
        "cond",
        "cumsum",
        "custom_layer",
        "gather",
        "gather_along_axis",
        "gather_nd",
        "gru",
        "lstm",
        "non_zero",
        "one_hot",
        "random_normal",
        "range_1d",
        "rnn",
        "scatter",
        "scatter_along_axis",
        "scatter_nd",
        "shape",
        "topk",
        "while_loop",
    }
)


@dataclass(frozen=True)
class Rule:
    """One rule, and where it comes from."""

    name: str
    level: str  # error, warning or note
    reason: str
    source: str


def _load() -> dict[str, Rule]:
    text = Path(__file__).with_name("rules.json").read_text(encoding="utf-8")
    return {row["name"]: Rule(**row) for row in json.loads(text)["rules"]}


RULES = _load()
Finding = tuple[str, str]  # rule, operation or tensor


def inspect(path: Path) -> dict[str, Any]:
    """Per function: how often each rule is broken and by what, and the share of operations that
    no rule sends away."""
    message = Model_pb2.Model()
    message.ParseFromString((path / MODEL).read_bytes())
    whole: Counter[Finding] = Counter()
    weights = path / WEIGHTS / "weight.bin"
    if weights.exists() and weights.stat().st_size >= FILE_LIMIT:
        whole["file-size", weights.name] += 1
    described = {each.name: each for each in message.description.functions}
    return {
        name: _function(function, described.get(name, message.description), whole)
        for name, function in message.mlProgram.functions.items()
    }


def violations(report: Mapping[str, Any]) -> list[str]:
    """Errors and warnings of all functions, one sentence each."""
    return [
        f"{name}: {found['rule']} ({found['at']}, {found['count']} times): {found['reason']}"
        for name, function in report.items()
        for found in function["findings"]
        if found["level"] != "note"
    ]


def _function(function: Any, description: Any, whole: Counter[Finding]) -> dict[str, Any]:
    block = function.block_specializations[function.opset]
    makers = {output.name: op for op in block.operations for output in op.outputs}
    found = Counter(whole)
    found.update(_border(description))
    found.update(_states(block))
    total = away = 0
    for op in block.operations:
        broken = list(_operation(op, makers))
        found.update(broken)
        if not _constant(op):
            total += 1
            away += any(rule != "group-scales" for rule, _ in broken)
    findings = [
        {
            "rule": rule,
            "level": RULES[rule].level,
            "at": at,
            "count": count,
            "reason": RULES[rule].reason,
            "source": RULES[rule].source,
        }
        for (rule, at), count in sorted(found.items())
    ]
    return {"operations": total, "predicted": round(1 - away / total, 4), "findings": findings}


def _border(description: Any) -> Iterator[Finding]:
    """Inputs, outputs and states of a function."""
    for each in (*description.input, *description.output):
        shape = list(each.type.multiArrayType.shape)
        if len(shape) > 2 and shape[-1] % ALIGNMENT:
            yield "border-alignment", each.name
    for state in description.state:
        if list(state.type.stateType.arrayType.shape)[-1] % ALIGNMENT:
            yield "state-alignment", state.name


def _states(block: Any) -> Iterator[Finding]:
    """Reads of a state with no write since its last read (an update is saved as write and read)."""
    fresh: set[str] = set()
    for op in block.operations:
        if op.type == "write_state":
            fresh.discard(op.inputs["input"].arguments[0].name)
        elif op.type == "read_state":
            name = op.inputs["input"].arguments[0].name
            if name in fresh:
                yield "state-read-twice", name
            fresh.add(name)


def _operation(op: Any, makers: dict[str, Any]) -> Iterator[Finding]:
    if op.type in ELSEWHERE:
        yield "operation", op.type
    if op.type == "scaled_dot_product_attention":
        yield "fused-attention", op.type
    if op.type in ("linear", "matmul") and any(
        _constant(_maker(op, key, makers)) for key in ("weight", "y")
    ):
        yield "linear", op.type
    if op.type in ("slice_update", "slice_by_index", "slice_by_size") and any(
        (maker := _maker(op, key, makers)) is not None and not _constant(maker)
        for key in ("begin", "end", "size")
    ):
        yield "runtime-index", op.type
    if op.type == "const":
        yield from _numbers(op)
    if op.type == "constexpr_blockwise_shift_scale":
        yield from _encoding(op, makers)
    yield from _shapes(op)


def _encoding(op: Any, makers: dict[str, Any]) -> Iterator[Finding]:
    scale = op.inputs["scale"].arguments[0].value.type.tensorType
    if any(dimension.constant.size > 1 for dimension in scale.dimensions[1:]):
        yield "group-scales", op.type
    under = _maker(op, "data", makers)
    if under is not None and under.type.startswith("constexpr_lut"):
        yield "palette-under-scale", op.type


def _shapes(op: Any) -> Iterator[Finding]:
    for output in op.outputs:
        if output.type.WhichOneof("type") != "tensorType" or _constant(op):
            continue
        tensor = output.type.tensorType
        sizes = [dimension.constant.size for dimension in tensor.dimensions]
        if len(sizes) > 5:
            yield "rank", op.type
        elif len(sizes) == 5:
            yield "rank-5", op.type
        if any(size > HEAD_ROWS for size in sizes):
            yield "dimension", op.type
        if tensor.dataType == MIL_pb2.FLOAT32:
            yield "float32", op.type


def _numbers(op: Any) -> Iterator[Finding]:
    """Constants inside the model file; those of weight.bin are our codes and scales."""
    value = op.attributes["val"].immediateValue.tensor
    kind = value.WhichOneof("value")
    numbers = np.zeros(1, np.float32)
    if kind == "floats":
        numbers = np.asarray(value.floats.values, np.float32)
    elif kind == "bytes" and op.attributes["val"].type.tensorType.dataType == MIL_pb2.FLOAT16:
        numbers = np.frombuffer(value.bytes.values, np.float16)
    if not np.isfinite(numbers).all():
        yield "not-finite", op.outputs[0].name


def _maker(op: Any, key: str, makers: dict[str, Any]) -> Any:
    """The operation that makes an input; None if there is none, or it is a value itself."""
    if key not in op.inputs or not op.inputs[key].arguments:
        return None
    return makers.get(op.inputs[key].arguments[0].name)


def _constant(op: Any) -> bool:
    return op is not None and (op.type == "const" or op.type.startswith("constexpr_"))
