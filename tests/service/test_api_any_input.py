"""Drawn at random: no input breaks a route, and whatever is accepted can be carried out."""

from __future__ import annotations

import json
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from service_eyes import GOOD, Door

ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.text(alphabet=st.characters(categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("route", GOOD)
@QUICK
@given(chosen=st.data())
def test_no_value_of_any_field_breaks_a_route(door: Door, route: str, chosen: st.DataObject) -> None:
    name = chosen.draw(st.sampled_from(sorted(GOOD[route])))
    if name in ("data", "enabled", "reason"):
        return
    answer = door.send(route, json.dumps({**GOOD[route], name: chosen.draw(ANY_JSON)}))
    assert answer.status_code < 500, answer.text


def test_any_text_that_is_accepted_can_be_mailed(door: Door) -> None:
    line = st.text(min_size=1, max_size=100)

    @QUICK
    @given(subject=line, text=st.text(min_size=1, max_size=2000), html=st.none() | line)
    def send(subject: str, text: str, html: str | None) -> None:
        body = {"to": "a@example.org", "subject": subject, "text": text, "html": html}
        answer = door.api.post("/v1/mails", content=json.dumps(body), headers={"Content-Type": "application/json"})
        assert answer.status_code in (202, 422), answer.text

    send()


def test_any_name_that_is_accepted_is_welcomed(door: Door) -> None:
    @QUICK
    @given(name=st.text(min_size=1, max_size=100))
    def sign_up(name: str) -> None:
        body = {"email": f"{uuid4()}@example.org", "name": name}
        answer = door.api.post("/v1/signups", content=json.dumps(body), headers={"Content-Type": "application/json"})
        assert answer.status_code in (201, 422), answer.text

    sign_up()
