"""docs/settings.md, written from the settings themselves: python -m deploy.settings_page"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from pydantic import SecretStr
from pydantic_settings import BaseSettings

import actors.settings
import outbox.settings
import service.settings
from deploy.local.place import ROOT

__all__ = ["PAGE", "written"]

PAGE = ROOT / "docs" / "settings.md"

_HEAD = """# Settings

Environment variables, read once when a process starts. Durations are seconds. This page is written by
`python -m deploy.settings_page`, from the settings themselves.
"""
_PARTS: dict[str, type[BaseSettings]] = {
    "Relay, worker, scheduler, and whoever enqueues": outbox.settings.Settings,
    "The service's API": service.settings.Settings,
    "Mail and webhooks, in API and workers": actors.settings.Settings,
}


def written() -> str:
    """The page as it should be."""
    return "\n".join([_HEAD, *(_part(title, settings) for title, settings in _PARTS.items())])


def _part(title: str, settings: type[BaseSettings]) -> str:
    return "\n".join([f"## {title}", "", "| variable | default | |", "|---|---|---|", *_rows(settings), ""])


def _rows(settings: type[BaseSettings]) -> Iterator[str]:
    prefix = settings.model_config.get("env_prefix", "")
    for name, field in settings.model_fields.items():
        variable = str(field.validation_alias or f"{prefix}{name}".upper())
        yield f"| `{variable}` | {_shown(field.default)} | {field.description} |"


def _shown(default: object) -> str:
    if isinstance(default, timedelta):
        return f"`{default.total_seconds():g}`"
    if isinstance(default, SecretStr):
        return f"`{default.get_secret_value()}`"
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    return f"`{default}`" if default or default == 0 else ""


if __name__ == "__main__":
    PAGE.write_text(written())
