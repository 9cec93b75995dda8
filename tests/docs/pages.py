"""The pages as their readers have them: text, links, blocks of code."""

from __future__ import annotations

import re
from pathlib import Path

from deploy.local.place import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_BLOCK = re.compile(r"^```(?P<language>\w*)[^`\n]*\n(?P<content>.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]\n]*\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#+ (?P<title>.+)$", re.MULTILINE)


def page(name: str) -> str:
    return (ROOT / "docs" / f"{name}.md").read_text()


def code(name: str, title: str) -> str:
    """The block of code on the page that begins with the comment `# title`."""
    found = [each["content"] for each in _BLOCK.finditer(page(name)) if each["content"].startswith(f"# {title}\n")]
    assert len(found) == 1, f"{len(found)} blocks on {name} are titled {title}"
    return found[0]


def prose(path: Path) -> str:
    """A page without its blocks of code."""
    return _BLOCK.sub("", path.read_text())


def links(path: Path) -> list[str]:
    """Where the page's links lead within the repository: `path`, `path#anchor` or `#anchor`."""
    targets = [each["target"] for each in _LINK.finditer(prose(path))]
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(path: Path) -> set[str]:
    """The names of its headings, as GitHub makes them."""
    titles = (each["title"].strip().lower().replace("`", "") for each in _HEADING.finditer(prose(path)))
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


def rows(name: str, first: str) -> list[list[str]]:
    """The cells of the table whose header row begins with the cell `first`."""
    lines = page(name).splitlines()
    (start,) = [number for number, line in enumerate(lines) if line.startswith(f"| {first} |")]
    table = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    return table
