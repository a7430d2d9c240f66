"""Statements that small Jinja engines lack, in terms of those that they have."""

# ruff: noqa: N802 - jinja2 calls a visitor by these names
from __future__ import annotations

from itertools import count

from jinja2 import nodes
from jinja2.visitor import NodeTransformer

SKIP, STOP = "skip", "stop"


class StatementRewriter(NodeTransformer):
    """Rewrites loops with break and continue, ``with``, and assignments to several names."""

    def __init__(self) -> None:
        self.numbers = count(1)

    def visit_For(self, node: nodes.For) -> nodes.Node | list[nodes.Node]:
        """``break`` and ``continue`` set a flag, and what follows them asks for it."""
        self.generic_visit(node)
        if not _leaves(node.body):
            return node
        name = f"loop_{next(self.numbers)}"
        false = nodes.Const(False)
        flags = [nodes.Keyword(SKIP, false), nodes.Keyword(STOP, false)]
        made = nodes.Call(nodes.Name("namespace", "load"), [], flags, None, None)
        again = nodes.Assign(nodes.NSRef(name, SKIP), false)
        body = nodes.If(nodes.Not(_flag(name, STOP)), [again, *_guarded(node.body, name)], [], [])
        node.body = [body]
        return [nodes.Assign(nodes.Name(name, "store"), made), node]

    def visit_With(self, node: nodes.With) -> list[nodes.Node]:
        """The names are set before the body, and stay."""
        self.generic_visit(node)
        pairs = zip(node.targets, node.values, strict=True)
        return [*(nodes.Assign(target, value) for target, value in pairs), *node.body]

    def visit_Scope(self, node: nodes.Scope) -> list[nodes.Node]:
        """The body alone."""
        self.generic_visit(node)
        return list(node.body)

    def visit_Assign(self, node: nodes.Assign) -> nodes.Node | list[nodes.Node]:
        """One assignment for each of several names, by way of names of their own."""
        self.generic_visit(node)
        target, value = node.target, node.node
        if not isinstance(target, nodes.Tuple) or not isinstance(value, nodes.Tuple):
            return node
        if len(target.items) != len(value.items):
            return node
        names = [f"part_{next(self.numbers)}" for _ in target.items]
        first: list[nodes.Node] = [
            nodes.Assign(nodes.Name(name, "store"), item)
            for name, item in zip(names, value.items, strict=True)
        ]
        return first + [
            nodes.Assign(item, nodes.Name(name, "load"))
            for name, item in zip(names, target.items, strict=True)
        ]


def _flag(name: str, flag: str) -> nodes.Expr:
    return nodes.Getattr(nodes.Name(name, "load"), flag, "load")


def _leaves(body: list[nodes.Node]) -> bool:
    """Whether statements leave their loop's turn early: loops inside were rewritten before."""
    for each in body:
        if isinstance(each, nodes.Break | nodes.Continue):
            return True
        if not isinstance(each, nodes.For) and any(
            True for _ in each.find_all((nodes.Break, nodes.Continue))
        ):
            return True
    return False


def _guarded(body: list[nodes.Node], name: str) -> list[nodes.Node]:
    """Statements with flags in place of break and continue; those behind one depend on it."""
    found: list[nodes.Node] = []
    for at, each in enumerate(body):
        if isinstance(each, nodes.Break | nodes.Continue):
            flags = (STOP, SKIP) if isinstance(each, nodes.Break) else (SKIP,)
            true = nodes.Const(True)
            return found + [nodes.Assign(nodes.NSRef(name, flag), true) for flag in flags]
        found.append(each)
        if isinstance(each, nodes.If) and _leaves([each]):
            for branch in (each, *each.elif_):
                branch.body = _guarded(branch.body, name)
            each.else_ = _guarded(each.else_, name)
            rest = _guarded(body[at + 1 :], name)
            if rest:
                found.append(nodes.If(nodes.Not(_flag(name, SKIP)), rest, [], []))
            return found
    return found
