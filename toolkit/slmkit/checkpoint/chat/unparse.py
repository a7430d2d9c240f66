"""Write a Jinja template from its syntax tree, in forms that small Jinja engines read alike.

Text stands in string literals, and every tag has dashes: no rule about newlines beside tags is left
to the engine. Every compound expression stands in parentheses: no rule of precedence is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from jinja2 import nodes

ESCAPES = str.maketrans({"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"})
COMPARISONS = {
    "eq": "==",
    "ne": "!=",
    "gt": ">",
    "gteq": ">=",
    "lt": "<",
    "lteq": "<=",
    "in": "in",
    "notin": "not in",
}


class NoPortableForm(Exception):
    """A template has a part that is not written here."""


def template_text(template: nodes.Template) -> str:
    """The template's text. Raises NoPortableForm."""
    return _body(template.body)


def expression_text(node: nodes.Node) -> str:
    """The text of an expression. Raises NoPortableForm."""
    writer = _EXPRESSIONS.get(type(node))
    if writer is not None:
        return writer(node)
    if isinstance(node, nodes.BinExpr):
        left, right = expression_text(node.left), expression_text(node.right)
        return f"({left} {node.operator} {right})"
    if isinstance(node, nodes.UnaryExpr):
        return f"({node.operator} {expression_text(node.node)})"
    raise NoPortableForm(type(node).__name__)


def literal(text: str) -> str:
    """A string literal; characters beyond ASCII stand for themselves."""
    return f"'{text.translate(ESCAPES)}'"


def _body(body: Iterable[nodes.Node]) -> str:
    return "".join(_statement(node) for node in body)


def _statement(node: nodes.Node) -> str:
    writer = _STATEMENTS.get(type(node))
    if writer is None:
        raise NoPortableForm(type(node).__name__)
    return writer(node)


def _tag(text: str) -> str:
    return f"{{%- {text} -%}}"


def _output(node: nodes.Output) -> str:
    return "".join(_piece(each) for each in node.nodes)


def _piece(node: nodes.Expr) -> str:
    if isinstance(node, nodes.TemplateData):
        return f"{{{{- {literal(node.data)} -}}}}" if node.data else ""
    return f"{{{{- {expression_text(node)} -}}}}"


def _if(node: nodes.If) -> str:
    text = _tag(f"if {expression_text(node.test)}") + _body(node.body)
    for other in node.elif_:
        text += _tag(f"elif {expression_text(other.test)}") + _body(other.body)
    if node.else_:
        text += _tag("else") + _body(node.else_)
    return text + _tag("endif")


def _for(node: nodes.For) -> str:
    head = f"for {_target(node.target)} in {expression_text(node.iter)}"
    if node.test is not None:
        head += f" if {expression_text(node.test)}"
    if node.recursive:
        raise NoPortableForm("recursive")
    other = _tag("else") + _body(node.else_) if node.else_ else ""
    return _tag(head) + _body(node.body) + other + _tag("endfor")


def _target(node: nodes.Node) -> str:
    if isinstance(node, nodes.NSRef):
        return f"{node.name}.{node.attr}"
    if isinstance(node, nodes.Tuple):
        return ", ".join(_target(item) for item in node.items)
    if isinstance(node, nodes.Name):
        return node.name
    raise NoPortableForm(type(node).__name__)


def _assign(node: nodes.Assign) -> str:
    return _tag(f"set {_target(node.target)} = {expression_text(node.node)}")


def _assign_block(node: nodes.AssignBlock) -> str:
    if node.filter is not None:
        raise NoPortableForm("a set block with a filter")
    return _tag(f"set {_target(node.target)}") + _body(node.body) + _tag("endset")


def _macro(node: nodes.Macro) -> str:
    names = [each.name for each in node.args]
    bare = len(names) - len(node.defaults)
    parts = names[:bare] + [
        f"{name}={expression_text(value)}"
        for name, value in zip(names[bare:], node.defaults, strict=True)
    ]
    head = _tag(f"macro {node.name}({', '.join(parts)})")
    return head + _body(node.body) + _tag("endmacro")


def _call_block(node: nodes.CallBlock) -> str:
    if node.args or node.defaults:
        raise NoPortableForm("a call block with arguments")
    return _tag(f"call {expression_text(node.call)}") + _body(node.body) + _tag("endcall")


def _filter_block(node: nodes.FilterBlock) -> str:
    arguments = _arguments(node.filter)
    call = f"{node.filter.name}({arguments})" if arguments else node.filter.name
    return _tag(f"filter {call}") + _body(node.body) + _tag("endfilter")


def _constant(value: Any) -> str:
    if isinstance(value, str):
        return literal(value)
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    raise NoPortableForm(f"a constant {value!r}")


def _list(node: nodes.List | nodes.Tuple) -> str:
    items = ", ".join(expression_text(item) for item in node.items)
    if isinstance(node, nodes.List):
        return f"[{items}]"
    return f"({items},)" if len(node.items) == 1 else f"({items})"


def _dict(node: nodes.Dict) -> str:
    pairs = (f"{expression_text(each.key)}: {expression_text(each.value)}" for each in node.items)
    return f"{{{', '.join(pairs)}}}"


def _getitem(node: nodes.Getitem) -> str:
    if isinstance(node.arg, nodes.Slice):
        parts = [node.arg.start, node.arg.stop, node.arg.step]
        texts = ["" if part is None else expression_text(part) for part in parts]
        index = ":".join(texts if texts[2] else texts[:2])
    else:
        index = expression_text(node.arg)
    return f"{expression_text(node.node)}[{index}]"


def _arguments(node: Any) -> str:
    if node.dyn_args is not None or node.dyn_kwargs is not None:
        raise NoPortableForm("arguments by star")
    texts = [expression_text(each) for each in node.args or ()]
    texts += [f"{each.key}={expression_text(each.value)}" for each in node.kwargs or ()]
    return ", ".join(texts)


def _call(node: nodes.Call) -> str:
    return f"{expression_text(node.node)}({_arguments(node)})"


def _filter(node: nodes.Filter) -> str:
    if node.node is None:
        raise NoPortableForm("a filter of a block")
    arguments = _arguments(node)
    call = f"{node.name}({arguments})" if arguments else node.name
    return f"({expression_text(node.node)} | {call})"


def _test(node: nodes.Test) -> str:
    arguments = _arguments(node)
    call = f"{node.name}({arguments})" if arguments else node.name
    return f"({expression_text(node.node)} is {call})"


def _condition(node: nodes.CondExpr) -> str:
    other = expression_text(node.expr2) if node.expr2 is not None else "''"
    return f"({expression_text(node.expr1)} if {expression_text(node.test)} else {other})"


def _compare(node: nodes.Compare) -> str:
    text = expression_text(node.expr)
    for each in node.ops:
        text += f" {COMPARISONS[each.op]} {expression_text(each.expr)}"
    return f"({text})"


def _concat(node: nodes.Concat) -> str:
    return f"({' ~ '.join(expression_text(each) for each in node.nodes)})"


_STATEMENTS: dict[type[nodes.Node], Callable[[Any], str]] = {
    nodes.Output: _output,
    nodes.If: _if,
    nodes.For: _for,
    nodes.Assign: _assign,
    nodes.AssignBlock: _assign_block,
    nodes.Macro: _macro,
    nodes.CallBlock: _call_block,
    nodes.FilterBlock: _filter_block,
}
_EXPRESSIONS: dict[type[nodes.Node], Callable[[Any], str]] = {
    nodes.Name: lambda node: node.name,
    nodes.NSRef: lambda node: f"{node.name}.{node.attr}",
    nodes.Const: lambda node: _constant(node.value),
    nodes.TemplateData: lambda node: literal(node.data),
    nodes.List: _list,
    nodes.Tuple: _list,
    nodes.Dict: _dict,
    nodes.Getattr: lambda node: f"{expression_text(node.node)}.{node.attr}",
    nodes.Getitem: _getitem,
    nodes.Call: _call,
    nodes.Filter: _filter,
    nodes.Test: _test,
    nodes.CondExpr: _condition,
    nodes.Compare: _compare,
    nodes.Concat: _concat,
    nodes.And: lambda node: f"({expression_text(node.left)} and {expression_text(node.right)})",
    nodes.Or: lambda node: f"({expression_text(node.left)} or {expression_text(node.right)})",
    nodes.Not: lambda node: f"(not {expression_text(node.node)})",
}
