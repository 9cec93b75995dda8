"""Templates that anybody may write: they fill in text, can reach nothing beyond their variables, and cost little."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from jinja2 import Template, TemplateSyntaxError, UndefinedError

from actors.mail.language import BUDGET, MAX_OUTPUT, Budget, TemplateRefused, at, check, environment, weigh

__all__ = ["MAX_OUTPUT", "Letter", "TemplateRefused", "fill", "letter"]

_TOKENS = 10_000
_TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True, slots=True)
class Letter:
    """What a mail of our own says, in both forms."""

    subject: str
    text: str
    html: str


def fill(source: str, variables: Mapping[str, Any], *, html: bool = False) -> str:
    """The template with its variables, what they hold escaped if it is HTML; at most `MAX_OUTPUT` octets. Else
    TemplateRefused: also for a variable that is not given, and for a value that is neither text nor a number."""
    return _filled(_compiled(source, html), variables)


def letter(name: str, /, **variables: Any) -> Letter:
    """A mail of the house: `name`.txt, whose first line is the subject, and `name`.html."""
    subject, _, text = _filled(_ours(f"{name}.txt"), variables).partition("\n")
    return Letter(subject, text.lstrip("\n"), _filled(_ours(f"{name}.html"), variables))


@cache
def _ours(file: str) -> Template:
    return _compiled((_TEMPLATES / file).read_text("utf-8"), file.endswith(".html"))


def _compiled(source: str, html: bool) -> Template:
    language = environment(html)
    try:
        if any(True for _ in islice(language.lex(source), _TOKENS, None)):
            raise TemplateRefused("has too many parts")
        tree = language.parse(source)
        check(tree, depth=0, loops=0)
        weigh(tree, language)
        return Template.from_code(language, language.compile(tree, filename="<template>"), {})
    except TemplateRefused:
        raise
    except TemplateSyntaxError as error:
        raise TemplateRefused(f"is not a template{at(error.lineno)}") from None
    except Exception:
        raise TemplateRefused("is not a template that can be read") from None


def _filled(template: Template, variables: Mapping[str, Any]) -> str:
    pieces, octets = [], 0
    try:
        for piece in template.generate({**variables, BUDGET: Budget()}):
            octets += len(piece.encode(errors="surrogatepass"))
            if octets > MAX_OUTPUT:
                raise TemplateRefused(f"gives more than {MAX_OUTPUT} octets")
            pieces.append(piece)
    except TemplateRefused as error:
        raise TemplateRefused(f"{error}{_place(error)}") from None
    except UndefinedError as error:
        raise TemplateRefused(f"names a variable that is not given{_place(error)}") from None
    except Exception as error:
        raise TemplateRefused(f"does with a variable what its type does not allow{_place(error)}") from None
    return "".join(pieces)


def _place(error: BaseException) -> str:
    """Jinja leaves the template's lines in the traceback."""
    line, trace = None, error.__traceback__
    while trace is not None:
        line = trace.tb_lineno if trace.tb_frame.f_code.co_filename == "<template>" else line
        trace = trace.tb_next
    return at(line)
