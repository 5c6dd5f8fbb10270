"""Templates and clones: made once, taken by many, and nothing of anybody else's is dropped."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

import fastdb
from fastdb.testing import plugin, plugin_server
from fastdb.testing.plugin import FillError, SetUpError, Workshop
from fastdb.testing.plugin_schema import Schema
from fastdb.testing.plugin_server import Names
from tests.testing.spare import Spare


def make_metadata(size: int = 50) -> sa.MetaData:
    metadata = sa.MetaData()
    names = [f"column_{number}" for number in range(9)]
    columns = [sa.Column(name, sa.String(size), index=True) for name in names]
    sa.Table("notes", metadata, sa.Column("id", sa.Integer, primary_key=True), *columns)
    return metadata


METADATA = make_metadata()
INSERT = METADATA.tables["notes"].insert()


@contextmanager
def opened(url: str, folder: Path, metadata: sa.MetaData = METADATA) -> Iterator[Workshop]:
    workshop = Workshop(url, lambda: Schema(metadata, None), lambda: folder)
    try:
        yield workshop
    finally:
        workshop.close()


def rows(url: Any) -> int:
    """Return how many rows there are, after one more was written."""

    async def use() -> int:
        async with fastdb.Database(url) as database:
            await database.execute(INSERT)
            return len(await database.fetch_all(METADATA.tables["notes"].select()))

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, use()).result()


def make_by_hand(spare: Spare, name: str) -> None:
    """Make a database, as nobody of us does, on a server; of SQLite, a file beside the others."""
    if spare.dialect == "sqlite":
        Path(spare.url.removeprefix("sqlite:///")).with_name(f"{name}.db").touch()
        return
    with spare.session() as session:
        session.run(f"CREATE DATABASE {name}")


def counting(metadata: sa.MetaData) -> list[Any]:
    """Return what grows by one each time that the tables are made."""
    made: list[Any] = []

    @sa.event.listens_for(metadata, "after_create")
    def note(target: Any, connection: Any, **options: Any) -> None:
        if isinstance(connection, sa.Connection):
            made.append(target)

    return made


def test_the_template_is_made_once(spare: Spare, tmp_path: Path) -> None:
    metadata = make_metadata()
    made = counting(metadata)
    for _ in range(2):
        with opened(spare.url, tmp_path, metadata) as workshop:
            template = workshop.template()
            urls = [workshop.clone(), *(workshop.clone(numbered=True) for _ in range(2))]
            assert len({template, *urls}) == 4
            assert [rows(url) for url in urls] == [1, 1, 1]
            for url in urls:
                workshop.drop(url)
        assert len(made) == 1
        assert len(spare.templates()) == 1
    with opened(spare.url, tmp_path, make_metadata(51)) as workshop:
        assert workshop.template() != template
    assert len(spare.templates()) == 2


def test_few_templates_are_kept_the_newest_ones(spare: Spare, tmp_path: Path) -> None:
    made = []
    for size in range(50, 56):
        with opened(spare.url, tmp_path, make_metadata(size)) as workshop:
            made.append(str(workshop.template()).rpartition("_")[2].removesuffix(".db"))
    kept = [name.rpartition("_")[2] for name in spare.templates()]
    # The oldest are dropped by a run that begins.
    assert sorted(kept) == sorted(made[-plugin.KEPT_TEMPLATES :])


def test_a_template_that_was_dropped_meanwhile_is_made_again(spare: Spare, tmp_path: Path) -> None:
    with opened(spare.url, tmp_path) as workshop:
        workshop.drop(workshop.template())
        url = workshop.clone()
        assert rows(url) == 1
        workshop.drop(url)
    assert len(spare.templates()) == 1


def test_runs_at_the_same_time_leave_each_other_alone(spare: Spare, tmp_path: Path) -> None:
    with opened(spare.url, tmp_path) as one:
        url = one.clone()
        with opened(spare.url, tmp_path) as other:
            assert rows(url) == 1
            another = other.clone()
            assert another != url
            other.drop(another)
        assert rows(url) == 2
        one.drop(url)


def test_nobody_elses_database_is_dropped(spare: Spare, tmp_path: Path) -> None:
    name = f"{spare.name}_fastdb_main_0123abcd"
    make_by_hand(spare, name)
    with opened(spare.url, tmp_path) as workshop:
        workshop.drop(workshop.clone())
        with pytest.raises(SetUpError, match="has not made it"):
            workshop.drop(fastdb.DatabaseURL(spare.url.replace(spare.name, name)))
    assert "main_0123abcd" in spare.databases()
    assert len(spare.databases()) == 2


def test_what_fails_while_it_is_filled_leaves_nothing(spare: Spare, tmp_path: Path) -> None:
    metadata = make_metadata()

    @sa.event.listens_for(metadata, "after_create")
    def fail(target: Any, connection: Any, **options: Any) -> None:
        if isinstance(connection, sa.Connection):
            raise ZeroDivisionError

    with opened(spare.url, tmp_path, metadata) as workshop:
        for make in (workshop.template, workshop.clone):
            with pytest.raises(FillError) as caught:
                make()
            assert isinstance(caught.value.error, ZeroDivisionError)
    assert spare.databases() == []


def test_a_template_that_somebody_is_connected_to(spare: Spare, tmp_path: Path) -> None:
    with opened(spare.url, tmp_path) as workshop:
        workshop.template()
        (template,) = spare.templates()
        connection: Any
        if spare.dialect == "sqlite":
            connection = sqlite3.connect(tmp_path / f"{spare.name}_fastdb_{template}.db")
            connection.execute("SELECT * FROM notes")
        elif spare.dialect == "postgresql":
            with spare.session() as session:
                name = f"{spare.name}_fastdb_{template}"
                session.run(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
            connection = spare.session(template)
        else:
            connection = spare.session(template)
        url = workshop.clone()
        assert rows(url) == 1
        workshop.drop(url)
        connection.close()


def test_a_lock_that_nobody_gives_back_is_told(
    spare: Spare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin_server, "WAIT_SECONDS", 0.01)
    with opened(spare.url, tmp_path) as workshop:
        assert workshop._host.call(workshop._server.lock("all"))
        told = "another run's making of a database for tests has not ended within 0.01 s"
        with pytest.raises(SetUpError, match=told), opened(spare.url, tmp_path):
            pass


def test_a_clone_of_a_name_that_is_taken(spare: Spare, tmp_path: Path) -> None:
    with opened(spare.url, tmp_path) as workshop:
        workshop.template()
        make_by_hand(spare, workshop._server.names.own())
        with pytest.raises(
            SetUpError, match=r"cannot make a database for tests: .*(exists|already)"
        ):
            workshop.clone()
    assert len(spare.databases()) == 2


def test_a_copy_that_fails_leaves_nothing(mysql_spare: Spare, tmp_path: Path) -> None:
    metadata = make_metadata()

    @sa.event.listens_for(metadata, "after_create")
    def break_it(target: Any, connection: Any, **options: Any) -> None:
        connection.execute(sa.text("CREATE TABLE gone (a integer)"))
        connection.execute(sa.text("CREATE VIEW broken AS SELECT a FROM gone"))
        connection.execute(sa.text("DROP TABLE gone"))

    with (
        opened(mysql_spare.url, tmp_path, metadata) as workshop,
        pytest.raises(SetUpError, match="gone"),
    ):
        workshop.clone()
    assert len(mysql_spare.templates()) == 1


def test_a_folder_that_is_not_writable_is_told(tmp_path: Path) -> None:
    (tmp_path / "app_fastdb_all.lock").mkdir()
    with (
        pytest.raises(SetUpError, match="unable to open database file"),
        opened(f"sqlite:///{tmp_path}/app.db", tmp_path),
    ):
        pass


@pytest.mark.parametrize(
    "url",
    ["sqlite://", "sqlite:///:memory:?foreign_keys=1", "sqlite:///file::memory:?cache=shared"],
)
def test_a_database_in_memory_becomes_a_file(tmp_path: Path, url: str) -> None:
    with opened(url, tmp_path) as workshop:
        clone = workshop.clone()
        assert rows(clone) == 1
        assert ("foreign_keys" in str(clone)) is ("foreign_keys" in url)
        assert Path(clone.database).name.startswith("memory_fastdb_")
        assert Path(clone.database).parent == tmp_path
        workshop.drop(clone)


def test_a_relative_path_is_that_of_the_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    for url in ("sqlite:///app.db?journal_mode=wal", "sqlite:///file:my%20[app].db?uri=true"):
        with opened(url, tmp_path) as workshop:
            monkeypatch.chdir("other")
            clone = workshop.clone()
            assert rows(clone) == 1
            workshop.drop(clone)
            monkeypatch.chdir("..")
        with opened(url, tmp_path) as workshop:
            workshop.template()
    names = {path.name for path in tmp_path.glob("*.db")}
    assert len(names) == 2
    assert {name.partition("_fastdb_template_")[0] for name in names} == {"app", "my [app]"}
    assert not list((tmp_path / "other").iterdir())


# -- what is the same schema


def fingerprint(metadata: Any = None, migrations: Any = None, dialect: str = "sqlite") -> str:
    return Schema(metadata, migrations).fingerprint(dialect)


def test_the_same_metadata_has_the_same_fingerprint_in_another_process() -> None:
    code = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('workshop', {__file__!r})\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "junk = [object() for _ in range(int(sys.argv[1]))]\n"
        "print(module.fingerprint(module.make_metadata()))"
    )
    command = [sys.executable, "-c", code]
    found = {
        subprocess.check_output([*command, str(number)], text=True, env=os.environ).strip()
        for number in (1, 100)
    }
    assert found == {fingerprint(METADATA)}


def test_what_differs_has_another_fingerprint(tmp_path: Path) -> None:
    with_type = make_metadata()
    sa.Table("more", with_type, sa.Column("kind", sa.Enum("a", "b", name="kind")))
    versions = tmp_path / "versions"
    versions.mkdir()
    (tmp_path / "env.py").write_text("")
    found = [fingerprint(METADATA, dialect=name) for name in ("sqlite", "postgresql", "mysql")]
    found += [fingerprint(), fingerprint(make_metadata(51)), fingerprint(with_type)]
    found.append(fingerprint(migrations=tmp_path))
    (versions / "a.py").write_text("a")
    found.append(fingerprint(migrations=str(tmp_path)))
    (versions / "a.py").rename(versions / "b.py")
    found.append(fingerprint(migrations=tmp_path))
    assert len(set(found)) == len(found)
    (versions / "__pycache__").mkdir()
    (versions / "__pycache__" / "b.pyc").write_text("")
    assert fingerprint(migrations=tmp_path) == found[-1]


def test_tables_that_ask_the_database_are_the_same_in_one_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    metadata = make_metadata()

    @sa.event.listens_for(metadata, "before_create")
    def ask(target: Any, connection: Any, **options: Any) -> None:
        assert connection.execute(sa.text("SELECT 1")).scalar() == 1

    monkeypatch.delenv("PYTEST_XDIST_TESTRUNUID", raising=False)
    assert fingerprint(metadata) != fingerprint(metadata)
    monkeypatch.setenv("PYTEST_XDIST_TESTRUNUID", "a")
    assert fingerprint(metadata) == fingerprint(metadata)


def test_rows_that_listeners_insert_count(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for text in ("a", "b"):
        metadata = make_metadata()
        notes = metadata.tables["notes"]

        @sa.event.listens_for(notes, "after_create")
        def insert(
            target: Any, connection: Any, text: str = text, notes: sa.Table = notes, **options: Any
        ) -> None:
            connection.execute(notes.insert(), [{"column_1": text}])

        found += [fingerprint(metadata)] * 2
    assert len(set(found)) == 2


# -- names


@pytest.mark.parametrize("base", ["app", "", "a" * 70, "ä" * 40])
def test_names_are_short_enough_and_read_again(base: str) -> None:
    names = Names(base, "gw12", "0123abcd")
    template = names.template("0" * 16)
    own = [names.own(), names.own("_making"), names.own("_123456")]
    for name in (template, *own):
        assert len(name.encode()) <= 63
    assert names.is_template(template)
    assert [names.owner_of(name) for name in own] == ["gw12_0123abcd"] * 3
    assert names.owner_of(template) is None
    others: list[Callable[[str], Any]] = [names.owner_of, names.is_template]
    for other in (f"{names.prefix}fastdb_{name.removeprefix(names.prefix)}" for name in own):
        assert not any(read(other) for read in others)


def test_workers_of_any_name_have_one() -> None:
    assert Names("app", "", "0123abcd").owner == "main_0123abcd"
    assert Names("app", "My-Worker on Mars", "0123abcd").owner == "myworker_0123abcd"
