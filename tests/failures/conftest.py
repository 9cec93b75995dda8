"""A database with tasks in every state, and the command line on it."""

from tests.cli.conftest import cli, scene

__all__ = ["cli", "scene"]
