"""The guide to tasks, and the pages for those who come from elsewhere: what they write and type, done as it stands there."""

import os
import sys
from pathlib import Path

import pytest
from shell import follow, open_shell


@pytest.mark.parametrize("page", ["adopting-background-tasks", "adopting-celery", "adopting-dramatiq", "tasks"])
def test_who_does_what_the_page_says_sees_what_it_shows(page: str, database_url: str, tmp_path: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with open_shell(tmp_path, os.environ | {"PATH": path, "DATABASE_URL": database_url}) as shell:
        follow(page, shell, tmp_path, instead={})
