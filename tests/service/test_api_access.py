"""Who may do what: every route that there is against every role, and keys that end."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient
from service_eyes import Database, problem_of
from sqlalchemy.orm import Session
from typer.testing import CliRunner, Result

from service import keys
from service.__main__ import cli
from service.database import engine_for
from service.keys import ROLES, Role
from service.settings import Settings

#: The least role that each route needs, also those that the document does not tell of; None: none.
NEEDS: dict[tuple[str, str], Role | None] = {
    ("post", "/v1/signups"): "writer",
    ("post", "/v1/orders"): "writer",
    ("post", "/v1/events"): "writer",
    ("post", "/v1/mails"): "writer",
    ("post", "/v1/endpoints"): "admin",
    ("get", "/v1/endpoints"): "reader",
    ("get", "/v1/endpoints/{endpoint_id}"): "reader",
    ("patch", "/v1/endpoints/{endpoint_id}"): "admin",
    ("delete", "/v1/endpoints/{endpoint_id}"): "admin",
    ("post", "/v1/endpoints/{endpoint_id}/rotate-secret"): "admin",
    ("post", "/v1/endpoints/{endpoint_id}/test"): "admin",
    ("post", "/v1/endpoints/{endpoint_id}/replay"): "admin",
    ("get", "/v1/endpoints/{endpoint_id}/replays"): "reader",
    ("get", "/v1/replays/{replay_id}"): "reader",
    ("post", "/v1/replays/{replay_id}/abort"): "admin",
    ("get", "/v1/endpoints/{endpoint_id}/deliveries"): "reader",
    ("get", "/v1/deliveries/{delivery_id}"): "reader",
    ("post", "/v1/deliveries/{delivery_id}/resend"): "writer",
    ("get", "/v1/mails/{mail_id}"): "reader",
    ("get", "/v1/unsubscribe/{token}"): None,
    ("post", "/v1/unsubscribe/{token}"): None,
    ("get", "/v1/suppressions"): "reader",
    ("post", "/v1/suppressions"): "admin",
    ("delete", "/v1/suppressions"): "admin",
    ("post", "/v1/mail-events"): "writer",
    ("get", "/v1/tasks"): "reader",
    ("get", "/v1/tasks/{task_id}"): "reader",
    ("get", "/v1/tasks/{task_id}/stream"): "reader",
    ("post", "/v1/tasks/{task_id}/retry"): "operator",
    ("post", "/v1/tasks/{task_id}/cancel"): "operator",
    ("post", "/v1/tasks/{task_id}/reschedule"): "operator",
    ("post", "/v1/tasks/{task_id}/edit"): "admin",
    ("get", "/v1/failures"): "reader",
    ("get", "/v1/failures/{failure}"): "reader",
    ("post", "/v1/bulk-actions"): "operator",
    ("get", "/v1/bulk-actions"): "operator",
    ("get", "/v1/bulk-actions/{bulk_id}"): "operator",
    ("post", "/v1/bulk-actions/{bulk_id}/abort"): "operator",
    ("get", "/v1/queues"): "reader",
    ("post", "/v1/queues/{name}/pause"): "operator",
    ("post", "/v1/queues/{name}/resume"): "operator",
    ("get", "/v1/schedules"): "reader",
    ("get", "/v1/schedules/{name}"): "reader",
    ("post", "/v1/schedules/{name}/run"): "operator",
    ("post", "/v1/schedules/{name}/pause"): "operator",
    ("post", "/v1/schedules/{name}/resume"): "operator",
    ("get", "/v1/processes"): "reader",
    ("get", "/v1/audit"): "reader",
    ("get", "/v1/stats"): "reader",
    ("get", "/v1/attention"): "reader",
    ("get", "/livez"): None,
    ("get", "/readyz"): None,
    ("get", "/metrics"): None,
    ("get", "/openapi.json"): None,
    ("get", "/dashboard"): None,
    ("head", "/openapi.json"): None,
    ("get", "/docs"): None,
    ("get", "/docs/style.css"): None,
    ("get", "/problems/{slug}"): None,
}
BODIES: dict[str, Any] = {
    "/v1/signups": {"email": "a@example.org", "name": "A"},
    "/v1/orders": {
        "email": "a@example.org", "currency": "EUR", "items": [{"sku": "a", "quantity": 1, "unit_price_cents": 1}],
    },
    "/v1/events": {"type": "a", "data": 1},
    "/v1/mails": {"to": "a@example.org", "subject": "s", "text": "t"},
    "/v1/suppressions": {"recipient": "a@example.org"},
    "/v1/mail-events": {"event_id": "e", "event_type": "delivered"},
    "/v1/endpoints": {"url": "https://h.example.org/", "event_types": ["*"]},
    "/v1/endpoints/{endpoint_id}": {},
    "/v1/endpoints/{endpoint_id}/replay": {"since": "2026-01-01T00:00:00Z"},
    "/v1/tasks/{task_id}/reschedule": {"delay_seconds": 1},
    "/v1/tasks/{task_id}/edit": {},
    "/v1/bulk-actions": {"action": "retry", "query": "actor:nobody"},
}  # fmt: skip

Call = Callable[[str | None], Any]


@pytest.fixture
def make_key(api: TestClient, service_url: str) -> Callable[[Role], keys.NewKey]:
    def make(role: Role) -> keys.NewKey:
        engine = engine_for(Settings(database_url=service_url))
        with Session(engine) as session, session.begin():
            new = keys.create(session, name=f"the {role}", role=role)
        engine.dispose()
        return new

    return make


def revoked(service_url: str, new: keys.NewKey) -> str:
    """The key, no longer in force; it cannot be revoked twice."""
    engine = engine_for(Settings(database_url=service_url))
    with Session(engine) as session, session.begin():
        assert keys.revoke(session, new.id)
    with Session(engine) as session, session.begin():
        assert not keys.revoke(session, new.id)
    engine.dispose()
    return new.secret


def call(api: TestClient, method: str, path: str, key: str | None) -> Any:
    body = BODIES.get(path) if method in ("post", "patch") else None
    headers = {"Authorization": f"Bearer {key}"} if key else {"Authorization": ""}
    filled = re.sub(r"\{\w+\}", str(uuid4()), path)
    return api.request(method.upper(), filled, json=body, headers=headers)


def test_the_table_of_roles_names_every_route_that_there_is(api: TestClient) -> None:
    found = list(iter_route_contexts(api.app.routes))  # type: ignore[attr-defined]
    there = {(method.lower(), route.path) for route in found for method in getattr(route, "methods", None) or ()}
    assert {(method, path.replace(":path}", "}")) for method, path in there} == set(NEEDS)
    document = api.get("/openapi.json").json()
    assert {(method, path) for path, methods in document["paths"].items() for method in methods} <= set(NEEDS)


@pytest.mark.parametrize("role", ROLES)
def test_a_key_may_do_what_its_role_allows_and_nothing_else(
    api: TestClient, database: Database, make_key: Callable[[Role], keys.NewKey], role: Role
) -> None:
    key = make_key(role).secret
    before = database.rows()
    for (method, path), needed in NEEDS.items():
        allowed = needed is None or ROLES.index(role) >= ROLES.index(needed)
        answer = call(api, method, path, key)
        if allowed:
            assert answer.status_code not in (401, 403, *range(500, 600)), (method, path)
        else:
            assert problem_of(answer)["status"] == 403, (method, path)
    if role == "reader":
        assert database.rows() == before


@pytest.mark.parametrize("kind", ["none", "wrong", "revoked"])
def test_without_a_key_in_force_nothing_is_answered_but_what_needs_none(
    api: TestClient, database: Database, service_url: str, make_key: Callable[[Role], keys.NewKey], kind: str
) -> None:
    key = {"none": None, "wrong": "obk_" + "x" * 43, "revoked": revoked(service_url, make_key("admin"))}[kind]
    before = database.rows()
    for (method, path), needed in NEEDS.items():
        answer = call(api, method, path, key)
        if needed is None:
            assert answer.status_code == 200 or (answer.status_code in (400, 404) and "{" in path), (method, path)
        else:
            assert problem_of(answer)["status"] == 401, (method, path)
            assert answer.headers["www-authenticate"] == "Bearer"
    assert database.rows() == before


@pytest.mark.parametrize(
    "authorization",
    ["Bearer", "Bearer ", "Bearer x", "Basic YTpi", "obk_x", "Bearer \x7f", "bearer  an-admin-key-of-the-tests x", "ä"],
)
def test_a_wrong_key_is_refused(api: TestClient, authorization: str) -> None:
    answer = api.get("/v1/tasks", headers={"Authorization": authorization.encode()})
    assert problem_of(answer)["status"] == 401


def test_a_revoked_key_is_refused_from_the_next_request_on(
    api: TestClient, service_url: str, make_key: Callable[[Role], keys.NewKey]
) -> None:
    new = make_key("reader")
    assert call(api, "get", "/v1/tasks", new.secret).status_code == 200
    revoked(service_url, new)
    assert call(api, "get", "/v1/tasks", new.secret).status_code == 401


def test_the_audit_names_the_key(api: TestClient, database: Database, make_key: Callable[[Role], keys.NewKey]) -> None:
    task_id = api.post("/v1/mails", json=BODIES["/v1/mails"]).json()["mail_id"]
    key = make_key("admin").secret
    assert api.post(f"/v1/tasks/{task_id}/cancel", headers={"Authorization": f"Bearer {key}"}).status_code == 200
    assert database.one("select who from outbox.audit")["who"] == "the admin"


def test_keys_are_made_listed_and_revoked_from_the_command_line(api: TestClient, service_url: str) -> None:
    def run(*arguments: str) -> Result:
        return CliRunner().invoke(cli, ["keys", *arguments], env={"DATABASE_URL": service_url})

    made = json.loads(run("create", "--name", "ci", "--role", "reader", "--json").stdout)
    assert call(api, "get", "/v1/tasks", made["key"]).status_code == 200
    (listed,) = json.loads(run("list", "--json").stdout)
    assert (listed["id"], listed["name"], listed["role"], listed["revoked_at"]) == (made["id"], "ci", "reader", None)
    assert made["key"] not in run("list").stdout
    assert json.loads(run("revoke", made["id"], "--json").stdout) == {"id": made["id"], "revoked": True}
    assert run("revoke", made["id"]).exit_code == 1
    assert call(api, "get", "/v1/tasks", made["key"]).status_code == 401
    assert run("create", "--name", "ci", "--role", "king").exit_code == 2
    assert run("create", "--name", " ").exit_code == 2


def test_a_key_is_kept_as_a_digest_only(database: Database, make_key: Callable[[Role], keys.NewKey]) -> None:
    secret = make_key("writer").secret
    (row,) = database.query("select k::text as everything from app.api_key k")
    assert secret not in row["everything"]
    assert secret.encode().hex() not in row["everything"]
    assert len(secret) > 40
