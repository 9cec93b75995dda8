"""What a validator found, told without the caller's words: where it is, and what would be right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Violation", "violations_of"]

MOST = 20


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that is wrong. `pointer`: a JSON pointer into the body, or `query/name`, `path/name`, `header/name`."""

    pointer: str
    detail: str


_DETAILS = {
    "missing": "is required",
    "extra_forbidden": "holds a member that is not known here",
    "string_type": "must be a string",
    "string_unicode": "holds text that is not Unicode",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match {pattern}",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "bool_type": "must be true or false",
    "float_type": "must be a number",
    "list_type": "must be an array",
    "none_required": "must be null",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "too_short": "must have at least {min_length} elements",
    "too_long": "must have at most {max_length} elements",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be one of {expected}",
    "uuid_parsing": "must be a UUID",
    "uuid_type": "must be a UUID",
    "datetime_type": "must be a date and time such as 2030-01-31T12:00:00Z",
    "datetime_parsing": "must be a date and time such as 2030-01-31T12:00:00Z",
    "datetime_from_date_parsing": "must be a date and time such as 2030-01-31T12:00:00Z",
    "timezone_aware": "must have a time zone, such as 2030-01-31T12:00:00Z",
}


def violations_of(errors: Iterable[Mapping[str, Any]]) -> list[Violation]:
    """The first few of pydantic's errors, each at the deepest place that is not named by the caller."""
    return [_violation(error) for _, error in zip(range(MOST), errors, strict=False)]


def _violation(error: Mapping[str, Any]) -> Violation:
    kind, loc = error["type"], tuple(error["loc"])
    if kind == "extra_forbidden":
        loc = loc[:-1]  # the member's name is the caller's word
    if loc[:2] in (("body", "headers"), ("body", "metadata")):
        loc = loc[:2]  # so are the names of these members
    return Violation(_pointer(loc), _detail(kind, error))


def _detail(kind: str, error: Mapping[str, Any]) -> str:
    if kind.startswith("ours_"):
        return str(error["msg"])
    template = _DETAILS.get(kind)
    return template.format_map(error.get("ctx") or {}) if template else "is not valid"


def _pointer(loc: tuple[str | int, ...]) -> str:
    if not loc:
        return ""
    where, *parts = loc
    if where != "body":
        return "/".join(map(str, loc))
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in parts)
