"""One migrated database a module, a dashboard over it, mounted below a path as an application would."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from dashboard_eyes import Eyes
from outbox_rows import Outbox


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
