"""How fast callers may come: each key its own pace, whoever guesses keys a slow one, and what is refused costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from service_eyes import ADMIN, Database, problem_of, settings_for
from sqlalchemy import event
from sqlalchemy.orm import Session

from service import keys, pace
from service.app import create_app
from service.pace import Pace, paces_for

RATE, BURST, REFUSALS = 2, 5, 3
SECOND = 1_000_000_000
EVENT = {"type": "a", "data": 1}


class Clock:
    """Stands still but for what the test lets pass."""

    def __init__(self) -> None:
        self.now = SECOND

    def __call__(self) -> int:
        return self.now

    def let_pass(self, seconds: int) -> None:
        self.now += seconds * SECOND


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def paced(service_url: str, database: Database, surroundings: None, clock: Clock) -> Iterator[TestClient]:
    settings = settings_for(service_url, rate=RATE, burst=BURST, refusals=REFUSALS)
    app = create_app(settings)
    app.state.paces = paces_for(settings, clock=clock)
    with TestClient(app) as api:
        yield api


@pytest.fixture
def make_key(paced: TestClient) -> Callable[[], str]:
    def make() -> str:
        with Session(paced.app.state.engine) as session, session.begin():
            return keys.create(session, name="a caller", role="writer").secret

    return make


@pytest.fixture
def asked(paced: TestClient) -> list[str]:
    """Each statement that the API sends to the database from now on."""
    statements: list[str] = []
    event.listen(
        paced.app.state.engine, "before_cursor_execute", lambda _c, _u, statement, *_: statements.append(statement)
    )
    return statements


def call(api: TestClient, key: str, **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return api.post("/v1/events", json=EVENT, headers={"Authorization": f"Bearer {key}", **named})


def statuses(api: TestClient, key: str, times: int) -> list[int]:
    return [call(api, key).status_code for _ in range(times)]


# ---------------------------------------------------------------------- a key's pace


def test_beyond_its_burst_a_key_waits_and_its_neighbour_does_not(
    paced: TestClient, make_key: Callable[[], str]
) -> None:
    key, neighbour = make_key(), make_key()
    assert statuses(paced, key, BURST + 2) == [202] * BURST + [429] * 2
    assert problem_of(call(paced, key))["type"] == "/problems/too-many"
    assert statuses(paced, neighbour, BURST) == [202] * BURST
    assert statuses(paced, ADMIN, BURST + 1) == [202] * BURST + [429]


def test_who_waits_as_told_is_served(paced: TestClient, make_key: Callable[[], str], clock: Clock) -> None:
    key = make_key()
    statuses(paced, key, BURST)
    for _ in range(3):
        refused = call(paced, key)
        assert refused.status_code == 429
        wait = int(refused.headers["retry-after"])
        assert wait >= 1
        clock.let_pass(wait)
        assert statuses(paced, key, wait * RATE) == [202] * wait * RATE


def test_every_answer_to_a_key_tells_what_is_left(paced: TestClient, make_key: Callable[[], str], clock: Clock) -> None:
    key = make_key()

    def told(answer: Any) -> tuple[str, str]:
        return answer.headers["ratelimit-policy"], answer.headers["ratelimit"]

    policy = f'"default";q={BURST};w=3'
    assert told(call(paced, key)) == (policy, '"default";r=4;t=1')
    wrong = paced.post("/v1/events", content="{", headers={"Authorization": f"Bearer {key}"})
    assert (wrong.status_code, *told(wrong)) == (415, policy, '"default";r=3;t=1')
    statuses(paced, key, 3)
    assert told(call(paced, key)) == (policy, '"default";r=0;t=3')
    clock.let_pass(100)
    assert told(call(paced, key)) == (policy, '"default";r=4;t=1')


def test_what_is_refused_writes_nothing_and_takes_no_idempotency_key(
    paced: TestClient, database: Database, make_key: Callable[[], str], clock: Clock
) -> None:
    key = make_key()
    statuses(paced, key, BURST)
    before = database.rows()
    refused = call(paced, key, Idempotency_Key="k-1")
    assert (refused.status_code, database.rows()) == (429, before)
    clock.let_pass(1)
    served = call(paced, key, Idempotency_Key="k-1")
    assert served.status_code == 202
    assert "idempotency-replayed" not in served.headers


def test_who_is_beyond_its_pace_asks_the_database_nothing(
    paced: TestClient, make_key: Callable[[], str], asked: list[str]
) -> None:
    key = make_key()
    statuses(paced, key, BURST)
    asked.clear()
    assert statuses(paced, key, 10) == [429] * 10
    assert asked == []


def test_health_has_no_pace(paced: TestClient) -> None:
    for path in ("/livez", "/readyz", "/metrics", "/openapi.json"):
        answers = [paced.get(path) for _ in range(BURST * 2)]
        assert {answer.status_code for answer in answers} == {200}
        assert not any("ratelimit" in answer.headers for answer in answers)


def test_with_a_rate_of_0_there_is_no_limit(service_url: str, database: Database, surroundings: None) -> None:
    with TestClient(create_app(settings_for(service_url, rate=0, burst=1, refusals=0))) as api:
        for answer in (call(api, ADMIN) for _ in range(20)):
            assert answer.status_code == 202
            assert not any(name.startswith("ratelimit") for name in answer.headers)
        assert statuses(api, "of nobody", 20) == [401] * 20


# ---------------------------------------------------------------------- guesses


def test_whoever_guesses_keys_soon_asks_the_database_no_more(paced: TestClient, asked: list[str], clock: Clock) -> None:
    guessed = [call(paced, f"guess-{n}") for n in range(20)]
    assert [answer.status_code for answer in guessed] == [401] * REFUSALS + [429] * (20 - REFUSALS)
    assert sum("app.api_key" in statement for statement in asked) == REFUSALS
    assert int(guessed[-1].headers["retry-after"]) >= 1
    clock.let_pass(2)
    assert statuses(paced, "guess", REFUSALS + 1) == [401] * REFUSALS + [429]


def test_guesses_lock_out_neither_known_keys_nor_other_addresses(
    paced: TestClient, make_key: Callable[[], str]
) -> None:
    known, unknown = make_key(), make_key()
    assert call(paced, known).status_code == 202
    statuses(paced, "guess", REFUSALS)
    assert statuses(paced, known, 2) == [202] * 2
    assert call(paced, ADMIN).status_code == 202
    assert call(paced, unknown).status_code == 429
    elsewhere = TestClient(paced.app, client=("192.0.2.7", 1))
    assert call(elsewhere, unknown).status_code == 202
    assert call(paced, unknown).status_code == 202


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2%eth0", True),
        ("no address", "none either", False),
    ],
)
def test_all_addresses_of_one_network_of_ipv6_are_one_who_guesses(
    paced: TestClient, first: str, second: str, same: bool
) -> None:
    statuses(TestClient(paced.app, client=(first, 1)), "guess", REFUSALS)
    assert statuses(TestClient(paced.app, client=(first, 2)), "guess", 1) == [429]
    assert statuses(TestClient(paced.app, client=(second, 1)), "guess", 1) == [429 if same else 401]


def test_a_revoked_key_is_a_guess_like_others(paced: TestClient, make_key: Callable[[], str]) -> None:
    key = make_key()
    assert call(paced, key).status_code == 202
    with Session(paced.app.state.engine) as session, session.begin():
        (row,) = keys.every(session)
        assert keys.revoke(session, row.id)
    assert statuses(paced, key, REFUSALS + 1) == [401] * REFUSALS + [429]


def test_no_key_at_all_is_no_guess(paced: TestClient, asked: list[str]) -> None:
    assert {paced.get("/v1/tasks").status_code for _ in range(REFUSALS * 3)} == {401}
    assert asked == []


# ---------------------------------------------------------------------- the arithmetic


@given(
    rate=st.integers(1, 1000),
    burst=st.integers(1, 20),
    pauses=st.lists(st.integers(0, SECOND // 2) | st.integers(0, 2_000_000) | st.just(0), max_size=120),
)
def test_in_no_span_more_is_granted_than_the_burst_and_the_rate_make(rate: int, burst: int, pauses: list[int]) -> None:
    clock = Clock()
    pace = Pace("p", rate=rate, burst=burst, clock=clock)
    granted: list[int] = []
    for pause in pauses:
        clock.now += pause
        if pace.take("a").granted:
            granted.append(clock.now)
    for first, began in enumerate(granted):
        for count, ended in enumerate(granted[first:], start=1):
            assert count <= burst + rate * (ended - began) / SECOND


@given(rate=st.integers(1, 1000), burst=st.integers(1, 2000), taken=st.integers(0, 3000))
def test_the_burst_is_whole_and_the_wait_that_is_told_suffices(rate: int, burst: int, taken: int) -> None:
    clock = Clock()
    pace = Pace("p", rate=rate, burst=burst, clock=clock)
    assert sum(pace.take("a").granted for _ in range(taken)) == min(taken, burst)
    clock.let_pass(pace.look("a").wait)
    assert pace.look("a").granted
    assert pace.take("a").granted


def test_who_comes_at_the_rate_is_always_served() -> None:
    clock = Clock()
    pace = Pace("p", rate=200, burst=1, clock=clock)
    for _ in range(1000):
        assert pace.take("a").granted
        clock.now += SECOND // 200


def test_the_one_that_has_not_come_for_longest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "MOST", 3)
    known = Pace("p", rate=1, burst=1, clock=Clock())
    for caller in "abcad":
        known.take(caller)
    assert [caller for caller in "abcd" if caller in known] == ["a", "c", "d"]


def test_what_was_served_beyond_the_limit_is_never_owed_for_longer_than_one_more_request() -> None:
    clock = Clock()
    pace = Pace("any", rate=RATE, burst=BURST, clock=clock)
    for _ in range(1000):
        pace.charge("a")
    wait = pace.look("a").wait
    assert wait <= 1 + 2 // RATE
    clock.let_pass(wait)
    assert pace.take("a").granted
