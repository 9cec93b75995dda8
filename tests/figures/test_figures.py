"""Figures by the minute: the same ones however often and by however many they are written, and what they cost."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from outbox_rows import Outbox

from outbox.chronicle import BACK, Chronicle
from outbox.figures import MINUTE, WRITE, Figures, Moment, Span

FIGURES = Figures()
#: A minute of today that is over, in a partition of its own day.
NOON = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=30)
MILLISECOND = timedelta(milliseconds=1)

HISTORY = """
insert into outbox.history (id, state, queue, actor, args, kwargs, options, priority, created_at, due_at, published_at,
    started_at, finished_at, lane_holds, failures, crashes, losses, attempts)
select gen_random_uuid(), %(state)s, %(queue)s, %(actor)s, '[]', '{}', '{}', 0, %(created)s, %(due)s, %(created)s, %(started)s,
    %(finished)s, false, %(failures)s, 0, 0, %(attempts)s
from generate_series(1, %(times)s)
"""


def ended(
    outbox: Outbox,
    at: datetime,
    *,
    state: str = "succeeded",
    actor: str = "send_mail",
    queue: str = "mail",
    took: timedelta = 8 * MILLISECOND,
    ran: timedelta = MILLISECOND,
    delay: timedelta = timedelta(0),
    failures: int = 0,
    attempts: list[Any] | None = None,
    times: int = 1,
) -> None:
    statement = HISTORY if state != "dead" else HISTORY.replace("outbox.history", "outbox.dead")
    values = {
        "state": state, "queue": queue, "actor": actor, "created": at - took - delay, "due": at - took,
        "started": at - ran, "finished": at, "failures": failures, "attempts": json.dumps(attempts or []), "times": times,
    }  # fmt: skip
    outbox.conn.execute(statement, values)


def write(outbox: Outbox, minutes: int = 60) -> int:
    return FIGURES.write(outbox.conn, since=NOON - minutes * MINUTE, until=NOON + 10 * MINUTE)


def series(outbox: Outbox, minutes: int = 3) -> list[Moment]:
    return look(outbox, NOON, NOON + minutes * MINUTE).series


def look(outbox: Outbox, since: datetime, until: datetime, step: timedelta = MINUTE) -> Span:
    return FIGURES.look(outbox.conn, since=since, until=until, step=step)


def test_each_minute_tells_what_ended_in_it_and_how(outbox: Outbox) -> None:
    ended(outbox, NOON + 5 * MILLISECOND, times=7)
    ended(outbox, NOON + timedelta(seconds=59), state="cancelled")
    ended(outbox, NOON + timedelta(seconds=60), state="dead", failures=3)
    write(outbox)
    told = [(each.succeeded, each.cancelled, each.dead, each.failures) for each in series(outbox)]
    assert told == [(7, 1, 0, 0), (0, 0, 1, 3), (0, 0, 0, 0)]
    assert [each.at for each in series(outbox)] == [NOON, NOON + MINUTE, NOON + 2 * MINUTE]


def test_what_is_written_again_says_the_same_and_costs_no_row(outbox: Outbox) -> None:
    ended(outbox, NOON, times=5)
    assert write(outbox) == 1
    before = outbox.conn.execute("select * from outbox.minute").fetchall()
    assert write(outbox) == 0
    ended(outbox, NOON + timedelta(seconds=1))
    assert write(outbox) == 1
    assert series(outbox)[0].succeeded == before[0][3] + 1 == 6


def test_two_relays_that_write_the_same_minutes_write_them_once(outbox: Outbox) -> None:
    for number in range(40):
        ended(outbox, NOON + number * MINUTE / 4, actor=f"actor_{number % 7}", queue=f"q{number % 3}", times=3)
    barrier = threading.Barrier(2)

    def one() -> None:
        with outbox.connect() as conn:
            barrier.wait()
            for _ in range(5):
                FIGURES.write(conn, since=NOON, until=NOON + 20 * MINUTE)

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(each.succeeded for each in series(outbox, 20)) == 120


@pytest.mark.parametrize("milliseconds", [0, 1, 3, 8, 47, 250, 999, 5_000, 86_400_000])
def test_a_quantile_is_within_a_tenth(outbox: Outbox, milliseconds: int) -> None:
    took = milliseconds * MILLISECOND
    ended(outbox, NOON + 9 * MILLISECOND, took=took, times=3)
    write(outbox)
    (first, *_) = series(outbox)
    assert first.p50 == first.p95 == first.p99
    assert first.p50 is not None
    assert first.p50 <= 1.2 * MILLISECOND if milliseconds <= 1 else abs(first.p50 / took - 1) < 0.1


def test_quantiles_of_many_are_those_of_all_of_them(outbox: Outbox) -> None:
    for took, times in ((10, 94), (100, 4), (1000, 2)):
        ended(outbox, NOON, took=took * MILLISECOND, times=times)
    write(outbox)
    (first, *_) = series(outbox)
    assert [round(each / MILLISECOND, -1) for each in (first.p50, first.p95)] == [10, 100]  # type: ignore[operator]
    assert first.p99 is not None
    assert abs(first.p99 / timedelta(seconds=1) - 1) < 0.1


def test_a_delayed_task_is_late_from_when_it_was_due_and_one_that_failed_from_its_first_start(outbox: Outbox) -> None:
    ended(outbox, NOON, took=20 * MILLISECOND, delay=timedelta(hours=1))
    first_start = {"started_at": (NOON + timedelta(seconds=20)).isoformat()}
    ended(outbox, NOON + MINUTE, took=20 * MILLISECOND, failures=2, attempts=[first_start, {}])
    write(outbox)
    delayed, failed, _ = series(outbox)
    assert delayed.p50 is not None
    assert failed.p50 is not None
    assert delayed.p50 < 30 * MILLISECOND
    assert abs(failed.p50 / timedelta(seconds=40) - 1) < 0.1


def test_steps_are_sums_of_minutes_and_the_one_that_has_not_ended_says_so(outbox: Outbox) -> None:
    at = look(outbox, NOON, NOON + timedelta(hours=1), 15 * MINUTE).series[0].at
    for number in range(15):
        ended(outbox, at + number * MINUTE)
    FIGURES.write(outbox.conn, since=at, until=at + 20 * MINUTE)
    found = look(outbox, at, at + 20 * MINUTE, 15 * MINUTE).series
    assert [(each.succeeded, each.open) for each in found] == [(15, False), (0, True)]


def test_actors_and_queues_are_told_apart_the_busiest_first(outbox: Outbox) -> None:
    ended(outbox, NOON, actor="rare", queue="b")
    ended(outbox, NOON, actor="busy", queue="a", times=3)
    ended(outbox, NOON + MINUTE, actor="busy", queue="b", state="dead")
    write(outbox)
    found = look(outbox, NOON, NOON + 3 * MINUTE)
    assert [(each.name, each.succeeded, each.dead, each.ended) for each in found.actors] == [
        ("busy", 3, 1, 4),
        ("rare", 1, 0, 1),
    ]
    assert [(each.name, each.ended) for each in found.queues] == [("a", 3), ("b", 2)]


def test_the_chronicle_catches_up_with_a_day_hour_after_hour(outbox: Outbox) -> None:
    now: datetime = outbox.conn.execute("select clock_timestamp()").fetchall()[0][0]
    hours = int(BACK / timedelta(hours=1)) - 1
    for hour in range(1, hours + 1):
        ended(outbox, now - hour * timedelta(hours=1))
    ended(outbox, now - MILLISECOND)
    chronicle = Chronicle("outbox", outbox.connect)
    stretches = 0
    while not chronicle.write(outbox.conn):
        stretches += 1
    assert hours - 1 <= stretches <= hours + 2
    assert outbox.conn.execute("select sum(succeeded) from outbox.minute").fetchall() == [(hours + 1,)]


def test_what_is_committed_a_moment_after_its_minute_is_counted_all_the_same(outbox: Outbox) -> None:
    chronicle = Chronicle("outbox", outbox.connect)
    while not chronicle.write(outbox.conn):
        pass
    now: datetime = outbox.conn.execute("select clock_timestamp()").fetchall()[0][0]
    ended(outbox, now - timedelta(seconds=70))
    chronicle.write(outbox.conn)
    assert outbox.conn.execute("select sum(succeeded) from outbox.minute").fetchall() == [(1,)]


def test_a_minute_is_written_without_reading_the_day(outbox: Outbox) -> None:
    """The pages of a range, by the index that keeps one entry for many of them."""
    outbox.conn.execute("truncate outbox.history")
    for hour in range(10):
        ended(outbox, NOON - hour * timedelta(minutes=1), times=10_000)
    day = f"history_{NOON:%Y%m%d}"
    outbox.conn.execute(f"vacuum analyze outbox.{day}")
    with outbox.connect() as conn:
        conn.execute("set enable_seqscan = off")
        values = {"since": NOON, "until": NOON + MINUTE}
        plan = conn.execute(f"explain (analyze, buffers, format json) {WRITE}", values, prepare=False).fetchall()[0][0]
    read = _rows_read(plan[0]["Plan"])
    outbox.conn.execute("truncate outbox.history")
    assert 10_000 <= read < 30_000


def _rows_read(node: dict[str, Any]) -> int:
    """What scans of the history looked at, with what they then left out."""
    own = 0
    if node.get("Relation Name", "").startswith("history") and "Scan" in node["Node Type"]:
        assert node["Node Type"] != "Seq Scan" or node["Actual Rows"] + node.get("Rows Removed by Filter", 0) == 0
        own = int(
            node["Actual Rows"] + node.get("Rows Removed by Index Recheck", 0) + node.get("Rows Removed by Filter", 0)
        )
    return own + sum(_rows_read(each) for each in node.get("Plans", ()))


def test_a_quarter_of_an_hour_is_the_sum_of_its_minutes_and_a_long_span_is_read_by_it(outbox: Outbox) -> None:
    at = look(outbox, NOON, NOON + timedelta(hours=1), 15 * MINUTE).series[0].at
    for number in range(15):
        ended(outbox, at + number * MINUTE, took=(number + 1) * MILLISECOND)
    ended(outbox, at + 3 * MINUTE, state="dead", failures=2, actor="other")
    FIGURES.write(outbox.conn, since=at, until=at + 15 * MINUTE)
    day = {"since": at - timedelta(hours=23), "until": at + 15 * MINUTE}
    long = FIGURES.look(outbox.conn, **day, step=15 * MINUTE)
    minutes = look(outbox, at, at + 15 * MINUTE, 15 * MINUTE).series
    assert replace(long.series[-1], open=False) == replace(minutes[0], open=False)
    assert [(each.name, each.ended) for each in long.actors] == [("send_mail", 15), ("other", 1)]
    assert [(each.name, each.ended, each.failures) for each in long.queues] == [("mail", 16, 2)]
    outbox.conn.execute("delete from outbox.minute")
    assert FIGURES.look(outbox.conn, **day, step=15 * MINUTE) == long
    ended(outbox, at + 3 * MINUTE, times=2)
    FIGURES.write(outbox.conn, since=at, until=at + 15 * MINUTE)
    assert FIGURES.look(outbox.conn, **day, step=15 * MINUTE).series[-1].succeeded == 17
