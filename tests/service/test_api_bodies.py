"""Bodies are read strictly, and the slices that are kept are the bytes that came."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.bodies import MAX_DEPTH, loads, slice_of
from service.problems import Problem

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
SPACE = st.text(alphabet=" \t\r\n", max_size=3)


@given(JSON)
def test_every_json_value_is_read_as_python_reads_it(value: object) -> None:
    assert loads(json.dumps(value).encode()) == value


@given(JSON, JSON, SPACE, st.booleans(), st.booleans())
def test_a_slice_is_the_bytes_that_were_sent(first: object, kept: object, gap: str, escaped: bool, last: bool) -> None:
    sent = json.dumps(kept, ensure_ascii=escaped).encode(errors="surrogatepass")
    member = b'"d\\u0061ta"' + gap.encode() + b":" + gap.encode() + sent + gap.encode()
    other = b'"da":' + json.dumps(first).encode()
    body = b"{" + gap.encode() + (other + b"," + member if last else member + b"," + other) + b"}" + gap.encode()
    loads(body)
    assert slice_of(body, "data") == sent


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b'{"a":1,}',
        b'{"a":1}{}',
        b"[1,]",
        b"{'a':1}",
        b'{"a":1e400}',
        b'{"a":-1e999}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b'{"a":01}',
        b'{"a":1,"a":2}',
        b'{"a":1,"\\u0061":2}',
        b'{"a":"\x01"}',
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\x80"}',
        b'\xef\xbb\xbf{"a":1}',
        '{"a":1}'.encode("utf-16"),
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"a":' + b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
    ],
    ids=lambda body: repr(body[:24]),
)
def test_what_is_not_plain_json_is_refused(body: bytes) -> None:
    with pytest.raises(Problem) as refused:
        loads(body)
    assert refused.value.status_code == 400


def test_depth_is_counted_outside_of_strings() -> None:
    deep = b"[" * MAX_DEPTH + b'"' + b"[{" * 500 + b'\\""' + b"]" * MAX_DEPTH
    loads(deep)
    wide = b"[" + b",".join([b"[]"] * 1000) + b"]"
    assert len(loads(wide)) == 1000
