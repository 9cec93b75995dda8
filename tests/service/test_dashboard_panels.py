"""The service's own pages of the dashboard: endpoints, mail, evidence; what their buttons do, and for whom."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from counted import statements
from fastapi.testclient import TestClient
from service_eyes import ADMIN, Database, settings_for
from sqlalchemy.orm import Session

from outbox.dashboard import Refused
from outbox.ledger import Ledger
from outbox.reads import Reader
from service import dashboard, keys
from service.app import create_app
from service.panels import endpoint as of_one
from service.panels import endpoints as of_all
from service.panels import mail as of_mail
from service.panels.concerns import concerns
from service.panels.evidence import evidence

URL, PASSWORD = "https://hooks.example.org/in", "hunter2-of-the-endpoint"
ACTS = ("/endpoints/{id}/enable", "/endpoints/{id}/disable", "/endpoints/{id}/test", "/endpoints/{id}/replay",
        "/deliveries/{id}/resend", "/mail/lift")  # fmt: skip


RUNBOOKS = (Path(__file__).parents[2] / "docs" / "runbooks.md").read_text()


class Browser:
    """A browser that is signed in with a key."""

    def __init__(self, client: TestClient, key: str) -> None:
        self.client = client
        client.cookies.clear()
        assert self.post("/sign-in", key=key).status_code == 303

    def get(self, path: str) -> Any:
        return self.client.get(f"/dashboard{path}", follow_redirects=False)

    def page(self, path: str) -> str:
        answer = self.get(path)
        assert answer.status_code == 200, (path, answer.status_code, answer.text[-2000:])
        return str(answer.text)

    def post(self, path: str, site: str = "same-origin", **form: str) -> Any:
        headers = {"Sec-Fetch-Site": site}
        return self.client.post(f"/dashboard{path}", data=form, headers=headers, follow_redirects=False)

    def told(self, path: str, **form: str) -> str:
        """What is said after an act."""
        answer = self.post(path, **form)
        assert answer.status_code == 303, (answer.status_code, answer.text[-1000:])
        page = self.client.get(answer.headers["location"])
        found = re.search(r'<p class="said (\w+)".*?</svg>(.*?)</p>', page.text, re.DOTALL)
        assert found is not None
        return f"{found[1]}: {found[2]}"


@pytest.fixture(scope="module")
def running(service_url: str, surroundings: None) -> Iterator[TestClient]:
    """The application with its dashboard."""
    app = create_app(settings_for(service_url))
    if not any(getattr(route, "name", "") == "dashboard" for route in app.routes):
        dashboard.mount(app)
    with TestClient(app) as client:
        client.headers["Authorization"] = f"Bearer {ADMIN}"
        yield client


@pytest.fixture
def admin(api: TestClient) -> Browser:
    return Browser(api, ADMIN)


@pytest.fixture
def as_role(api: TestClient) -> Callable[[keys.Role], Browser]:
    def signed_in(role: keys.Role) -> Browser:
        with Session(api.app.state.engine) as session, session.begin():  # type: ignore[attr-defined]
            key = keys.create(session, name=f"a {role}", role=role)
        return Browser(api, key.secret)

    return signed_in


@pytest.fixture
def endpoint(api: TestClient) -> str:
    body = {"url": URL, "event_types": ["*"], "headers": {"X-Key": PASSWORD}}
    return str(api.post("/v1/endpoints", json=body).json()["endpoint_id"])


def publish(api: TestClient) -> str:
    """The delivery's id."""
    (task_id,) = api.post("/v1/events", json={"type": "a.b", "data": 1}).json()["task_ids"]
    return str(task_id)


def send(api: TestClient, **changes: Any) -> str:
    mail = {"to": "ada@example.org", "subject": "A code", "text": "Hi", **changes}
    return str(api.post("/v1/mails", json=mail).json()["mail_id"])


def attempted(database: Database, delivery: str) -> None:
    """As if a worker had ended it so, and its task's retention were over."""
    database.execute(
        """update app.delivery set status = 'failed', attempts = 1, attempted_at = now(), phase = 'answered',
        status_code = 503, reason = 'answered 503', duration = '80 ms' where id = %s""",
        delivery,
    )
    database.execute(
        """insert into app.delivery_attempt (delivery_id, number, outcome, phase, status_code, reason, excerpt, duration)
        values (%s, 1, 'retry', 'answered', 503, 'answered 503', 'try later', '80 ms')""",
        delivery,
    )


def audited(database: Database) -> list[tuple[str, str, str]]:
    rows = database.query("select who, action, subject from outbox.audit order by id")
    return [(row["who"], row["action"], row["subject"]) for row in rows]


class TestThePages:
    def test_endpoints_say_how_they_fare(
        self, admin: Browser, api: TestClient, database: Database, endpoint: str
    ) -> None:
        attempted(database, publish(api))
        database.execute(
            "insert into app.endpoint_health (endpoint_id, failing_since, failures) values (%s, now(), 3)", endpoint
        )
        listed, one = admin.page("/endpoints"), admin.page(f"/endpoints/{endpoint}")
        assert URL in listed
        assert "3 in a row" in listed
        assert "3 times in a row" in one
        assert "503" in one
        assert "80 ms" in one
        assert "X-Key" in one

    def test_a_disabled_endpoint_says_since_when_and_why(self, admin: Browser, api: TestClient, endpoint: str) -> None:
        api.patch(f"/v1/endpoints/{endpoint}", json={"enabled": False})
        assert "disabled by its owner" in admin.page("/endpoints")
        assert "Missed events since" not in admin.page(f"/endpoints/{endpoint}")
        api.patch(f"/v1/endpoints/{endpoint}", json={"enabled": True})
        assert "Missed events since" in admin.page(f"/endpoints/{endpoint}")

    def test_deliveries_are_read_in_pages_without_loss(
        self, admin: Browser, api: TestClient, database: Database, endpoint: str
    ) -> None:
        publish(api)
        database.execute(
            """insert into app.delivery (id, endpoint_id, event_id, event_type)
            select gen_random_uuid(), endpoint_id, event_id, event_type from app.delivery, generate_series(1, 69)"""
        )
        assert len(followed(admin, f"/endpoints/{endpoint}")) == 70

    def test_mails_are_read_in_pages_by_status(self, admin: Browser, api: TestClient, database: Database) -> None:
        for _ in range(3):
            send(api)
        database.execute(
            """update app.mail set status = 'refused', reply = '550 5.1.1 nobody', reply_at = now()
            where id = (select id from app.mail order by id limit 1)"""
        )
        page = admin.page("/mail?status=refused")
        assert page.count("ada@example.org") == 1
        assert "550 5.1.1 nobody" in page
        assert admin.page("/mail").count("ada@example.org") == 3
        assert admin.page("/mail?status=nonsense").count("ada@example.org") == 3

    def test_a_status_that_is_rare_is_found_behind_what_one_page_looks_through(
        self, admin: Browser, api: TestClient, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("service.panels.mail.LOOK", 2)
        ids = [send(api) for _ in range(5)]
        database.execute("update app.mail set status = 'failed' where id = %s", ids[0])
        assert followed(admin, "/mail?status=failed") == [ids[0]]

    def test_what_a_mail_says_is_shown_to_nobody_who_may_only_look(
        self, as_role: Callable[[keys.Role], Browser], api: TestClient, database: Database
    ) -> None:
        send(api)
        assert "A code" not in as_role("reader").page("/mail")
        assert "A code" in as_role("operator").page("/mail")

    def test_a_mail_server_that_is_away_is_told(self, admin: Browser, database: Database) -> None:
        assert "No mail waits for its server" in admin.page("/mail")
        database.execute("insert into app.transport values ('smtp://mx:25', now() + interval '1 min', '421 away', 4)")
        assert "smtp://mx:25 cannot be used" in admin.page("/mail")
        assert "421 away" in admin.page("/mail")

    @pytest.mark.parametrize("path", ["/endpoints/nonsense", "/endpoints?cursor=x", "/mail?cursor=x"])
    def test_an_address_that_names_nothing_is_not_found(self, admin: Browser, path: str) -> None:
        assert admin.get(path).status_code == 404

    def test_an_endpoint_that_is_gone_is_not_found(self, admin: Browser, api: TestClient, endpoint: str) -> None:
        api.delete(f"/v1/endpoints/{endpoint}")
        assert URL not in admin.page("/endpoints")
        for id in (endpoint, str(uuid4())):
            assert "No endpoint has this id" in admin.get(f"/endpoints/{id}").text

    def test_no_page_holds_a_secret_or_asks_more_than_twelve_things(
        self, admin: Browser, api: TestClient, database: Database, endpoint: str
    ) -> None:
        secret = api.post(f"/v1/endpoints/{endpoint}/rotate-secret").json()["secret"]
        delivery, mail = publish(api), send(api)
        attempted(database, delivery)
        for path in ("/endpoints", f"/endpoints/{endpoint}", "/mail", f"/tasks/{delivery}", f"/tasks/{mail}"):
            with statements(api.app.state.engine) as said:  # type: ignore[attr-defined]
                page = admin.page(path)
            assert 1 < len(said) <= 12, (path, len(said))
            for each in (secret, secret.removeprefix("whsec_"), PASSWORD, ADMIN):
                assert each not in page, path


def followed(browser: Browser, path: str) -> list[str]:
    """The tasks of all pages, from the first to the last."""
    found: list[str] = []
    while path:
        page = browser.page(path)
        found += re.findall(r'<td[^>]*><a href="/dashboard/tasks/([0-9a-f-]{36})">', page)
        more = re.search(r'href="/dashboard([^"]*)" rel="next"', page)
        path = more[1].replace("&amp;", "&") if more else ""
    return found


class TestTheActs:
    def test_an_endpoint_is_disabled_and_enabled(self, admin: Browser, database: Database, endpoint: str) -> None:
        assert admin.told(f"/endpoints/{endpoint}/disable").startswith("done: Nothing more is delivered")
        assert database.one("select enabled from app.endpoint")["enabled"] is False
        assert "disabled already" in admin.told(f"/endpoints/{endpoint}/disable")
        assert admin.told(f"/endpoints/{endpoint}/enable").startswith("done: It is delivered to again")
        row = database.one("select enabled, missed_since from app.endpoint")
        assert (row["enabled"], row["missed_since"] is not None) == (True, True)
        subject = f"endpoint/{endpoint}"
        assert audited(database) == [("bootstrap", "disable", subject), ("bootstrap", "enable", subject)]

    def test_a_test_is_sent_and_its_task_is_shown(self, admin: Browser, database: Database, endpoint: str) -> None:
        answer = admin.post(f"/endpoints/{endpoint}/test")
        delivery = database.one("select id, event_type from app.delivery")
        assert delivery["event_type"] == "webhook.test"
        assert answer.headers["location"] == f"/dashboard/tasks/{delivery['id']}"
        assert database.one("select id from outbox.task")["id"] == delivery["id"]

    def test_a_delivery_is_sent_again_under_its_webhook_id(
        self, admin: Browser, api: TestClient, database: Database, endpoint: str
    ) -> None:
        delivery = publish(api)
        assert "still under way" in admin.told(f"/deliveries/{delivery}/resend")
        database.execute("update app.delivery set status = 'delivered', delivered_at = now()")
        database.execute("delete from outbox.task")
        assert admin.told(f"/deliveries/{delivery}/resend").startswith("done: It is sent again")
        again = database.one("select id, webhook_id from app.delivery where id <> %s", delivery)
        assert str(again["webhook_id"]) == delivery
        assert audited(database) == [("bootstrap", "resend", delivery)]

    def test_what_was_missed_is_replayed_since_a_time(self, admin: Browser, database: Database, endpoint: str) -> None:
        for since in ("2h", "2026-11-20 09:00", "2026-11-20T09:00:00+01:00"):
            assert admin.told(f"/endpoints/{endpoint}/replay", since=since).startswith("done: What it missed since")
        for since in ("", "soon", "2999-01-01", "0001-01-01", "99999999999d"):
            assert admin.told(f"/endpoints/{endpoint}/replay", since=since).startswith("refused: ")
        assert database.rows()["app.replay"] == 3
        assert [action for _, action, _ in audited(database)] == ["replay"] * 3

    def test_a_suppression_is_lifted_unless_it_is_its_recipients_own_word(
        self, admin: Browser, api: TestClient, database: Database
    ) -> None:
        api.post("/v1/suppressions", json={"recipient": "a@example.org"})
        database.execute("insert into app.suppression (recipient, reason) values ('b@example.org', 'complaint')")
        lift = {"stream": "*", "reason": "manual"}
        assert admin.told("/mail/lift", recipient="a@example.org", **lift).startswith("done: It gets mail again")
        refused = admin.told("/mail/lift", recipient="b@example.org", stream="*", reason="complaint")
        assert "own word" in refused
        assert admin.post("/mail/lift", recipient="a@example.org", **lift).status_code == 404
        assert database.one("select recipient from app.suppression")["recipient"] == "b@example.org"

    def test_a_disabled_endpoint_gets_nothing(
        self, admin: Browser, api: TestClient, database: Database, endpoint: str
    ) -> None:
        delivery = publish(api)
        api.patch(f"/v1/endpoints/{endpoint}", json={"enabled": False})
        before = database.rows()
        for path in (f"/endpoints/{endpoint}/test", f"/endpoints/{endpoint}/replay", f"/deliveries/{delivery}/resend"):
            assert admin.told(path, since="2h").startswith("refused: The endpoint is disabled")
        assert database.rows() == before

    def test_what_fails_on_its_way_leaves_nothing_behind(
        self, admin: Browser, database: Database, endpoint: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fails(*_: Any, **__: Any) -> None:
            raise Refused("The audit cannot be written.")

        monkeypatch.setattr(Ledger, "audit", fails)
        before = database.rows(), database.query("select * from app.endpoint")
        for act in ("disable", "test", "replay"):
            assert admin.told(f"/endpoints/{endpoint}/{act}", since="2h") == "refused: The audit cannot be written."
        assert (database.rows(), database.query("select * from app.endpoint")) == before

    @pytest.mark.parametrize("act", ACTS)
    def test_who_may_not_do_it_changes_nothing(
        self, as_role: Callable[[keys.Role], Browser], api: TestClient, database: Database, endpoint: str, act: str
    ) -> None:
        path = act.replace("{id}", publish(api) if "deliveries" in act else endpoint)
        roles: list[keys.Role] = ["reader", "writer"] if "resend" in act else ["reader", "writer", "operator"]
        for role in roles:
            browser = as_role(role)
            before = database.rows()
            assert browser.post(path, since="2h").status_code == 403
            assert f'action="/dashboard{path}"' not in browser.page(f"/endpoints/{endpoint}")
            assert database.rows() == before

    @pytest.mark.parametrize("act", ACTS)
    def test_nothing_is_done_by_get_or_from_elsewhere(
        self, admin: Browser, api: TestClient, database: Database, endpoint: str, act: str
    ) -> None:
        path = act.replace("{id}", publish(api) if "deliveries" in act else endpoint)
        before = database.rows()
        assert admin.get(path).status_code in (404, 405)
        assert admin.post(path, site="cross-site").status_code == 403
        assert database.rows() == before

    @pytest.mark.parametrize("act", ACTS[:-1])
    def test_what_is_not_there_is_not_found(self, admin: Browser, act: str) -> None:
        for id in ("01890000-0000-7000-8000-000000000002", "nonsense"):
            assert admin.post(act.replace("{id}", id), since="2h").status_code == 404


class TestWhatIsKnown:
    def known(self, database: Database, id: str) -> list[Any]:
        with psycopg.connect(database.url, autocommit=True) as conn:
            reader = Reader()
            task = reader.task(conn, reader.resolve(conn, id))
            assert task is not None
            return list(evidence(conn, task))

    def test_of_a_mail_the_servers_last_word(self, api: TestClient, database: Database) -> None:
        id = send(api)
        database.execute("update app.mail set reply = '250 2.0.0 queued as 7', reply_at = now()")
        mail, by_api = self.known(database, id)
        facts = dict(mail.facts)
        assert (facts["Status"], facts["Last reply"]) == ("queued", "250 2.0.0 queued as 7")
        assert id in str(facts["Message-ID"])
        assert by_api.curl.startswith('curl -H "Authorization: Bearer $KEY" http')
        assert by_api.curl.endswith(f"/v1/tasks/{id}")

    def test_of_a_delivery_each_attempt_and_the_request_without_its_secrets(
        self, api: TestClient, database: Database, endpoint: str
    ) -> None:
        id = publish(api)
        attempted(database, id)
        attempt, _ = self.known(database, id)
        facts = dict(attempt.facts)
        assert (facts["HTTP status"], facts["Took"], facts["Endpoint"]) == (503, "80 ms", URL)
        assert attempt.excerpt == "try later"
        assert f"webhook-id: {id}" in attempt.curl
        assert "-H 'X-Key: '\"$SECRET\"" in attempt.curl
        assert PASSWORD not in str(attempt)

    def test_of_other_tasks_nothing(self, api: TestClient, database: Database, endpoint: str) -> None:
        api.delete(f"/v1/endpoints/{endpoint}")
        id = database.one("select id from outbox.task where actor = 'forget_endpoint'")["id"]
        assert self.known(database, str(id)) == []


class TestWhatIsWrong:
    def causes(self, database: Database) -> list[tuple[str, str]]:
        with psycopg.connect(database.url, autocommit=True) as conn:
            found = concerns(conn)
        assert all(f"\n## {each.runbook}\n" in RUNBOOKS for each in found)
        return [(each.cause, each.severity) for each in found]

    def test_nothing_is_wrong_with_what_its_owner_disabled(
        self, api: TestClient, database: Database, endpoint: str
    ) -> None:
        api.patch(f"/v1/endpoints/{endpoint}", json={"enabled": False})
        assert self.causes(database) == []

    def test_an_endpoint_that_failures_disabled_is_serious(self, database: Database, endpoint: str) -> None:
        database.execute(
            "update app.endpoint set enabled = false, disabled_at = now(), disabled_reason = 'answered 410'"
        )
        assert self.causes(database) == [("endpoint_disabled", "serious")]

    def test_an_endpoint_whose_circuit_is_open_is_noted(self, database: Database, endpoint: str) -> None:
        database.execute(
            "insert into app.endpoint_health (endpoint_id, failing_since, failures, probe_at) values (%s, now(), 12, now())",
            endpoint,
        )
        assert self.causes(database) == [("endpoint_failing", "notice")]

    def test_a_mail_server_that_is_away_is_serious(self, database: Database) -> None:
        database.execute("insert into app.transport values ('smtp://mx:25', now(), '421 away', 4)")
        assert self.causes(database) == [("mail_server_away", "serious")]

    def test_many_mails_in_doubt_are_noted(self, api: TestClient, database: Database) -> None:
        send(api)
        database.execute("update app.mail set status = 'uncertain', reply_at = now()")
        assert self.causes(database) == []
        database.execute(
            """insert into app.mail (id, sender, recipient, subject, message_id, body, status, reply_at)
            select gen_random_uuid(), sender, recipient, subject, message_id, body, status, reply_at
            from app.mail, generate_series(1, 9)"""
        )
        assert self.causes(database) == [("mails_uncertain", "notice")]

    def test_the_overview_tells_it(self, admin: Browser, database: Database) -> None:
        database.execute("insert into app.transport values ('smtp://mx:25', now(), '421 away', 4)")
        assert admin.get("/").status_code == 200


def test_lists_read_no_table_whole(database: Database, endpoint: str) -> None:
    statements = {
        of_all: ("_STANDINGS",),
        of_one: ("_DELIVERIES", "_REPLAYS"),
        of_mail: ("_COUNTS", "_MAILS", "_LOOKED"),
    }
    given = {"id": endpoint, "cursor": uuid4(), "limit": 51, "look": 5000, "status": "sent"}
    with psycopg.connect(database.url, autocommit=True) as conn:
        conn.execute("set enable_seqscan = off")  # an empty table would be read whole
        conn.execute("set enable_bitmapscan = off")
        for module, names in statements.items():
            for name in names:
                plan = "\n".join(row[0] for row in conn.execute(f"explain {getattr(module, name)}", given))
                for table in ("delivery", "mail", "replay"):
                    assert f"Seq Scan on {table} " not in plan, plan
                    assert "Sort" not in plan, plan
