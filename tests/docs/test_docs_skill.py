"""The short guide in the wheel: its code runs, its commands are those that there are."""

import os
import re
import subprocess
import sys
from pathlib import Path

from deploy.local.place import ROOT

GUIDE = (ROOT / "outbox" / ".agents" / "skills" / "dramatiq-outbox" / "SKILL.md").read_text()
TRY = """
from fastapi.testclient import TestClient
from shop import app, broker, send_mail
from sqlalchemy.orm import sessionmaker

from outbox.testing import captured

with captured(sessions=sessionmaker(broker.engine())) as tasks:
    assert TestClient(app).post("/users/1/welcome").status_code == 202
    tasks.assert_enqueued(send_mail, where={"user_id": 1}, times=2)
    tasks.drain(include_delayed=True).expect_success()
"""


def test_the_code_of_the_guide_enqueues_and_runs(tmp_path: Path, database_url: str) -> None:
    (block,) = re.findall(r"^```python\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    (tmp_path / "shop.py").write_text(block)
    (tmp_path / "try.py").write_text(TRY)
    env = os.environ | {"DATABASE_URL": database_url}
    told = subprocess.run([sys.executable, "try.py"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr


def test_the_commands_of_the_guide_exist() -> None:
    known = re.findall(r"^### `(outbox [a-z ]+[a-z])", (ROOT / "docs" / "cli.md").read_text(), re.MULTILINE)
    named = re.findall(r"`(outbox [^`]+)`", GUIDE)
    assert len(named) > 6
    for each in named:
        assert each.replace("--app MODULE ", "").startswith(tuple(known)), each
