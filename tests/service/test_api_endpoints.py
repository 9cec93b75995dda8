"""Endpoints over HTTP: made, read, changed, deleted; their secrets shown once and sealed at rest."""

from __future__ import annotations

import re
import threading
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from awaiting import await_that
from fastapi.testclient import TestClient
from service_eyes import Database, problem_of

from actors import webhooks

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


def test_a_deleted_endpoint_is_gone_with_its_secrets_and_its_log_is_forgotten_by_a_task(
    api: TestClient, database: Database
) -> None:
    path = f"/v1/endpoints/{create(api, headers={'X-Key': 'hunter2'})['endpoint_id']}"
    api.post("/v1/events", json={"type": "a.b", "data": 1})
    assert api.delete(path).status_code == 204
    assert database.rows()["app.endpoint_secret"] == 0
    assert database.one("select sealed_headers from app.endpoint")["sealed_headers"] is None
    forgetting = database.one("select args from outbox.task where actor = 'forget_endpoint'")
    assert forgetting["args"] == [path.rpartition("/")[2]]
    for method, act in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/rotate-secret"), ("POST", "/test")):
        body = {} if method == "PATCH" else None
        assert problem_of(api.request(method, path + act, json=body))["status"] == 404
    assert api.get("/v1/endpoints").json()["items"] == []
    assert api.post("/v1/events", json={"type": "a.b", "data": 1}).json()["task_ids"] == []


def test_a_test_event_for_an_endpoint_that_is_deleted_at_the_same_moment_is_not_found(
    api: TestClient, database: Database
) -> None:
    path = f"/v1/endpoints/{create(api)['endpoint_id']}"
    answers: list[Any] = []
    with psycopg.connect(database.url) as deleting:
        deleting.execute("select from app.endpoint for update")
        thread = threading.Thread(target=lambda: answers.append(api.post(f"{path}/test")))
        thread.start()
        await_that(lambda: database.query("select from pg_locks where not granted"))
        deleting.execute("delete from app.endpoint")
        deleting.commit()
        thread.join(30)
    assert problem_of(answers[0])["status"] == 404
    assert database.rows()["app.delivery"] == 0


def test_an_endpoint_keeps_what_its_owner_says_and_takes_it_back(api: TestClient) -> None:
    said = {
        "metadata": {"team": "warehouse", "ticket": "#7"}, "concurrency": 64, "rate_per_second": 2.5, "fifo": True,
        "schedule": [1, 60, 86_400], "other_4xx": "retry", "notify": "ops@example.org",
    }  # fmt: skip
    made = create(api, **said)
    path = f"/v1/endpoints/{made['endpoint_id']}"
    assert {name: made[name] for name in said} == said
    back = {"rate_per_second": None, "schedule": None, "notify": None}
    changed = api.patch(path, json={**back, "metadata": {}, "concurrency": 1, "other_4xx": "refuse"}).json()
    assert {name: changed[name] for name in said} == {
        "metadata": {}, "concurrency": 1, "rate_per_second": None, "fifo": True, "schedule": None,
        "other_4xx": "refuse", "notify": None,
    }  # fmt: skip
    assert api.patch(path, json={"concurrency": None, "fifo": None, "url": None}).json()["fifo"] is True


def test_what_is_not_said_has_its_default(api: TestClient) -> None:
    made = create(api)
    names = ("metadata", "concurrency", "rate_per_second", "fifo", "schedule", "other_4xx", "notify", "missed_since")
    assert [made[name] for name in names] == [{}, 4, None, False, None, "refuse", None, None]


@pytest.mark.parametrize(
    ("given", "pointer"),
    [
        ({"metadata": {str(n): "v" for n in range(51)}}, "/metadata"),
        ({"metadata": {"zq7marker": 1}}, "/metadata"),
        ({"metadata": {"k": "v" * 501}}, "/metadata"),
        ({"metadata": {"": "v"}}, "/metadata"),
        ({"metadata": {"k" * 65: "v"}}, "/metadata"),
        ({"metadata": {"k": "a\u0000"}}, "/metadata"),
        ({"metadata": {str(n): "v" * 500 for n in range(17)}}, "/metadata"),
        ({"concurrency": 0}, "/concurrency"),
        ({"concurrency": 65}, "/concurrency"),
        ({"concurrency": 4.0}, "/concurrency"),
        ({"url": "https://example.org?" + "a" * 2028}, "/url"),
        ({"rate_per_second": 0}, "/rate_per_second"),
        ({"rate_per_second": 1001}, "/rate_per_second"),
        ({"rate_per_second": "1"}, "/rate_per_second"),
        ({"fifo": 1}, "/fifo"),
        ({"schedule": []}, "/schedule"),
        ({"schedule": [1] * 31}, "/schedule"),
        ({"schedule": [0]}, "/schedule/0"),
        ({"schedule": [5, 86_401]}, "/schedule/1"),
        ({"other_4xx": "ignore"}, "/other_4xx"),
        ({"notify": "nobody"}, "/notify"),
        ({"signature": "v2"}, "/signature"),
    ],
)
def test_what_an_endpoint_cannot_have_is_refused_where_it_stands(
    api: TestClient, database: Database, given: dict[str, Any], pointer: str
) -> None:
    problem = problem_of(api.post("/v1/endpoints", json={"url": URL, "event_types": ["*"], **given}))
    assert (problem["status"], problem["errors"][0]["pointer"]) == (422, pointer)
    assert "zq7marker" not in str(problem)
    assert database.rows()["app.endpoint"] == 0


def test_the_longest_url_is_kept_as_it_will_be_called(api: TestClient) -> None:
    assert create(api, url="https://example.org?" + "a" * 2027)["url"] == "https://example.org/?" + "a" * 2027


def test_what_only_the_actors_refuse_is_the_callers_to_mend(api: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    for refusal in (webhooks.AddressRefused, webhooks.EventTypeRefused, webhooks.HeaderRefused):

        def refuse(*_: Any, refusal: type[Exception] = refusal, **__: Any) -> None:
            raise refusal("it is too long")

        monkeypatch.setattr(webhooks, "create_endpoint", refuse)
        problem = problem_of(api.post("/v1/endpoints", json={"url": URL, "event_types": ["*"]}))
        assert (problem["status"], problem["detail"]) == (422, "it is too long.")


def test_a_disabled_endpoint_says_since_when_it_missed_events_until_its_owner_takes_that_back(api: TestClient) -> None:
    path = f"/v1/endpoints/{create(api)['endpoint_id']}"
    disabled_at = api.patch(path, json={"enabled": False}).json()["disabled_at"]
    again = api.patch(path, json={"enabled": True}).json()
    assert again["missed_since"] == disabled_at
    assert api.patch(path, json={"missed_since": None}).json()["missed_since"] is None
    assert problem_of(api.patch(path, json={"missed_since": disabled_at}))["status"] == 422


def test_a_key_pair_shows_its_public_half_and_never_the_private_one(api: TestClient, database: Database) -> None:
    answer = api.post("/v1/endpoints", json={"url": URL, "event_types": ["*"], "signature": "v1a"})
    made = answer.json()
    assert made["secret"] is None
    (key,) = made["signing_keys"]
    assert re.fullmatch(r"whpk_[A-Za-z0-9+/]{43}=", key["public_key"])
    path = f"/v1/endpoints/{made['endpoint_id']}"
    assert api.get(path).json()["signing_keys"] == [key]
    rotated = api.post(f"{path}/rotate-secret").json()
    assert rotated["secret"] is None
    assert [each["public_key"] for each in api.get(path).json()["signing_keys"]] == [
        rotated["public_key"],
        key["public_key"],
    ]
    symmetric = api.post(f"{path}/rotate-secret", json={"overlap_seconds": 0, "signature": "v1"}).json()
    assert (symmetric["secret"][:6], symmetric["public_key"]) == ("whsec_", None)
    assert [each["public_key"] for each in api.get(path).json()["signing_keys"]] == [None]
    assert b"whsk_" not in stored_bytes(database) + answer.content + api.get(path).content


def test_a_sixth_valid_secret_is_refused_and_says_what_to_do(api: TestClient, database: Database) -> None:
    path = f"/v1/endpoints/{create(api)['endpoint_id']}"
    for _ in range(4):
        assert api.post(f"{path}/rotate-secret").status_code == 200
    problem = problem_of(api.post(f"{path}/rotate-secret"))
    assert (problem["status"], problem["type"]) == (409, "/problems/conflict")
    assert "overlap of 0" in problem["detail"]
    assert database.rows()["app.endpoint_secret"] == 5
    assert api.post(f"{path}/rotate-secret", json={"overlap_seconds": 0}).status_code == 200


def test_the_values_of_headers_are_kept_sealed_and_only_their_names_are_shown(
    api: TestClient, database: Database
) -> None:
    made = create(api, key="create-1", headers={"X-Key": "hunter2", "Authorization": "Bearer hunter2"})
    assert made["header_names"] == ["Authorization", "X-Key"]
    path = f"/v1/endpoints/{made['endpoint_id']}"
    assert api.patch(path, json={"headers": {"X-Other": "hunter2"}}).json()["header_names"] == ["X-Other"]
    assert b"hunter2" not in stored_bytes(database)
    assert api.patch(path, json={"headers": {}}).json()["header_names"] == []


def test_an_empty_cursor_asks_for_the_first_page(api: TestClient) -> None:
    made = create(api)
    assert [each["endpoint_id"] for each in api.get("/v1/endpoints?cursor=").json()["items"]] == [made["endpoint_id"]]


@pytest.mark.parametrize("event_type", ["webhook.test", "webhook.endpoint_disabled", "webhook.mine"])
def test_events_of_the_service_itself_are_published_by_nobody_else(
    api: TestClient, database: Database, event_type: str
) -> None:
    create(api, event_types=["*", "webhook.*"])
    problem = problem_of(api.post("/v1/events", json={"type": event_type, "data": 1}))
    assert (problem["status"], problem["errors"][0]["pointer"]) == (422, "/type")
    assert "reserved" in problem["errors"][0]["detail"]
    assert database.rows()["app.delivery"] == 0
    assert api.post("/v1/events", json={"type": "webhooks.mine", "data": 1}).status_code == 202


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
