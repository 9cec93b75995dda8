"""One migrated database a module, one application in it, and eyes on every table."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from fastapi.testclient import TestClient
from service_eyes import ADMIN, SECRET_KEY, Database, Door, settings_for
from sqlalchemy.engine import make_url

from actors import outside
from service.app import create_app


@pytest.fixture(scope="module")
def service_url(new_database: Callable[[str], str], migrated_template: str) -> str:
    return new_database(migrated_template)


@pytest.fixture(scope="module")
def whole_database(service_url: str) -> Iterator[Database]:
    database = Database(service_url)
    yield database
    database.close()


@pytest.fixture
def database(whole_database: Database) -> Database:
    """The module's database, with every table empty."""
    whole_database.empty()
    return whole_database


@pytest.fixture(scope="module")
def surroundings() -> Iterator[None]:
    """What the actors read from the environment."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SECRET_KEY", SECRET_KEY)
        environment.setenv("MAIL_FROM", "The Shop <shop@example.org>")
        environment.setenv("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8")
        outside.forget()
        yield
    outside.forget()


@pytest.fixture(scope="module")
def running(service_url: str, surroundings: None) -> Iterator[TestClient]:
    with TestClient(create_app(settings_for(service_url))) as client:
        client.headers["Authorization"] = f"Bearer {ADMIN}"
        yield client


@pytest.fixture
def api(running: TestClient, database: Database) -> TestClient:
    """The application over an empty database, called with an admin key."""
    return running


@pytest.fixture
def unreachable_url(service_url: str) -> str:
    """Where no server listens."""
    return make_url(service_url).set(host="127.0.0.1", port=1).render_as_string(hide_password=False)


@pytest.fixture(scope="module")
def door(running: TestClient, whole_database: Database) -> Door:
    whole_database.empty()
    return Door(running, whole_database)
