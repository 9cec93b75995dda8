-- What ended in each minute, by actor and queue; kept by the relay from the tables of what ended. `waits` counts, by a
-- bucket of the time from due to done, tasks that succeeded; `runs` likewise, of the time from start to end.
create table outbox.minute (
    minute timestamptz not null,
    actor text not null,
    queue text not null,
    succeeded integer not null default 0,
    dead integer not null default 0,
    cancelled integer not null default 0,
    failures integer not null default 0,
    waits jsonb not null default '{}',
    runs jsonb not null default '{}',
    primary key (minute, actor, queue)
);

-- The same of each quarter of an hour: what a chart of a week reads.
create table outbox.quarter (like outbox.minute including defaults including constraints);
alter table outbox.quarter rename column minute to quarter;
alter table outbox.quarter add primary key (quarter, actor, queue);

-- Rows of a partition come in the order of their end: a few pages an hour say where each begins. Partitions that come
-- have it from their beginning; of those that are there, the small ones. To read a large one whole would hold up whoever
-- records an outcome in it: it goes without, until its days are over, or until somebody makes it with CREATE INDEX
-- CONCURRENTLY and attaches it.
create index history_finished on only outbox.history using brin (finished_at)
    with (pages_per_range = 32, autosummarize = on);

do $$
declare
    partition regclass;
begin
    for partition in
        select i.inhrelid from pg_inherits i
        where i.inhparent = 'outbox.history'::regclass and pg_relation_size(i.inhrelid) < 256 * 1024 * 1024
    loop
        execute format('create index %1$I on %2$s using brin (finished_at) with (pages_per_range = 32, autosummarize = on)',
            (select relname from pg_class where oid = partition) || '_finished', partition);
        execute format('alter index outbox.history_finished attach partition outbox.%I',
            (select relname from pg_class where oid = partition) || '_finished');
    end loop;
end $$;

-- What the last attempt of a dead task died of, as `outbox.failures` names it.
create index dead_failure on outbox.dead ((attempts -> -1 ->> 'failure'));

-- One act on all tasks that a query fits: carried on by the relay, batch after batch, each with what it did to `after`.
create table outbox.bulk (
    id uuid primary key,
    action text not null,
    query text not null,
    who text not null,
    reason text,
    due_at timestamptz,
    rate integer,
    state text not null default 'running',
    matched integer not null,
    matched_at_least boolean not null default false,
    after uuid,
    done integer not null default 0,
    refused integer not null default 0,
    error text,
    created_at timestamptz not null default clock_timestamp(),
    moved_at timestamptz not null default clock_timestamp(),
    finished_at timestamptz,
    constraint bulk_action check (action in ('retry', 'cancel', 'reschedule')),
    constraint bulk_state check (state in ('running', 'done', 'aborted', 'failed')),
    constraint bulk_ended check ((state = 'running') = (finished_at is null)),
    constraint bulk_due check ((action = 'reschedule') = (due_at is not null)),
    constraint bulk_rate check (rate > 0)
);
create index bulk_running on outbox.bulk (created_at) where state = 'running';
