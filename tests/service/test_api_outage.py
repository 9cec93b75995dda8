"""PostgreSQL stops and comes back: the API refuses meanwhile, and needs no restart."""

from __future__ import annotations

from fastapi.testclient import TestClient
from service_eyes import ADMIN, settings_for

from deploy.local.servers import Postgres
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
