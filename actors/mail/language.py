"""What a template may say: a small part of Jinja's language, each piece paid for out of a budget.

The sandbox guards attributes, but bounds neither time nor memory. So there are no calls, no assignments, and nothing
that multiplies: text, values and their members, `if`, two levels of `for`, comparisons, sums, and the filters below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from typing import Any, NoReturn, cast
from urllib.parse import quote

from jinja2 import StrictUndefined, Undefined, nodes, pass_context
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

__all__ = ["BUDGET", "MAX_OUTPUT", "Budget", "TemplateRefused", "at", "check", "environment", "weigh"]

MAX_OUTPUT = 1024 * 1024
BUDGET = " budget"  # no template can spell it

_UNITS = 300_000
_LOOPS = 2
_DEPTH = 40


class TemplateRefused(ValueError):
    """A template that cannot be filled in. The text says why, and repeats neither the template nor its variables."""


@dataclass(slots=True)
class Budget:
    """What is left of the work that one filling may cause."""

    left: int = _UNITS

    def spend(self, units: int) -> None:
        self.left -= units
        if self.left < 0:
            raise TemplateRefused("needs too much work: too many turns, or too much text in filters")


class _Environment(ImmutableSandboxedEnvironment):
    """Members of a variable are its JSON members, never attributes of a Python object."""

    intercepted_binops = frozenset({"+", "-"})

    def getattr(self, obj: Any, attribute: str) -> Any:
        return self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, LoopContext):
            return getattr(obj, argument) if argument in _OF_LOOP else self.undefined(name=argument)
        if isinstance(obj, Undefined):
            obj._fail_with_undefined_error()
        if isinstance(obj, dict) and isinstance(argument, str) and argument in obj:
            return obj[argument]
        if isinstance(obj, list) and isinstance(argument, int) and -len(obj) <= argument < len(obj):
            return obj[argument]
        return self.undefined(name=argument if isinstance(argument, str) else None)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if not _is_number(left) or not _is_number(right):
            raise TemplateRefused("adds or subtracts what is not a number")
        return super().call_binop(context, operator, left, right)


_OF_LOOP = frozenset({"index", "index0", "revindex", "revindex0", "first", "last", "length"})


# Everything that costs more than its own text, or names anything but a variable, is missing here.
_ALLOWED = frozenset(
    {nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.For, nodes.Name, nodes.Const, nodes.CondExpr}
    | {nodes.Getattr, nodes.Getitem, nodes.Filter, nodes.Test, nodes.Compare, nodes.Operand}
    | {nodes.And, nodes.Or, nodes.Not, nodes.Add, nodes.Sub, nodes.Neg}
)
_COMPARED = frozenset({"eq", "ne", "lt", "lteq", "gt", "gteq"})
_TESTS = frozenset({"defined", "undefined", "none", "string", "number", "odd", "even"})


def at(line: int | None) -> str:
    return "" if line is None else f": see its line {line}"


def check(node: nodes.Node, *, depth: int, loops: int) -> None:
    """TemplateRefused, unless all of it is in the part of the language that passes."""
    loops += isinstance(node, nodes.For)
    refusal = (
        "is nested too deeply" if depth > _DEPTH
        else f"has more than {_LOOPS} loops in each other" if loops > _LOOPS
        else None if _is_allowed(node)
        else "uses what templates cannot do here"
    )  # fmt: skip
    if refusal is not None:
        raise TemplateRefused(f"{refusal}{at(node.lineno)}")
    for child in node.iter_child_nodes():
        check(child, depth=depth + 1, loops=loops)


def _is_allowed(node: nodes.Node) -> bool:
    if type(node) not in _ALLOWED:
        return False
    if isinstance(node, nodes.For):
        return not node.recursive and isinstance(node.target, nodes.Name)
    if isinstance(node, nodes.Filter):
        plain = not (node.kwargs or node.dyn_args or node.dyn_kwargs)
        return node.node is not None and node.name in _FILTERS and plain
    if isinstance(node, nodes.Test):
        return node.name in _TESTS and not node.args
    return not isinstance(node, nodes.Operand) or node.op in _COMPARED


def weigh(tree: nodes.Template, environment: _Environment) -> None:
    """Let every turn of a loop cost what is inside it, and every comparison the length of what is compared."""
    for loop in list(tree.find_all(nodes.For)):
        inside = 1 + sum(1 for _ in loop.find_all(nodes.Node))
        loop.iter = _filter(loop.iter, " turns", environment, nodes.Const(inside, lineno=loop.lineno))
    for compare in list(tree.find_all(nodes.Compare)):
        compare.expr = _filter(compare.expr, " compared", environment)
        for operand in compare.ops:
            operand.expr = _filter(operand.expr, " compared", environment)


def _filter(inner: nodes.Node, name: str, environment: _Environment, *args: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(
        cast(nodes.Expr, inner), name, list(args), [], None, None, lineno=inner.lineno, environment=environment
    )


@pass_context
def _turns(context: Context, values: Any, weight: int) -> Iterator[Any]:
    if isinstance(values, Undefined):
        values._fail_with_undefined_error()
    if not isinstance(values, list):
        raise TemplateRefused("loops over what is not an array")
    for value in values:
        context[BUDGET].spend(weight)
        yield value


@pass_context
def _compared(context: Context, value: Any) -> Any:
    if isinstance(value, list | dict):
        raise TemplateRefused("compares what is neither text nor a number")
    context[BUDGET].spend(_size(value))
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _size(value: Any) -> int:
    return 1 + (len(value) // 64 if isinstance(value, str) else len(value) // 2 if isinstance(value, list) else 0)


def _written(value: Any) -> Any:
    """What may appear in a mail: nobody wants to read `None`, or how Python spells a list."""
    if isinstance(value, Undefined):
        value._fail_with_undefined_error()
    if isinstance(value, str) or _is_number(value):
        return value
    raise TemplateRefused("writes what is neither text nor a number")


def _default(value: Any, fallback: Any = "") -> Any:
    return fallback if isinstance(value, Undefined) or value is None else value


def _joined(values: Any, separator: str = "") -> str:
    pieces = [str(_written(value)) for value in _sequence(values)]
    if sum(map(len, pieces)) + len(separator) * len(pieces) > MAX_OUTPUT:
        raise TemplateRefused(f"gives more than {MAX_OUTPUT} octets")
    return separator.join(pieces)


def _sequence(values: Any) -> Sequence[Any]:
    return values if isinstance(values, list) else _refuse("takes the elements of what is not an array")


def _truncated(value: Any, length: int = 100) -> str:
    text = _text(value)
    return text if len(text) <= length else f"{text[: max(length - 1, 0)]}…"


def _text(value: Any) -> str:
    return str(_written(value))


def _refuse(why: str) -> NoReturn:
    raise TemplateRefused(why)


_FILTERS: dict[str, Callable[..., Any]] = {
    "capitalize": lambda value: _text(value).capitalize(),
    "default": _default,
    "first": lambda values: _sequence(values)[0],
    "join": _joined,
    "last": lambda values: _sequence(values)[-1],
    "length": len,
    "lower": lambda value: _text(value).lower(),
    "title": lambda value: _text(value).title(),
    "trim": lambda value: _text(value).strip(),
    "truncate": _truncated,
    "upper": lambda value: _text(value).upper(),
    "urlencode": lambda value: quote(_text(value), safe=""),
}


def _charged(filter: Callable[..., Any]) -> Callable[..., Any]:
    @pass_context  # which also keeps it from being run by the compiler
    @wraps(filter)
    def charged(context: Context, value: Any, *args: Any) -> Any:
        context[BUDGET].spend(_size(value) + sum(map(_size, args)))
        answer = filter(value, *args)
        context[BUDGET].spend(_size(answer))
        return answer

    return charged


@cache
def environment(html: bool) -> _Environment:
    made = _Environment(
        autoescape=html, undefined=StrictUndefined, finalize=_written, optimized=False, cache_size=0,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    made.globals.clear()
    made.filters = {name: _charged(filter) for name, filter in _FILTERS.items()}
    made.filters.update({" turns": _turns, " compared": _compared})
    made.tests = {name: test for name, test in made.tests.items() if name in _TESTS}
    return made
