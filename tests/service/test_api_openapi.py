"""The document: every operation is complete, and what it shows is what the API takes and gives."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import jsonschema_rs
import pytest
from fastapi.testclient import TestClient
from prometheus_client import CONTENT_TYPE_LATEST
from service_eyes import Database, problem_of
from sqlalchemy.orm import Session
from standardwebhooks import Webhook

from actors import outside
from actors.mail.unsubscribe import token_for
from actors.webhooks import notices
from service import examples, outgoing
from service.app import create_app
from service.database import engine_for
from service.openapi import operations
from service.problems import KINDS, MEDIA_TYPE
from service.settings import Settings

GONE = "HTTP 410: the endpoint is gone for good and gets disabled"
DOCUMENT = create_app(Settings(database_url="postgresql://127.0.0.1:1/none")).openapi()
OPERATIONS = {operation["operationId"]: (path, method, operation) for path, method, operation in operations(DOCUMENT)}
WEBHOOKS = {path: operation for path, _, operation in operations(DOCUMENT, where="webhooks")}


def resolved(given: dict[str, Any]) -> dict[str, Any]:
    found: Any = DOCUMENT
    for part in given["$ref"].split("/")[1:] if "$ref" in given else ():
        found = found[part]
    return found if "$ref" in given else given


def valid(value: Any, schema: dict[str, Any]) -> bool:
    whole = {**schema, "components": DOCUMENT["components"]}
    return bool(jsonschema_rs.Draft202012Validator(whole).is_valid(value))


def bodies() -> Iterator[Any]:
    for name, (_, _, operation) in OPERATIONS.items():
        for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
            for example in content["examples"].values():
                yield pytest.param(name, media_type, example["value"], id=f"{name}: {example['summary']}")


def test_the_document_has_its_licence_and_a_text_for_every_tag() -> None:
    assert DOCUMENT["info"]["license"]["identifier"] == "Apache-2.0"
    texts = {tag["name"]: tag["description"] for tag in DOCUMENT["tags"]}
    used = {tag for _, _, operation in OPERATIONS.values() for tag in operation["tags"]} | {"webhooks"}
    assert used == set(texts)
    assert all(texts.values())


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_is_complete(name: str) -> None:
    path, _, operation = OPERATIONS[name]
    assert operation["summary"]
    assert operation["description"]
    statuses = set(operation["responses"])
    assert "500" in statuses
    assert "default" not in statuses
    if "security" in operation:
        assert {"400", "401", "403", "429", "503"} <= statuses
        ((role,),) = operation["security"][0].values()
        assert role in ("reader", "writer", "operator", "admin")
    if "{" in path:
        assert {"404", "422"} <= statuses
    if "requestBody" in operation:
        assert {"400", "413", "422"} <= statuses
        assert all(content["examples"] for content in operation["requestBody"]["content"].values())


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_answer_is_shown_as_its_schema_says(name: str) -> None:
    for given in OPERATIONS[name][2]["responses"].values():
        answer = resolved(given)
        assert answer["description"] != "Successful Response"
        assert "X-Request-ID" in answer["headers"]
        for media_type, content in answer.get("content", {}).items():
            shown = [each["value"] for each in content.get("examples", {}).values()] or [content["example"]]
            for value in shown:
                assert valid(value, content["schema"]), (media_type, value)


def test_every_problem_is_documented_where_it_can_occur() -> None:
    shown = {
        (each["value"]["type"], status)
        for _, _, operation in OPERATIONS.values()
        for status, given in operation["responses"].items()
        for each in resolved(given).get("content", {}).get(MEDIA_TYPE, {}).get("examples", {}).values()
    }
    possible = {slug: kind for slug, kind in KINDS.items() if slug != "method-not-allowed"}  # of no operation at all
    assert shown == {(f"/problems/{slug}", str(kind.status)) for slug, kind in possible.items()}


@pytest.mark.parametrize(("name", "media_type", "value"), [*bodies()])
def test_every_request_that_is_shown_is_accepted(
    api: TestClient, database: Database, name: str, media_type: str, value: Any
) -> None:
    path, method, operation = OPERATIONS[name]
    endpoint = api.post("/v1/endpoints", json={"url": "https://h.example.org/", "event_types": ["*"]}).json()
    mail = api.post("/v1/mails", json={"to": "a@example.org", "subject": "s", "text": "t"}).json()
    token = token_for("a@example.org", "newsletter", outside.vault())
    filled = path.format(endpoint_id=endpoint["endpoint_id"], task_id=mail["mail_id"], token=token)
    if name == "edit_task":
        assert api.post(f"/v1/tasks/{mail['mail_id']}/cancel").status_code == 200
    content = json.dumps(value) if media_type == "application/json" else value
    answer = api.request(method.upper(), filled, content=content, headers={"Content-Type": media_type})
    assert answer.status_code < 300, answer.text
    ((answered, documented),) = operation["responses"][str(answer.status_code)]["content"].items()
    assert answer.headers["content-type"].partition(";")[0] == answered
    if media_type == "application/json":
        assert valid(value, operation["requestBody"]["content"][media_type]["schema"])
    if answered == "application/json":
        assert valid(answer.json(), documented["schema"])
        assert set(answer.json()) == set(documented["example"])


@pytest.mark.parametrize(
    "name", [name for name, (path, method, _) in OPERATIONS.items() if method == "get" and "{" not in path]
)
def test_what_is_read_has_the_documented_type(api: TestClient, name: str) -> None:
    path, _, operation = OPERATIONS[name]
    answer = api.get(path)
    media_type = answer.headers["content-type"].partition(";")[0]
    assert media_type in operation["responses"]["200"]["content"]
    assert media_type == CONTENT_TYPE_LATEST.partition(";")[0] or valid(
        answer.json(), operation["responses"]["200"]["content"][media_type]["schema"]
    )


@pytest.mark.parametrize("name", [name for name, (_, method, _) in OPERATIONS.items() if method == "get"])
def test_a_query_that_may_be_empty_is_as_if_it_were_not_there(api: TestClient, name: str) -> None:
    path, _, operation = OPERATIONS[name]
    endpoint = api.post("/v1/endpoints", json={"url": "https://h.example.org/", "event_types": ["*"]}).json()
    for each in operation.get("parameters", ()):
        if each.get("allowEmptyValue"):
            filled = path.format(endpoint_id=endpoint["endpoint_id"])
            assert api.get(f"{filled}?{each['name']}=").json() == api.get(filled).json()


def test_a_problem_is_as_the_document_says(api: TestClient) -> None:
    schema = {"$ref": "#/components/schemas/Problem"}
    for answer in (
        api.get("/v1/tasks", headers={"Authorization": ""}),
        api.get("/v1/tasks?limit=0"),
        api.post("/v1/signups", json={}),
        api.get("/nowhere"),
    ):
        assert valid(problem_of(answer), schema)


# ---------------------------------------------------------------------- webhooks


def payload(api: TestClient, database: Database, name: str) -> bytes:
    """The body that really goes out for what an example tells."""
    wanted = {"url": "https://h.example.org/", "event_types": ["*", "webhook.*"]}
    endpoint = api.post("/v1/endpoints", json=wanted).json()
    if name == "webhook.endpoint_disabled":
        other = api.post("/v1/endpoints", json={**wanted, "event_types": ["a"]}).json()
        with Session(engine_for(Settings(database_url=database.url))) as session, session.begin():
            assert notices.disable(session, UUID(other["endpoint_id"]), url=other["url"], reason=GONE)
        return bytes(database.one("select body from app.payload")["body"])
    if name == "order.placed":
        answer = api.post("/v1/orders", json=examples.REQUESTS["place_order"][0].value)
    elif name == "webhook.test":
        answer = api.post(f"/v1/endpoints/{endpoint['endpoint_id']}/test")
    else:
        answer = api.post("/v1/events", json=examples.REQUESTS["publish_event"][0].value)
    assert answer.status_code < 300, answer.text
    return bytes(database.one("select body from app.payload")["body"])


def timeless(body: dict[str, Any]) -> dict[str, Any]:
    chance = {"order_id", "placed_at", "endpoint_id", "disabled_at"}
    data = {name: value for name, value in body["data"].items() if name not in chance}
    return {**body, "timestamp": "", "data": data}


@pytest.mark.parametrize("name", WEBHOOKS)
def test_every_webhook_is_shown_as_it_is_sent(api: TestClient, database: Database, name: str) -> None:
    content = WEBHOOKS[name]["requestBody"]["content"]["application/json"]
    (shown,) = (each["value"] for each in content["examples"].values())
    sent = json.loads(payload(api, database, name))
    assert timeless(sent) == timeless(shown)
    assert [*sent, *sent["data"]] == [*shown, *shown["data"]]
    for body in (shown, sent):
        assert valid(body, content["schema"])


@pytest.mark.parametrize("name", WEBHOOKS)
def test_the_signature_that_is_shown_is_right(name: str) -> None:
    sent = outgoing.SENT[name]
    documented = {each["name"]: each for each in WEBHOOKS[name]["parameters"]}
    assert set(documented) == {"webhook-id", "webhook-timestamp", "webhook-signature"} == set(sent.headers)
    key = Webhook(examples.SECRET)
    at = int(sent.headers["webhook-timestamp"])
    signature = sent.headers["webhook-signature"]
    assert key.sign(sent.headers["webhook-id"], datetime.fromtimestamp(at, UTC), sent.body.decode()) == signature
    assert {"2XX", "410", "429"} <= set(WEBHOOKS[name]["responses"])
    assert "Retry-After" in WEBHOOKS[name]["responses"]["429"]["headers"]
