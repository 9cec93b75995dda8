"""Runs the actors one at a time in this process, on a real database, as the worker runs them."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID, uuid4

from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

import actors
from outbox import Task
from outbox.run import Run, _current

CLAIM = text(
    "update outbox.task set state = 'running', run_id = :run, worker_id = :run, claimed_at = clock_timestamp() where id = :id"
)
RELEASE = text(
    "update outbox.task set state = :state, run_id = null, worker_id = null, claimed_at = null where id = :id and run_id = :run"
)


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
        self._claim(run)
        try:
            actor.fn(*task.args, **task.kwargs)
            if run.has_session:
                run.session().commit()
        finally:
            if run.has_session:
                run.session().close()
            _current.reset(token)
            self._release(run, task.state)

    def _claim(self, run: Run) -> None:
        """The task's row names this run, as after a claim: a later one overtakes it."""
        with self.engine.begin() as conn:
            conn.execute(CLAIM, {"id": run.task_id, "run": run.run_id})

    def _release(self, run: Run, state: str) -> None:
        with self.engine.begin() as conn:
            conn.execute(
                RELEASE, {"id": run.task_id, "run": run.run_id, "state": "pending" if state == "running" else state}
            )

    def tasks(self, actor: str) -> list[Task]:
        with self.session() as session:
            return session.query(Task).filter(Task.actor == actor).order_by(Task.id).all()
