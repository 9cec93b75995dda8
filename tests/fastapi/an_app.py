"""An application as a team would write it: a session dependency, and tasks bound to it."""

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any

from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from outbox_rows import Outbox, a_message
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from outbox import enqueue
from outbox.fastapi import OutboxTasks, outbox_depends

GetSession = Callable[[], Any]


def committing(outbox: Outbox) -> Callable[[], Iterator[Session]]:
    """The session commits when the route has ended well, and is rolled back when it has not."""

    def get_session() -> Iterator[Session]:
        with outbox.session() as session, session.begin():
            yield session

    return get_session


def plain(outbox: Outbox) -> Callable[[], Iterator[Session]]:
    """The route commits."""

    def get_session() -> Iterator[Session]:
        with outbox.session() as session:
            yield session

    return get_session


def async_engine(outbox: Outbox) -> AsyncEngine:
    from sqlalchemy.pool import NullPool

    return create_async_engine(outbox.engine.url, poolclass=NullPool)


def async_committing(outbox: Outbox) -> Callable[[], AsyncIterator[AsyncSession]]:
    engine = async_engine(outbox)

    async def get_session() -> AsyncIterator[AsyncSession]:
        async with AsyncSession(engine) as session, session.begin():
            yield session

    return get_session


def in_scope(get_session: Any) -> Any:
    return Depends(get_session, scope="function")


def add_user(session: Session, email: str) -> None:
    session.execute(text("insert into users values (:email)"), {"email": email})


def users(outbox: Outbox) -> list[str]:
    return [email for (email,) in outbox.conn.execute("select email from users order by email").fetchall()]


def mails(outbox: Outbox) -> list[Any]:
    """The first argument of each committed task."""
    return sorted(row["args"][0] for row in outbox.all())


def client_of(app: FastAPI) -> TestClient:
    return TestClient(app, raise_server_exceptions=False)


def sign_up_app(get_session: GetSession) -> FastAPI:
    """`POST /signup/{email}`, sync."""
    app = FastAPI()

    @app.post("/signup/{email}", status_code=201)
    def signup(
        email: str,
        session: Annotated[Session, in_scope(get_session)],
        tasks: Annotated[OutboxTasks, outbox_depends(get_session)],
    ) -> dict[str, str]:
        add_user(session, email)
        task = enqueue(tasks.session, a_message(email))
        return {"task_id": str(task.id)}

    return app
