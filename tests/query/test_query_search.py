"""What a query finds, in every table; that no text of it reaches SQL; what is read, counted, and given up."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from outbox import reads
from outbox.encoding import encode
from outbox.errors import TookTooLong
from outbox.query import KEYS, PUBLIC_STATES, Argument, Query, QueryError, parse
from outbox.reads import Count, Reader
from outbox.search import COUNT, FIND, LOOK_BACK, values_of
from tests.cli.conftest import Scene
from tests.ledger.plans import Scan, add_finished, add_tasks, add_workers, plan, scans, touched
from tests.query.test_query_language import ODD, QUERIES


def found(scene: Scene, line: str) -> set[UUID]:
    tasks, _ = scene.reader.tasks(scene.conn, parse(line), limit=1000)
    ids = {task.id for task in tasks}
    assert scene.reader.count(scene.conn, parse(line)) == Count(len(ids))
    return ids


def test_each_key_finds_what_it_says_in_every_table(scene: Scene) -> None:
    kept: dict[str, dict[str, Any]] = {
        "actor:send": {"actor": "send"},
        "queue:mail": {"queue": "mail"},
        "lane:u/7": {"lane": "order/u/7"},
        "unique:once": {"unique_key": "once"},
        "kwargs.user.id:7": {"kwargs": {"user": {"id": 7}}},
        "args.user_id:42": {"kwargs": {"user_id": 42}},
        "args.1:42": {"args": [0, 42]},
        "args.email:a@b": {"args": [[], {"email": "a@b"}]},
        'args.0:"50% _off\\\\"': {"args": ["50% _off\\"]},
        "args.flag:true": {"kwargs": {"flag": True}},
        'args.text:""': {"kwargs": {"text": ""}},
        "once word": {"args": ["ONCE"], "kwargs": {"y": "a Word"}},
        "actor:grüße": {"actor": "grüße"},
        '"50% _"': {"args": ["50% _off"]},
    }
    for make in (scene.scheduled, scene.succeeded, scene.dead, scene.cancelled):
        make(actor="other", args=["50x yoff"], kwargs={"user_id": 4, "flag": None})
    for line, row in kept.items():
        ids = {id for make in (scene.succeeded, scene.dead, scene.scheduled) for id in make(**row)}
        assert found(scene, line) == ids, line
        scene.conn.execute("truncate outbox.history, outbox.dead")
        scene.conn.execute("delete from outbox.task where actor <> 'other'")


def test_an_error_is_looked_for_in_the_reason_and_in_every_attempt(scene: Scene) -> None:
    (dead,) = scene.dead(error="SMTPError: Timed out")
    (again,) = scene.retrying(error="timed OUT")
    scene.dead(error="refused")
    scene.ledger.retry(scene.conn, dead)
    assert found(scene, 'error:"timed out"') == {dead, again}
    assert found(scene, "error:timed error:smtp") == {dead}


def test_states_are_those_that_users_see(scene: Scene) -> None:
    (waits,) = scene.retrying()
    (later,) = scene.scheduled()
    (runs,) = scene.running()
    (held,) = (claim.id for claim in scene.claimed())
    assert found(scene, "state:retrying") == {waits}
    assert found(scene, "state:scheduled") == {later}
    assert found(scene, "state:running state:retrying") == {runs, waits}
    assert found(scene, "state:published") == {held}


def test_an_id_is_found_by_its_beginning(scene: Scene) -> None:
    first, second = (scene.pending(id=f"{digit}0a20000-0000-7000-8000-000000000000")[0] for digit in "ab")
    assert found(scene, "id:a0a2") == {first}
    assert found(scene, f"id:{second}") == {second}
    assert found(scene, "id:c") == set()


def test_since_and_until_are_about_creation(scene: Scene) -> None:
    (old,), (young,) = scene.pending(), scene.pending()
    scene.conn.execute("update outbox.task set created_at = now() - interval '3 hours' where id = %s", [old])
    assert found(scene, "since:2h") == {young}
    assert found(scene, "until:2h") == {old}
    assert found(scene, "since:4h until:1h") == {old}
    assert found(scene, "until:1970-01-02") == set()


def test_finished_tasks_have_a_bound_unless_since_is_given_or_there_is_no_other_filter(scene: Scene) -> None:
    (old,) = scene.succeeded(actor="send")
    (dead,) = scene.dead(actor="send")
    for table in ("history", "dead"):
        scene.conn.execute(
            f"update outbox.{table} set created_at = now() - %s, finished_at = now() - %s",
            [LOOK_BACK + timedelta(days=1)] * 2,
        )
    assert found(scene, "actor:send") == {dead}
    assert found(scene, "actor:send since:20d") == {old, dead}
    assert found(scene, f"id:{old.hex[:12]}") >= {old}
    assert found(scene, "") == {old, dead}


def test_a_lane_is_named_by_its_key_of_either_kind(scene: Scene) -> None:
    ids = {*scene.pending(2, lane="order/x"), *scene.pending(3, lane="limit/x", lane_limit=1)}
    scene.pending(lane="order/xy")
    assert found(scene, "lane:x") == ids


def test_pages_of_a_query_follow_each_other_and_miss_nothing(scene: Scene) -> None:
    ids = [*scene.dead(5, actor="send"), *scene.scheduled(4, actor="send"), *scene.succeeded(3, actor="send")]
    scene.pending(5)
    seen: list[UUID] = []
    cursor = None
    while True:
        page, cursor = scene.reader.tasks(scene.conn, parse("actor:send"), cursor=cursor, limit=5)
        seen += [task.id for task in page]
        if cursor is None:
            break
        scene.pending(actor="send")  # what comes later is on no later page
    assert seen == sorted(ids, reverse=True)


def test_counts_are_exact_up_to_the_cap(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reads, "CAP", 5)
    scene.pending(3)
    scene.dead(2)
    assert scene.reader.count(scene.conn) == Count(5)
    scene.succeeded(2)
    assert scene.reader.count(scene.conn) == Count(5, at_least=True)
    assert scene.reader.count(scene.conn, parse("state:dead")) == Count(2)


def test_a_dear_search_ends_with_a_word_and_the_callers_transaction_goes_on(scene: Scene) -> None:
    scene.pending(2000, kwargs={"text": "x" * 2000})
    dear = Query(words=("a" * 200, "y"))
    with scene.conn.transaction():
        scene.conn.execute("set local statement_timeout = '20s'")
        with pytest.raises(TookTooLong, match="narrow it"):
            scene.reader.tasks(scene.conn, dear, within=timedelta(milliseconds=1))
        scene.reader.tasks(scene.conn, dear)
        assert scene.conn.execute("show statement_timeout").fetchall() == [("20s",)]
    assert scene.conn.execute("show statement_timeout").fetchall() != [("20s",)]


# ---------------------------------------------------------------------- no text is SQL


@pytest.fixture(scope="module")
def some(new_database: Callable[[str], str], migrated_template: str) -> Iterator[Scene]:
    """A few tasks of each table, with odd arguments."""
    made = Scene(new_database(migrated_template))
    odd = [None, {"a": {"b": [1, {"": 2}]}}, "'; drop table outbox.task; --", 2**70, -0.0, "\u2028\\u0000"]
    for make in (made.pending, made.scheduled, made.succeeded, made.dead, made.retrying, made.running):
        make(actor="send", queue="mail" if make != made.running else "default", args=odd, kwargs={"x": odd, "": 1})
    yield made
    made.conn.close()


FUZZ = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PIECE = st.sampled_from([f"{key}:" for key in KEYS] + ["args.", "kwargs.x.", " ", '"', "\\", *PUBLIC_STATES])
LINES = st.text() | st.lists(ODD | PIECE | st.from_regex(r"\A-?[0-9]{1,25}\Z"), max_size=10).map("".join)


@FUZZ
@given(LINES)
def test_any_text_finds_rows_or_is_an_error_of_ours(some: Scene, line: str) -> None:
    try:
        query = parse(line)
    except QueryError:
        return
    some.reader.tasks(some.conn, query, within=timedelta(seconds=30))
    some.reader.count(some.conn, query, within=timedelta(seconds=30))


@FUZZ
@given(QUERIES)
def test_any_query_finds_rows(some: Scene, query: Query) -> None:
    some.reader.tasks(some.conn, query, within=timedelta(seconds=30))


VALUES = (
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=15)
    | st.integers()
    | st.booleans()
)


@FUZZ
@given(key=ODD, value=VALUES, inside=st.booleans())
def test_any_value_of_any_argument_finds_its_task(some: Scene, key: str, value: str | int, inside: bool) -> None:
    told = value if isinstance(value, str) else json.dumps(value)
    with some.conn.transaction(force_rollback=True):
        args, kwargs = encode([{key: value}] if inside else [], {} if inside else {key: value}, actor="a", limit=10_000)
        (id,) = some.pending(actor="sought")
        some.conn.execute("update outbox.task set args = %s, kwargs = %s where id = %s", [args, kwargs, id])
        query = Query(actors=("sought",), arguments=(Argument("args", (key,), told),))
        assert [task.id for task in some.reader.tasks(some.conn, query)[0]] == [id]


@pytest.mark.parametrize(
    "path", ["0", "-1", "00", "99999999999999999999", "1.a.b.1", 'x."', "a.b.-9223372036854775809", '""']
)
def test_odd_paths_find_nothing_or_something(some: Scene, path: str) -> None:
    steps = ".".join(f'"{step}"' if '"' not in step else "x" for step in path.split("."))
    try:
        query = parse(f"args.{steps}:1")
    except QueryError:
        return
    some.reader.tasks(some.conn, query)


# ---------------------------------------------------------------------- what is read


@pytest.fixture(scope="module")
def crowded(new_database: Callable[[str], str], migrated_template: str) -> Iterator[psycopg.Connection[Any]]:
    """40,000 unfinished tasks, 50,000 in the history, 2,000 dead, well analysed."""
    with psycopg.connect(new_database(migrated_template), autocommit=True) as conn:
        add_workers(conn)
        for state, number in {"pending": 20_000, "published": 8_000, "waiting": 6_000, "running": 500}.items():
            add_tasks(conn, state, number)
        add_tasks(conn, "scheduled", 6_000, lanes=True)
        add_finished(conn, "history", "succeeded", 50_000)
        add_finished(conn, "dead", "dead", 2_000)
        conn.execute("analyze")
        yield conn


def read(conn: psycopg.Connection[Any], line: str, statement: str, *, limit: int = 51) -> list[Scan]:
    """Each scan of the big tables that the plan runs, for a query as the reader asks it."""
    values = values_of(parse(line), Reader().now(conn), before=None, limit=limit)
    found = scans(_executed(plan(conn, statement, values, how="custom")))
    return [scan for scan in found if scan.table.startswith(("task", "history", "dead"))]


def _executed(node: dict[str, Any]) -> dict[str, Any]:
    """The plan without what a limit of zero keeps from running."""
    kept = [
        _executed(each)
        for each in node.get("Plans", ())
        if not (each["Node Type"] == "Limit" and each["Plan Rows"] == 0)
    ]
    return {**node, "Plans": kept}


INDEXED = [
    "",
    "id:01a2",
    "id:5d1e0c7aa",
    "state:running",
    "state:pending queue:queue3",
    "state:published queue:queue3",
    "lane:done10",
    "lane:7",
    "state:waiting lane:7",
    "since:1h",
    "state:dead",
    "state:succeeded",
    "state:scheduled",
    "actor:send_mail",
]


@pytest.mark.parametrize("statement", [FIND, COUNT], ids=["find", "count"])
@pytest.mark.parametrize("line", INDEXED)
def test_no_page_reads_all_tasks_where_an_index_serves(
    crowded: psycopg.Connection[Any], line: str, statement: str
) -> None:
    assert [scan for scan in read(crowded, line, statement) if scan.index is None and scan.table == "task"] == []


def test_a_page_without_a_filter_and_one_by_id_read_the_history_by_its_index_too(
    crowded: psycopg.Connection[Any],
) -> None:
    for line in ("", f"id:{uuid4().hex[:9]}"):
        assert [
            scan for scan in read(crowded, line, FIND) if scan.index is None and scan.table != "history_default"
        ] == []


def test_lanes_and_rare_states_are_read_from_their_own_indexes(crowded: psycopg.Connection[Any]) -> None:
    def of_task(line: str) -> set[str | None]:
        return {scan.index for scan in read(crowded, line, FIND) if scan.table == "task"}

    assert of_task("lane:7") == {"task_waiting", "task_lane"}
    assert of_task("state:running") == {"task_running"}
    assert of_task("state:pending queue:queue3 since:1s") <= {"task_pending", "task_pkey"}


def test_a_filter_reads_no_day_of_the_history_before_its_bound(crowded: psycopg.Connection[Any]) -> None:
    days = {scan.table for scan in read(crowded, "actor:send_mail since:1h", FIND) if scan.table.startswith("history")}
    whole = {scan.table for scan in read(crowded, "", FIND) if scan.table.startswith("history")}
    assert days < whole


def test_what_a_page_reads_does_not_grow_with_the_pages_before_it(crowded: psycopg.Connection[Any]) -> None:
    reader, query = Reader(), parse("state:pending state:dead")
    last = crowded.execute(
        "select id from outbox.task where state = 'pending' order by id offset 500 limit 1"
    ).fetchall()[0][0]
    pages = [
        touched(crowded, FIND, values_of(query, reader.now(crowded), before=before, limit=51))
        for before in (None, last)
    ]
    assert pages[1] < 2 * pages[0] + 100
