"""A chat template as an equal one that every runtime's Jinja renders alike, proved by rendering."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, TemplateError, nodes
from jinja2.ext import loopcontrols

from slmkit.checkpoint.chat.conversations import golden_conversations, rendered
from slmkit.checkpoint.chat.rewrites import JSON, Rewriter, assigned_names, values_of_and
from slmkit.checkpoint.chat.statements import StatementRewriter
from slmkit.checkpoint.chat.unparse import NoPortableForm, template_text
from slmkit.checkpoint.tokenizer import SPECIAL, GenerationTag, Tokenizer

# json.dumps with an indentation, separators or sorted keys, which the engines' tojson lacks:
# ``step``: of the indentation; ``pad``: the newline and indentation so far, empty for one line.
JSON_MACRO = f"""
{{%- macro {JSON}(value, step, pad, comma, colon, ordered) -%}}
{{%- if value is mapping and (value | length) > 0 -%}}
{{{{- '{{' -}}}}
{{%- for key, item in ((value | dictsort) if ordered else (value | items)) -%}}
{{%- if not loop.first -%}}{{{{- comma -}}}}{{%- endif -%}}
{{{{- pad ~ step ~ (key | tojson) ~ colon -}}}}
{{{{- {JSON}(item, step, (pad ~ step), comma, colon, ordered) -}}}}
{{%- endfor -%}}
{{{{- pad ~ '}}' -}}}}
{{%- elif value is iterable and value is not string and value is not mapping and (value | length) > 0 -%}}
{{{{- '[' -}}}}
{{%- for item in value -%}}
{{%- if not loop.first -%}}{{{{- comma -}}}}{{%- endif -%}}
{{{{- pad ~ step -}}}}{{{{- {JSON}(item, step, (pad ~ step), comma, colon, ordered) -}}}}
{{%- endfor -%}}
{{{{- pad ~ ']' -}}}}
{{%- else -%}}
{{{{- value | tojson -}}}}
{{%- endif -%}}
{{%- endmacro -%}}
"""  # noqa: E501 - one condition


def portable_template(
    tokenizer: Tokenizer, *, without_bos: bool = False, indents: bool = False
) -> str | None:
    """The checkpoint's template in the smallest common Jinja; None if there is no equal form.

    Special tokens stand in it as texts. ``without_bos``: the runtime puts the bos token before the
    prompt itself, so the template must not; ``indents``: its tojson can indent.
    """
    if tokenizer.template is None:
        return None
    special = {role: tokenizer.special.get(role, "") for role in SPECIAL}
    begins = special["bos_token"] if without_bos else ""
    if without_bos:
        if not begins:
            return None
        special["bos_token"] = ""
    try:
        text = rewritten(tokenizer.template, special, indents)
    except (NoPortableForm, TemplateError, RecursionError):
        return None
    other = tokenizer.with_template(text)
    for conversation in golden_conversations(tokenizer):
        got = rendered(other, conversation)
        if got is None or begins + got != rendered(tokenizer, conversation):
            return None
    return text


def rewritten(template: str, special: Mapping[str, str], indents: bool = False) -> str:
    """The template, rewritten. Raises NoPortableForm, or TemplateError if it cannot be parsed."""
    tree = _parsed(template)
    own = assigned_names(tree)
    known = {role: text for role, text in special.items() if role not in own}
    rewriter = Rewriter(known, values_of_and(tree), indents)
    found: Any = rewriter.visit(StatementRewriter().visit(tree))
    if rewriter.needs_json:
        found.body = [*_parsed(JSON_MACRO).body, *found.body]
    return template_text(found)


def _parsed(template: str) -> nodes.Template:
    """The syntax tree, read with the settings of Hugging Face's templates."""
    environment = Environment(  # noqa: S701 - a prompt is no HTML, and nothing is rendered here
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols]
    )
    return environment.parse(template)
