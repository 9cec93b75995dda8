"""H8: of a labelled corpus at least 95 in a hundred stand in the group that a person would put them in."""

from __future__ import annotations

from collections import Counter, defaultdict

from corpus import KINDS, Failed, corpus

from outbox.fingerprint import fingerprint, fingerprint_of


def test_nearly_all_failures_stand_in_the_right_group() -> None:
    found = list(corpus(18))
    assert (len(found) >= 500, len(KINDS) >= 25) == (True, True)
    right, astray = _judged(found)
    assert right / len(found) >= 0.95, astray


def _judged(found: list[Failed]) -> tuple[int, list[Failed]]:
    """Each label owns the group that most of its failures are in, and each group belongs to the label that most of it has."""
    kinds = [(each.label, fingerprint_of(each.error, each.traceback)) for each in found]
    groups: dict[str, Counter[str]] = defaultdict(Counter)
    labels: dict[str, Counter[str]] = defaultdict(Counter)
    for label, kind in kinds:
        groups[kind][label] += 1
        labels[label][kind] += 1

    def stands_right(label: str, kind: str) -> bool:
        return labels[label].most_common(1)[0][0] == kind and groups[kind].most_common(1)[0][0] == label

    astray = [each for each, kind in zip(found, kinds, strict=True) if not stands_right(*kind)]
    return len(found) - len(astray), astray


TRACE = 'Traceback (most recent call last):\n  File "{}", line {}, in {}\n    x\n{}'


def test_the_place_is_the_innermost_frame_of_ones_own() -> None:
    own = TRACE.format("/app/shop/mail.py", 3, "send", "")
    library = '  File "/x/lib/python3.12/site-packages/smtp/c.py", line {}, in {}\n    y\n'
    first = fingerprint("E", "m", own + library.format(1, "a"))
    assert first == fingerprint("E", "m", own + library.format(9, "b"))
    assert first == fingerprint("E", "m", TRACE.format("C:\\old\\shop\\mail.py", 99, "send", ""))
    assert first != fingerprint("E", "m", TRACE.format("/app/shop/mail.py", 3, "receive", ""))
    assert first != fingerprint("F", "m", own)
    assert first != fingerprint("E", "n", own)


def test_a_comprehension_has_a_frame_of_its_own_in_old_pythons_alone() -> None:
    own = TRACE.format("/app/a/b.py", 3, "f", "")
    assert fingerprint("E", "m", own) == fingerprint(
        "E", "m", own + '  File "/app/a/b.py", line 3, in <listcomp>\n    y\n'
    )


def test_a_sentence_of_the_outbox_is_a_kind_too() -> None:
    told = "the outcome could not be recorded: {} at 0x7f00"
    assert fingerprint_of(told.format(1), None) == fingerprint_of(told.format(2), None)
    assert fingerprint_of("its worker died", None) != fingerprint_of("no outcome", None)
