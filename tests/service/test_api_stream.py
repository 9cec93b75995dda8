"""A task's way as a stream: each station once, resumed without repeating, dear to nobody, ended with the process."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from api_process import Api
from awaiting import await_that
from service_eyes import Database, OneRun, problem_of
from stream_eyes import MAIL, Served, frames, told

from outbox.ledger import Conn
from outbox.reads import Reader, Standing
from service import stream


@pytest.fixture(scope="module")
def running_server(service_url: str, surroundings: None) -> Iterator[Served]:
    served = Served(service_url)
    yield served
    served.end()


@pytest.fixture
def api(running_server: Served, database: Database) -> Served:
    return running_server


def test_each_station_is_told_once_and_the_stream_ends_with_the_task(api: Served, database: Database) -> None:
    task_id = api.enqueue()
    with api.follow(task_id) as way:
        first = next(way)
        assert told(first) == ("task", "pending")
        assert (first["data"]["id"], first["data"]["attempts"]) == (task_id, 0)
        run = OneRun(database, task_id)
        assert told(next(way)) == ("task", "running")
        run.die()
        last = next(way)
        assert (told(last), last["data"]["attempts"]) == (("task", "dead"), 1)
        assert told(next(way)) == ("end", "dead")
        assert list(way) == []


def test_a_stream_resumes_without_repeating(api: Served, database: Database) -> None:
    task_id = api.enqueue()
    with api.follow(task_id) as way:
        seen = next(way)["id"]
    with api.follow(task_id, Last_Event_ID=seen) as way:
        run = OneRun(database, task_id)
        assert told(next(way)) == ("task", "running")
    run.die()
    with api.follow(task_id, Last_Event_ID=seen) as way:
        assert [told(each) for each in way] == [("task", "dead"), ("end", "dead")]


def test_who_comes_back_after_the_end_is_told_of_it_again(api: Served, database: Database) -> None:
    task_id = api.enqueue()
    OneRun(database, task_id).die()
    with api.follow(task_id) as way:
        last = list(way)[-1]
    with api.follow(task_id, Last_Event_ID=last["id"]) as way:
        assert [told(each) for each in way] == [("end", "dead")]


def test_an_unknown_task_is_a_problem_before_the_stream(api: Served) -> None:
    assert problem_of(api.client.get(f"/v1/tasks/{uuid4()}/stream"))["status"] == 404
    assert problem_of(api.client.get("/v1/tasks/x/stream"))["status"] == 422
    nobody = api.client.get(f"/v1/tasks/{uuid4()}/stream", headers={"Authorization": ""})
    assert problem_of(nobody)["status"] == 401


def test_a_silent_stream_says_that_it_lives_and_ends_with_the_time_to_come_back(
    api: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "COMMENT", timedelta(seconds=0.2))
    monkeypatch.setattr(stream, "LONGEST", timedelta(seconds=1))
    with api.follow(api.enqueue()) as way:
        first, *quiet, last = way
    assert told(first) == ("task", "pending")
    assert quiet
    assert {each["comment"] for each in quiet} == {"nothing new"}
    assert last == {"retry": "1000"}


def test_many_streams_take_one_statement_and_no_connection_each(
    api: Served, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[set[UUID]] = []
    standing = Reader.standing

    def seen(reader: Reader, conn: Conn, ids: Sequence[UUID]) -> dict[UUID, Standing]:
        looks.append(set(ids))
        return standing(reader, conn, ids)

    monkeypatch.setattr(Reader, "standing", seen)
    tasks = [api.enqueue() for _ in range(30)]
    with ExitStack() as streams:
        ways = [streams.enter_context(api.follow(each)) for each in tasks]
        for way in ways:
            next(way)
        began = len(looks)
        await_that(lambda: len(looks) > began + 2)
        assert all(look == {UUID(each) for each in tasks} for look in looks[began + 1 :])
        busy = (
            "select count(*) as n from pg_stat_activity where application_name = 'api' and datname = current_database()"
        )
        assert database.one(busy)["n"] < 15
    await_that(lambda: not api.app.state.watch._followed)
    at_rest = api.app.state.watch._looking
    await_that(at_rest.done)


def test_there_are_only_so_many_streams_at_once(service_url: str, database: Database, surroundings: None) -> None:
    served = Served(service_url, streams=1)
    task_id = served.enqueue()
    with served.follow(task_id) as way:
        next(way)
        refused = served.client.get(f"/v1/tasks/{task_id}/stream")
        assert (problem_of(refused)["type"], refused.headers["retry-after"]) == ("/problems/too-many", "5")
    await_that(lambda: not served.app.state.watch.full)
    with served.follow(task_id) as way:
        assert told(next(way)) == ("task", "pending")
    served.end()


def test_sigterm_ends_twenty_streams_at_once_and_exits_0(service_url: str, database: Database) -> None:
    api = Api(service_url)
    path = f"/v1/tasks/{api.client.post('/v1/mails', json=MAIL).json()['mail_id']}/stream"
    with ExitStack() as streams:
        streams.callback(api.end)
        answers = [streams.enter_context(api.client.stream("GET", path)) for _ in range(20)]
        ways = [frames(each.iter_lines()) for each in answers]
        for way in ways:
            assert told(next(way)) == ("task", "pending")
        api.process.send_signal(signal.SIGTERM)
        for way in ways:
            assert list(way) == [{"retry": "1000"}]
        assert api.process.wait(timeout=20) == 0
        assert not [line for line in api.log if "graceful shutdown exceeded" in line]


def test_how_long_somebody_listens_is_no_duration_of_a_request(api: Served) -> None:
    task_id = api.enqueue()
    with api.follow(task_id) as way:
        next(way)
    route = 'route="/v1/tasks/{task_id}/stream"'
    await_that(lambda: route in api.client.get("/metrics").text)
    counted = [line for line in api.client.get("/metrics").text.splitlines() if route in line]
    assert {line.partition("{")[0] for line in counted} == {"http_requests_total", "http_requests_created"}
