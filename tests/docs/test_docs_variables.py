"""Environment variables: the pages name all that there are, and none that there is not."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import PAGES
from pydantic_settings import BaseSettings

import actors.settings
import outbox.settings
import service.settings

#: Read by others than our settings: `.dev/env`, the composition, uvicorn, the trials, and the receiver on the page.
OTHERS = {
    "CHAOS_SEED",
    "CHAOS_TASKS",
    "CRASH_EVERY",
    "API_KEY",
    "API_URL",
    "OPS_PASSWORD",
    "FORWARDED_ALLOW_IPS",
    "POSTGRES_PASSWORD",
    "RABBITMQ_PASSWORD",
    "WEBHOOK_SECRET",
}

# `OUTBOX_RELAY_BATCH`, `_LANES` is how a table writes two of them.
_NAMED = re.compile(r"(?<![\w/])(?P<name>[A-Z]+_[A-Z_]+)(?:[`, ]+(?P<more>_[A-Z]+))?(?![\w/])")


def variables(settings: type[BaseSettings]) -> set[str]:
    prefix = settings.model_config.get("env_prefix", "")
    fields = settings.model_fields.items()
    return {str(field.validation_alias or f"{prefix}{name}".upper()) for name, field in fields}


def named(page: Path) -> Iterator[str]:
    for found in _NAMED.finditer(page.read_text()):
        yield found["name"]
        if found["more"]:
            yield found["name"].rpartition("_")[0] + found["more"]


#: Of OpenTelemetry, whose SDK and FastAPI read them.
THEIRS = re.compile(r"(FASTAPI_)?OTEL_[A-Z_]+")


KNOWN = set().union(
    *(variables(each) for each in (outbox.settings.Settings, actors.settings.Settings, service.settings.Settings))
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_variable_on_a_page_exists(page: Path) -> None:
    assert {name for name in named(page) if not THEIRS.fullmatch(name)} - KNOWN - OTHERS == set()


def test_every_variable_is_on_a_page() -> None:
    assert KNOWN - {name for page in PAGES for name in named(page)} == set()
