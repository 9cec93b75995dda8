"""FastAPI: `Tasks = outbox_tasks(get_session)`, then `tasks: Tasks` in a route, where `BackgroundTasks` stood.

Since FastAPI 0.118 the exit code of a `yield` dependency runs after the response was sent. A session that commits
there answers 2xx first and may fail to commit afterwards (I1). So the session dependency needs
`Depends(get_session, scope="function")`; a route where it has not is refused at start-up, and a request that ends
well with tasks not committed is answered 500.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

from fastapi import Depends, FastAPI, params
from fastapi.dependencies.models import Dependant
from fastapi.requests import HTTPConnection

from outbox.enqueue import forget_dropped, uncommitted
from outbox.errors import CommitMissing, ScopeError
from outbox.logs import get_logger
from outbox.run import bound_session
from outbox.tasks import OutboxTasks

__all__ = ["OutboxTasks", "check_routes", "outbox_depends", "outbox_tasks"]

log = get_logger("outbox.fastapi")

#: Our dependencies, and the session dependency that each is bound to.
_bound: dict[Callable[..., Any], Callable[..., Any]] = {}


if TYPE_CHECKING:

    def outbox_tasks(get_session: Any) -> type[OutboxTasks]: ...

else:

    def outbox_tasks(get_session: Any) -> Any:
        """The annotation for a route's `tasks` parameter, bound to this session dependency.

        `get_session` is the dependency function, sync or async, of a `Session` or an `AsyncSession`, or the
        `Annotated` alias of it that your routes use. In the route both give the same session. A function that
        yields its session is resolved with `scope="function"`: use the same scope in your routes.

        Type checkers want the alias spelled out: `Tasks = Annotated[OutboxTasks, outbox_depends(get_session)]`.
        """
        return Annotated[OutboxTasks, outbox_depends(get_session)]


def outbox_depends(get_session: Any) -> Any:
    """What `outbox_tasks` puts into its annotation: the `Depends` alone."""
    session_of = _dependency(get_session)
    session_depends = Depends(session_of, scope="function" if _yields(session_of) else None)

    async def tasks(request: HTTPConnection, session: Any = session_depends) -> OutboxTasks:
        stack: AsyncExitStack = request.scope["fastapi_function_astack"]
        _guard(request, session, stack)
        stack.enter_context(bound_session.bind(session))
        return OutboxTasks(session)

    _bound[tasks] = session_of
    _check_at_start_up()
    return Depends(tasks)


def check_routes(app: FastAPI) -> None:
    """Raise ScopeError, with the mend, for each route whose session would commit after the response."""
    for path, dependant in _routes(app.routes):
        for used in _flat(dependant):
            session_of = _bound.get(used.call) if used.call is not None else None
            if session_of is not None:
                _check_route(path, dependant, session_of)


# ---------------------------------------------------------------------- start-up


def _check_at_start_up() -> None:
    """Once: applications check their routes when they build their middleware, that is at start-up."""
    build = FastAPI.build_middleware_stack
    if getattr(build, "checks_outbox", False):
        return

    def checked(self: FastAPI) -> Any:
        check_routes(self)
        return build(self)

    checked.checks_outbox = True  # type: ignore[attr-defined]
    FastAPI.build_middleware_stack = checked  # type: ignore[method-assign]


def _check_route(path: str, dependant: Dependant, session_of: Callable[..., Any]) -> None:
    wanted = "function" if _yields(session_of) else None
    name = getattr(session_of, "__name__", repr(session_of))
    for used in _flat(dependant):
        if used.call is session_of and used.scope != wanted:
            scope = ', scope="function"' if wanted else ""
            raise ScopeError(
                f"{path}: its session dependency {name} commits only after the response was sent, and is not the "
                f"session that its tasks are written in. Write Annotated[Session, Depends({name}{scope})] in this route."
            )
        if used.call is session_of and not used.use_cache:
            raise ScopeError(
                f"{path}: its session dependency {name} has use_cache=False, and so is not the session that its tasks "
                "are written in. Remove that in this route."
            )


def _routes(routes: Iterable[Any]) -> Iterator[tuple[str, Dependant]]:
    """Every route with all its dependencies, those of the routers that it was included by among them."""
    for route in routes:
        dependant = getattr(route, "dependant", None)
        if dependant is not None:
            yield getattr(route, "path", "?"), dependant
        if hasattr(route, "effective_candidates"):
            yield from _routes(route.effective_candidates())
        elif inner := getattr(route, "routes", None):
            yield from _routes(inner)


def _flat(dependant: Dependant) -> Iterator[Dependant]:
    for each in dependant.dependencies:
        yield each
        yield from _flat(each)


def _dependency(given: Any) -> Callable[..., Any]:
    if get_origin(given) is Annotated:
        found = [each.dependency for each in get_args(given) if isinstance(each, params.Depends) and each.dependency]
        if found:
            return found[0]
    if not callable(given):
        raise TypeError("outbox_tasks needs the session dependency: outbox_tasks(get_session)")
    return given  # type: ignore[no-any-return]


def _yields(call: Callable[..., Any]) -> bool:
    inner = inspect.unwrap(call)
    while isinstance(inner, partial):
        inner = inspect.unwrap(inner.func)
    inner = inner if inspect.isroutine(inner) else getattr(inner, "__call__", inner)  # noqa: B004
    return inspect.isgeneratorfunction(inner) or inspect.isasyncgenfunction(inner)


# ---------------------------------------------------------------------- run time


def _guard(request: HTTPConnection, session: Any, stack: Any) -> None:
    """Look at the session when the endpoint and every function-scoped dependency have ended, before the response.

    The callback goes to the bottom of FastAPI's stack, below the session dependency, which may commit on its way out.
    """
    forget_dropped(session)

    def refuse(kind: Any, _error: Any, _trace: Any) -> bool:
        if kind is None and (left := uncommitted(session)):
            names = ", ".join(sorted({task.actor for task in left}))
            raise CommitMissing(
                f"{request.scope.get('method', 'websocket')} {request.url.path} ended well, but its tasks ({names}) were not committed. "
                "Commit the session in the route, or in a session dependency with scope='function'."
            )
        return False

    stack._exit_callbacks.appendleft((True, refuse))
