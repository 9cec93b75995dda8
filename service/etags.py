"""Entity tags: who changes a thing says which state of it was seen, and who reads it again gets nothing it has already."""

from __future__ import annotations

import hashlib
import re
from typing import Annotated

from fastapi import Header, Response
from pydantic import BaseModel

from service.problems import Problem

__all__ = ["IfMatch", "IfNoneMatch", "check_unchanged", "etag_of", "is_known", "not_modified"]

_TAG = r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"'
_TAGS = re.compile(rf"[ \t]*{_TAG}(?:[ \t]*,[ \t]*{_TAG})*[ \t]*")

IfMatch = Annotated[
    list[str] | None,
    Header(alias="If-Match", description="Act only on the state that had one of these `ETag`s; `*`: on any. Else 412."),
]
IfNoneMatch = Annotated[
    list[str] | None,
    Header(alias="If-None-Match", description="`ETag`s of what is known already; if it is still that: 304, no body."),
]


def etag_of(view: BaseModel) -> str:
    """The strong tag of what is shown: another text, another tag."""
    return f'"{hashlib.sha256(view.model_dump_json().encode()).hexdigest()[:32]}"'


def check_unchanged(wanted: list[str] | None, current: str) -> None:
    """Raises Problem: none of the wanted tags is the current one (412), or they are no tags (400). With the thing locked."""
    if wanted is None:
        return
    tags = _tags(wanted)
    if tags is None:
        raise Problem("bad-request", 'If-Match must hold ETags in their quotes, such as "a1b2", or * for any state.')
    if tags != ["*"] and current not in tags:
        raise Problem(
            "precondition-failed",
            "It has changed since that ETag; the current one is in `ETag`.",
            headers={"ETag": current},
        )


def is_known(known: list[str] | None, current: str) -> bool:
    """Whether the caller has this state already. Weak tags count too; what is no tag matches nothing."""
    tags = _tags(known or []) or []
    return tags == ["*"] or current in (tag.removeprefix("W/") for tag in tags)


def not_modified(current: str) -> Response:
    return Response(status_code=304, headers={"ETag": current})


def _tags(lines: list[str]) -> list[str] | None:
    """The tags of a header, as they were written; None if it is malformed. A weak one keeps its W/: it equals no strong one."""
    text = ",".join(lines).strip(" \t")
    if text == "*":
        return ["*"]
    return re.findall(_TAG, text) if _TAGS.fullmatch(text) else None
