"""What people are not shown of a task: values under names such as `password`, and secrets that stand in texts.

The ledger keeps what is real, for it must run. Every door where people look shows what this leaves: the dashboard, the API, the
command line, and what is captured of an actor's logs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from outbox.reads import AttemptView, TaskView
from outbox.settings import Settings

__all__ = ["NAMES", "REDACTED", "Redaction", "redacted_view", "usual"]

#: What stands where a value is not shown.
REDACTED = "[redacted]"

#: Names whose values are not shown, in whatever spelling: `api_key`, `apiKey`, `API-KEY`; also as a part: `smtp_password`.
NAMES = (
    "password", "passwd", "pwd", "passphrase", "secret", "token", "api_key", "access_key", "private_key", "authorization", "cookie",
    "credential", "credentials", "card_number", "cvv", "iban", "ssn",
)  # fmt: skip

_NAMED = "(?:password|passwd|pwd|secret|token|api_?key)"
#: Secrets that are known by their form, wherever they stand in a text; what stands before them is kept.
_FORMS = re.compile(
    r"(://)[^\s/:]*:[^\s/]*(?=@)"  # the user and password of a URL, in which somebody may have left an @ as it is
    r"|(\bbearer\s+|\bauthorization\W+(?:basic|digest)\s+)[A-Za-z0-9._~+/=-]{8,}"
    rf"|((?<![A-Za-z0-9]){_NAMED}(?:=|['\"]:\s*)['\"])[^'\"]+"
    rf"|((?<![A-Za-z0-9]){_NAMED}=)[^\s'\",;&)]+"
    r"|\b(?:whsec|whsk|whpk|obk)_[A-Za-z0-9+/=_-]{8,}"
    r"|(?<![\w-])eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*",  # a JWT
    re.IGNORECASE,
)
#: Names of so many letters are found at the end of a word too: `accesstoken`.
LONG = 5


class Redaction:
    """Rules: names, and `actor:0` for an actor's argument by its position. A rule after a minus takes one of the usual away."""

    def __init__(self, rules: Iterable[str] = ()) -> None:
        asked = [rule.strip() for rule in rules if rule.strip()]
        gone = {_spelled(rule[1:]) for rule in asked if rule.startswith("-")}
        added = [rule for rule in asked if not rule.startswith("-")]
        self._places = {rule for rule in added if ":" in rule}
        names = {_spelled(name) for name in (*NAMES, *(rule for rule in added if ":" not in rule))} - gone
        either = "|".join(_anywhere(name) for name in sorted(names)) or "(?!)"
        self._names = re.compile(f"(?:{either})s?[0-9]*(?:_|$)")

    def hides(self, name: str) -> bool:
        """Whether values under this name are not shown."""
        return self._names.search(_spelled(name)) is not None

    def value(self, value: Any) -> Any:
        """JSON, without what is not shown."""
        if isinstance(value, Mapping):
            return {name: REDACTED if self.hides(str(name)) else self.value(each) for name, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(each) for each in value]
        return self.text(value) if isinstance(value, str) else value

    def text(self, text: str) -> str:
        """A text, without the secrets that are known by their form."""
        return _FORMS.sub(lambda found: next((kept for kept in found.groups() if kept), "") + REDACTED, text)

    def args(self, actor: str, args: Iterable[Any]) -> list[Any]:
        """Arguments by position."""
        return [REDACTED if f"{actor}:{place}" in self._places else self.value(each) for place, each in enumerate(args)]

    def view(self, task: TaskView) -> TaskView:
        """The task as people are shown it."""
        return replace(
            task,
            args=self.args(task.actor, task.args),
            kwargs=self.value(task.kwargs),
            options=self.value(task.options),
            reason=self._maybe(task.reason),
            attempts=[self._attempt(each) for each in task.attempts],
        )

    def _attempt(self, attempt: AttemptView) -> AttemptView:
        return replace(
            attempt,
            error=self._maybe(attempt.error),
            traceback=self._maybe(attempt.traceback),
            logs=self._maybe(attempt.logs),
        )

    def _maybe(self, text: str | None) -> str | None:
        return None if text is None else self.text(text)


@cache
def usual() -> Redaction:
    """As OUTBOX_REDACT says, read once a process."""
    return Redaction(Settings().redact.split(","))


def redacted_view(task: TaskView) -> TaskView:
    """The task as people are shown it, by the rules of this process."""
    return usual().view(task)


def _spelled(name: str) -> str:
    """`apiKey`, `API-KEY` and `api key` as api_key."""
    return re.sub(r"[^a-z0-9]+", "_", re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower()).strip("_")


def _anywhere(name: str) -> str:
    pattern = name.replace("_", "_?")
    return pattern if len(name) >= LONG else f"(?:^|_){pattern}"
