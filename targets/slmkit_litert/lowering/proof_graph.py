"""The prefill graph with logits of every token, which only the proof runs.

The ``prefill`` that ships returns no logits, and a token of ``decode`` reads all weights. A third
signature of the graph template has the same operations and returns both caches and logits. It is
cut out of the file that ships and lies beside it, without weights; copies for a proof
(``slmkit_litert.verify.copies``) take it in again, over weights of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from slmkit_litert.contract import LABEL
from slmkit_litert.lowering.flatbuffer import drop_unread_buffers, model_bytes, model_of, text_of


def split(template: bytes, proof: str) -> tuple[bytes, bytes]:
    """The template without the signature ``proof``, and a model of that signature alone."""
    names = [text_of(each.signatureKey) for each in model_of(template).signatureDefs]
    return _only(template, {*names} - {proof}), _only(template, {proof})


def label_weights(proof: bytes, names: Mapping[str, str]) -> bytes:
    """The proof's graph with ``weight NAME`` for its weight inputs; ``names``: the tensor of each
    weight input."""
    model = model_of(proof)
    (signature,), (graph,) = model.signatureDefs, model.subgraphs
    for item in signature.inputs:
        tensor = names.get(text_of(item.name))
        if tensor is not None:
            graph.tensors[item.tensorIndex].name = (LABEL + tensor).encode()
    return model_bytes(model)


def take_in(model: Any, proof: bytes, buffers: Mapping[str, int]) -> Any:
    """Add the proof's graph and its signature to a model whose weights are constants; the graph.

    ``buffers``: the index of each weight's buffer in ``model``, by its tensor's name. The graph's
    tensors of weights are float32, as they were traced.
    """
    added = model_of(proof)
    (signature,), (graph,) = added.signatureDefs, added.subgraphs
    codes = len(model.operatorCodes)
    model.operatorCodes.extend(added.operatorCodes)
    for operator in graph.operators:
        operator.opcodeIndex += codes
    constants: dict[int, int] = {}
    bound = set()
    for index, tensor in enumerate(graph.tensors):
        weight = buffers.get(text_of(tensor.name))
        if weight is not None:
            tensor.buffer = weight
            bound.add(index)
        elif added.buffers[tensor.buffer].data is None:
            tensor.buffer = 0
        else:
            if tensor.buffer not in constants:
                constants[tensor.buffer] = len(model.buffers)
                model.buffers.append(added.buffers[tensor.buffer])
            tensor.buffer = constants[tensor.buffer]
    graph.inputs = np.array([each for each in graph.inputs if each not in bound], np.int32)
    signature.inputs = [each for each in signature.inputs if each.tensorIndex not in bound]
    signature.subgraphIndex = len(model.subgraphs)
    model.subgraphs.append(graph)
    model.signatureDefs.append(signature)
    return graph


def _only(template: bytes, keys: set[str]) -> bytes:
    """The model with the signatures ``keys`` alone, and without what only the others use."""
    model = model_of(template)
    model.signatureDefs = [
        each for each in model.signatureDefs if text_of(each.signatureKey) in keys
    ]
    kept = [each.subgraphIndex for each in model.signatureDefs]
    model.subgraphs = [graph for index, graph in enumerate(model.subgraphs) if index in kept]
    for each in model.signatureDefs:
        each.subgraphIndex = sorted(kept).index(each.subgraphIndex)
    drop_unread_buffers(model)
    return model_bytes(model)
