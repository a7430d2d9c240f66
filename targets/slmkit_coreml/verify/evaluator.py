"""Execute a saved package on any machine, with coremltools' own loader and evaluation of ops.

The program is loaded from the files on disk. Integer weights are decompressed by coremltools,
palettes by ``kernels.decompress``, and each operation is computed by coremltools'
``value_inference``; for operations that lack it there are ``kernels.KERNELS``, and two methods that
read and update a state. Every value is stored in float32. Two precisions: ``float32`` rounds
nothing between operations, so that it proves the graph; ``float16`` rounds every operation's output
to float16, an estimate of the device.

Decompressed weights are cached up to a limit, over all packages of a model; those beyond it are
decompressed for each use, those of convolutions a few rows at a time, so that a model of any size
runs.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from coremltools.converters.mil.frontend.milproto import load as loader
from coremltools.converters.mil.mil import types

from slmkit.errors import BackendError
from slmkit_coreml.layout import Array
from slmkit_coreml.package import WEIGHTS, read_model
from slmkit_coreml.verify.kernels import ALL, KERNELS, Parts, decompress, in_float16
from slmkit_coreml.verify.states import READ, UPDATE, States

# Operations that only move numbers: what was rounded before stays rounded.
MOVES = frozenset(
    {
        *(READ, UPDATE, "slice_update", "slice_by_index", "slice_by_size"),
        *("concat", "expand_dims", "gather", "identity", "reshape", "split", "transpose"),
    }
)
VIEWS = MOVES - {READ, UPDATE, "slice_update"}  # their values may lie in their inputs'
BY_PARTS = frozenset({"conv"})  # operations that read a weight part by part
CACHE_LIMIT = 4 * 10**9  # bytes of decompressed weights
TRIM_INTERVAL = CACHE_LIMIT // 10  # bytes cached between two calls of ``_trim_heap``


class Box:
    """Replaces a MIL value, whose own setter would convert float32 to the declared type."""

    __slots__ = ("val",)

    def __init__(self, val: Any) -> None:
        self.val = val


class WeightCache:
    """Cache of decompressed weights without eviction: weights are read in turns, so none helps."""

    def __init__(self, limit: int = CACHE_LIMIT) -> None:
        self.free_bytes = limit
        self.weights: dict[Any, Array] = {}

    def takes(self, key: Any, size: int) -> bool:
        """Whether the weight of a key is cached, or will be: its bytes fit."""
        return key in self.weights or size <= self.free_bytes

    def get(self, key: Any, make: Callable[[], Array]) -> Array:
        """Return the weight of a key; compute it if it is not cached, and cache it if it fits."""
        if key in self.weights:
            return self.weights[key]
        value = make()
        if value.nbytes <= self.free_bytes:
            self.free_bytes -= value.nbytes
            self.weights[key] = value
        return value


class Package:
    """A loaded package that can run its functions.

    ``precision``: "float32" or "float16". Several packages may share a ``cache``.
    """

    def __init__(self, path: Path, precision: str, cache: WeightCache | None = None) -> None:
        message = read_model(path)
        blobs = _blobs(message)
        self.path, self.cache = path, cache or WeightCache()
        with _each_blob_once():
            self.program = loader.load(message, message.specificationVersion, str(path / WEIGHTS))
        self.round_to_float16 = precision == "float16"
        self.states = States()
        self.constexprs: dict[int, Any] = {}  # blob -> the operation that decompresses it
        self.blobs: dict[Any, int] = {}  # output variable of a constexpr -> blob
        self.schedules = {
            name: _schedule(function) for name, function in self.program.functions.items()
        }
        for name, function in self.program.functions.items():
            for op in function.operations:
                self._register_constant(op, blobs.get((name, op.name), id(op)))
        _trim_heap()

    def run(self, name: str, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run a function; return its outputs by name.

        Raises BackendError for an operation that cannot be evaluated.
        """
        function = self.program.functions[name]
        for key, variable in function.inputs.items():
            if types.is_state(variable._sym_type):
                self.states.begin(key, variable.shape)
            else:
                variable._sym_val = Box(self._round(np.asarray(inputs[key])))
        for op, done in self.schedules[name].items():
            self._compute(op, done)
            for variable in done:
                variable._sym_val = None
        outputs = {output.name: np.asarray(output.val) for output in function.outputs}
        return {name: self.states.apart(value) for name, value in outputs.items()}

    def reset(self) -> None:
        """Set the states to zeros."""
        self.states.clear()

    def _register_constant(self, op: Any, blob: int) -> None:
        """Widen a float constant; keep one copy of a weight's codes for all functions."""
        if op.op_type == "const" and getattr(op.outputs[0].val, "dtype", None) == np.float16:
            op.outputs[0]._sym_val = Box(_to_float32(op.outputs[0].val))
        if not op.op_type.startswith("constexpr_"):
            return
        self.blobs[op.outputs[0]] = blob
        if self.constexprs.setdefault(blob, op) is not op:
            _free_codes(op)

    def _weight(self, variable: Any, by_parts: bool) -> Array | Parts:
        """The decompressed output of a constexpr, from the cache if it is there.

        ``by_parts``: where it is not cached, its parts will do.
        """
        blob = self.blobs[variable]
        op = self.constexprs[blob]
        read = partial(self._decompressed, op)
        if by_parts and not self.cache.takes((self.path, blob), _float32_bytes(variable)):
            return Parts(variable.shape, read)
        free_bytes = self.cache.free_bytes
        weight = self.cache.get((self.path, blob), read)
        if self.cache.free_bytes < free_bytes:  # the weight is cached from now on
            _free_codes(op)
            if free_bytes // TRIM_INTERVAL > self.cache.free_bytes // TRIM_INTERVAL:
                _trim_heap()
        return weight

    def _decompressed(self, op: Any, rows: slice = ALL) -> Array:
        """Rows of a constexpr's output, rounded to the precision."""
        weight = decompress(op, rows)
        return weight if in_float16(op) else self._round(weight)

    def _infer(self, op: Any, done: list[Any]) -> Any:
        """The value of an operation; None if it cannot be evaluated."""
        if op.op_type == READ:
            return self.states.read(op.input.name)
        if op.op_type == UPDATE:
            return self.states.store(op.state.name, op.value.val)
        written = self.states.write(op, done) if op.op_type == "slice_update" else None
        if written is not None:
            return written
        compute = KERNELS.get(op.op_type)
        return compute(op) if compute else op.value_inference()

    def _compute(self, op: Any, done: list[Any]) -> None:
        """Evaluate an operation and store its outputs; weights are decompressed for the time.

        ``done``: the variables that no later operation reads.
        """
        weights = [each for each in _variables(op) if each in self.blobs]
        for each in weights:
            each._sym_val = Box(self._weight(each, op.op_type in BY_PARTS))
        try:
            values = self._infer(op, done)
        except NotImplementedError:
            values = None
        if values is None:
            raise BackendError(
                f"the evaluator has no meaning for the operation {op.op_type} ({op.name})",
                "please report this",
            )
        for each in weights:
            each._sym_val = None
        values = values if isinstance(values, list | tuple) else [values]
        for output, value in zip(op.outputs, values, strict=True):
            value = np.asarray(value)
            output._sym_val = Box(value if op.op_type in MOVES else self._round(value))
            if op.op_type in VIEWS:
                self.states.note(output)

    def _round(self, value: Array) -> Array:
        """Round floats to the precision; the result is float32. Other types pass."""
        if value.dtype.kind != "f":
            return value
        if self.round_to_float16:
            with np.errstate(over="ignore"):  # infinity: as the device would have it
                value = value.astype(np.float16)
        return _to_float32(value)


@contextlib.contextmanager
def _each_blob_once() -> Iterator[None]:
    """Let coremltools' loader read what several functions share once, into one array."""
    read, found = loader._load_value, dict[tuple[str, int], Any]()

    def read_once(context: Any, spec: Any) -> Any:
        if not spec.HasField("blobFileValue"):
            return read(context, spec)
        blob = spec.blobFileValue.fileName, spec.blobFileValue.offset
        if blob not in found:
            found[blob] = read(context, spec)
        return found[blob]

    loader._load_value = read_once
    try:
        yield
    finally:
        loader._load_value = read


def _trim_heap() -> None:
    """Return free memory to the system, where the C library supports it.

    Holes between cached weights fit no other weight.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def _free_codes(op: Any) -> None:
    """Free the inputs of a constexpr; a constant holds its value in two places."""
    for variable in _variables(op):
        variable._sym_val = None
        if variable.op is not None and variable.op.op_type == "const":
            variable.op.val._sym_val = None


def _blobs(message: Any) -> dict[tuple[str, str], int]:
    """(function, constexpr) -> offset of the codes in weight.bin, equal for the same weight."""
    offsets: dict[tuple[str, str], int] = {}
    for name, function in message.mlProgram.functions.items():
        for op in function.block_specializations[function.opset].operations:
            if op.type.startswith("constexpr_"):
                codes = op.inputs["indices" if "lut" in op.type else "data"].arguments[0]
                if codes.value.HasField("blobFileValue"):
                    offsets[name, op.outputs[0].name] = codes.value.blobFileValue.offset
    return offsets


def _schedule(function: Any) -> dict[Any, list[Any]]:
    """Operations in order -> the variables that no later operation reads.

    They are freed at once: a model with many experts has thousands of values.
    """
    operations = [op for op in function.operations if not _is_constant(op)]
    makers = set(operations)
    last_use: dict[Any, Any] = {}
    for op in operations:
        for variable in (*op.outputs, *_all_variables(op)):
            if variable.op in makers:
                last_use[variable] = op
    schedule: dict[Any, list[Any]] = {op: [] for op in operations}
    for variable in set(last_use) - set(function.outputs):
        schedule[last_use[variable]].append(variable)
    return schedule


def _all_variables(op: Any) -> Iterator[Any]:
    """Inputs of an operation, with those in lists."""
    for each in op.inputs.values():
        yield from each if isinstance(each, tuple | list) else [each]


def _variables(op: Any) -> list[Any]:
    """Inputs of an operation without those in lists: no weight is in a list."""
    return [each for each in op.inputs.values() if not isinstance(each, tuple | list)]


def _float32_bytes(variable: Any) -> int:
    return 4 * int(math.prod(variable.shape))


def _to_float32(value: Any) -> Array:
    return np.asarray(value, dtype=np.float32)


def _is_constant(op: Any) -> bool:
    return bool(op.op_type == "const" or op.op_type.startswith("constexpr_"))
