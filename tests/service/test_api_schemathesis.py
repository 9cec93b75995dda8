"""What the document allows is done, and what it does not is refused: requests drawn from it, all checks of Schemathesis."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext, suppress
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
import schemathesis
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from sqlalchemy.orm import Session
from stream_eyes import Served

from actors import outside
from service import keys, stream
from service.app import create_app
from service.database import engine_for
from service.keys import ROLES
from service.openapi import operations
from service.settings import Settings

FEW, MANY = 6, 100
#: A body beyond the limit is refused before anything else of it is looked at.
CONFIG = {
    "checks": {
        "negative_data_rejection": {"expected-statuses": ["400", "401", "403", "404", "409", "413", "415", "422"]}
    }
}
DOCUMENT = create_app(Settings(database_url="postgresql://127.0.0.1:1/none")).openapi()
schema = schemathesis.openapi.from_dict(DOCUMENT, config=schemathesis.Config.from_dict(CONFIG))
schemathesis.serializer("message/rfc822")(lambda _context, value: str(value).encode("utf-8", "replace"))

# Hosts that belong to the public DNS, and mailboxes of such: of what a format allows, what the API takes.
ADDRESSES = ["ada@example.org", "a.b+c@example.co.uk", "ü@münchen.de"]
URLS = [
    "https://hooks.example.org/in",
    "https://example.org:8443/a?b=c",
    "https://1.1.1.1/",
]
schemathesis.openapi.format("idn-email", st.sampled_from(ADDRESSES))
schemathesis.openapi.format("uri", st.sampled_from(URLS))


@pytest.fixture(scope="module")
def served(service_url: str, surroundings: None) -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as quick:
        quick.setattr(stream, "LONGEST", timedelta(seconds=0.05))
        quick.setenv("PUBLIC_URL", "https://shop.example.org")
        outside.forget()
        served = Served(service_url, rate=0, refusals=0)
        yield served
        served.end()


@pytest.fixture(scope="module")
def bearers(service_url: str) -> dict[str, str]:
    """An API key of each role."""
    engine = engine_for(Settings(database_url=service_url))
    with Session(engine) as session, session.begin():
        made = {role: keys.create(session, name=role, role=role).secret for role in ROLES}
    engine.dispose()
    return made


def positive(case: schemathesis.Case) -> bool:
    return case.meta is not None and case.meta.generation.mode.is_positive


def whole(value: Any) -> Any:
    """To JSON Schema 2.0 is an integer; the API wants it written as one."""
    if isinstance(value, dict):
        return {name: whole(each) for name, each in value.items()}
    if isinstance(value, list):
        return [whole(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def settle(case: schemathesis.Case) -> None:
    """What no schema can say: keys are new, cursors ours, queries can be read, times in order, and templates are filled in."""
    if "Idempotency-Key" in (case.headers or {}):
        case.headers["Idempotency-Key"] = str(uuid4())
    (case.headers or {}).pop("If-Match", None)
    (case.query or {}).pop("cursor", None)
    if "q" in (case.query or {}):
        case.query["q"] = "actor:send_mail error:timeout"
    if isinstance(case.body, dict):
        case.body = whole(case.body)
        for name in ("variables", "args", "kwargs", "send_at", "expires_at", "until"):
            case.body.pop(name, None)
        if "query" in case.body:
            case.body["query"] = "actor:send_mail error:timeout"
        if "since" in case.body:
            case.body["since"] = "2026-11-25T08:00:00Z"


def carried_out(case: schemathesis.Case, served: Served, bearers: dict[str, str]) -> None:
    """With a key of the role that the document names, or without one where it names none."""
    needed = [role for each in case.operation.definition.raw.get("security", []) for role in each["HTTPBearer"]]
    headers = {"Authorization": f"Bearer {bearers[needed[0]]}"} if needed else {}
    if positive(case):
        settle(case)
    else:
        assume(case.media_type in (None, "application/json"))  # any text may be a form or a mail
        wrong = {where.name for where, each in case.meta.components.items() if each.mode.is_negative}
        assume(wrong - {"HEADER"} or (wrong and len(case.operation.headers)))  # unknown headers are no fault
        sent = {name: each for name, each in (case.query or {}).items() if name != "state"}
        assume(not any(isinstance(each, (list, dict)) for each in sent.values()))  # their last arrives
    case.call_and_validate(base_url=f"http://127.0.0.1:{served.port}", headers=headers)


def each_operation(function: Any) -> Any:
    routes = [(path, method) for path, method, _ in operations(DOCUMENT)]
    each_mode = pytest.mark.parametrize("mode", GenerationMode)
    return each_mode(pytest.mark.parametrize(("path", "method"), routes)(function))


@each_operation
def test_what_the_document_allows_is_done_and_what_it_does_not_is_refused(
    served: Served, bearers: dict[str, str], path: str, method: str, mode: GenerationMode
) -> None:
    draw(served, bearers, path, method, mode, count=FEW, derandomize=True)


@pytest.mark.long
@pytest.mark.timeout(600)
@each_operation
def test_so_it_is_with_many_requests_more(
    served: Served, bearers: dict[str, str], path: str, method: str, mode: GenerationMode
) -> None:
    draw(served, bearers, path, method, mode, count=MANY)


def draw(
    served: Served,
    bearers: dict[str, str],
    path: str,
    method: str,
    mode: GenerationMode,
    *,
    count: int,
    derandomize: bool = False,
) -> None:
    @settings(
        max_examples=count,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        derandomize=derandomize,
    )
    @given(case=schema[path][method.upper()].as_strategy(generation_mode=mode))
    def carry_out(case: schemathesis.Case) -> None:
        carried_out(case, served, bearers)

    with suppress(Unsatisfiable) if mode.is_negative else nullcontext():  # some allow all that can be sent
        carry_out()
