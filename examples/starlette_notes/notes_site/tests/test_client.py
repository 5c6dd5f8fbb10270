"""Tests that are not async, over Starlette's TestClient."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from starlette.testclient import TestClient


@pytest.fixture(autouse=True)
def _home(client: TestClient) -> None:
    assert client.get("/notebooks").json() == []
    assert client.post("/notebooks", json={"name": "home"}).status_code == 201


def test_there_is_one_notebook_of_a_name(client: TestClient) -> None:
    assert client.post("/notebooks", json={"name": "home"}).status_code == 409
    assert client.get("/notebooks").json() == [{"name": "home", "size": 0}]


def test_notes_are_added_and_counted(client: TestClient) -> None:
    answer = client.post("/notebooks/home/notes", json=["buy milk", "call Ada"])
    assert answer.json() == {"added": 2}
    assert client.get("/notebooks").json() == [{"name": "home", "size": 2}]
    assert client.get("/notebooks/home/notes").text == "buy milk\ncall Ada\n"


def test_notes_are_added_all_or_none(client: TestClient) -> None:
    with pytest.raises(Exception, match=r"(?i)not.null|cannot be null"):
        client.post("/notebooks/home/notes", json=["buy milk", None])
    assert client.get("/notebooks").json() == [{"name": "home", "size": 0}]
    assert client.get("/notebooks/home/notes").text == ""


def test_notebooks_are_merged(client: TestClient) -> None:
    client.post("/notebooks", json={"name": "work"})
    client.post("/notebooks/home/notes", json=["buy milk"])
    client.post("/notebooks/work/notes", json=["write tests", "rest"])
    assert client.post("/notebooks/home/merge/work").json() == {"moved": 1}
    assert client.get("/notebooks").json() == [{"name": "work", "size": 3}]


def test_what_is_not_there(client: TestClient) -> None:
    client.post("/notebooks/home/notes", json=["buy milk"])
    assert client.get("/notebooks/work/notes").status_code == 404
    assert client.post("/notebooks/home/merge/work").status_code == 404
    assert client.get("/notebooks").json() == [{"name": "home", "size": 1}]


def test_how_many_queries_it_takes(client: TestClient, query_counter: Callable[..., Any]) -> None:
    with query_counter() as counter:
        client.post("/notebooks/home/notes", json=[f"note {n}" for n in range(50)])
    assert counter.count == 3, counter.queries  # the notebook, the notes, the count
