"""The dashboard: who has signed in, links that sign in once, and a role that operates.

Revision ID: app_0006
"""

from __future__ import annotations

from alembic import op

revision = "app_0006"
down_revision = "app_0005"
branch_labels = None
depends_on = None

UP = """
alter table app.api_key drop constraint api_key_role;
alter table app.api_key add constraint api_key_role check (role in ('reader', 'writer', 'operator', 'admin'));

-- A browser that signed in: the digest of its cookie, and the key it showed. A link that signs in once is the same,
-- before: it has no browser yet, and ends within minutes.
create table app.browser (
    digest bytea primary key,
    kind text not null,
    key_id uuid references app.api_key (id) on delete cascade,
    name text not null,
    role text not null,
    created_at timestamptz not null default clock_timestamp(),
    expires_at timestamptz not null,
    constraint browser_kind check (kind in ('session', 'link')),
    constraint browser_role check (role in ('reader', 'writer', 'operator', 'admin'))
);
create index browser_expires on app.browser (expires_at);
"""

DOWN = """
drop table app.browser;
update app.api_key set role = 'writer' where role = 'operator';
alter table app.api_key drop constraint api_key_role;
alter table app.api_key add constraint api_key_role check (role in ('admin', 'writer', 'reader'));
"""


def upgrade() -> None:
    op.execute(UP)


def downgrade() -> None:
    op.execute(DOWN)
