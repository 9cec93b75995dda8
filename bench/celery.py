"""Celery, in a virtual environment of its own that is made when it is first wanted."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.ground import Field
from deploy.local.child import Child
from deploy.local.place import ROOT

VERSIONS = ("celery==5.5.3", "kombu==5.5.4", "amqp==5.3.1", "billiard==4.2.1", "vine==5.1.0")
APP = Path(__file__).parent / "apps"


@dataclass(frozen=True)
class Celery:
    """`prepare` answers one, or the reason why there is none."""

    python: Path

    def preload(self, here: Field, count: int) -> None:
        """Send `count` tasks."""
        lines = [
            "from celery_app import app, noop",
            f"with app.producer_or_acquire() as p:\n for n in range(1, {count} + 1):",
            "  noop.apply_async((n,), {'email': f'someone{n}@example.com', 'name': 'Someone Very Nice'}, producer=p)",
        ]
        subprocess.run(
            [str(self.python), "-c", "\n".join(lines)], env=here.environment(PYTHONPATH=str(APP)), cwd=APP, check=True
        )

    def worker(self, here: Field) -> Child:
        words = [str(self.python), "-m", "celery", "-A", "celery_app", "worker", "-c", "2", "-l", "WARNING"]
        words += ["--without-gossip", "--without-mingle"]
        return here.spawn("celery", words, here.environment(PYTHONPATH=str(APP)))


def prepare() -> Celery | str:
    """Celery, installed on demand; a sentence when it cannot be."""
    place = ROOT / ".dev" / "bench" / "celery"
    python = place / "bin" / "python"
    if not (place / "installed").exists():
        for words in (
            [sys.executable, "-m", "venv", str(place)],
            [str(python), "-m", "pip", "install", "-q", *VERSIONS],
        ):
            made = subprocess.run(words, capture_output=True, text=True)
            if made.returncode:
                return f"Celery skipped, it could not be installed: {made.stderr.strip().splitlines()[-1:]}"
        (place / "installed").touch()
    return Celery(python)
