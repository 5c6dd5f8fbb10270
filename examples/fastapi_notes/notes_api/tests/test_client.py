"""Tests that are not async, over Starlette's TestClient."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from fastapi.testclient import TestClient

MILK = {"text": "buy milk", "tags": ["home", "today"]}


def test_a_note_is_added_and_listed(client: TestClient) -> None:
    assert client.get("/notes").json() == []
    added = client.post("/notes", json=MILK)
    assert added.status_code == 201
    assert client.get("/notes").json() == [{**MILK, "id": added.json()["id"], "done": False}]


def test_notes_are_found_by_tag(client: TestClient) -> None:
    client.post("/notes", json=MILK)
    client.post("/notes", json={"text": "call Ada", "tags": ["today"]})
    texts = [note["text"] for note in client.get("/notes", params={"tag": "home"}).json()]
    assert texts == ["buy milk"]
    assert len(client.get("/notes", params={"tag": "today"}).json()) == 2


def test_a_note_is_done(client: TestClient) -> None:
    key = client.post("/notes", json=MILK).json()["id"]
    assert client.post(f"/notes/{key}/done").status_code == 200
    assert [note["done"] for note in client.get("/notes").json()] == [True]
    assert client.post(f"/notes/{key + 1}/done").status_code == 404


def test_a_note_is_deleted_with_its_tags(client: TestClient) -> None:
    key = client.post("/notes", json=MILK).json()["id"]
    assert client.delete(f"/notes/{key}").status_code == 204
    assert client.get("/notes").json() == []
    assert client.delete(f"/notes/{key}").status_code == 404


def test_nothing_is_kept_of_a_note_whose_tags_are_refused(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "notes_api")
    with pytest.raises(Exception, match=r"(?i)unique|duplicate"):
        client.post("/notes", json={"text": "twice", "tags": ["home", "home"]})
    assert client.get("/notes").json() == []
    assert not [record for record in caplog.records if record.name == "notes_api"]


def test_what_happens_at_a_commit_happens(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "notes_api")
    key = client.post("/notes", json=MILK).json()["id"]
    assert f"note {key} was added" in caplog.messages


def test_the_list_takes_two_queries(client: TestClient, query_counter: Callable[..., Any]) -> None:
    for number in range(5):
        client.post("/notes", json={"text": f"note {number}", "tags": ["home", f"tag {number}"]})
    with query_counter(2):
        assert len(client.get("/notes").json()) == 5
