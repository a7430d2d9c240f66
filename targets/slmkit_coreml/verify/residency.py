"""Predict from rules (rules.json, with sources) whether a package stays on the Neural Engine."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from coremltools.proto import FeatureTypes_pb2, MIL_pb2, Model_pb2

from slmkit_coreml.contract import ALIGNMENT, HEAD_ROWS
from slmkit_coreml.package import MODEL, WEIGHTS

FILE_LIMIT = 10**9  # bytes of weights
UNSUPPORTED_OPS = frozenset(  # not operations of the Neural Engine
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
    """A rule: name, level, reason and source."""

    name: str
    level: str  # error, warning or note
    reason: str
    source: str


def _load() -> dict[str, Rule]:
    text = Path(__file__).with_name("rules.json").read_text(encoding="utf-8")
    return {row["name"]: Rule(**row) for row in json.loads(text)["rules"]}


RULES = _load()
Finding = tuple[str, str]  # rule; operation type or tensor that breaks it


def inspect(path: Path) -> dict[str, Any]:
    """Apply the rules to a saved package; return a report for each function.

    It has the number of operations, the predicted share on the Neural Engine (operations that break
    no rule), and the findings with their counts.
    """
    message = Model_pb2.Model()
    message.ParseFromString((path / MODEL).read_bytes())
    package_findings: Counter[Finding] = Counter()
    weights = path / WEIGHTS / "weight.bin"
    if weights.exists() and weights.stat().st_size >= FILE_LIMIT:
        package_findings["file-size", weights.name] += 1
    descriptions = {each.name: each for each in message.description.functions}
    return {
        name: _report(function, descriptions.get(name, message.description), package_findings)
        # A map of protobuf has another order in each process.
        for name, function in sorted(message.mlProgram.functions.items())
    }


def violations(report: Mapping[str, Any]) -> list[str]:
    """The errors and warnings of a report, one sentence each."""
    return [
        f"{name}: {finding['rule']} ({finding['at']}, {finding['count']} times): "
        f"{finding['reason']}"
        for name, function in report.items()
        for finding in function["findings"]
        if finding["level"] != "note"
    ]


def _report(function: Any, description: Any, package_findings: Counter[Finding]) -> dict[str, Any]:
    """The report of one function; findings of the whole package are repeated in it."""
    block = function.block_specializations[function.opset]
    producers = {output.name: op for op in block.operations for output in op.outputs}
    before = _prologue(block, description)
    found = Counter(package_findings)
    found.update(_check_interface(description))
    found.update(_check_states(block))
    total = rejected = 0
    for op in block.operations:
        op_findings = list(_check_operation(op, producers))
        early = any(output.name in before for output in op.outputs)
        if early and (op_findings or _handles_integers(op)):
            op_findings = [("prologue", op.type)]
        found.update(op_findings)
        if not _is_constant(op):
            total += 1
            rejected += any(rule != "group-scales" for rule, _ in op_findings)
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
    return {"operations": total, "predicted": round(1 - rejected / total, 4), "findings": findings}


def _prologue(block: Any, description: Any) -> set[str]:
    """Values that follow from the integer inputs alone: nothing comes back for them from the
    Neural Engine."""
    integers = {
        each.name
        for each in description.input
        if each.type.multiArrayType.dataType == FeatureTypes_pb2.ArrayFeatureType.INT32
    }
    found, constants = set(integers), set[str]()
    for op in block.operations:
        outputs = {output.name for output in op.outputs}
        if _is_constant(op):
            constants |= outputs
            continue
        values = {
            argument.name
            for each in op.inputs.values()
            for argument in each.arguments
            if argument.WhichOneof("binding") == "name"
        }
        given = values - constants
        if given and given <= found:
            found |= outputs
    return found


def _handles_integers(op: Any) -> bool:
    """Whether an operation gives integers or booleans, or makes floats of them."""
    types = {output.type.tensorType.dataType for output in op.outputs}
    return op.type == "cast" or not types <= {MIL_pb2.FLOAT16, MIL_pb2.FLOAT32}


def _check_interface(description: Any) -> Iterator[Finding]:
    """Check the alignment of a function's inputs, outputs and states."""
    for each in (*description.input, *description.output):
        shape = list(each.type.multiArrayType.shape)
        if len(shape) > 2 and shape[-1] % ALIGNMENT:
            yield "border-alignment", each.name
    for state in description.state:
        if list(state.type.stateType.arrayType.shape)[-1] % ALIGNMENT:
            yield "state-alignment", state.name


def _check_states(block: Any) -> Iterator[Finding]:
    """Find reads of a state without a write since the last read.

    An update of a state is saved as a write and a read.
    """
    read: set[str] = set()
    for op in block.operations:
        if op.type == "write_state":
            read.discard(op.inputs["input"].arguments[0].name)
        elif op.type == "read_state":
            name = op.inputs["input"].arguments[0].name
            if name in read:
                yield "state-read-twice", name
            read.add(name)


def _check_operation(op: Any, producers: dict[str, Any]) -> Iterator[Finding]:
    """Check one operation; ``producers``: output name -> operation."""
    if op.type in UNSUPPORTED_OPS:
        yield "operation", op.type
    if op.type == "scaled_dot_product_attention":
        yield "fused-attention", op.type
    if op.type in ("linear", "matmul"):
        operands = [_producer(op, key, producers) for key in ("weight", "y")]
        if any(_is_constant(operand) for operand in operands):
            yield "linear", op.type
    if op.type in ("slice_update", "slice_by_index", "slice_by_size"):
        bounds = [_producer(op, key, producers) for key in ("begin", "end", "size")]
        if any(bound is not None and not _is_constant(bound) for bound in bounds):
            yield "runtime-index", op.type
    if op.type == "const":
        yield from _check_constant(op)
    if op.type == "constexpr_blockwise_shift_scale":
        yield from _check_scales(op, producers)
    yield from _check_shapes(op)


def _check_scales(op: Any, producers: dict[str, Any]) -> Iterator[Finding]:
    """Check the scales of a constexpr_blockwise_shift_scale."""
    scale = op.inputs["scale"].arguments[0].value.type.tensorType
    if any(dimension.constant.size > 1 for dimension in scale.dimensions[1:]):
        yield "group-scales", op.type
    data = _producer(op, "data", producers)
    if data is not None and data.type.startswith("constexpr_lut"):
        yield "palette-under-scale", op.type


def _check_shapes(op: Any) -> Iterator[Finding]:
    """Check rank, dimensions and type of an operation's outputs."""
    for output in op.outputs:
        if output.type.WhichOneof("type") != "tensorType" or _is_constant(op):
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


def _check_constant(op: Any) -> Iterator[Finding]:
    """Check a constant of the model file for infinite numbers (weight.bin: codes and scales)."""
    value = op.attributes["val"].immediateValue.tensor
    field = value.WhichOneof("value")
    numbers = np.zeros(1, np.float32)
    if field == "floats":
        numbers = np.asarray(value.floats.values, np.float32)
    elif field == "bytes" and op.attributes["val"].type.tensorType.dataType == MIL_pb2.FLOAT16:
        numbers = np.frombuffer(value.bytes.values, np.float16)
    if not np.isfinite(numbers).all():
        yield "not-finite", op.outputs[0].name


def _producer(op: Any, key: str, producers: dict[str, Any]) -> Any:
    """The operation that computes an input; None if it is missing, or an immediate value."""
    if key not in op.inputs or not op.inputs[key].arguments:
        return None
    return producers.get(op.inputs[key].arguments[0].name)


def _is_constant(op: Any) -> bool:
    """True for constants and decompressed weights; False for None."""
    return op is not None and (op.type == "const" or op.type.startswith("constexpr_"))
