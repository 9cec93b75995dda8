"""A secret under such a name, or in an error, is in nothing that the command line writes."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from test_redaction import SECRET, planted

from outbox.fingerprint import fingerprint_of
from tests.cli.conftest import Cli, Scene, cli, scene

__all__ = ["cli", "scene"]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(planted())
def test_the_command_line_never_writes_a_planted_secret(scene: Scene, cli: Cli, value: Any) -> None:
    error = f"cannot reach amqp://ann:{SECRET}@host/"
    (id,) = scene.dead(args=[_storable(value)], kwargs={"token": SECRET, "x": _storable(value)}, error=error)
    kind = fingerprint_of(error, "")
    for words in (
        ("tasks", "list"), ("tasks", "show", str(id)), ("failures", "list"), ("failures", "show", kind),
        ("tasks", "retry", "actor:act", "--dry-run"),
    ):  # fmt: skip
        for more in ((), ("--json",)):
            told = cli(*words, *more)
            assert told.exit_code == 0
            assert SECRET not in told.stdout + told.stderr


def _storable(value: Any) -> Any:
    """PostgreSQL takes no NUL, and half a character is no text."""
    if isinstance(value, dict):
        return {_storable(name): _storable(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_storable(each) for each in value]
    return value.replace("\x00", "").encode(errors="ignore").decode() if isinstance(value, str) else value
