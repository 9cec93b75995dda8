"""Each attempt at a mail or a webhook is counted once, by what came of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from uuid import UUID

import pytest
from actor_bench import Bench
from far_http import answering, endpoint, status
from far_smtp import DROP, raw_server
from prometheus_client import REGISTRY
from webhook_bench import create, fan_out

from actors import mail, outside
from actors.webhooks import metrics
from outbox import Permanent

Configure = Callable[..., None]


def counted(name: str) -> dict[str, float]:
    """By outcome, of those that there were."""
    samples = [each for family in REGISTRY.collect() for each in family.samples if each.name == name]
    return {each.labels.get("outcome", ""): each.value for each in samples if each.value}


def more(name: str, act: Callable[[], object]) -> dict[str, float]:
    """What is counted more after the act, whatever it raises."""
    before = counted(name)
    with suppress(Exception):
        act()
    return {key: value - before.get(key, 0) for key, value in counted(name).items() if value != before.get(key, 0)}


@pytest.mark.parametrize(
    ("replies", "outcome"),
    [
        ({}, "sent"),
        ({"RCPT": "550 5.1.1 no such user"}, "refused"),
        ({"RCPT": "451 later"}, "refused for now"),
        ({"greeting": "421 closed"}, "trouble"),
        ({"DOT": DROP}, "uncertain"),
    ],
)
def test_an_attempt_at_a_mail(bench: Bench, configured: Configure, replies: dict[str, str], outcome: str) -> None:
    with raw_server(**replies) as server:
        configured(SMTP_URL=f"smtp://127.0.0.1:{server.port}")
        with bench.session() as session, session.begin():
            made = mail.prepare(session, to="ada@example.org", subject="Hello", text="Hi")
            mail.enqueue_mail(session, made)
        assert more("mail_attempts_total", lambda: bench.perform(made.id)) == {outcome: 1}
        outside.transport().close()


@pytest.mark.usefixtures("configured")
class TestWebhooks:
    @pytest.mark.parametrize(("code", "outcome"), [(200, "delivered"), (500, "retry"), (404, "refused"), (410, "gone")])
    def test_an_attempt(self, bench: Bench, code: int, outcome: str) -> None:
        with endpoint(answering(status(code))) as far:
            create(bench, far)
            (delivery,) = fan_out(bench)
            assert more("webhook_attempts_total", lambda: bench.perform(delivery)) == {outcome: 1}

    def test_an_endpoint_is_counted_as_disabled_once(self, bench: Bench) -> None:
        def both(ids: list[UUID]) -> None:
            for each in ids:
                with pytest.raises(Permanent):
                    bench.perform(each)

        with endpoint(answering(status(410))) as far:
            create(bench, far)
            ids = fan_out(bench) + fan_out(bench)
            assert more("webhook_endpoints_disabled_total", lambda: both(ids)) == {"": 1}

    def test_one_whose_disabling_was_rolled_back_is_not_counted(self, bench: Bench) -> None:
        def undone() -> None:
            with bench.session() as session:
                metrics.count_disabled(session)
                session.rollback()

        assert more("webhook_endpoints_disabled_total", undone) == {}
