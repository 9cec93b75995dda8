"""Endpoints over HTTP: made, read, changed, deleted; their secrets shown once and sealed at rest."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from fastapi.testclient import TestClient
from service_eyes import Database, problem_of

URL = "https://hooks.example.org/in"


def create(api: TestClient, *, key: str | None = None, **given: Any) -> dict[str, Any]:
    body = {"url": URL, "event_types": ["*"], **given}
    answer = api.post("/v1/endpoints", json=body, headers={"Idempotency-Key": key} if key else {})
    assert answer.status_code == 201, answer.text
    content: dict[str, Any] = answer.json()
    return content


def stored_bytes(database: Database) -> bytes:
    """Everything that the tables say of endpoints and answers."""
    rows = database.query(
        """select e::text from app.endpoint e union all select s::text from app.endpoint_secret s
        union all select encode(sealed, 'escape') from app.endpoint_secret
        union all select encode(answer, 'escape') from app.idempotency_key"""
    )
    return repr(rows).encode()


def test_an_endpoint_is_created_with_a_secret_that_is_shown_once(api: TestClient, database: Database) -> None:
    made = create(
        api, url="HTTPS://Hooks.Example.ORG:443/in?a=b", event_types=["order.*", "user.created"], description="CRM",
        headers={"X-Tenant": "seven"},
    )  # fmt: skip
    assert made["url"] == "https://hooks.example.org/in?a=b"
    assert made["event_types"] == ["order.*", "user.created"]
    assert (made["description"], made["header_names"], made["enabled"]) == ("CRM", ["X-Tenant"], True)
    assert made["secret"].startswith("whsec_")
    read = api.get(f"/v1/endpoints/{made['endpoint_id']}").json()
    assert read == {name: value for name, value in made.items() if name != "secret"}
    assert made["secret"].encode() not in stored_bytes(database)


def test_a_repeated_creation_shows_the_secret_again_and_keeps_it_sealed(api: TestClient, database: Database) -> None:
    made = create(api, key="create-1")
    assert create(api, key="create-1") == made
    assert database.rows()["app.endpoint"] == 1
    assert made["secret"].encode() not in stored_bytes(database)


def test_endpoints_are_listed_newest_first_in_pages(api: TestClient) -> None:
    made = [create(api)["endpoint_id"] for _ in range(3)]
    first = api.get("/v1/endpoints?limit=2").json()
    rest = api.get(f"/v1/endpoints?limit=2&cursor={first['next_cursor']}").json()
    assert [each["endpoint_id"] for each in first["items"] + rest["items"]] == made[::-1]
    assert rest["next_cursor"] is None
    assert "secret" not in first["items"][0]


def test_what_is_given_changes_and_the_rest_stays(api: TestClient) -> None:
    made = create(api, description="old")
    path = f"/v1/endpoints/{made['endpoint_id']}"
    changed = api.patch(path, json={"event_types": ["a.b"], "description": "", "enabled": False}).json()
    assert (changed["event_types"], changed["description"], changed["enabled"]) == (["a.b"], "", False)
    assert (changed["url"], changed["created_at"]) == (made["url"], made["created_at"])
    assert changed["disabled_at"]
    assert changed["updated_at"] > made["updated_at"]
    again = api.patch(path, json={"enabled": True}).json()
    assert (again["enabled"], again["disabled_at"], again["disabled_reason"]) == (True, None, None)
    assert again == api.get(path).json()


def test_a_deleted_endpoint_is_gone_with_its_secrets(api: TestClient, database: Database) -> None:
    path = f"/v1/endpoints/{create(api)['endpoint_id']}"
    assert api.delete(path).status_code == 204
    assert database.rows()["app.endpoint_secret"] == 0
    assert problem_of(api.get(path))["status"] == 404


def test_a_rotated_secret_signs_beside_the_old_one_for_the_overlap(api: TestClient, database: Database) -> None:
    made = create(api)
    answer = api.post(f"/v1/endpoints/{made['endpoint_id']}/rotate-secret", json={"overlap_seconds": 3600})
    assert answer.status_code == 200
    assert answer.json()["secret"] != made["secret"]
    rows = database.query(
        "select expires_at - clock_timestamp() < interval '1 hour' as ends from app.endpoint_secret order by created_at"
    )
    assert [row["ends"] for row in rows] == [True, None]
    assert api.post(f"/v1/endpoints/{made['endpoint_id']}/rotate-secret").status_code == 200


def test_a_test_event_goes_to_that_endpoint_alone(api: TestClient, database: Database) -> None:
    made = create(api, event_types=["a.b"])
    create(api)
    answer = api.post(f"/v1/endpoints/{made['endpoint_id']}/test")
    assert answer.status_code == 202
    delivery = database.one("select * from app.delivery")
    assert [str(delivery["id"])] == answer.json()["task_ids"]
    assert str(delivery["endpoint_id"]) == made["endpoint_id"]
    api.patch(f"/v1/endpoints/{made['endpoint_id']}", json={"enabled": False})
    assert problem_of(api.post(f"/v1/endpoints/{made['endpoint_id']}/test"))["status"] == 409


@pytest.mark.parametrize(
    ("method", "act"),
    [("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/rotate-secret"), ("POST", "/test")],
)
def test_an_unknown_endpoint_is_not_found(api: TestClient, database: Database, method: str, act: str) -> None:
    before = database.rows()
    body = {} if method == "PATCH" else None
    assert problem_of(api.request(method, f"/v1/endpoints/{uuid4()}{act}", json=body))["status"] == 404
    assert problem_of(api.request(method, f"/v1/endpoints/nonsense{act}", json=body))["status"] == 422
    assert database.rows() == before
