"""The application's module: the one that makes the broker and imports the actors."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from outbox.errors import ConfigurationError

if TYPE_CHECKING:
    from outbox.broker import OutboxBroker
    from outbox.why import Explains

__all__ = ["explains", "load"]


def load(module: str | None) -> OutboxBroker:
    """Import the module and answer its broker: the attribute `broker`, or the one given to `dramatiq.set_broker`.

    Raises ConfigurationError when there is no module, it does not import, or its broker is not an OutboxBroker.
    """
    loaded = _imported(module)

    import dramatiq

    from outbox.broker import OutboxBroker

    broker = getattr(loaded, "broker", None) or dramatiq.broker.global_broker
    if not isinstance(broker, OutboxBroker):
        raise ConfigurationError(
            f"{module} has no OutboxBroker: make one there, `broker = OutboxBroker()`, and call dramatiq.set_broker(broker) "
            "before the actors are declared"
        )
    return broker


def explains(module: str | None) -> Explains | None:
    """The module's function `explain`, which knows why its tasks wait (see `outbox.why.Explains`), if it has one.

    Raises ConfigurationError when there is no module.
    """
    found: Explains | None = getattr(_imported(module), "explain", None)
    return found


def _imported(module: str | None) -> ModuleType:
    if not module:
        raise ConfigurationError("no application named: use `outbox --app MODULE` or set OUTBOX_APP")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ConfigurationError(
            f"there is no module {module!r} (OUTBOX_APP); looked in {here} and on sys.path"
        ) from None
