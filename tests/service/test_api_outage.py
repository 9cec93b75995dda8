"""PostgreSQL stops and comes back: the API refuses meanwhile, and needs no restart."""

from __future__ import annotations

from datetime import timedelta

import pytest
from fastapi.testclient import TestClient
from service_eyes import ADMIN, Database, OneRun, settings_for
from stream_eyes import Served, told
from wire import Wire

from deploy.local.servers import Postgres
from service import stream
from service.app import create_app


def test_the_api_recovers_by_itself_when_the_database_comes_back(
    own_postgres: Postgres, database_url: str, surroundings: None
) -> None:
    with TestClient(create_app(settings_for(database_url))) as api:
        api.headers["Authorization"] = f"Bearer {ADMIN}"
        assert api.get("/v1/tasks").status_code == 200
        own_postgres.stop()
        assert api.post("/v1/events", json={"type": "a", "data": 1}).status_code == 503
        assert api.get("/readyz").status_code == 503
        own_postgres.start()
        assert api.get("/readyz").status_code == 200
        assert api.post("/v1/events", json={"type": "a", "data": 1}).status_code == 202


def test_a_database_that_falls_silent_behind_a_proxy_is_given_up(
    database_url: str, surroundings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy takes every byte, so TCP notices nothing: one after the other the API's threads would wait for ever."""
    monkeypatch.setattr("service.database._ANSWER", timedelta(seconds=1))
    wire = Wire(database_url)
    with TestClient(create_app(settings_for(wire.url))) as api:
        api.headers["Authorization"] = f"Bearer {ADMIN}"
        assert api.get("/v1/tasks").status_code == 200
        wire.vanish()
        answers = [api.post("/v1/events", json={"type": "a", "data": 1}).status_code for _ in range(3)]
    assert set(answers) <= {202, 503}
    assert answers[-1] == 202
    wire.close()


def test_a_stream_outlives_an_outage_of_the_database(
    own_postgres: Postgres, database_url: str, surroundings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "COMMENT", timedelta(seconds=0.1))
    monkeypatch.setattr(stream, "LONGEST", timedelta(minutes=5))
    served = Served(database_url)
    task_id = served.enqueue()
    with served.follow(task_id) as way:
        assert told(next(way)) == ("task", "pending")
        own_postgres.stop()
        next(each for each in way if "cannot be reached" in each.get("comment", ""))
        own_postgres.start()
        database = Database(database_url)
        OneRun(database, task_id).die()
        database.close()
        events = [told(each) for each in way if "event" in each]  # the stations on its way, too, if a look fell between
        assert events[-2:] == [("task", "dead"), ("end", "dead")]
    served.end()
