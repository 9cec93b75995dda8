"""I1 in FastAPI: a 2xx is answered only after the COMMIT of both the domain's rows and the tasks."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Annotated, Any

import dramatiq
import pytest
from an_app import (
    add_user,
    async_committing,
    client_of,
    committing,
    in_scope,
    mails,
    plain,
    sign_up_app,
    users,
)
from fastapi import APIRouter, Depends, FastAPI, HTTPException, WebSocket
from fastapi.testclient import TestClient
from outbox_rows import Outbox, a_message
from pydantic import BaseModel
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from outbox import CommitMissing, OutboxBroker, enqueue
from outbox.fastapi import OutboxTasks, outbox_depends, outbox_tasks


def test_a_request_writes_its_rows_and_tasks_together(outbox: Outbox) -> None:
    answer = client_of(sign_up_app(committing(outbox))).post("/signup/a@example.org")
    assert answer.status_code == 201
    assert users(outbox) == mails(outbox) == ["a@example.org"]
    assert [str(id) for id in outbox.ids()] == [answer.json()["task_id"]]


def test_everything_is_committed_before_the_first_byte_of_the_answer(outbox: Outbox) -> None:
    """Looked at from the server's side of the wire: a client could be as fast as that."""
    seen: list[tuple[list[str], list[Any]]] = []
    app = sign_up_app(committing(outbox))

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                seen.append((users(outbox), mails(outbox)))
            await send(message)

        await app(scope, receive, sending)

    with TestClient(watched) as client:
        assert client.post("/signup/a@example.org").status_code == 201
    assert seen == [(["a@example.org"], ["a@example.org"])]


@pytest.mark.parametrize("error", [HTTPException(409, "no"), HTTPException(204), ZeroDivisionError()])
def test_a_route_that_raises_leaves_nothing(outbox: Outbox, error: Exception) -> None:
    get_session, app = committing(outbox), FastAPI()

    @app.post("/signup")
    def signup(
        session: Annotated[Session, in_scope(get_session)], tasks: Annotated[OutboxTasks, outbox_depends(get_session)]
    ) -> None:
        add_user(session, "a@example.org")
        enqueue(tasks.session, a_message(1))
        session.flush()
        raise error

    expected = error.status_code if isinstance(error, HTTPException) else 500
    assert client_of(app).post("/signup").status_code == expected
    assert (users(outbox), mails(outbox)) == ([], [])


def test_an_answer_that_does_not_fit_its_model_is_a_500_and_leaves_nothing(outbox: Outbox) -> None:
    get_session, app = committing(outbox), FastAPI()

    class Answer(BaseModel):
        number: int

    @app.post("/signup", response_model=Answer)
    def signup(
        session: Annotated[Session, in_scope(get_session)], tasks: Annotated[OutboxTasks, outbox_depends(get_session)]
    ) -> Any:
        add_user(session, "a@example.org")
        enqueue(tasks.session, a_message(1))
        return {"number": "none"}

    assert client_of(app).post("/signup").status_code == 500
    assert (users(outbox), mails(outbox)) == ([], [])


def test_a_commit_that_fails_is_never_answered_by_2xx(outbox: Outbox) -> None:
    """The constraint is checked at COMMIT, when the route has long returned its answer."""
    outbox.conn.execute(
        "create table late (id int primary key, other int references late deferrable initially deferred)"
    )
    get_session, app = committing(outbox), FastAPI()

    @app.post("/signup", status_code=201)
    def signup(
        session: Annotated[Session, in_scope(get_session)], tasks: Annotated[OutboxTasks, outbox_depends(get_session)]
    ) -> str:
        session.execute(text("insert into late values (1, 2)"))
        enqueue(tasks.session, a_message(1))
        return "fine"

    assert client_of(app).post("/signup").status_code == 500
    assert mails(outbox) == []
    outbox.conn.execute("drop table late")


def test_async_routes_on_async_sessions(outbox: Outbox) -> None:
    get_session, app = async_committing(outbox), FastAPI()

    @app.post("/signup/{email}", status_code=201)
    async def signup(
        email: str,
        session: Annotated[AsyncSession, in_scope(get_session)],
        tasks: Annotated[OutboxTasks, outbox_depends(get_session)],
    ) -> None:
        assert tasks.session is session
        await session.execute(text("insert into users values (:email)"), {"email": email})
        enqueue(tasks.session, a_message(email))
        if email == "bad":
            raise HTTPException(400)

    with client_of(app) as client:
        assert client.post("/signup/a").status_code == 201
        assert client.post("/signup/bad").status_code == 400
        assert client.post("/signup/a").status_code == 500
    assert users(outbox) == mails(outbox) == ["a"]


def test_tasks_alone_need_no_session_parameter(outbox: Outbox) -> None:
    tasks_of, app = outbox_tasks(committing(outbox)), FastAPI()

    @app.post("/remind", status_code=202)
    def remind(tasks: tasks_of) -> None:  # type: ignore[valid-type]
        enqueue(tasks.session, a_message(1))  # type: ignore[attr-defined]

    assert client_of(app).post("/remind").status_code == 202
    assert mails(outbox) == [1]


def test_the_alias_of_a_session_is_as_good_as_its_function(outbox: Outbox) -> None:
    get_session = committing(outbox)
    session_dep = Annotated[Session, Depends(get_session, scope="function")]
    app = FastAPI()

    @app.post("/signup")
    def signup(session: session_dep, tasks: Annotated[OutboxTasks, outbox_depends(session_dep)]) -> bool:
        return tasks.session is session

    assert client_of(app).post("/signup").json() is True


def test_a_session_that_is_returned_and_committed_by_the_route(outbox: Outbox) -> None:
    def get_session() -> Session:
        return outbox.session()

    app = FastAPI()

    @app.post("/signup/{email}")
    def signup(
        email: str,
        session: Annotated[Session, Depends(get_session)],
        tasks: Annotated[OutboxTasks, outbox_depends(get_session)],
    ) -> None:
        with session, session.begin():
            add_user(session, email)
            enqueue(tasks.session, a_message(email))

    assert client_of(app).post("/signup/a").status_code == 200
    assert users(outbox) == mails(outbox) == ["a"]


def test_tasks_in_a_dependency_of_the_route_join_the_same_transaction(outbox: Outbox) -> None:
    get_session, app = committing(outbox), FastAPI()
    tasks_dep = Annotated[OutboxTasks, outbox_depends(get_session)]

    def audited(tasks: tasks_dep) -> OutboxTasks:
        enqueue(tasks.session, a_message("audit"))
        return tasks

    @app.post("/signup/{email}")
    def signup(
        email: str,
        tasks: tasks_dep,
        session: Annotated[Session, in_scope(get_session)],
        _: Annotated[Any, Depends(audited)],
    ) -> None:
        add_user(session, email)
        enqueue(tasks.session, a_message(email))
        if email == "bad":
            raise HTTPException(400)

    client = client_of(app)
    assert client.post("/signup/bad").status_code == 400
    assert client.post("/signup/a").status_code == 200
    assert (users(outbox), mails(outbox)) == (["a"], ["a", "audit"])


def test_routers_and_mounted_applications(outbox: Outbox) -> None:
    get_session = committing(outbox)
    router, inner, app = APIRouter(prefix="/v1"), APIRouter(prefix="/deep"), FastAPI()

    @inner.post("/signup/{email}")
    def signup(
        email: str,
        session: Annotated[Session, in_scope(get_session)],
        tasks: Annotated[OutboxTasks, outbox_depends(get_session)],
    ) -> None:
        add_user(session, email)
        enqueue(tasks.session, a_message(email))

    router.include_router(inner)
    app.include_router(router)
    app.mount("/mounted", sign_up_app(get_session))
    client = client_of(app)
    assert client.post("/v1/deep/signup/a").status_code == 200
    assert client.post("/mounted/signup/b").status_code == 201
    assert users(outbox) == mails(outbox) == ["a", "b"]


def test_an_overridden_session_dependency_is_the_one_of_the_tasks(outbox: Outbox) -> None:
    def never() -> Session:
        raise AssertionError("overridden")

    def get_session() -> Any:
        yield never()

    app = sign_up_app(get_session)
    app.dependency_overrides[get_session] = committing(outbox)
    assert client_of(app).post("/signup/a").status_code == 201
    assert users(outbox) == mails(outbox) == ["a"]


def test_concurrent_requests_do_not_mix_their_sessions(outbox: Outbox, broker: OutboxBroker) -> None:
    get_session, async_get_session, app = committing(outbox), async_committing(outbox), FastAPI()
    meeting = threading.Barrier(4, timeout=20)

    @dramatiq.actor
    def remind(email: str) -> None: ...

    @app.post("/sync/{email}")
    def in_a_thread(
        email: str,
        session: Annotated[Session, in_scope(get_session)],
        tasks: Annotated[OutboxTasks, outbox_depends(get_session)],
    ) -> None:
        add_user(session, email)
        meeting.wait()
        tasks.add_task(remind, email)
        remind.send(email)
        meeting.wait()
        if "bad" in email:
            raise HTTPException(400)

    @app.post("/async/{email}")
    async def in_the_loop(
        email: str,
        session: Annotated[AsyncSession, in_scope(async_get_session)],
        tasks: Annotated[OutboxTasks, outbox_depends(async_get_session)],
    ) -> None:
        await session.execute(text("insert into users values (:email)"), {"email": email})
        await asyncio.to_thread(meeting.wait)
        tasks.add_task(remind, email)
        remind.send(email)
        await asyncio.to_thread(meeting.wait)
        if "bad" in email:
            raise HTTPException(400)

    with client_of(app) as client, ThreadPoolExecutor(4) as pool:
        for turn in range(5):
            paths = [f"/sync/{turn}-1", f"/sync/{turn}-bad1", f"/async/{turn}-2", f"/async/{turn}-bad2"]
            answers = list(pool.map(client.post, paths))
            assert [answer.status_code for answer in answers] == [200, 400, 200, 400]
    good = sorted(f"{turn}-{number}" for turn in range(5) for number in (1, 2))
    assert users(outbox) == good
    assert mails(outbox) == sorted(good * 2)


# ---------------------------------------------------------------------- actor.send()


def test_send_joins_the_request_s_transaction(outbox: Outbox, broker: OutboxBroker) -> None:
    get_session, app = committing(outbox), FastAPI()

    @dramatiq.actor
    def remind(email: str) -> None: ...

    @app.post("/{kind}/{email}")
    def signup(kind: str, email: str, tasks: Annotated[OutboxTasks, outbox_depends(get_session)]) -> None:
        remind.send(email)
        remind.send_with_options(args=(email,), delay=60_000)
        assert outbox.ids() == []
        if kind == "bad":
            raise HTTPException(400)

    client = client_of(app)
    assert client.post("/bad/a").status_code == 400
    assert outbox.ids() == []
    assert client.post("/good/b").status_code == 200
    assert sorted((row["args"][0], row["state"]) for row in outbox.all()) == [("b", "pending"), ("b", "scheduled")]


def test_send_in_a_route_without_tasks_and_after_a_request_is_a_transaction_of_its_own(
    outbox: Outbox, broker: OutboxBroker
) -> None:
    get_session, app = committing(outbox), FastAPI()

    @dramatiq.actor
    def remind(email: str) -> None: ...

    @app.post("/with")
    async def with_tasks(tasks: Annotated[OutboxTasks, outbox_depends(get_session)]) -> None: ...

    @app.post("/without")
    async def without() -> list[str]:
        remind.send("b")
        return mails(outbox)

    client = client_of(app)
    client.post("/with")
    assert client.post("/without").json() == ["b"]


def test_what_a_request_starts_and_does_not_wait_for_sends_by_itself_once_the_request_has_ended(
    outbox: Outbox, broker: OutboxBroker
) -> None:
    """It inherits the request's context, whose session is closed by then: a task added there would be lost."""
    get_session, app = committing(outbox), FastAPI()
    answered, sent, running = threading.Event(), threading.Event(), ExitStack()

    @dramatiq.actor
    def remind(email: str) -> None: ...

    async def later() -> None:
        await asyncio.to_thread(answered.wait, 10)
        remind.send("later")
        sent.set()

    kept: list[Any] = []

    @app.post("/signup")
    async def signup(tasks: Annotated[OutboxTasks, outbox_depends(get_session)]) -> None:
        kept.append(asyncio.create_task(later()))

    with running:
        client = running.enter_context(client_of(app))
        assert client.post("/signup").status_code == 200
        answered.set()
        assert sent.wait(10)
        assert mails(outbox) == ["later"]


# ---------------------------------------------------------------------- refused at run time


def test_a_route_that_forgets_to_commit_answers_500_with_the_mend(outbox: Outbox) -> None:
    get_session = plain(outbox)
    client = TestClient(sign_up_app(get_session))
    with pytest.raises(CommitMissing, match=r"POST /signup/a .*send_mail.*Commit the session in the route"):
        client.post("/signup/a")
    assert client_of(sign_up_app(get_session)).post("/signup/a").status_code == 500
    assert (users(outbox), mails(outbox)) == ([], [])


def test_a_route_that_commits_and_then_adds_another_task_answers_500(outbox: Outbox) -> None:
    get_session, app = plain(outbox), FastAPI()

    @app.post("/signup")
    def signup(
        session: Annotated[Session, in_scope(get_session)], tasks: Annotated[OutboxTasks, outbox_depends(get_session)]
    ) -> None:
        enqueue(tasks.session, a_message("first"))
        session.commit()
        enqueue(tasks.session, a_message("second"))

    assert client_of(app).post("/signup").status_code == 500
    assert mails(outbox) == ["first"]


def test_a_route_that_rolls_back_on_purpose_may_answer(outbox: Outbox) -> None:
    get_session, app = plain(outbox), FastAPI()

    @app.post("/signup")
    def signup(
        session: Annotated[Session, in_scope(get_session)], tasks: Annotated[OutboxTasks, outbox_depends(get_session)]
    ) -> str:
        enqueue(tasks.session, a_message(1))
        session.rollback()
        return "not today"

    assert client_of(app).post("/signup").status_code == 200
    assert mails(outbox) == []


def test_an_overriding_session_that_commits_after_the_answer_is_refused(outbox: Outbox) -> None:
    """The original returns its session; the override yields one, and FastAPI ends that after the response."""

    def get_session() -> Session:
        return outbox.session()

    app = FastAPI()

    @app.post("/signup")
    def signup(
        session: Annotated[Session, Depends(get_session)], tasks: Annotated[OutboxTasks, outbox_depends(get_session)]
    ) -> None:
        enqueue(tasks.session, a_message(1))

    app.dependency_overrides[get_session] = committing(outbox)
    assert client_of(app).post("/signup").status_code == 500


def test_a_request_that_dropped_tasks_does_not_spoil_the_next_one_on_the_same_session(outbox: Outbox) -> None:
    session, app = outbox.session(), FastAPI()

    def get_session() -> Any:
        yield session
        session.close()

    @app.post("/{kind}")
    def signup(
        kind: str,
        session: Annotated[Session, in_scope(get_session)],
        tasks: Annotated[OutboxTasks, outbox_depends(get_session)],
    ) -> None:
        enqueue(tasks.session, a_message(kind))
        if kind == "good":
            session.commit()

    client = client_of(app)
    assert client.post("/bad").status_code == 500
    assert client.post("/good").status_code == 200
    assert mails(outbox) == ["good"]


def test_a_websocket_s_tasks_are_committed_by_its_session(outbox: Outbox) -> None:
    get_session, app = plain(outbox), FastAPI()

    @app.websocket("/talk")
    async def talk(
        websocket: WebSocket,
        session: Annotated[Session, in_scope(get_session)],
        tasks: Annotated[OutboxTasks, outbox_depends(get_session)],
    ) -> None:
        await websocket.accept()
        enqueue(tasks.session, a_message(await websocket.receive_text()))
        session.commit()
        await websocket.send_text("committed")
        await websocket.close()

    with client_of(app) as client, client.websocket_connect("/talk") as talk_:
        talk_.send_text("hello")
        assert talk_.receive_text() == "committed"
    assert mails(outbox) == ["hello"]
