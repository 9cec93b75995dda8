"""Facts that processes write down, a line of JSON each, while they may be killed at any moment and others read along."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

__all__ = ["facts_of", "write_down"]


def write_down(file: Path, **facts: object) -> None:
    """By one write(2), apart from the half line of somebody who was killed in the midst of his."""
    written = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(written, f"\n{json.dumps(facts)}\n".encode())
    finally:
        os.close(written)


def facts_of(file: Path, start: int = 0) -> list[dict[str, Any]]:
    """What was said to its end, from this byte on. Half a line is of somebody who was killed, or writes just now."""
    lines = []
    for line in file.read_bytes()[start:].splitlines() if file.exists() else []:
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines
