"""Runs the actors one at a time in this process, on a real database, as the worker runs them."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID, uuid4

from sqlalchemy import Engine
from sqlalchemy.orm import Session

import actors
from outbox import Task
from outbox.run import Run, _current


@dataclass
class Bench:
    """Runs a task's actor; its session commits if it returns, and is rolled back if it raises."""

    engine: Engine

    def session(self) -> Session:
        return Session(self.engine, expire_on_commit=False)

    def starts(self, run: Run) -> bool:
        return True

    def record(self, run: Run, session: Session) -> bool:
        return True

    def perform(self, task_id: UUID, *, attempt: int = 1) -> None:
        """The actor of the task as it stands in the outbox, whatever its due time. Raises what the actor raises."""
        with self.session() as session:
            task = session.get_one(Task, task_id)
        actor = actors.broker.get_actor(task.actor)
        run = Run(
            task_id=task.id,
            run_id=uuid4(),
            attempt=attempt,
            failures=attempt - 1,
            max_attempts=None,
            lane=None,
            message=actor.message(*task.args, **task.kwargs),
            station=self,
        )
        token = _current.set(run)
        try:
            actor.fn(*task.args, **task.kwargs)
            if run.has_session:
                run.session().commit()
        finally:
            if run.has_session:
                run.session().close()
            _current.reset(token)

    def tasks(self, actor: str) -> list[Task]:
        with self.session() as session:
            return session.query(Task).filter(Task.actor == actor).order_by(Task.id).all()
