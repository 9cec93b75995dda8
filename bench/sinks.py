"""The far world of a round: receivers in processes of their own, and what the service must know to reach them."""

from __future__ import annotations

from bench.ground import Field
from bench.waiting import until
from deploy.local.ports import free_ports, is_listening

#: The module with the service's actors, and what it asks for beside the servers.
APP = {
    "OUTBOX_APP": "actors",
    "SECRET_KEY": "of-a-bench-that-keeps-no-secrets-0",
    "MAIL_FROM": "bench@example.com",
    "WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
}


def http(here: Field, *, delay: float = 0.0) -> str:
    """Receives webhooks, and answers each after `delay` seconds. Its URL, without a path."""
    return f"http://127.0.0.1:{_sink(here, 'http_sink', delay)}"


def smtp(here: Field, *, delay: float = 0.0) -> str:
    """Takes mails; the last reply to each comes after `delay` seconds. Its URL."""
    return f"smtp://127.0.0.1:{_sink(here, 'smtp_sink', delay)}"


def _sink(here: Field, name: str, delay: float) -> int:
    (port,) = free_ports(1)
    here.python(name, "-m", f"bench.apps.{name}", str(port), "--delay", str(delay))
    until(lambda: is_listening(port), f"the {name} listens", here=here)
    return port
