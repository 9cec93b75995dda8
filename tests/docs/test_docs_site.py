"""The pages as a site: zensical.toml names each of them, and what it builds asks nothing of anybody else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from pages import links

from deploy.local.place import ROOT

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
DOCS = sorted((ROOT / "docs").glob("*.md"))


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None: ...


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `make docs` does, elsewhere."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(ROOT / "docs", folder / "docs")
    shutil.copy(ROOT / "zensical.toml", folder)
    build = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    told = subprocess.run(build, cwd=folder, capture_output=True, text=True)
    assert told.returncode == 0, told.stdout + told.stderr
    return folder / ".dev" / "site"


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_every_page_has_its_place_in_the_site() -> None:
    nav = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]["nav"]
    named = [page for part in nav for entries in part.values() for entry in entries for page in entry.values()]
    assert sorted(named) == [page.name for page in DOCS]


def test_every_page_becomes_one_without_a_warning(site: Path) -> None:
    assert {page.stem for page in DOCS} <= {page.stem for page in site.glob("*.html")}


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_no_page_leads_out_of_the_site_by_a_path(page: Path) -> None:
    assert [link for link in links(page) if link.startswith("..")] == []


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium, or set CHROMIUM")
def test_who_reads_and_searches_asks_nobody_but_the_site(address: str) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    trouble: list[str] = []
    with playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(base_url=address)
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on(
            "request",
            lambda asked: trouble.append(asked.url) if not asked.url.startswith((address, "data:", "blob:")) else None,
        )
        for each in ("/index.html", "/tutorial.html", "/performance.html"):
            page.goto(each)
        page.get_by_role("button", name="Search").first.click()
        page.keyboard.type("heartbeat")
        page.locator("mark", has_text="heartbeat").first.wait_for()
        browser.close()
    assert trouble == []
