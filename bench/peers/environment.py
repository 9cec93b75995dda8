"""A peer's own virtual environment, made from its pinned requirements when it is first wanted."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from deploy.local.place import ROOT

VENVS = ROOT / ".dev" / "bench" / "venvs"
LISTS = Path(__file__).parent
SECONDS = 300


class NotInstalled(RuntimeError):
    """The reason why a peer cannot be had here."""


def environment(name: str) -> Path:
    """The directory of its commands. Made anew when its list has changed; NotInstalled when that fails."""
    pinned, place = LISTS / f"{name}.txt", VENVS / name
    installed = place / "installed.txt"
    if not installed.exists() or installed.read_text() != pinned.read_text():
        shutil.rmtree(place, ignore_errors=True)
        _run(sys.executable, "-m", "venv", str(place))
        _run(str(place / "bin" / "pip"), "install", "-q", "--no-deps", "--require-hashes", "-r", str(pinned))
        shutil.copy(pinned, installed)
    return place / "bin"


def version(name: str) -> str:
    """Of the peer itself, as pinned."""
    lines = (LISTS / f"{name}.txt").read_text().splitlines()
    return next(line.split()[0].removeprefix(f"{name}==") for line in lines if line.startswith(f"{name}=="))


def _run(*words: str) -> None:
    try:
        made = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise NotInstalled(f"not installed within {SECONDS} s") from None
    if made.returncode:
        raise NotInstalled(f"not installed: {' '.join(made.stderr.strip().splitlines()[-1:])}")
