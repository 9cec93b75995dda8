"""Deliveries over HTTP: the log of an endpoint, what each attempt met, and one of them once more."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi.testclient import TestClient
from service_eyes import Database, OneRun, problem_of


@pytest.fixture
def endpoint(api: TestClient) -> str:
    made = api.post("/v1/endpoints", json={"url": "https://hooks.example.org/in", "event_types": ["*"]})
    return str(made.json()["endpoint_id"])


def publish(api: TestClient, event_type: str = "a.b") -> str:
    """The delivery's id."""
    (task_id,) = api.post("/v1/events", json={"type": event_type, "data": 1}).json()["task_ids"]
    return str(task_id)


def end(database: Database, delivery_id: str, status: str) -> None:
    """As if a worker had ended it so, and its task's retention were over."""
    at = "now()" if status == "delivered" else "null"
    database.execute(f"update app.delivery set status = %s, delivered_at = {at} where id = %s", status, delivery_id)
    database.execute("delete from outbox.task where id = %s", delivery_id)


def resend(api: TestClient, delivery_id: str, key: str | None = None) -> Any:
    return api.post(f"/v1/deliveries/{delivery_id}/resend", headers={"Idempotency-Key": key} if key else {})


class TestTheLog:
    def listed(self, api: TestClient, endpoint: str, query: str = "") -> list[str]:
        answer = api.get(f"/v1/endpoints/{endpoint}/deliveries?{query}")
        assert answer.status_code == 200, answer.text
        return [each["delivery_id"] for each in answer.json()["items"]]

    def test_it_is_read_newest_first_in_pages(self, api: TestClient, endpoint: str) -> None:
        made = [publish(api) for _ in range(3)]
        first = api.get(f"/v1/endpoints/{endpoint}/deliveries?limit=2").json()
        rest = api.get(f"/v1/endpoints/{endpoint}/deliveries?limit=2&cursor={first['next_cursor']}").json()
        assert [each["delivery_id"] for each in first["items"] + rest["items"]] == made[::-1]
        assert rest["next_cursor"] is None

    def test_it_is_that_of_one_endpoint(self, api: TestClient, endpoint: str) -> None:
        other = api.post("/v1/endpoints", json={"url": "https://o.example.org/", "event_types": ["c"]}).json()
        mine = publish(api)
        assert self.listed(api, endpoint) == [mine]
        assert self.listed(api, other["endpoint_id"]) == []

    def test_it_can_be_narrowed(self, api: TestClient, database: Database, endpoint: str) -> None:
        delivered, refused, queued = publish(api, "a"), publish(api, "a"), publish(api, "b")
        end(database, delivered, "delivered")
        end(database, refused, "refused")
        database.execute("update app.delivery set created_at = '2026-11-20T12:00:00Z' where id = %s", delivered)
        assert self.listed(api, endpoint, "status=refused") == [refused]
        assert self.listed(api, endpoint, "status=refused&status=delivered") == [refused, delivered]
        assert self.listed(api, endpoint, "event_type=b") == [queued]
        assert self.listed(api, endpoint, "event_type=b&status=refused") == []
        assert self.listed(api, endpoint, "since=2026-11-20T12:00:01Z") == [queued, refused]
        assert self.listed(api, endpoint, "since=1970-01-01T00:00:00Z") == [queued, refused, delivered]
        assert self.listed(api, endpoint, "since=2999-01-01T00:00:00Z") == []
        assert self.listed(api, endpoint, "status=&event_type=&since=&cursor=") == [queued, refused, delivered]

    @pytest.mark.parametrize(
        "query",
        ["status=lost", "event_type=a+b", "since=yesterday", "cursor=x", "limit=0", "limit=201"],
    )
    def test_what_it_cannot_be_asked_for_is_refused(self, api: TestClient, endpoint: str, query: str) -> None:
        problem = problem_of(api.get(f"/v1/endpoints/{endpoint}/deliveries?{query}"))
        assert problem["status"] == 422
        assert problem["errors"][0]["pointer"].startswith(f"query/{query.partition('=')[0]}")

    def test_it_begins_where_the_reader_says_and_reads_no_further(self, database: Database) -> None:
        database.execute("set enable_seqscan = off")  # an empty table would be read whole
        database.execute("set enable_bitmapscan = off")
        (plan,) = database.query(
            """explain (format json) select id from app.delivery
            where endpoint_id = %s and id < %s and id >= %s and created_at >= now() order by id desc limit 51""",
            uuid4(),
            uuid4(),
            uuid4(),
        )
        database.execute("reset enable_seqscan")
        database.execute("reset enable_bitmapscan")
        found = plan["QUERY PLAN"][0]["Plan"]["Plans"][0]
        assert (found["Index Name"], found["Scan Direction"]) == ("delivery_log", "Backward")


class TestADelivery:
    def test_it_tells_what_each_attempt_met(self, api: TestClient, database: Database, endpoint: str) -> None:
        delivery_id = publish(api)
        database.execute(
            """insert into app.delivery_attempt (delivery_id, number, outcome, phase, status_code, reason, excerpt, duration)
            values (%(id)s, 2, 'delivered', 'body', 200, 'HTTP 200', 'thanks', interval '12.34 milliseconds'),
                (%(id)s, 1, 'retry', 'connect', null, 'connection refused', null, null)""".replace("%(id)s", "%s"),
            delivery_id, delivery_id,
        )  # fmt: skip
        database.execute(
            "update app.delivery set attempts = 2, duration = interval '12.34 ms' where id = %s", delivery_id
        )
        read = api.get(f"/v1/deliveries/{delivery_id}").json()
        assert (read["delivery_id"], read["webhook_id"], read["endpoint_id"]) == (delivery_id, delivery_id, endpoint)
        assert (read["status"], read["attempt_count"], read["duration_ms"]) == ("queued", 2, 12.3)
        first, second = read["attempts"]
        assert first.pop("at")
        assert second.pop("at")
        assert first == {
            "number": 1, "outcome": "retry", "phase": "connect", "status_code": None, "reason": "connection refused",
            "excerpt": None, "duration_ms": None,
        }  # fmt: skip
        assert second == {
            "number": 2, "outcome": "delivered", "phase": "body", "status_code": 200, "reason": "HTTP 200",
            "excerpt": "thanks", "duration_ms": 12.3,
        }  # fmt: skip

    def test_it_goes_with_its_endpoint(self, api: TestClient, endpoint: str) -> None:
        delivery_id = publish(api)
        api.delete(f"/v1/endpoints/{endpoint}")
        assert problem_of(api.get(f"/v1/deliveries/{delivery_id}"))["status"] == 404
        assert problem_of(api.get(f"/v1/endpoints/{endpoint}/deliveries"))["status"] == 404
        assert problem_of(resend(api, delivery_id))["status"] == 404

    def test_an_unknown_one_is_not_found(self, api: TestClient) -> None:
        assert problem_of(api.get(f"/v1/deliveries/{uuid4()}"))["status"] == 404
        assert problem_of(resend(api, str(uuid4())))["status"] == 404
        assert problem_of(api.get(f"/v1/endpoints/{uuid4()}/deliveries"))["status"] == 404


@pytest.mark.usefixtures("endpoint")
class TestOnceMore:
    @pytest.mark.parametrize("status", ["delivered", "refused", "failed", "missed"])
    def test_what_ended_goes_anew_under_the_same_webhook_id(
        self, api: TestClient, database: Database, status: str
    ) -> None:
        first = publish(api)
        end(database, first, status)
        answer = resend(api, first)
        assert answer.status_code == 202
        second = answer.json()["delivery_id"]
        assert answer.json()["task_ids"] == [second] != [first]
        read, before = (api.get(f"/v1/deliveries/{each}").json() for each in (second, first))
        assert (read["webhook_id"], read["status"], read["event_id"]) == (first, "queued", before["event_id"])
        assert before["status"] == status
        end(database, second, "delivered")
        third = resend(api, second).json()["delivery_id"]
        assert api.get(f"/v1/deliveries/{third}").json()["webhook_id"] == first

    def test_a_dead_one_is_tried_again(self, api: TestClient, database: Database) -> None:
        delivery_id = publish(api)
        OneRun(database, delivery_id).die()
        database.execute("update app.delivery set status = 'refused' where id = %s", delivery_id)
        assert resend(api, delivery_id).json() == {"delivery_id": delivery_id, "task_ids": [delivery_id]}
        assert api.get(f"/v1/deliveries/{delivery_id}").json()["status"] == "queued"
        assert str(database.one("select id from outbox.task")["id"]) == delivery_id
        assert database.rows()["app.delivery"] == 1

    def test_what_is_under_way_is_not_sent_beside_itself(self, api: TestClient, database: Database) -> None:
        delivery_id = publish(api)
        assert problem_of(resend(api, delivery_id))["status"] == 409
        end(database, delivery_id, "delivered")
        assert resend(api, delivery_id).status_code == 202
        assert problem_of(resend(api, delivery_id))["status"] == 409
        assert database.rows()["app.delivery"] == 2

    def test_a_disabled_endpoint_gets_nothing(self, api: TestClient, database: Database, endpoint: str) -> None:
        delivery_id = publish(api)
        end(database, delivery_id, "refused")
        api.patch(f"/v1/endpoints/{endpoint}", json={"enabled": False})
        assert problem_of(resend(api, delivery_id))["status"] == 409
        assert database.rows()["app.delivery"] == 1

    def test_a_repeated_request_sends_once(self, api: TestClient, database: Database) -> None:
        delivery_id = publish(api)
        end(database, delivery_id, "delivered")
        first, again = resend(api, delivery_id, "k"), resend(api, delivery_id, "k")
        assert (first.status_code, again.status_code) == (202, 202)
        assert first.json() == again.json()
        assert database.rows()["app.delivery"] == 2

    def test_who_asked_is_on_record(self, api: TestClient, database: Database) -> None:
        delivery_id = publish(api)
        end(database, delivery_id, "delivered")
        made = resend(api, delivery_id).json()["delivery_id"]
        line = database.one("select who, action, subject, detail from outbox.audit")
        assert tuple(line.values()) == ("bootstrap", "resend", str(UUID(delivery_id)), {"delivery": made})
