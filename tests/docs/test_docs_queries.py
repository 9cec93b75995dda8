"""What the page on queries lists is what there is."""

from pages import rows

from outbox import reads, search
from outbox.query import KEYS, parse
from outbox.why import CAUSES


def test_every_key_and_every_cause_stands_on_the_page_and_no_other() -> None:
    assert [key.strip("`") for key, _ in rows("queries", "key")] == list(KEYS)
    told = [tuple(each) for each in rows("queries", "cause")]
    assert [cause.strip("`") for cause, _ in told] == list(CAUSES)
    assert all(sentence.startswith(CAUSES[cause.strip("`")]) for cause, sentence in told)


def test_the_spans_and_caps_on_the_page_are_those_of_the_code() -> None:
    assert (search.LOOK_BACK.days, search.WITHIN.total_seconds(), reads.CAP) == (7, 5, 10_000)


def test_the_examples_on_the_page_can_be_read() -> None:
    for line in ('args.order.items.0.sku:TEA error:"timed out"', '"http://example.org"', 'kwargs."odd name":1'):
        assert parse(line)
