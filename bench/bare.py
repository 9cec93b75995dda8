"""`python -m bench.bare deliveries|mails COUNT THREADS`: the same conversations in a plain loop, without an outbox.

Nothing is committed, claimed or recorded: what is left of a delivery is its signature and its POST, of a mail its SMTP.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from uuid import UUID

from uuid_utils.compat import uuid7

from actors import outside
from actors.mail.address import parse as parse_address
from actors.mail.message import Draft, Mailbox, build
from actors.mail.replies import Sent
from actors.webhooks.address import parse
from actors.webhooks.delivery import Answered
from actors.webhooks.outbound import body_of
from actors.webhooks.signing import generate_secret, parse_secret, sign
from bench.outgoing import Letter, content, letter


def deliveries(count: int) -> Callable[[int], bool]:
    keys, ids = [parse_secret(generate_secret())], [uuid7() for _ in range(count)]
    url = parse(f"{os.environ['BENCH_RECEIVER']}/fast", policy=outside.policy())
    bodies = [body_of("bench.all", content(number), occurred_at=datetime.now(UTC)) for number in range(count)]

    def send(number: int) -> bool:
        headers = sign(keys, webhook_id=str(ids[number]), at=datetime.now(UTC), body=bodies[number])
        return isinstance(outside.courier().post(url, headers=headers, body=bodies[number]), Answered)

    return send


def mails(count: int) -> Callable[[int], bool]:
    sender = outside.sender()
    letters = [letter(number) for number in range(count)]
    bodies = [_built(each, uuid7(), sender) for each in letters]

    def send(number: int) -> bool:
        recipient = parse_address(letters[number].to)
        outcome = outside.transport().send(
            bodies[number], sender=sender.address, recipient=recipient, before_dot=lambda: True
        )
        return isinstance(outcome, Sent)

    return send


def _built(words: Letter, mail_id: UUID, sender: Mailbox) -> bytes:
    draft = Draft(sender, Mailbox(parse_address(words.to)), words.subject, words.text)
    return build(draft, mail_id=mail_id, date=datetime.now(UTC))


def main(what: str, count: int, threads: int) -> None:
    send = {"deliveries": deliveries, "mails": mails}[what](count)
    with ThreadPoolExecutor(threads) as pool:
        failed = count - sum(pool.map(send, range(count)))
    if failed:
        raise SystemExit(f"{failed} of {count} {what} failed")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
