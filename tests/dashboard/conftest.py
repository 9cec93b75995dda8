"""One migrated database a module, a dashboard over it, mounted below a path as an application would."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import uvicorn
from awaiting import await_that
from dashboard_eyes import Eyes, Served, by_header
from outbox_rows import Outbox

from outbox.dashboard import Dashboard


@pytest.fixture(scope="module")
def dashboard_url(new_database: Callable[[str], str], migrated_template: str) -> str:
    return new_database(migrated_template)


@pytest.fixture(scope="module")
def whole_outbox(dashboard_url: str) -> Iterator[Outbox]:
    outbox = Outbox(dashboard_url)
    yield outbox
    outbox.close()


@pytest.fixture
def outbox(whole_outbox: Outbox) -> Outbox:
    """The module's database, with every table empty."""
    whole_outbox.empty()
    return whole_outbox


@pytest.fixture(scope="module")
def mounted(whole_outbox: Outbox) -> Iterator[Eyes]:
    with Eyes(whole_outbox.engine) as eyes:
        yield eyes


@pytest.fixture
def eyes(mounted: Eyes, outbox: Outbox) -> Eyes:
    """A dashboard over an empty outbox."""
    return mounted


@pytest.fixture(scope="module")
def served(whole_outbox: Outbox) -> Iterator[Served]:
    """A dashboard behind a real server."""
    dashboard = Dashboard(whole_outbox.engine, gate=by_header)
    server = uvicorn.Server(uvicorn.Config(dashboard, port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    await_that(lambda: server.started)
    yield Served(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", dashboard)
    server.should_exit = server.force_exit = True
    thread.join(10)
