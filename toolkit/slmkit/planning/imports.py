"""Which artifacts take the codes that a checkpoint brings, and which get new ones.

Codes are taken where the artifact can hold them exactly, or with their scales rounded to a form
that it holds, and where the recipe does not ask for fewer bits. All other weights are quantized by
the recipe, from the dequantized ones. The decision becomes rules of the recipe with
``method: imported``, so that the manifest tells it, and later commands make the same codes again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from slmkit.backend.registry import find_backend
from slmkit.checkpoint.formats.tensor_file import IMPORTED
from slmkit.interpreters.recorder import Model
from slmkit.planning.memory import matrix_schemes
from slmkit.recipe.recipe import ArtifactOptions, Recipe, Rule
from slmkit.recipe.scheme import Scheme

Schemes = Mapping[str, Scheme]  # by matrix name
WHOLE = 16  # bits of a weight that stays float16


def with_imports(
    recipe: Recipe, model: Model, artifacts: Sequence[str], imports: Schemes
) -> Recipe:
    """The recipe with rules for the codes that each artifact takes from the checkpoint.

    ``imports``: schemes of the checkpoint's codes.
    """
    for artifact in artifacts if imports else ():
        taken = taken_by(recipe, model, artifact, imports)
        old = recipe.artifacts.get(artifact, ArtifactOptions())
        new = ArtifactOptions(weights=(*old.weights, *_rules(taken)), **old.options)
        recipe = recipe.model_copy(update={"artifacts": {**recipe.artifacts, artifact: new}})
    return recipe


def taken_by(recipe: Recipe, model: Model, artifact: str, imports: Schemes) -> Schemes:
    """The codes among ``imports`` that an artifact holds under a recipe, by matrix name."""
    backend, options = find_backend(artifact), recipe.options(artifact)
    chosen = dict(matrix_schemes(model, recipe, artifact))
    wanted = {
        name: scheme
        for name, scheme in imports.items()
        if name in chosen and (scheme.bits or WHOLE) <= (chosen[name].bits or WHOLE)
    }
    known, taken = set(backend.problems(model, chosen, options)), dict[str, Scheme]()
    for scheme, names in _alike(model, wanted):
        for form in forms(scheme):
            alike = dict.fromkeys(names, form)
            if known.issuperset(backend.problems(model, {**chosen, **alike}, options)):
                chosen |= alike
                taken |= alike
                break
    return taken


def forms(scheme: Scheme) -> Iterator[Scheme]:
    """Schemes in which codes of ``scheme`` can be held, the one to prefer first.

    All but the first keep the codes and round their scales: to 8 significant bits, or to two levels
    (``quant.kept``).
    """
    yield scheme
    if scheme.scales == "float16":
        yield scheme.model_copy(update={"scales": "free"})
    if scheme.symmetric and scheme.bits == 4 and scheme.encoding == "group-wise":
        yield scheme.model_copy(update={"scales": "two-level"})


@dataclass(frozen=True)
class ImportRow:
    """Matrices of one stored format, and what becomes of their codes in each artifact."""

    format: str  # "Q4_0", "BF16"
    matrices: int
    parameters: int
    scheme: str  # of the stored codes; empty: none holds them
    artifacts: Mapping[str, str]  # artifact -> exact, kept (scales rounded) or requantized
    rounded: bool = False  # the scheme's scales or zero points are not quite the stored ones


def import_rows(
    model: Model,
    formats: Mapping[str, str],
    imports: Schemes,
    encodings: Mapping[str, Schemes],
    rounded: Collection[str] = (),
) -> tuple[ImportRow, ...]:
    """A row for each format and scheme of a checkpoint that stores codes.

    ``formats``: the stored type of each matrix that is stored as codes; ``encodings``: schemes by
    artifact; ``rounded``: matrices whose codes are not quite the stored numbers.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for name, stored in formats.items():
        scheme = imports.get(name)
        groups.setdefault((stored, str(scheme) if scheme else ""), []).append(name)
    rows = []
    for (stored, scheme_), names in groups.items():
        fates = {
            artifact: _fate(names, imports, schemes, rounded)
            for artifact, schemes in encodings.items()
        }
        size = sum(model.shapes[name][0] * model.shapes[name][1] for name in names)
        near = any(name in rounded for name in names)
        rows.append(ImportRow(stored, len(names), size, scheme_, fates, near))
    return tuple(sorted(rows, key=lambda row: -row.parameters))


def import_sentences(rows: Sequence[ImportRow]) -> tuple[str, ...]:
    """One sentence for each format, for reports."""
    found = []
    for row in rows:
        fates: dict[str, list[str]] = {}
        for artifact, fate in row.artifacts.items():
            fates.setdefault(fate, []).append(artifact)
        told = "; ".join(f"{fate} in {', '.join(names)}" for fate, names in fates.items())
        found.append(f"{row.matrices} matrices stored as {row.format}: {told}")
    return tuple(found)


def is_kept(name: str, imports: Schemes, schemes: Schemes, rounded: Collection[str]) -> bool:
    """Whether a matrix has the checkpoint's codes, but not quite its scales and zero points."""
    chosen = schemes[name]
    return chosen.method == IMPORTED and (imports.get(name) != chosen or name in rounded)


def _fate(
    names: Sequence[str], imports: Schemes, schemes: Schemes, rounded: Collection[str]
) -> str:
    """The outcome for some matrices' codes."""
    fates = set()
    for name in names:
        kept = is_kept(name, imports, schemes, rounded)
        taken = "kept" if kept else "exact"
        fates.add(taken if schemes[name].method == IMPORTED else "requantized")
    return " and ".join(sorted(fates))


def _alike(model: Model, schemes: Schemes) -> list[tuple[Scheme, list[str]]]:
    """The matrices of one scheme, width and use, together: a backend takes all or none."""
    found: dict[tuple[Scheme, int, bool, bool], list[str]] = {}
    for name, scheme in schemes.items():
        width, multiplied = model.shapes[name][1], name in model.multiplied
        found.setdefault((scheme, width, multiplied, name in model.looked_up), []).append(name)
    return [(key[0], names) for key, names in found.items()]


def _rules(schemes: Schemes) -> list[Rule]:
    """One rule for each scheme."""
    names: dict[Scheme, list[str]] = {}
    for name, scheme in schemes.items():
        names.setdefault(scheme, []).append(name)
    return [Rule(match=tuple(each), scheme=scheme) for scheme, each in names.items()]
