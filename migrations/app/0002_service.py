"""The service: users, orders, events, API keys, idempotency keys.

Revision ID: app_0002
"""

from __future__ import annotations

from alembic import op

revision = "app_0002"
down_revision = "app_0001"
branch_labels = None
depends_on = None

UP = """
create table app.user (
    id uuid primary key,
    email text not null,
    name text not null,
    created_at timestamptz not null default clock_timestamp()
);
create unique index user_email on app.user (lower(email));

create table app.order (
    id uuid primary key,
    client_id text unique,
    email text not null,
    currency text not null,
    total_cents bigint not null,
    digest bytea not null,
    task_ids uuid[] not null default '{}',
    placed_at timestamptz not null default clock_timestamp(),
    constraint order_total check (total_cents >= 0)
);

create table app.order_item (
    order_id uuid not null references app.order (id) on delete cascade,
    position smallint not null,
    sku text not null,
    quantity integer not null,
    unit_price_cents bigint not null,
    primary key (order_id, position),
    constraint order_item_quantity check (quantity > 0),
    constraint order_item_price check (unit_price_cents >= 0)
);

create table app.event (
    id uuid primary key,
    client_id text unique,
    type text not null,
    content bytea not null,
    task_ids uuid[] not null default '{}',
    created_at timestamptz not null default clock_timestamp()
);
create index event_created on app.event (created_at);

create table app.api_key (
    id uuid primary key,
    name text not null,
    role text not null,
    digest bytea not null unique,
    hint text not null,
    created_at timestamptz not null default clock_timestamp(),
    revoked_at timestamptz,
    constraint api_key_role check (role in ('admin', 'writer', 'reader'))
);

-- Written and rewritten once by each request, short-lived: let autovacuum keep up.
create table app.idempotency_key (
    principal text not null,
    route text not null,
    key text not null,
    digest bytea not null,
    status smallint,
    answer bytea,
    sealed boolean not null default false,
    created_at timestamptz not null default clock_timestamp(),
    primary key (principal, route, key),
    constraint idempotency_key_answer check ((status is null) = (answer is null))
) with (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);
create index idempotency_key_created on app.idempotency_key (created_at);
"""

DOWN = """
drop table app.idempotency_key;
drop table app.api_key;
drop table app.event;
drop table app.order_item;
drop table app.order;
drop table app.user;
"""


def upgrade() -> None:
    op.execute(UP)


def downgrade() -> None:
    op.execute(DOWN)
