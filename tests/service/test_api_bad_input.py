"""Whatever is wrong with a request: a 4xx problem that repeats nothing of it, and no row anywhere."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest
from service_eyes import BODY_LIMIT, GOOD, MARK, ORDER, Door

DEEP: Any = json.loads("[" * 40 + f'"{MARK}"' + "]" * 40)

TEXT: list[Any] = [
    7,
    1.5,
    True,
    [],
    {},
    DEEP,
    f"{MARK}\x00",
    f"\x00{MARK}",
    f"{MARK}\ud800",
    f"\udfff{MARK}",
    MARK * 3000,
]
LINE: list[Any] = [*TEXT, f"{MARK}\r\nBcc: b@example.org", f"{MARK}\n", f"{MARK}\x85", f"{MARK}\u2028x", f"{MARK}\x7f"]
NUMBER: list[Any] = [f"{MARK}", "1", "", 1.5, 1.0, True, [], {}, DEEP, -1, 10**30, -(10**30), 2**63]
INSTANT: list[Any] = [
    *TEXT, "", "now", "1700000000", 1700000000, "2027-01-01", "2027-01-01T00:00:00", "2027-13-01T00:00:00Z",
    "2027-01-01T25:00:00Z", "0000-01-01T00:00:00Z", "99999-01-01T00:00:00Z",
]  # fmt: skip
EMAIL: list[Any] = [
    *LINE, "", "a", f"{MARK}@", f"@{MARK}.org", f"{MARK}@localhost", f"{MARK}@[127.0.0.1]", f"a@b@{MARK}.org",
    f"{MARK}@example.org,b@example.org", f"{MARK} <a@example.org>", f"-{MARK}@example.org", f'"{MARK}"@example.org',
    f"{MARK}@example.org>", f"{MARK}@example.org\r\nRCPT TO:<b@example.org>",
]  # fmt: skip
URL: list[Any] = [
    *LINE, "", MARK, f"https://{MARK}", f"ftp://{MARK}.example.org/", f"https://u:{MARK}@h.example.org/",
    "https://169.254.169.254/", "https://10.0.0.1/", "https://[::1]/", "https://0x7f.1/", f"https://h.example.org/#{MARK}",
]  # fmt: skip
CLIENT_ID: list[Any] = [*LINE, "", "a b", "a.b", "ä", f"{MARK}/", "x" * 129]
TYPE: list[Any] = [*LINE, "", ".", "a.", ".a", "a..b", "a b", "a-b", "ä", "*", "a.*", f"{MARK}!", "x" * 129]
TYPE += [f"webhook.{MARK}", "webhook.test"]
PATTERNS: list[Any] = [
    MARK,
    7,
    True,
    {},
    [],
    DEEP,
    [7],
    [""],
    ["a..b"],
    ["*.a"],
    ["a*"],
    [f"{MARK}\x00"],
    ["a"] * 101,
    [["a"]],
]
HEADERS: list[Any] = [
    MARK, 7, [], DEEP, {"X-A": 7}, {"X-A": None}, {"X-A": ""}, {"X-A": f"{MARK}\r\nX-B: c"}, {"X-A": f"{MARK}\x00"},
    {"X-A": f"{MARK}\ud800"}, {MARK + " x": "b"}, {f"{MARK}\x00": "b"}, {f"{MARK}\ud800": "b"}, {"": "b"},
    {"Host": MARK}, {"webhook-id": MARK}, {"Content-Length": "1"}, {"X-A": "b", "x-a": "c"}, {"X-A": MARK * 3000},
    {f"X-{n}": "b" for n in range(21)},
]  # fmt: skip
ITEMS: list[Any] = [MARK, 7, True, {}, [], DEEP, [MARK], [None], [[]], [ORDER["items"][0]] * 501]
ATTACHMENT = {"filename": "a.txt", "content_type": "text/plain", "content": "YQ=="}
ATTACHMENTS: list[Any] = [
    MARK, 7, True, {}, DEEP, [MARK], [None], [{}], [ATTACHMENT] * 21, [{**ATTACHMENT, MARK: 1}],
    *([{**ATTACHMENT, "filename": name}] for name in (*LINE, "", f"../{MARK}", f"{MARK}\"", f"{MARK}\u202e")),
    *([{**ATTACHMENT, "content_type": name}] for name in (*LINE, "", MARK, f"multipart/{MARK}", f"text/{MARK}; a=b")),
    *([{**ATTACHMENT, "content": text}] for text in (*TEXT[:-1], f"{MARK}!", "YQ", "YQ==YQ==")),
]  # fmt: skip
FLAG: list[Any] = [MARK, "true", 1, 0, [], {}, DEEP]

WRONG: dict[str, list[Any]] = {
    "email": EMAIL,
    "to": EMAIL,
    "name": [*LINE, "", " ", "x" * 101],
    "subject": [*LINE, "", " ", "x" * 501],
    "text": [*TEXT[:-1], "", "x\x1b[2J", "x" * 70_000],
    "html": [*TEXT[:-1], "", "x" * 70_000],
    "send_at": [*INSTANT, "2099-01-01T00:00:00Z"],
    "expires_at": [*INSTANT, "2099-01-01T00:00:00Z", "2026-01-01T00:00:00Z"],
    "variables": [MARK, 7, True, [], DEEP, {"a": f"{MARK}\x00"}, {"a": [f"{MARK}\ud800"]}, {f"{MARK}\x07": 1}],
    "reply_to": EMAIL,
    "attachments": ATTACHMENTS,
    "stream": [*LINE, "", "News", "1st", "a b", f"{MARK}!", "x" * 33],
    "unsubscribe": FLAG,
    "on_uncertain": [*LINE, "", "Hold", MARK],
    "recipient": EMAIL,
    "days": [*NUMBER, 0, 3651],
    "event_id": [*LINE, "", f"{MARK} 1", "x" * 256],
    "event_type": [*LINE, "", "Bounced", MARK],
    "mail_id": [*TEXT, "", MARK],
    "message_id": LINE,
    "reject_reason": [*LINE, "", MARK],
    "status": [*LINE, "", "5.1", "1.1.1", f"5.1.1 {MARK}"],
    "since": INSTANT,
    "until": INSTANT,
    "run_at": [*INSTANT, "9999-01-01T00:00:00Z", "0001-01-01T00:00:00Z"],
    "items": ITEMS,
    "sku": [*LINE, "", " ", "x" * 65],
    "quantity": [*NUMBER, 0, 1_000_001],
    "unit_price_cents": [*NUMBER, 1_000_000_001],
    "currency": [*LINE, "", "eur", "EURO", "EU", "ZZZ", "€", "978"],
    "client_id": CLIENT_ID,
    "type": TYPE,
    "url": URL,
    "event_types": PATTERNS,
    "description": LINE,
    "headers": HEADERS,
    "enabled": FLAG,
    "overlap_seconds": [*NUMBER, 7 * 86_400 + 1],
    "reason": [*LINE, "", "x" * 501],
    "data": [],
    "metadata": [
        MARK,
        7,
        [],
        DEEP,
        {"k": 7},
        {"k": None},
        {"k": f"{MARK}\n"},
        {"k": f"{MARK}\x00"},
        {"k": f"{MARK}\ud800"},
        {f"{MARK}\x00": "v"},
        {f"{MARK}\ud800": "v"},
        {"": "v"},
        {"k": "v" * 501},
        {"k" * 65: "v"},
        {f"k{n}": "v" for n in range(51)},
        {f"k{n}": "v" * 500 for n in range(17)},
    ],
    "concurrency": [*NUMBER, 0, 65],
    "rate_per_second": [MARK, "1", "", True, [], {}, DEEP, -1, 0, 0.001, 1000.5, 10**30],
    "fifo": FLAG,
    "schedule": [MARK, 7, True, {}, [], DEEP, [0], [86_401], [1.5], ["1"], [None], [True], [1] * 31],
    "other_4xx": [*LINE, "", "Retry", "ignore"],
    "notify": EMAIL,
    "signature": [*LINE, "", "v2", "V1"],
    "args": [MARK, 7, True, {}, [f"{MARK}\x00"], [{"a": f"{MARK}\ud800"}], [{f"{MARK}\x00": 1}]],
    "kwargs": [MARK, 7, True, [], DEEP, {"a": f"{MARK}\x00"}, {"a": [f"{MARK}\ud800"]}, {f"{MARK}\x00": 1}],
    "action": [*LINE, "", "Retry", MARK],
    "query": [*TEXT, "", f"{MARK}:x", f'{MARK}"x', f"state:{MARK}", f"since:{MARK}", "args:1"],
    "rate": [*NUMBER, 0, 100_001],
    "missed_since": [MARK, 0, True, [], {}, "2027-01-01T00:00:00Z"],
}
REQUIRED = {"email", "name", "items", "currency", "type", "data", "to", "subject", "url", "event_types", "since"}
REQUIRED |= {"recipient", "event_id", "event_type", "action", "query"}
NULL_IS_WRONG = REQUIRED - {"data"} | {"sku", "quantity", "unit_price_cents", "overlap_seconds"}
NULL_IS_WRONG |= {"attachments", "stream", "unsubscribe", "on_uncertain"}


Wrong = tuple[str, str, list[dict[str, Any]]]


def wrong_bodies() -> Iterator[Wrong]:
    """Route, what is wrong, and bodies that are good but for that."""
    for route, good in GOOD.items():
        changing = route.startswith("PATCH")
        for name in good:
            nulls = [None] if name in NULL_IS_WRONG and not changing else []
            missing = [{key: good[key] for key in good if key != name}] if name in REQUIRED and not changing else []
            yield route, name, [{**good, name: value} for value in (*WRONG[name], *nulls)] + missing
        unknown = ("x", MARK, f"{MARK}\x00", f"{MARK}\ud800", "__proto__", "Email", "id")
        yield route, "unknown", [{**good, name: MARK} for name in unknown]
    yield from wrong_items()
    yield "/v1/mails", "nothing to say", [{"to": "a@example.org", "subject": "s"}]
    moves = [{"delay_seconds": value} for value in (*NUMBER, 10**9)]
    both = {"run_at": "2027-01-01T00:00:00Z", "delay_seconds": 1}
    yield "/v1/tasks/{task_id}/reschedule", "delay_seconds", [*moves, both, {}]


def wrong_items() -> Iterator[Wrong]:
    item = {"sku": "TEA", "quantity": 1, "unit_price_cents": 5}
    for name in item:
        wrong = [{**item, name: value} for value in (*WRONG[name], None)]
        missing = {key: value for key, value in item.items() if key != name}
        yield "/v1/orders", f"items of {name}", [{**ORDER, "items": [each]} for each in (*wrong, missing)]
    yield "/v1/orders", "items of more", [{**ORDER, "items": [item, {**item, MARK: 1}]}]


@pytest.mark.parametrize(
    ("route", "bodies"), [pytest.param(route, bodies, id=f"{route} {what}") for route, what, bodies in wrong_bodies()]
)
def test_a_wrong_field_is_told_and_nothing_is_written(door: Door, route: str, bodies: list[dict[str, Any]]) -> None:
    for body in bodies:
        content = json.dumps(body)
        answer = door.send(route, content)
        door.is_refused(answer, 413 if len(content) > BODY_LIMIT else 422)
        for each in answer.json().get("errors", []):
            assert each["detail"] != "is not valid", body
    door.is_as_before()


def not_objects() -> list[bytes]:
    return [
        b"", b" ", b"{", b"{}}", b"[1]", b"null", b"true", b"7", b'"x"', b"{'a':1}", b'{"a":1,}', b'{"a":NaN}',
        b'{"data":1e400}', b'{"data":-Infinity}', b"\x00", b"\xff\xfe", b'{"data":"\x01"}', b'{"data":"\xff"}',
        b'{"data":' + b"[" * 10_000, b'{"data":' + b"[" * 10_000 + b"]" * 10_000 + b"}", b'{"a":' * 10_000,
        b'{"data":' + b"9" * 5_000 + b"}", b'\xef\xbb\xbf{"data":1}', '{"data":1}'.encode("utf-16"),
        b'{"type":"a.b","data":1,"data":2}', b'{"x":"' + b"y" * (BODY_LIMIT - 8) + b'"}',
    ]  # fmt: skip


@pytest.mark.parametrize("route", GOOD)
def test_what_is_not_one_json_object_is_refused(door: Door, route: str) -> None:
    for content in not_objects():
        if not content and route.endswith(("/rotate-secret", "/cancel")):
            continue  # there, no body is a body
        if content == b"null" and route.endswith(("/rotate-secret", "/cancel")):
            continue
        door.is_refused(door.send(route, content), 400, 415, 422)
    door.is_as_before()


@pytest.mark.parametrize("route", GOOD)
def test_an_oversized_body_is_refused(door: Door, route: str) -> None:
    whole = json.dumps({**GOOD[route], "x": "y" * BODY_LIMIT}).encode()
    door.refuses(door.send(route, whole), 413)
    door.refuses(door.send(route, iter([whole[:1000], whole[1000:]])), 413)
    door.refuses(door.send(route, whole, Content_Length="9" * 400), 400, 413)


@pytest.mark.parametrize("route", GOOD)
def test_only_plain_json_is_read(door: Door, route: str) -> None:
    content = json.dumps(GOOD[route]).encode()
    for declared in (
        "", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/jsonx",
        "application/json; charset=latin-1", 'application/json; charset="utf-16"', "json", "*/*",
    ):  # fmt: skip
        door.is_refused(door.send(route, content, Content_Type=declared), 415)
    door.refuses(door.send(route, gzip.compress(content), Content_Encoding="gzip"), 415)
    door.refuses(door.send(route, gzip.compress(content)), 400)


def test_a_body_without_content_type_is_refused(door: Door) -> None:
    door.refuses(door.api.post("/v1/signups", content=json.dumps(GOOD["/v1/signups"])), 415)


@pytest.mark.parametrize("key", ["", " ", "a b", "ä", "x" * 256, "\x7f"])
def test_a_wrong_idempotency_key_is_refused(door: Door, key: str) -> None:
    for route, body in GOOD.items():
        if route in ("/v1/signups", "/v1/orders", "/v1/events", "/v1/mails", "/v1/endpoints", "/v1/suppressions"):
            named = {"Idempotency-Key": key.encode(), "Content-Type": b"application/json"}
            door.refuses(door.api.post(route, content=json.dumps(body), headers=named), 422)


def test_two_idempotency_keys_are_refused(door: Door) -> None:
    twice = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    door.refuses(door.api.post("/v1/signups", json=GOOD["/v1/signups"], headers=twice), 400)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", f"/{MARK}", 404),
        ("GET", f"/v1/{MARK}", 404),
        ("GET", "/v1/events", 405),
        ("PUT", "/v1/signups", 405),
        ("DELETE", "/v1/tasks", 405),
        ("POST", "/livez", 405),
        (MARK.upper(), "/v1/signups", 405),
        ("GET", f"/v1/tasks/{MARK}", 422),
        ("GET", "/v1/tasks/%00", 422),
        ("GET", "/v1/tasks/%ff", 422),
        ("GET", "/v1/tasks/..%2f", 404),
        ("GET", f"/v1/endpoints?cursor={MARK}", 422),
        ("GET", f"/v1/endpoints?{MARK}=1", 422),
        ("GET", f"/v1/tasks?state={MARK}", 422),
        ("GET", f"/problems/{MARK}", 404),
        ("GET", "/redoc", 404),
    ],
)
def test_a_wrong_path_or_method_is_a_problem_too(door: Door, method: str, path: str, status: int) -> None:
    answer = door.api.request(method, path)
    door.refuses(answer, status)
    if status == 405:
        assert answer.headers["allow"]


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/signups", {"POST"}),
        ("/v1/endpoints", {"GET", "POST"}),
        ("/v1/endpoints/{endpoint_id}", {"GET", "PATCH", "DELETE"}),
        ("/v1/endpoints/{endpoint_id}/test", {"POST"}),
        ("/v1/tasks/{task_id}", {"GET"}),
        ("/livez", {"GET"}),
        ("/openapi.json", {"GET", "HEAD"}),
    ],
)
def test_a_wrong_method_is_told_all_that_are_right(door: Door, path: str, methods: set[str]) -> None:
    """HEAD is none of them: whoever wants the head of an answer asks for the answer."""
    for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", MARK.upper()} - methods:
        answer = door.send(f"{method} {path}", b"")
        assert set(answer.headers["allow"].split(", ")) == methods, method
        assert answer.status_code == 405
        if method != "HEAD":
            door.is_refused(answer, 405)
    door.is_as_before()


@pytest.mark.parametrize(
    "route",
    ["/v1/endpoints/{endpoint_id}/test", "/v1/tasks/{task_id}/retry", "DELETE /v1/endpoints/{endpoint_id}",
     "GET /v1/endpoints/{endpoint_id}", "GET /v1/tasks"],
)  # fmt: skip
def test_a_body_where_none_is_taken_is_refused(door: Door, route: str) -> None:
    for content in (f'{{"{MARK}": 1}}', "[]", "null", MARK, "{", b"\xff", b"\x00"):
        door.is_refused(door.send(route, content), 422)
    door.is_refused(door.send(route, iter([MARK.encode()]), Content_Type="text/plain"), 422)
    door.is_refused(door.send(route, b"x" * (BODY_LIMIT + 1)), 413)
    door.is_as_before()


def test_a_refusal_tells_the_state_and_not_the_id_that_came(door: Door) -> None:
    answer = door.send("/v1/tasks/{task_id}/retry", b"")
    door.refuses(answer, 409)
    assert answer.json()["detail"] == "The task is pending: it will run without a retry."


def test_an_empty_object_is_no_body(door: Door) -> None:
    for content in ("", "{}", " {} \n"):
        assert door.send("GET /v1/tasks", content).status_code == 200


@pytest.mark.parametrize("route", [*GOOD, "/v1/tasks/{task_id}/retry", "GET /v1/tasks"])
def test_without_a_key_no_body_is_read(door: Door, route: str) -> None:
    """Whatever it is: nobody waits for its end, and nothing is told of it."""

    def never() -> Iterator[bytes]:
        raise AssertionError("the body was asked for")
        yield b""

    for key in ("", "Bearer of-nobody"):
        for content in not_objects():
            door.refuses(door.send(route, content, Authorization=key), 401)
        for declared in ("text/plain", "application/json; charset=latin-1", ""):
            door.refuses(door.send(route, MARK, Authorization=key, Content_Type=declared), 401)
        door.refuses(door.send(route, b"x" * (BODY_LIMIT + 1), Authorization=key), 401)
        door.refuses(door.send(route, never(), Authorization=key), 401)
