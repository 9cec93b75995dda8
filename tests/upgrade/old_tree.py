"""The code of then, out of this repository's history."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from deploy.local.place import ROOT

__all__ = ["old_tree"]

#: The first migrations that the old code does not know. Its commit is the last one before them.
FIRST_NEW = ("migrations/outbox/0002_lane.py", "migrations/app/0004_webhooks.py")


def old_tree(directory: Path) -> Path:
    """The repository as it was before `FIRST_NEW`, in this directory; skips where the history does not reach so far."""
    added = _git("log", "--reverse", "--diff-filter=A", "--format=%H", "--", *FIRST_NEW).decode().split()
    parent = _git("rev-parse", "--verify", "--quiet", f"{added[0]}^") if added else b""
    if not parent:
        pytest.skip("this repository's history does not hold the code before outbox_0002: git fetch --unshallow")
    with tarfile.open(fileobj=io.BytesIO(_git("archive", parent.decode().strip()))) as archive:
        archive.extractall(directory, filter="data")
    return directory


def _git(*words: str) -> bytes:
    """What git says; nothing where there is no git, no repository, or no such commit."""
    try:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, timeout=60).stdout
    except FileNotFoundError:
        return b""
