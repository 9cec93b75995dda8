"""`POST /signups` three times: with an outbox row, with BackgroundTasks, and with send() after the commit.

`uvicorn bench.apps.api:app`; BENCH_VARIANT says which. Each variant imports only what it needs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Annotated

from fastapi import BackgroundTasks, Depends, FastAPI
from pydantic import BaseModel
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

VARIANT = os.environ["BENCH_VARIANT"]

engine = create_engine(make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+psycopg"), pool_size=40)
app = FastAPI()


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "bench_user"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]
    name: Mapped[str]


class Signup(BaseModel):
    email: str
    name: str


class Created(BaseModel):
    user_id: int


def get_session() -> Iterator[Session]:
    with Session(engine) as session:
        yield session


SessionDep = Annotated[Session, Depends(get_session, scope="function")]


def welcome(user_id: int, *, email: str, name: str) -> None:
    """What BackgroundTasks runs."""


if VARIANT == "outbox":
    from bench.apps.ours import noop
    from outbox.fastapi import OutboxTasks, outbox_depends

    @app.post("/signups", status_code=201)
    def signup_with_outbox(
        body: Signup, session: SessionDep, tasks: Annotated[OutboxTasks, outbox_depends(get_session)]
    ) -> Created:
        user = User(email=body.email, name=body.name)
        session.add(user)
        session.flush()
        tasks.add_task(noop, user.id, email=body.email, name=body.name)
        user_id = user.id
        session.commit()
        return Created(user_id=user_id)

elif VARIANT == "background":

    @app.post("/signups", status_code=201)
    def signup_with_background(body: Signup, session: SessionDep, tasks: BackgroundTasks) -> Created:
        user = User(email=body.email, name=body.name)
        session.add(user)
        session.flush()
        user_id = user.id
        session.commit()
        tasks.add_task(welcome, user_id, email=body.email, name=body.name)
        return Created(user_id=user_id)

elif VARIANT == "send":
    from bench.apps.plain import noop as noop_message

    @app.post("/signups", status_code=201)
    def signup_with_send(body: Signup, session: SessionDep) -> Created:
        user = User(email=body.email, name=body.name)
        session.add(user)
        session.flush()
        user_id = user.id
        session.commit()
        noop_message.send(user_id, email=body.email, name=body.name)
        return Created(user_id=user_id)
