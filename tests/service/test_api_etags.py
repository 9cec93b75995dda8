"""ETags of endpoints: two who change one at once do not overwrite each other, and what is known is not sent again."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from fastapi.testclient import TestClient
from service_eyes import Database, problem_of

OLD = '"0123456789abcdef0123456789abcdef"'


@pytest.fixture
def made(api: TestClient) -> Any:
    answer = api.post("/v1/endpoints", json={"url": "https://hooks.example.org/in", "event_types": ["*"]})
    assert answer.status_code == 201
    return answer


@pytest.fixture
def path(made: Any) -> str:
    return f"/v1/endpoints/{made.json()['endpoint_id']}"


def test_the_tag_is_that_of_what_is_shown_whoever_shows_it(api: TestClient, made: Any, path: str) -> None:
    first = api.get(path)
    assert made.headers["etag"] == first.headers["etag"] == api.get(path).headers["etag"]
    assert first.headers["etag"].startswith('"')
    assert len(first.headers["etag"]) == 34
    changed = api.patch(path, json={"description": "new"})
    assert changed.headers["etag"] == api.get(path).headers["etag"] != first.headers["etag"]


def test_what_goes_to_an_endpoint_does_not_change_its_tag(api: TestClient, database: Database, path: str) -> None:
    before = api.get(path).headers["etag"]
    api.post("/v1/events", json={"type": "a.b", "data": 1})
    database.execute("update app.delivery set attempts = 3, status = 'failing'")
    assert api.get(path).headers["etag"] == before


def test_a_new_secret_is_a_change(api: TestClient, path: str) -> None:
    before = api.get(path).headers["etag"]
    api.post(f"{path}/rotate-secret")
    assert api.get(path).headers["etag"] != before


@pytest.mark.parametrize("wrap", ["{}", " {} ", '"x", {}', '{},"y,z"', "*"])
def test_a_change_is_made_on_the_state_that_was_seen(api: TestClient, path: str, wrap: str) -> None:
    tag = api.get(path).headers["etag"]
    assert api.patch(path, json={"description": "new"}, headers={"If-Match": wrap.format(tag)}).status_code == 200


@pytest.mark.parametrize("wrap", [OLD, f'{OLD}, "x"', "W/{}", '""'])
@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_no_other_state_is_changed_or_deleted(
    api: TestClient, database: Database, path: str, wrap: str, method: str
) -> None:
    before, tag = database.query("select * from app.endpoint"), api.get(path).headers["etag"]
    body = {"description": "new"} if method == "PATCH" else None
    answer = api.request(method, path, json=body, headers={"If-Match": wrap.format(tag)})
    assert problem_of(answer)["type"] == "/problems/precondition-failed"
    assert (answer.status_code, answer.headers["etag"]) == (412, tag)
    assert database.query("select * from app.endpoint") == before


@pytest.mark.parametrize("malformed", ["", "abc", '"abc', 'W"a"', '"a" "b"', "*, *", '"a",', 'w/"a"'])
def test_what_is_no_tag_is_refused_with_a_word_of_how_it_must_look(
    api: TestClient, database: Database, path: str, malformed: str
) -> None:
    answer = api.patch(path, json={"description": "new"}, headers={"If-Match": malformed})
    assert answer.status_code == 400
    assert "in their quotes" in problem_of(answer)["detail"]
    assert database.one("select description from app.endpoint")["description"] == ""


def test_a_state_that_was_seen_can_be_deleted(api: TestClient, path: str) -> None:
    tag = api.get(path).headers["etag"]
    assert api.delete(path, headers={"If-Match": tag}).status_code == 204
    assert api.delete(path, headers={"If-Match": tag}).status_code == 404


def test_of_many_who_saw_one_state_one_changes_it(api: TestClient, database: Database, path: str) -> None:
    tag, answers = api.get(path).headers["etag"], []
    ready = threading.Barrier(6)

    def change(number: int) -> None:
        ready.wait(30)
        answers.append(api.patch(path, json={"description": f"by {number}"}, headers={"If-Match": tag}))

    threads = [threading.Thread(target=change, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(answer.status_code for answer in answers) == [200, 412, 412, 412, 412, 412]
    (won,) = (answer.json() for answer in answers if answer.status_code == 200)
    assert api.get(path).json() == won
    assert {a.headers["etag"] for a in answers} == {api.get(path).headers["etag"]}


@pytest.mark.parametrize("wrap", ["{}", "W/{}", '"x", {}', "*"])
def test_what_is_known_is_not_sent_again(api: TestClient, path: str, wrap: str) -> None:
    tag = api.get(path).headers["etag"]
    answer = api.get(path, headers={"If-None-Match": wrap.format(tag)})
    assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
    assert "content-type" not in answer.headers
    assert answer.headers["x-request-id"]


@pytest.mark.parametrize("known", [OLD, "", "nonsense", '"'])
def test_what_is_not_known_is_sent(api: TestClient, path: str, known: str) -> None:
    assert api.get(path, headers={"If-None-Match": known}).json()["description"] == ""


def test_tags_may_come_on_several_lines(api: TestClient, path: str) -> None:
    tag = api.get(path).headers["etag"]
    lines = [("If-Match", OLD), ("If-Match", tag)]
    assert api.request("PATCH", path, json={"description": "new"}, headers=lines).status_code == 200
