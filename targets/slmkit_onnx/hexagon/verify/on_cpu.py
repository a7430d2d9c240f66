"""Sessions of the artifact's graphs on this CPU, for parity."""

from __future__ import annotations

from pathlib import Path

from google.protobuf.message import DecodeError
from onnx.checker import ValidationError
from onnxruntime import InferenceSession

from slmkit_onnx.hexagon.verify.float_weights import FloatWeights
from slmkit_onnx.hexagon.verify.fold_scales import fold_scales
from slmkit_onnx.hexagon.verify.htp_rounding import emulate_htp_rounding
from slmkit_onnx.hexagon.verify.strip_qdq import strip_qdq
from slmkit_onnx.sessions import cpu_session, load_error


def open_on_cpu(path: Path, weights: FloatWeights, htp_rounding: bool = True) -> InferenceSession:
    """Load a graph's file on the CPU, with its scales folded and its 8-bit ``weights`` in float32.

    ``htp_rounding``: with HTP's rounding; otherwise float32 between the operations. Raises
    BackendError if the file or its weights are damaged.
    """
    try:
        source = fold_scales(path.read_bytes(), path.parent)
        source = emulate_htp_rounding(source) if htp_rounding else strip_qdq(source)
        taken = weights.take_from(source, path.parent)
    except (DecodeError, ValidationError, ValueError, OSError) as error:
        raise load_error(path.name, error) from None
    about = taken.source, path.parent
    own = taken.weights
    return cpu_session(
        *about, name=path.name, arena=False, initializers=own, in_place=taken.in_place
    )
