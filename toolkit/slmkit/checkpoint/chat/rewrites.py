"""Equal forms of what small Jinja engines lack or do otherwise: LiteRT-LM's (0.18.1) and
onnxruntime-genai's (0.18.0) were asked. ``portable`` proves by rendering that they are equal."""

# ruff: noqa: N802 - jinja2 calls a visitor by these names
from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jinja2 import nodes
from jinja2.visitor import NodeTransformer

ROLES = ("system", "user", "assistant", "tool")
CASES: Mapping[str, Callable[[str], str]] = {
    "upper": str.upper,
    "lower": str.lower,
    "title": str.title,
    "capitalize": str.capitalize,
}
EQUAL = {"equalto", "eq", "==", "sameas"}
GIVEN_AS_NONE = {"tools", "documents"}  # transformers hands them on as none, the engines not at all
JSON = "json_text"  # the macro of ``json_macro``


class Rewriter(NodeTransformer):
    """Rewrites a syntax tree in place; ``special``: texts of special tokens, "" if there is none.

    ``indents``: the engine's tojson can indent.
    """

    def __init__(self, special: Mapping[str, str], values: set[int], indents: bool) -> None:
        self.special = special
        self.values = values  # ids of nodes ``and`` whose value is used, not only its truth
        self.indents = indents
        self.needs_json = False

    def visit_Name(self, node: nodes.Name) -> nodes.Node:
        """The text of a special token in place of its name."""
        if node.ctx == "load" and node.name in self.special:
            return nodes.Const(self.special[node.name])
        return node

    def visit_Test(self, node: nodes.Test) -> nodes.Node:
        """Tests on absent values, and tests that are comparisons."""
        name = node.node.name if isinstance(node.node, nodes.Name) else ""
        if node.name in ("defined", "undefined") and name in {*self.special, *GIVEN_AS_NONE}:
            known = name in GIVEN_AS_NONE or bool(self.special[name])
            return nodes.Const(known == (node.name == "defined"))
        if node.name == "none" and name in GIVEN_AS_NONE:
            return nodes.Not(node.node)
        self.generic_visit(node)
        if node.name == "none" and isinstance(node.node, nodes.Getattr | nodes.Getitem):
            defined = nodes.Test(node.node, "defined", [], [], None, None)
            return nodes.And(defined, node)
        if node.name in EQUAL | {"ne", "in"} and len(node.args or ()) == 1:
            operator = "eq" if node.name in EQUAL else node.name
            return _compared(node.node, operator, node.args[0])
        if node.name == "divisibleby":
            return _compared(nodes.Mod(node.node, node.args[0]), "eq", nodes.Const(0))
        return node

    def visit_And(self, node: nodes.And) -> nodes.Node:
        """``a and b`` as a value: one engine makes a truth value of it."""
        used = id(node) in self.values
        self.generic_visit(node)
        return nodes.CondExpr(node.left, node.right, node.left) if used else node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        """Chains as single comparisons; ``in`` for texts, of which one engine finds none."""
        self.generic_visit(node)
        left, found = node.expr, None
        for each in node.ops:
            part = _compared(left, each.op, each.expr)
            found = part if found is None else nodes.And(found, part)
            left = each.expr
        return found or node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        """``x.split(a, 1)[i]``: one engine's split takes no number."""
        call: Any = node.node
        index = node.arg
        if isinstance(index, nodes.Neg) and isinstance(index.node, nodes.Const):
            index = nodes.Const(-index.node.value)
        once = _method(call, "split") and len(call.args) == 2 and _is(call.args[1], 1)
        if once and isinstance(index, nodes.Const) and index.value in (0, 1, -1):
            subject, mark = self.visit(call.node.node), self.visit(call.args[0])
            return _split_once(subject, mark, index.value)
        return self.generic_visit(node)

    def visit_Call(self, node: nodes.Call) -> nodes.Node:
        """Methods of Python's texts and dicts as filters and operators."""
        self.generic_visit(node)
        if not isinstance(node.node, nodes.Getattr) or node.kwargs:
            return node
        subject, method, args = node.node.node, node.node.attr, node.args
        if method == "get" and len(args) in (1, 2):
            default = args[1] if len(args) == 2 else nodes.Const(None)
            item = nodes.Getitem(subject, args[0], "load")
            return nodes.CondExpr(_member(args[0], subject), item, default)
        if method in CASES and not args:
            return _cased(subject, method)
        if method == "replace" and len(args) == 2:
            return _replaced(subject, args[0], args[1])
        if method == "split" and args:
            return _filtered(node, "list")
        if method == "keys":
            return _filtered(subject, "list")
        if method == "join" and len(args) == 1:
            return _filtered(args[0], "join", subject)
        if method == "format" and isinstance(subject, nodes.Const):
            return _formatted(subject.value, r"\{\}", args) or node
        return node

    def visit_Filter(self, node: nodes.Filter) -> nodes.Node:
        """Filters that one of the engines lacks."""
        self.generic_visit(node)
        if node.node is None:
            return node
        if node.name == "first":
            return nodes.Getitem(node.node, nodes.Const(0), "load")
        if node.name == "count":
            return _filtered(node.node, "length")
        if node.name in CASES:
            return _cased(node.node, node.name)
        if node.name == "replace" and len(node.args) == 2:
            return _replaced(node.node, node.args[0], node.args[1])
        if node.name == "format" and isinstance(node.node, nodes.Const):
            return _formatted(node.node.value, "%s", node.args) or node
        return self._json(node) if node.name == "tojson" else node

    def visit_Mod(self, node: nodes.Mod) -> nodes.Node:
        """``'...%s' % x`` as a concatenation."""
        self.generic_visit(node)
        if not isinstance(node.left, nodes.Const) or not isinstance(node.left.value, str):
            return node
        args = node.right.items if isinstance(node.right, nodes.Tuple) else [node.right]
        return _formatted(node.left.value, "%s", args) or node

    def _json(self, node: nodes.Filter) -> nodes.Node:
        """``tojson`` without arguments; with an effect they become a call of the macro."""
        names = ("ensure_ascii", "indent", "separators", "sort_keys")
        given: dict[Any, nodes.Expr] = dict(zip(names, node.args, strict=False))
        given |= {pair.key: pair.value for pair in node.kwargs}
        if not all(_is_constant(value) for value in given.values()):
            return node
        known = {key: value.as_const() for key, value in given.items()}
        plain = nodes.Filter(node.node, "tojson", [], [], None, None)
        indent, separators = known.get("indent"), known.get("separators")
        if known.get("ensure_ascii"):
            return node
        if indent is None and separators is None and not known.get("sort_keys"):
            return plain
        if self.indents and indent and separators is None and not known.get("sort_keys"):
            keyword: list[Any] = [nodes.Keyword("indent", nodes.Const(indent))]
            return nodes.Filter(node.node, "tojson", [], keyword, None, None)
        self.needs_json = True
        comma, colon = separators or ((",", ": ") if indent is not None else (", ", ": "))
        step = " " * indent if isinstance(indent, int) else indent or ""
        pad = "" if indent is None else "\n"
        values = (step, pad, comma, colon, bool(known.get("sort_keys")))
        arguments = [node.node, *(nodes.Const(value) for value in values)]
        return nodes.Call(nodes.Name(JSON, "load"), arguments, [], None, None)


def values_of_and(template: nodes.Template) -> set[int]:
    """Ids of the nodes ``and`` whose value is used: those that no condition consists of."""
    truths: set[int] = set()

    def condition(node: nodes.Node | None) -> None:
        if isinstance(node, nodes.And | nodes.Or):
            truths.add(id(node))
            condition(node.left)
            condition(node.right)
        elif isinstance(node, nodes.Not):
            condition(node.node)

    for kind in (nodes.If, nodes.For, nodes.CondExpr):
        for each in template.find_all(kind):
            condition(getattr(each, "test"))  # noqa: B009 - the types of jinja2 name no test
    for negated in template.find_all(nodes.Not):
        condition(negated.node)
    return {id(each) for each in template.find_all(nodes.And)} - truths


def _filtered(node: nodes.Expr, name: str, *args: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, list(args), [], None, None)


def _compared(left: nodes.Expr, operator: str, right: nodes.Expr) -> nodes.Expr:
    if operator == "in":
        return _member(left, right)
    if operator == "notin":
        return nodes.Not(_member(left, right))
    return nodes.Compare(left, [nodes.Operand(operator, right)])


def _member(item: nodes.Expr, container: nodes.Expr) -> nodes.Expr:
    """``item in container``, also where the container is a text."""
    plain = nodes.Compare(item, [nodes.Operand("in", container)])
    literals = nodes.List | nodes.Tuple | nodes.Dict
    if isinstance(container, literals) or (isinstance(item, nodes.Const) and not item.value):
        return plain
    is_text = nodes.Test(container, "string", [], [], None, None)
    split = nodes.Call(nodes.Getattr(container, "split", "load"), [item], [], None, None)
    parts = _filtered(_filtered(split, "list"), "length")
    several = nodes.Compare(parts, [nodes.Operand("gt", nodes.Const(1))])
    return nodes.Or(plain, nodes.And(is_text, several))


def _cased(node: nodes.Expr, name: str) -> nodes.Expr:
    """A text in another case: constants at once, roles by comparison, others by the filter."""
    if isinstance(node, nodes.Const) and isinstance(node.value, str):
        return nodes.Const(CASES[name](node.value))
    found: nodes.Expr = _filtered(node, name)
    if name == "lower":
        return found
    for role in reversed(ROLES):
        same = nodes.Compare(node, [nodes.Operand("eq", nodes.Const(role))])
        found = nodes.CondExpr(same, nodes.Const(CASES[name](role)), found)
    return found


def _replaced(node: nodes.Expr, old: nodes.Expr, new: nodes.Expr) -> nodes.Expr:
    split = nodes.Call(nodes.Getattr(node, "split", "load"), [old], [], None, None)
    return _filtered(_filtered(split, "list"), "join", new)


def _split_once(node: nodes.Expr, mark: nodes.Expr, index: int) -> nodes.Expr:
    """One of the two parts of a text at the first ``mark``."""
    split = nodes.Call(nodes.Getattr(node, "split", "load"), [mark], [], None, None)
    parts = _filtered(split, "list")
    if index == 0:
        return nodes.Getitem(parts, nodes.Const(0), "load")
    behind = nodes.Getitem(parts, nodes.Slice(nodes.Const(1), None, None), "load")
    rest = _filtered(behind, "join", mark)
    return rest if index == 1 else nodes.CondExpr(_member(mark, node), rest, node)


def _formatted(form: str, mark: str, args: Sequence[nodes.Expr]) -> nodes.Expr | None:
    """A form with plain marks alone as a concatenation; None for other forms."""
    texts = re.split(mark, form)
    if len(texts) != len(args) + 1 or any(sign in text for text in texts for sign in "%{}"):
        return None
    parts: list[nodes.Expr] = [nodes.Const(texts[0])]
    for arg, text in zip(args, texts[1:], strict=True):
        parts += [arg, nodes.Const(text)]
    return nodes.Concat([part for part in parts if not _is(part, "")])


def _method(node: nodes.Node, name: str) -> bool:
    return (
        isinstance(node, nodes.Call)
        and isinstance(node.node, nodes.Getattr)
        and (node.node.attr == name)
    )


def _is(node: nodes.Node, value: Any) -> bool:
    return isinstance(node, nodes.Const) and node.value == value


def _is_constant(node: nodes.Expr) -> bool:
    try:
        node.as_const()
    except nodes.Impossible:
        return False
    return True


def assigned_names(template: nodes.Template) -> set[str]:
    """Names that the template gives a value to itself."""
    names: Iterable[nodes.Name] = template.find_all(nodes.Name)
    return {each.name for each in names if each.ctx in ("store", "param")}
