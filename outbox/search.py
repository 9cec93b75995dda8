"""The statements of a search: which tasks a query fits, a page at a time, newest id first; and how many.

Whatever the query says goes in as a value: the text of a statement never changes.
"""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from typing import Any

from outbox.query import Query

__all__ = ["COUNT", "FIND", "LOOK_BACK", "WITHIN", "looks_back_to", "values_of"]

#: A search is given up after this long, with a word on how to narrow it.
WITHIN = timedelta(seconds=5)

#: A query with any filter but an id looks at succeeded and cancelled tasks that ended within this span, unless it says
#: `since` itself: the history may be long, and has no index but its days and ids. Unfinished and dead tasks are all looked at.
LOOK_BACK = timedelta(days=7)

#: In which stored states a public state is found.
_STORED = {
    "scheduled": ("scheduled",), "retrying": ("scheduled",), "waiting": ("waiting",), "pending": ("pending",),
    "published": ("published", "running"), "running": ("running",),
}  # fmt: skip


def looks_back_to(query: Query, now: datetime) -> datetime | None:
    """From which instant on finished tasks are looked at; None: from the beginning."""
    since = query.at(now).since
    if isinstance(since, datetime):
        return since
    return now - LOOK_BACK if query and query.id is None else None


def values_of(query: Query, now: datetime, *, before: Any, limit: int) -> dict[str, Any]:
    """What the statements are given for this query, seen now: `limit` rows, of ids below `before`."""
    seen, states = query.at(now), set(query.states)
    stored = sorted({each for state in states for each in _STORED.get(state, ())})
    return {
        "states": list(query.states) or None,
        "stored": stored,
        "before": before,
        "low": query.id and query.id.ljust(32, "0"),
        "high": query.id and query.id.ljust(32, "f"),
        "actors": list(query.actors) or None,
        "queues": list(query.queues) or None,
        "lanes": [f"{kind}/{query.lane}" for kind in ("order", "limit")] if query.lane is not None else None,
        "unique": query.unique,
        "since": seen.since,
        "until": seen.until,
        "back": looks_back_to(query, now),
        "errors": _anywhere(query.errors),
        "failure": query.failure,
        "words": _anywhere(query.words),
        "needles": _needles(query),
        "arguments": _arguments(query),
        "hot": limit if stored or not states else 0,
        "cold": limit if states & {"succeeded", "cancelled"} or not states else 0,
        "dead": limit if "dead" in states or not states else 0,
        "limit": limit,
    }


def _anywhere(texts: tuple[str, ...]) -> list[str] | None:
    """Patterns of LIKE that hold the texts, whatever is in them."""
    safe = (text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") for text in texts)
    return [f"%{text}%" for text in safe] or None


def _needles(query: Query) -> list[str] | None:
    """What the text of the arguments must hold, whoever wrote the JSON: of each value its longest run of plain characters.

    It spares nearly every row the dear look into its JSON.
    """
    runs = (re.findall(r"[A-Za-z0-9.@-]+", argument.value) for argument in query.arguments)
    return _anywhere(tuple(max(found, key=len) for found in runs if found))


def _arguments(query: Query) -> str | None:
    """What `json_to_recordset` reads."""
    asked = [{"place": place, "path": path, "value": value} for place, path, value in query.arguments]
    return json.dumps(asked) if asked else None


# Cost without filters: the newest `limit` entries of each table's index on id; in the history, one index descent a
# partition. With filters: rows are read from the newest down until `limit` fit, or by an index where one serves: an id's
# beginning; a state kept by a partial index alone (running, say), with its queue; a lane. `back` spares the partitions
# before it. Claimed is not yet started: the world sees `running` when the worker's heartbeat lists it.
# States stand apart, and a lane's two halves, because each has its own index.
FIND = """
select *
from (
    (
        select t.id, s.state, t.actor, t.queue, t.args, t.kwargs, t.options, t.priority, t.created_at, t.due_at,
            t.published_at, case when s.state = 'running' then t.claimed_at end as started_at,
            null::timestamptz as finished_at, t.expires_at, t.failures, t.crashes, t.losses, t.max_attempts, t.lane,
            t.unique_key, t.cancel_requested, t.reason, t.worker_id
        from outbox.task t
        left join outbox.worker w on w.id = t.worker_id
        cross join lateral (
            select case
                when t.state = 'scheduled' and t.failures > 0 then 'retrying'
                when t.state = 'running' and not coalesce(t.run_id = any(w.running), true) then 'published'
                else t.state end as state
        ) s
        where (%(states)s::text[] is null or s.state = any(%(states)s::text[]))
        and (%(states)s::text[] is null
            or (t.state = 'scheduled' and 'scheduled' = any(%(stored)s::text[]))
            or (t.state = 'waiting' and 'waiting' = any(%(stored)s::text[]))
            or (t.state = 'pending' and 'pending' = any(%(stored)s::text[]))
            or (t.state = 'published' and 'published' = any(%(stored)s::text[]))
            or (t.state = 'running' and 'running' = any(%(stored)s::text[])))
        and (%(before)s::uuid is null or t.id < %(before)s::uuid)
        and (%(low)s::uuid is null or t.id between %(low)s::uuid and %(high)s::uuid)
        and (%(actors)s::text[] is null or t.actor = any(%(actors)s::text[]))
        and (%(queues)s::text[] is null or t.queue = any(%(queues)s::text[]))
        and (%(lanes)s::text[] is null
            or (t.lane = any(%(lanes)s::text[]) and t.state = 'waiting')
            or (t.lane = any(%(lanes)s::text[]) and t.state <> 'waiting'))
        and (%(unique)s::text is null or t.unique_key = %(unique)s::text)
        and (%(failure)s::text is null or t.attempts -> -1 ->> 'failure' = %(failure)s::text)
        and (%(since)s::timestamptz is null or t.created_at >= %(since)s::timestamptz)
        and (%(until)s::timestamptz is null or t.created_at < %(until)s::timestamptz)
        and (%(errors)s::text[] is null or t.reason is not null or t.attempts <> '[]')
        and (%(errors)s::text[] is null or concat_ws(e'\\n', t.reason, (
            select string_agg(a ->> 'error', e'\\n') from jsonb_array_elements(t.attempts) a
        )) ilike all(%(errors)s::text[]))
        and (%(needles)s::text[] is null or concat(t.args, t.kwargs) like all(%(needles)s::text[]))
        and (%(arguments)s::json is null or not exists (
            select from json_to_recordset(%(arguments)s::json) as q(place text, path text[], value text)
            where (t.kwargs #>> q.path) is distinct from q.value
            and (q.place = 'kwargs' or ((t.args #>> q.path) is distinct from q.value and not exists (
                select from json_array_elements(t.args) e where e #>> q.path = q.value)))))
        and (%(words)s::text[] is null
            or concat_ws(e'\\n', t.actor, t.queue, t.args, t.kwargs, t.reason) ilike all(%(words)s::text[]))
        order by t.id desc
        limit %(hot)s
    )
    union all
    (
        select h.id, h.state, h.actor, h.queue, h.args, h.kwargs, h.options, h.priority, h.created_at, h.due_at,
            h.published_at, h.started_at, h.finished_at, h.expires_at, h.failures, h.crashes, h.losses,
            h.max_attempts, h.lane, h.unique_key, false, h.reason, h.worker_id
        from outbox.history h
        where (%(states)s::text[] is null or h.state = any(%(states)s::text[]))
        and (%(before)s::uuid is null or h.id < %(before)s::uuid)
        and (%(low)s::uuid is null or h.id between %(low)s::uuid and %(high)s::uuid)
        and (%(actors)s::text[] is null or h.actor = any(%(actors)s::text[]))
        and (%(queues)s::text[] is null or h.queue = any(%(queues)s::text[]))
        and (%(lanes)s::text[] is null or h.lane = any(%(lanes)s::text[]))
        and (%(unique)s::text is null or h.unique_key = %(unique)s::text)
        and (%(failure)s::text is null or h.attempts -> -1 ->> 'failure' = %(failure)s::text)
        and (%(since)s::timestamptz is null or h.created_at >= %(since)s::timestamptz)
        and (%(until)s::timestamptz is null or h.created_at < %(until)s::timestamptz)
        and (%(back)s::timestamptz is null or h.finished_at >= %(back)s::timestamptz)
        and (%(errors)s::text[] is null or h.reason is not null or h.attempts <> '[]')
        and (%(errors)s::text[] is null or concat_ws(e'\\n', h.reason, (
            select string_agg(a ->> 'error', e'\\n') from jsonb_array_elements(h.attempts) a
        )) ilike all(%(errors)s::text[]))
        and (%(needles)s::text[] is null or concat(h.args, h.kwargs) like all(%(needles)s::text[]))
        and (%(arguments)s::json is null or not exists (
            select from json_to_recordset(%(arguments)s::json) as q(place text, path text[], value text)
            where (h.kwargs #>> q.path) is distinct from q.value
            and (q.place = 'kwargs' or ((h.args #>> q.path) is distinct from q.value and not exists (
                select from json_array_elements(h.args) e where e #>> q.path = q.value)))))
        and (%(words)s::text[] is null
            or concat_ws(e'\\n', h.actor, h.queue, h.args, h.kwargs, h.reason) ilike all(%(words)s::text[]))
        order by h.id desc
        limit %(cold)s
    )
    union all
    (
        select d.id, d.state, d.actor, d.queue, d.args, d.kwargs, d.options, d.priority, d.created_at, d.due_at,
            d.published_at, d.started_at, d.finished_at, d.expires_at, d.failures, d.crashes, d.losses,
            d.max_attempts, d.lane, d.unique_key, false, d.reason, d.worker_id
        from outbox.dead d
        where (%(before)s::uuid is null or d.id < %(before)s::uuid)
        and (%(low)s::uuid is null or d.id between %(low)s::uuid and %(high)s::uuid)
        and (%(actors)s::text[] is null or d.actor = any(%(actors)s::text[]))
        and (%(queues)s::text[] is null or d.queue = any(%(queues)s::text[]))
        and (%(lanes)s::text[] is null or d.lane = any(%(lanes)s::text[]))
        and (%(unique)s::text is null or d.unique_key = %(unique)s::text)
        and (%(failure)s::text is null or d.attempts -> -1 ->> 'failure' = %(failure)s::text)
        and (%(since)s::timestamptz is null or d.created_at >= %(since)s::timestamptz)
        and (%(until)s::timestamptz is null or d.created_at < %(until)s::timestamptz)
        and (%(errors)s::text[] is null or d.reason is not null or d.attempts <> '[]')
        and (%(errors)s::text[] is null or concat_ws(e'\\n', d.reason, (
            select string_agg(a ->> 'error', e'\\n') from jsonb_array_elements(d.attempts) a
        )) ilike all(%(errors)s::text[]))
        and (%(needles)s::text[] is null or concat(d.args, d.kwargs) like all(%(needles)s::text[]))
        and (%(arguments)s::json is null or not exists (
            select from json_to_recordset(%(arguments)s::json) as q(place text, path text[], value text)
            where (d.kwargs #>> q.path) is distinct from q.value
            and (q.place = 'kwargs' or ((d.args #>> q.path) is distinct from q.value and not exists (
                select from json_array_elements(d.args) e where e #>> q.path = q.value)))))
        and (%(words)s::text[] is null
            or concat_ws(e'\\n', d.actor, d.queue, d.args, d.kwargs, d.reason) ilike all(%(words)s::text[]))
        order by d.id desc
        limit %(dead)s
    )
) a
order by id desc
limit %(limit)s
"""

# Cost: as FIND with as many rows: of each table up to `limit`, none of them shown.
COUNT = """
select count(*)
from (
    select
    from (
        (
            select
            from outbox.task t
            left join outbox.worker w on w.id = t.worker_id
            cross join lateral (
                select case
                    when t.state = 'scheduled' and t.failures > 0 then 'retrying'
                    when t.state = 'running' and not coalesce(t.run_id = any(w.running), true) then 'published'
                    else t.state end as state
            ) s
            where (%(states)s::text[] is null or s.state = any(%(states)s::text[]))
            and (%(states)s::text[] is null
                or (t.state = 'scheduled' and 'scheduled' = any(%(stored)s::text[]))
                or (t.state = 'waiting' and 'waiting' = any(%(stored)s::text[]))
                or (t.state = 'pending' and 'pending' = any(%(stored)s::text[]))
                or (t.state = 'published' and 'published' = any(%(stored)s::text[]))
                or (t.state = 'running' and 'running' = any(%(stored)s::text[])))
            and (%(before)s::uuid is null or t.id < %(before)s::uuid)
            and (%(low)s::uuid is null or t.id between %(low)s::uuid and %(high)s::uuid)
            and (%(actors)s::text[] is null or t.actor = any(%(actors)s::text[]))
            and (%(queues)s::text[] is null or t.queue = any(%(queues)s::text[]))
            and (%(lanes)s::text[] is null
                or (t.lane = any(%(lanes)s::text[]) and t.state = 'waiting')
                or (t.lane = any(%(lanes)s::text[]) and t.state <> 'waiting'))
            and (%(unique)s::text is null or t.unique_key = %(unique)s::text)
            and (%(failure)s::text is null or t.attempts -> -1 ->> 'failure' = %(failure)s::text)
            and (%(since)s::timestamptz is null or t.created_at >= %(since)s::timestamptz)
            and (%(until)s::timestamptz is null or t.created_at < %(until)s::timestamptz)
            and (%(errors)s::text[] is null or t.reason is not null or t.attempts <> '[]')
            and (%(errors)s::text[] is null or concat_ws(e'\\n', t.reason, (
                select string_agg(a ->> 'error', e'\\n') from jsonb_array_elements(t.attempts) a
            )) ilike all(%(errors)s::text[]))
            and (%(needles)s::text[] is null or concat(t.args, t.kwargs) like all(%(needles)s::text[]))
            and (%(arguments)s::json is null or not exists (
                select from json_to_recordset(%(arguments)s::json) as q(place text, path text[], value text)
                where (t.kwargs #>> q.path) is distinct from q.value
                and (q.place = 'kwargs' or ((t.args #>> q.path) is distinct from q.value and not exists (
                    select from json_array_elements(t.args) e where e #>> q.path = q.value)))))
            and (%(words)s::text[] is null
                or concat_ws(e'\\n', t.actor, t.queue, t.args, t.kwargs, t.reason) ilike all(%(words)s::text[]))
            order by t.id desc
            limit %(hot)s
        )
        union all
        (
            select
            from outbox.history h
            where (%(states)s::text[] is null or h.state = any(%(states)s::text[]))
            and (%(before)s::uuid is null or h.id < %(before)s::uuid)
            and (%(low)s::uuid is null or h.id between %(low)s::uuid and %(high)s::uuid)
            and (%(actors)s::text[] is null or h.actor = any(%(actors)s::text[]))
            and (%(queues)s::text[] is null or h.queue = any(%(queues)s::text[]))
            and (%(lanes)s::text[] is null or h.lane = any(%(lanes)s::text[]))
            and (%(unique)s::text is null or h.unique_key = %(unique)s::text)
            and (%(failure)s::text is null or h.attempts -> -1 ->> 'failure' = %(failure)s::text)
            and (%(since)s::timestamptz is null or h.created_at >= %(since)s::timestamptz)
            and (%(until)s::timestamptz is null or h.created_at < %(until)s::timestamptz)
            and (%(back)s::timestamptz is null or h.finished_at >= %(back)s::timestamptz)
            and (%(errors)s::text[] is null or h.reason is not null or h.attempts <> '[]')
            and (%(errors)s::text[] is null or concat_ws(e'\\n', h.reason, (
                select string_agg(a ->> 'error', e'\\n') from jsonb_array_elements(h.attempts) a
            )) ilike all(%(errors)s::text[]))
            and (%(needles)s::text[] is null or concat(h.args, h.kwargs) like all(%(needles)s::text[]))
            and (%(arguments)s::json is null or not exists (
                select from json_to_recordset(%(arguments)s::json) as q(place text, path text[], value text)
                where (h.kwargs #>> q.path) is distinct from q.value
                and (q.place = 'kwargs' or ((h.args #>> q.path) is distinct from q.value and not exists (
                    select from json_array_elements(h.args) e where e #>> q.path = q.value)))))
            and (%(words)s::text[] is null
                or concat_ws(e'\\n', h.actor, h.queue, h.args, h.kwargs, h.reason) ilike all(%(words)s::text[]))
            order by h.id desc
            limit %(cold)s
        )
        union all
        (
            select
            from outbox.dead d
            where (%(before)s::uuid is null or d.id < %(before)s::uuid)
            and (%(low)s::uuid is null or d.id between %(low)s::uuid and %(high)s::uuid)
            and (%(actors)s::text[] is null or d.actor = any(%(actors)s::text[]))
            and (%(queues)s::text[] is null or d.queue = any(%(queues)s::text[]))
            and (%(lanes)s::text[] is null or d.lane = any(%(lanes)s::text[]))
            and (%(unique)s::text is null or d.unique_key = %(unique)s::text)
            and (%(failure)s::text is null or d.attempts -> -1 ->> 'failure' = %(failure)s::text)
            and (%(since)s::timestamptz is null or d.created_at >= %(since)s::timestamptz)
            and (%(until)s::timestamptz is null or d.created_at < %(until)s::timestamptz)
            and (%(errors)s::text[] is null or d.reason is not null or d.attempts <> '[]')
            and (%(errors)s::text[] is null or concat_ws(e'\\n', d.reason, (
                select string_agg(a ->> 'error', e'\\n') from jsonb_array_elements(d.attempts) a
            )) ilike all(%(errors)s::text[]))
            and (%(needles)s::text[] is null or concat(d.args, d.kwargs) like all(%(needles)s::text[]))
            and (%(arguments)s::json is null or not exists (
                select from json_to_recordset(%(arguments)s::json) as q(place text, path text[], value text)
                where (d.kwargs #>> q.path) is distinct from q.value
                and (q.place = 'kwargs' or ((d.args #>> q.path) is distinct from q.value and not exists (
                    select from json_array_elements(d.args) e where e #>> q.path = q.value)))))
            and (%(words)s::text[] is null
                or concat_ws(e'\\n', d.actor, d.queue, d.args, d.kwargs, d.reason) ilike all(%(words)s::text[]))
            order by d.id desc
            limit %(dead)s
        )
    ) a
    limit %(limit)s
) found
"""
