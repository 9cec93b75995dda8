"""Pages that name a file as their evidence."""

import re
from pathlib import Path

import pytest
from pages import PAGES

from deploy.local.place import ROOT

_FILE = re.compile(r"`((?:tests|actors|service|outbox|deploy|bench|migrations)/[\w./@-]*)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    assert [name for name in _FILE.findall(page.read_text()) if not (ROOT / name).exists()] == []
