"""A database with tasks in every state, as the command line's tests have it."""

from tests.cli.conftest import cli, scene

__all__ = ["cli", "scene"]
