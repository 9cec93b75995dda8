create schema if not exists outbox;

create sequence outbox.position;

-- Unfinished tasks. Every state change is an update or a delete here: keep it small, keep its indexes few.
create table outbox.task (
    id uuid primary key,
    fence uuid not null default gen_random_uuid(),
    state text not null,
    queue text not null,
    actor text not null,
    args json not null,
    kwargs json not null,
    options json not null,
    priority smallint not null default 0,
    created_at timestamptz not null default clock_timestamp(),
    due_at timestamptz not null,
    expires_at timestamptz,
    lane text,
    lane_limit integer,
    lane_holds boolean not null default false,
    position bigint,
    unique_key text,
    max_attempts integer,
    epoch integer,
    published_at timestamptz,
    run_id uuid,
    worker_id uuid,
    claimed_at timestamptz,
    claimed_beat bigint,
    alone boolean not null default false,
    suspect boolean not null default false,
    started boolean not null default false,
    cancel_requested boolean not null default false,
    failures integer not null default 0,
    crashes integer not null default 0,
    losses integer not null default 0,
    refusals integer not null default 0,
    attempts jsonb not null default '[]',
    reason text,
    constraint task_state check (state in ('scheduled', 'waiting', 'pending', 'published', 'running')),
    constraint task_running_has_its_run
        check ((state = 'running') = (run_id is not null and worker_id is not null and claimed_at is not null)),
    constraint task_published_has_its_epoch
        check (state <> 'published' or (published_at is not null and epoch is not null)),
    constraint task_waiting_has_its_lane check (state <> 'waiting' or lane is not null),
    constraint task_lane_has_its_position check ((lane is null) = (position is null)),
    constraint task_lane_limit check (lane_limit is null or (lane is not null and lane_limit > 0)),
    constraint task_max_attempts check (max_attempts is null or max_attempts > 0)
) with (
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_vacuum_insert_scale_factor = 0.2,
    autovacuum_analyze_scale_factor = 0,
    autovacuum_analyze_threshold = 20000,
    autovacuum_vacuum_cost_delay = 0
);

create index task_pending on outbox.task (queue, priority, due_at) where state = 'pending';
create index task_scheduled on outbox.task (due_at) where state = 'scheduled';
create index task_published on outbox.task (queue, published_at) where state = 'published';
create index task_running on outbox.task (worker_id) where state = 'running';
create index task_waiting on outbox.task (lane, position) where state = 'waiting';
create index task_lane on outbox.task (lane, state) where lane is not null and state <> 'waiting';
create index task_expires on outbox.task (expires_at) where expires_at is not null;
create unique index task_unique on outbox.task (unique_key) where unique_key is not null and not started;

-- Succeeded and cancelled tasks, a partition a day; the DEFAULT one catches what has no day yet.
create table outbox.history (
    id uuid not null,
    state text not null,
    queue text not null,
    actor text not null,
    args json not null,
    kwargs json not null,
    options json not null,
    priority smallint not null,
    created_at timestamptz not null,
    due_at timestamptz not null,
    published_at timestamptz,
    started_at timestamptz,
    finished_at timestamptz not null,
    lane text,
    lane_limit integer,
    lane_holds boolean not null,
    position bigint,
    unique_key text,
    max_attempts integer,
    expires_at timestamptz,
    failures integer not null,
    crashes integer not null,
    losses integer not null,
    run_id uuid,
    worker_id uuid,
    attempts jsonb not null,
    reason text,
    constraint history_state check (state in ('succeeded', 'cancelled'))
) partition by range (finished_at);

create index history_id on outbox.history (id);
create table outbox.history_default partition of outbox.history default;

create table outbox.dead (
    like outbox.history including defaults,
    constraint dead_state check (state = 'dead')
);
create index dead_id on outbox.dead (id);
create index dead_finished on outbox.dead (finished_at);
create index dead_lane on outbox.dead (lane) where lane_holds;

create table outbox.queue (
    name text primary key,
    epoch integer not null default 0,
    paused boolean not null default false,
    paused_by text,
    paused_at timestamptz,
    created_at timestamptz not null default clock_timestamp()
);

create table outbox.worker (
    id uuid primary key,
    kind text not null default 'worker',
    host text not null,
    pid integer not null,
    queues text[] not null default '{}',
    threads integer not null default 0,
    beat bigint not null default 0,
    beat_at timestamptz not null default clock_timestamp(),
    started_at timestamptz not null default clock_timestamp(),
    lease double precision not null default 10,
    runs uuid[] not null default '{}',
    running uuid[] not null default '{}',
    unclaimed text[] not null default '{}',
    claimed_through jsonb not null default '{}'
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

create table outbox.schedule (
    name text primary key,
    actor text not null,
    queue text not null,
    cron text not null,
    zone text not null default 'UTC',
    missed text not null default 'last',
    missed_limit integer not null default 100,
    paused boolean not null default false,
    fired_through timestamptz not null,
    declared_at timestamptz not null default clock_timestamp(),
    retired boolean not null default false,
    constraint schedule_missed check (missed in ('all', 'last', 'none'))
);

create table outbox.fire (
    schedule text not null references outbox.schedule (name) on delete cascade,
    fire_at timestamptz not null,
    task_id uuid,
    outcome text not null,
    fired_at timestamptz not null default clock_timestamp(),
    primary key (schedule, fire_at),
    constraint fire_outcome check (outcome in ('fired', 'missed', 'by hand')),
    constraint fire_has_its_task check ((outcome = 'missed') = (task_id is null))
);

create table outbox.audit (
    id bigserial primary key,
    at timestamptz not null default clock_timestamp(),
    who text not null,
    action text not null,
    subject text not null,
    detail jsonb not null default '{}'
);
create index audit_subject on outbox.audit (subject);

-- A task with a lane takes its place when it is inserted. In an ordering lane the lock makes position order commit
-- order, and the queries below see what committed before it; in other isolation levels than read committed they could
-- not, so there the task waits, and the relay's sweep, a moment later, decides. In a limited lane every task waits: the
-- one who grants at a time lets it go, and no business transaction takes a lock.
create function outbox.take_place() returns trigger language plpgsql as $$
begin
    if new.lane like 'order/%' then
        perform pg_advisory_xact_lock(hashtextextended('outbox.' || new.lane, 0));
        if current_setting('transaction_isolation') <> 'read committed'
        or exists (select from outbox.task t where t.lane = new.lane and t.state <> 'waiting')
        or exists (select from outbox.task t where t.lane = new.lane and t.state = 'waiting')
        or exists (select from outbox.dead d where d.lane = new.lane and d.lane_holds) then
            new.state := 'waiting';
        end if;
    elsif new.state = 'pending' then
        new.state := 'waiting';
    end if;
    new.position := coalesce(new.position, nextval('outbox.position'));
    return new;
end $$;

create trigger take_place before insert on outbox.task
    for each row when (new.lane is not null) execute function outbox.take_place();

-- Keeps the history's partitions from yesterday to some days ahead; any number of callers, one at a time. Rows that
-- reached the DEFAULT partition before their day existed move into it: most of them beside whatever is settled
-- meanwhile, the last ones under the lock that attaching needs. The caller's lock_timeout bounds the wait for it.
create function outbox.keep_partitions(days_ahead integer) returns integer language plpgsql as $$
declare
    today date := (clock_timestamp() at time zone 'utc')::date;
    move text := 'with moved as (delete from outbox.history_default where finished_at >= %2$L and finished_at < %3$L returning *)
        insert into outbox.%1$I select * from moved';
    missing date[];
    day date;
begin
    perform pg_advisory_xact_lock(hashtextextended('outbox.partitions', 0));
    missing := array(
        select today + n from generate_series(-1, days_ahead) n
        where to_regclass('outbox.history_' || to_char(today + n, 'YYYYMMDD')) is null
        order by n);
    if cardinality(missing) = 0 then
        return 0;
    end if;
    foreach day in array missing loop
        execute format('create table outbox.%I (like outbox.history including defaults including constraints)',
            'history_' || to_char(day, 'YYYYMMDD'));
        execute format(move, 'history_' || to_char(day, 'YYYYMMDD'),
            day::timestamp at time zone 'utc', (day + 1)::timestamp at time zone 'utc');
    end loop;
    lock table outbox.history_default in access exclusive mode;
    foreach day in array missing loop
        execute format(move, 'history_' || to_char(day, 'YYYYMMDD'),
            day::timestamp at time zone 'utc', (day + 1)::timestamp at time zone 'utc');
        execute format('alter table outbox.history attach partition outbox.%1$I for values from (%2$L) to (%3$L)',
            'history_' || to_char(day, 'YYYYMMDD'),
            day::timestamp at time zone 'utc', (day + 1)::timestamp at time zone 'utc');
    end loop;
    return cardinality(missing);
end $$;

select outbox.keep_partitions(7);
