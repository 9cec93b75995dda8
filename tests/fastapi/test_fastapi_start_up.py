"""A route that would answer before its commit is refused when the application starts, with the mend (I1)."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Annotated, Any

import pytest
from an_app import client_of, in_scope
from fastapi import APIRouter, Depends, FastAPI, Security
from fastapi.testclient import TestClient

from outbox import ScopeError
from outbox.fastapi import OutboxTasks, check_routes, outbox_depends, outbox_tasks


def get_session() -> Iterator[Any]:
    yield object()


def get_other_session() -> Iterator[Any]:
    yield object()


def get_session_for(shop: str) -> Iterator[Any]:
    yield object()


async def get_async_session() -> Any:
    yield object()


class GetSession:
    def __call__(self) -> Iterator[Any]:
        yield object()


get_session_of_class = GetSession()
Tasks = outbox_tasks(get_session)
Route = Callable[[FastAPI], None]


def late_session(app: FastAPI) -> None:
    @app.post("/late")
    def late(tasks: Tasks, session: Annotated[Any, Depends(get_session)]) -> None: ...  # type: ignore[valid-type]


def request_scope_said(app: FastAPI) -> None:
    @app.post("/late")
    def late(tasks: Tasks, session: Annotated[Any, Depends(get_session, scope="request")]) -> None: ...  # type: ignore[valid-type]


def late_session_in_a_dependency(app: FastAPI) -> None:
    def user(session: Annotated[Any, Depends(get_session)]) -> None: ...

    @app.post("/late")
    def late(tasks: Tasks, user: Annotated[Any, Depends(user)]) -> None: ...  # type: ignore[valid-type]


def late_session_under_security(app: FastAPI) -> None:
    def user(session: Annotated[Any, Depends(get_session)]) -> None: ...

    @app.post("/late")
    def late(tasks: Tasks, user: Annotated[Any, Security(user, scopes=["x"])]) -> None: ...  # type: ignore[valid-type]


def late_session_of_the_decorator(app: FastAPI) -> None:
    @app.post("/late", dependencies=[Depends(get_session)])
    def late(tasks: Tasks) -> None: ...  # type: ignore[valid-type]


def late_session_of_the_application(app: FastAPI) -> None:
    app.router.dependencies.append(Depends(get_session))

    @app.post("/late")
    def late(tasks: Tasks) -> None: ...  # type: ignore[valid-type]


def late_session_of_the_router(app: FastAPI) -> None:
    router = APIRouter(dependencies=[Depends(get_session)])

    @router.post("/late")
    def late(tasks: Tasks) -> None: ...  # type: ignore[valid-type]

    app.include_router(router)


def late_session_of_the_inclusion(app: FastAPI) -> None:
    inner, outer = APIRouter(), APIRouter()

    @inner.post("/late")
    def late(tasks: Tasks) -> None: ...  # type: ignore[valid-type]

    outer.include_router(inner)
    app.include_router(outer, dependencies=[Depends(get_session)])


def tasks_in_a_dependency(app: FastAPI) -> None:
    def remind(tasks: Tasks) -> None: ...  # type: ignore[valid-type]

    @app.post("/late")
    def late(reminded: Annotated[Any, Depends(remind)], session: Annotated[Any, Depends(get_session)]) -> None: ...


def an_async_session(app: FastAPI) -> None:
    @app.post("/late")
    async def late(
        tasks: Annotated[OutboxTasks, outbox_depends(get_async_session)],
        session: Annotated[Any, Depends(get_async_session)],
    ) -> None: ...


def a_session_of_a_class(app: FastAPI) -> None:
    @app.post("/late")
    def late(
        tasks: Annotated[OutboxTasks, outbox_depends(get_session_of_class)],
        session: Annotated[Any, Depends(get_session_of_class)],
    ) -> None: ...


def in_a_mounted_application(app: FastAPI) -> None:
    inner = FastAPI()
    late_session(inner)
    app.mount("/inner", inner)


def in_a_websocket(app: FastAPI) -> None:
    @app.websocket("/late")
    async def late(tasks: Tasks, session: Annotated[Any, Depends(get_session)]) -> None: ...  # type: ignore[valid-type]


def a_session_of_a_partial(app: FastAPI) -> None:
    get = partial(get_session_for, "shop")

    @app.post("/late")
    def late(
        tasks: Annotated[OutboxTasks, outbox_depends(get)],
        session: Annotated[Any, Depends(get)],
    ) -> None: ...


REFUSED: list[Route] = [
    late_session,
    request_scope_said,
    late_session_in_a_dependency,
    late_session_under_security,
    late_session_of_the_decorator,
    late_session_of_the_application,
    late_session_of_the_router,
    late_session_of_the_inclusion,
    tasks_in_a_dependency,
    an_async_session,
    a_session_of_a_class,
    a_session_of_a_partial,
    in_a_mounted_application,
    in_a_websocket,
]


@pytest.mark.parametrize("route", REFUSED, ids=lambda route: route.__name__)
def test_a_route_whose_session_ends_too_late_is_refused_at_start_up(route: Route) -> None:
    app = FastAPI()
    route(app)
    with pytest.raises(ScopeError, match=r"/late.*commits only after the response.*scope=\"function\""):
        check_routes(app)
    with pytest.raises(ScopeError), TestClient(app):
        pass
    with pytest.raises(ScopeError):
        TestClient(app).get("/anything")


def test_the_error_names_the_route_and_the_session() -> None:
    app = FastAPI()
    late_session(app)
    with pytest.raises(ScopeError, match=r"^/late: .*get_session.*Depends\(get_session, scope=\"function\"\)"):
        check_routes(app)


def test_a_session_of_the_route_s_own_beside_that_of_its_tasks_is_refused() -> None:
    app = FastAPI()

    @app.post("/two")
    def two(
        tasks: Tasks,  # type: ignore[valid-type]
        session: Annotated[Any, Depends(get_session, scope="function", use_cache=False)],
    ) -> None: ...

    with pytest.raises(ScopeError, match=r"^/two: .*get_session has use_cache=False"):
        check_routes(app)


def right_scope(app: FastAPI) -> None:
    @app.post("/fine")
    def fine(tasks: Tasks, session: Annotated[Any, in_scope(get_session)]) -> None: ...  # type: ignore[valid-type]


def tasks_alone(app: FastAPI) -> None:
    @app.post("/fine")
    def fine(tasks: Tasks) -> None: ...  # type: ignore[valid-type]


def a_reading_route_without_tasks(app: FastAPI) -> None:
    @app.post("/fine")
    def fine(session: Annotated[Any, Depends(get_session)]) -> None: ...


def another_session_for_something_else(app: FastAPI) -> None:
    @app.post("/fine")
    def fine(tasks: Tasks, other: Annotated[Any, Depends(get_other_session)]) -> None: ...  # type: ignore[valid-type]


def a_session_that_is_returned(app: FastAPI) -> None:
    def returned() -> object:
        return object()

    @app.post("/fine")
    def fine(
        tasks: Annotated[OutboxTasks, outbox_depends(returned)], session: Annotated[Any, Depends(returned)]
    ) -> None: ...


def in_a_router_with_right_scope(app: FastAPI) -> None:
    router = APIRouter(dependencies=[in_scope(get_session)])

    @router.post("/fine")
    def fine(tasks: Tasks) -> None: ...  # type: ignore[valid-type]

    app.include_router(router)


@pytest.mark.parametrize(
    "route",
    [
        right_scope,
        tasks_alone,
        a_reading_route_without_tasks,
        another_session_for_something_else,
        a_session_that_is_returned,
        in_a_router_with_right_scope,
    ],
    ids=lambda route: route.__name__,
)
def test_a_route_whose_session_ends_in_time_is_accepted(route: Route) -> None:
    app = FastAPI()
    route(app)
    check_routes(app)
    with client_of(app) as client:
        assert client.get("/nothing").status_code == 404


def test_what_is_no_dependency_is_refused_at_once() -> None:
    for nothing in (None, "get_session", 3):
        with pytest.raises(TypeError, match="session dependency"):
            outbox_tasks(nothing)
