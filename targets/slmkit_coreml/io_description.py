"""Descriptions for the manifest and the packages: inputs, outputs, duties of the host."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from slmkit.backend.interface import Job, Report, ReportTable, Tensor
from slmkit.backend.partition import Part
from slmkit.backend.static_runner import Window
from slmkit_coreml.contract import state_name, state_shape
from slmkit_coreml.lowering.inputs import INTEGER_INPUTS, FunctionSignature
from slmkit_coreml.options import Form
from slmkit_coreml.package import Description

ABOUT = {
    "ids": "token ids, filled up with any id",
    "embeds": "rows of the embedding file",
    "hidden": "what the package before gave as hidden_out",
    "hidden_out": "for the next package",
    "cos": "cosine of each token's position times the rope's frequencies, times its magnitude",
    "sin": "sine of the same",
    "mask": "0 where a token may look, -40000 elsewhere",
    "past_keys": "cached keys of the layers that attend, oldest first",
    "past_values": "cached values of the layers that attend, oldest first",
    "key_cache": "a state: keys of the layers that attend, slot j for position j",
    "value_cache": "a state: values of the layers that attend, slot j for position j",
    "position": "how many tokens are before these",
    "keep": "0 in the slots of these tokens, 1 elsewhere",
    "place": "1 where a token goes to a slot",
    "new_keys": "keys of these tokens, for the host to append",
    "new_values": "values of these tokens, for the host to append",
}
COLUMNS = ("rule", "level", "by", "times", "reason")
NOT_EXECUTED = "coreml: Core ML itself (macOS only): the saved package ran in the evaluator"
HOST = {
    "embeds": "looks up rows of the embedding file",
    "cos": "computes cos and sin of the rope",
    "mask": "computes the mask, one per sliding window",
    "past_keys": "keeps the cache and appends new keys and values",
    "past_states": "keeps the states of layers without attention as each run leaves them, and "
    "feeds the rest of a prompt that fills no chunk token by token",
    "whole_chunks": "feeds the rest of a prompt that fills no chunk token by token",
    "position": "counts the tokens",
    "keep": "says where the cache is written",
    "ids": "fills the last tokens of a prompt up to the function's length",
    "hidden": "hands the hidden state from package to package",
}


def interfaces(
    job: Job, form: Form, chunks: Sequence[Part], windows: Mapping[str, Window]
) -> list[tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]:
    """Inputs and outputs of each package; dimensions that depend on the function are names."""
    return [(_inputs(job, form, chunk, windows), _outputs(job, form, chunk)) for chunk in chunks]


def merge_interfaces(
    packages: Sequence[tuple[tuple[Tensor, ...], ...]],
) -> list[tuple[Tensor, ...]]:
    """Inputs and outputs of all packages, without the hidden state between them.

    A tensor that several packages have, such as the KV cache, is listed once, with the shape of the
    first package.
    """
    merged: list[dict[str, Tensor]] = [{}, {}]
    for interface in packages:
        for side, tensors in zip(merged, interface, strict=True):
            for tensor in tensors:
                if not tensor.name.startswith("hidden"):
                    side.setdefault(tensor.name, tensor)
    return [tuple(side.values()) for side in merged]


def describe(
    job: Job, form: Form, chunk: Part, interface: Sequence[Sequence[Tensor]], version: str
) -> Description:
    """The metadata of a package."""
    model = job.about.get("model", "a model")
    schemes = Counter(str(scheme) for scheme in job.codes.schemes.values())
    return Description(
        about=f"{model}, {chunk.name}: functions prefill and decode, layout {form.layout.name}",
        author=str(job.options.get("author", f"converted by slmkit {job.about.get('slmkit', '')}")),
        license=str(job.options.get("license", job.about.get("license", ""))),
        version=version,
        interface={each.name: each.about for side in interface for each in side},
        facts={
            "slmkit.version": job.about.get("slmkit", ""),
            "slmkit.recipe": job.about.get("recipe", ""),
            "slmkit.weights": ", ".join(f"{count} {name}" for name, count in schemes.items()),
            "slmkit.layout": form.layout.name,
            "slmkit.kv_cache": form.cache,
        },
    )


def host_duties(inputs: Sequence[Tensor], chunks: int) -> list[str]:
    """The duties of the host, derived from the inputs, one phrase each."""
    names = {_duty(each.name) for each in inputs}
    names |= {"hidden"} if chunks > 1 else set()
    if names & {"past_states", "whole_chunks"}:
        names -= {"ids"}  # no chunk is filled up
    return [duty for name, duty in HOST.items() if name in names]


def _duty(name: str) -> str:
    """The key of HOST for an input."""
    return "past_states" if _is_state(name) else "whole_chunks" if _is_kept(name) else name


def residency_report(residency: Mapping[str, Any]) -> Report:
    """The predicted residency of each function, for the end of a build and for ``inspect``.

    A rule that several functions violate is reported once.
    """
    lines: dict[str, None] = {}
    tables = []
    for name, found in residency.items():
        share = f"{found['predicted']:.1%} of {found['operations']} operations"
        plan = found.get("compute_plan")
        own = f"; Core ML's own plan: {plan}" if plan else ""
        lines[f"{name}: {share} predicted to stay on the accelerator{own}"] = None
        title = f"{name}: {share} predicted to stay on the accelerator"
        tables.append(ReportTable(title, COLUMNS, tuple(map(_finding_row, _violations(found)))))
    for found in residency.values():
        for each in _violations(found):
            lines[f"  {each['level']} {each['rule']} ({each['at']}): {each['reason']}"] = None
    return Report(tuple(lines), tuple(tables), (NOT_EXECUTED,))


def _violations(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Findings that are more than a note."""
    return [each for each in found["findings"] if each["level"] != "note"]


def _finding_row(found: Mapping[str, Any]) -> tuple[str, ...]:
    return (found["rule"], found["level"], found["at"], str(found["count"]), found["reason"])


def _inputs(job: Job, form: Form, chunk: Part, windows: Mapping[str, Window]) -> tuple[Tensor, ...]:
    """The inputs of a package."""
    prefill = FunctionSignature(job.model, form, chunk, windows["prefill"]).input_shapes()
    decode = FunctionSignature(job.model, form, chunk, windows["decode"]).input_shapes()
    return tuple(
        Tensor(
            name,
            "int32" if name in INTEGER_INPUTS else "float16",
            _symbolic(shape, decode[name]),
            _about(name),
        )
        for name, shape in prefill.items()
    )


def _is_state(name: str) -> bool:
    return name.startswith(("past_conv", "past_scan"))


def _is_kept(name: str) -> bool:
    return name.startswith(("conv_", "scan_"))


def _about(name: str) -> str:
    """The description of an input; names of masks and rope tables may end in a number."""
    stem = name.partition("_")[0]
    if _is_state(name) or _is_kept(name):
        return "state of a layer as the tokens before left it, 0 at first"
    return ABOUT[stem if stem in ("mask", "cos", "sin") else name]


def _symbolic(prefill: tuple[int, ...], decode: tuple[int, ...]) -> tuple[int | str, ...]:
    """A shape with names for the dimensions in which the two functions differ."""
    dimensions: list[int | str] = []
    for size, decode_size in zip(prefill, decode, strict=True):
        if size == decode_size:
            dimensions.append(size)
        else:
            dimensions.append("tokens" if decode_size == 1 else "past")
    return tuple(dimensions)


def _outputs(job: Job, form: Form, chunk: Part) -> tuple[Tensor, ...]:
    """The outputs of a package."""
    spec, rows = job.spec, form.layout.rows
    outputs = []
    if chunk.last < spec.layers:
        shape = tuple(rows.symbolic_shape("tokens", spec.width))
        outputs.append(Tensor("hidden_out", "float16", shape, ABOUT["hidden_out"]))
    else:
        for at, (first, end) in enumerate(form.logits(spec.vocabulary)):
            about = f"next-token scores of ids {first} to {end - 1}"
            shape = tuple(rows.symbolic_shape("tokens", end - first))
            outputs.append(Tensor(f"logits_{at}", "float16", shape, about))
    layers = chunk.layers(spec.layers)
    for state in () if form.stateful else job.model.states:
        if state.layer in layers:
            name = f"new_{state_name(state.kind, state.layer)}"
            about = f"state of layer {state.layer}, for the next tokens"
            outputs.append(Tensor(name, "float16", state_shape(state), about))
    attention_layers = [layer for layer in job.model.attention_layers if layer in layers]
    if attention_layers and not form.stateful:
        row: list[Any] = list(form.layout.cache(spec.kv_heads, spec.head_width, 0))
        row[form.layout.token_axis - 1] = "tokens"
        for name in ("new_keys", "new_values"):
            outputs.append(Tensor(name, "float16", (len(attention_layers), *row), ABOUT[name]))
    return tuple(outputs)
