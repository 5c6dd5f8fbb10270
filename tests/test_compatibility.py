"""Programs as clients of ``databases`` write them, with nothing but the import changed."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import decimal
import enum
import importlib
import json
import sqlite3
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import asyncpg
import pymysql
import pytest
import sqlalchemy
import sqlalchemy.orm
from sqlalchemy.dialects import mysql, postgresql, sqlite

import fastdb as databases
from fastdb.core import Connection
from fastdb.interfaces import Record

metadata = sqlalchemy.MetaData()
notes = sqlalchemy.Table(
    "notes",
    metadata,
    sqlalchemy.Column("id", sqlalchemy.Integer, primary_key=True),
    sqlalchemy.Column("text", sqlalchemy.String(length=100)),
    sqlalchemy.Column("completed", sqlalchemy.Boolean),
)
users = sqlalchemy.Table(
    "users",
    metadata,
    sqlalchemy.Column("id", sqlalchemy.Integer, primary_key=True),
    sqlalchemy.Column("email", sqlalchemy.String(80), unique=True, nullable=False),
    sqlalchemy.Column("active", sqlalchemy.Boolean, nullable=False, default=True),
    sqlalchemy.Column("created", sqlalchemy.DateTime, default=datetime.datetime.now),
)
posts = sqlalchemy.Table(
    "posts",
    metadata,
    sqlalchemy.Column("id", sqlalchemy.Integer, primary_key=True),
    sqlalchemy.Column("owner", sqlalchemy.ForeignKey("users.id"), nullable=False),
    sqlalchemy.Column("title", sqlalchemy.String(80), nullable=False),
    sqlalchemy.Column("tags", sqlalchemy.JSON),
)


class Status(enum.Enum):
    """What a job may be."""

    waiting = "waiting"
    done = "done"


class Csv(sqlalchemy.TypeDecorator[list[str]]):
    """A list of words, kept as one string."""

    impl = sqlalchemy.String(200)
    cache_ok = True

    def process_bind_param(self, value: list[str] | None, dialect: Any) -> str | None:
        return None if value is None else ",".join(value)

    def process_result_value(self, value: str | None, dialect: Any) -> list[str] | None:
        return None if value is None else value.split(",")


jobs = sqlalchemy.Table(
    "jobs",
    metadata,
    sqlalchemy.Column("id", sqlalchemy.Integer, primary_key=True),
    sqlalchemy.Column("status", sqlalchemy.Enum(Status, native_enum=False), default=Status.waiting),
    sqlalchemy.Column("labels", Csv),
    sqlalchemy.Column("payload", sqlalchemy.JSON),
    sqlalchemy.Column("price", sqlalchemy.Numeric(10, 2)),
    sqlalchemy.Column("due", sqlalchemy.Date),
    sqlalchemy.Column("token", sqlalchemy.Uuid, default=uuid.uuid4),
)

DIALECTS: dict[str, Any] = {
    "sqlite": sqlite.dialect(),
    "postgresql": postgresql.dialect(),  # type: ignore[no-untyped-call]
    "mysql": mysql.dialect(),
}


async def create_tables(database: databases.Database) -> None:
    """Follow the recipe "Creating tables" of the documentation."""
    for table in metadata.sorted_tables:
        schema = sqlalchemy.schema.CreateTable(table, if_not_exists=True)
        query = str(schema.compile(dialect=DIALECTS[database.url.dialect]))
        await database.execute(query=query)


@pytest.fixture
async def service(database: databases.Database) -> databases.Database:
    """Return a database that has the tables."""
    await create_tables(database)
    return database


# -- the pages of the documentation


async def test_high_scores(database_url: str) -> None:
    """The first program of the introduction."""
    database = databases.Database(database_url)
    await database.connect()
    key = {"sqlite": "INTEGER", "mysql": "INTEGER AUTO_INCREMENT", "postgresql": "SERIAL"}
    await database.execute(
        query=f"CREATE TABLE HighScores (id {key[database.url.dialect]} PRIMARY KEY, "
        "name VARCHAR(100), score INTEGER)"
    )
    query = "INSERT INTO HighScores(name, score) VALUES (:name, :score)"
    values = [
        {"name": "Daisy", "score": 92},
        {"name": "Neil", "score": 87},
        {"name": "Carol", "score": 43},
    ]
    await database.execute_many(query=query, values=values)
    rows = await database.fetch_all(query="SELECT * FROM HighScores")
    assert [(row.name, row["score"]) for row in rows] == [
        ("Daisy", 92),
        ("Neil", 87),
        ("Carol", 43),
    ]
    await database.disconnect()


async def test_core_queries(service: databases.Database) -> None:
    """The page "Database queries", its first half."""
    database = service
    query = notes.insert()
    await database.execute(query=query, values={"text": "example1", "completed": True})
    values = [{"text": "example2", "completed": False}, {"text": "example3", "completed": True}]
    await database.execute_many(query=query, values=values)
    rows = await database.fetch_all(query=notes.select())
    assert [row.text for row in rows] == ["example1", "example2", "example3"]
    row = await database.fetch_one(query=notes.select())
    assert row is not None
    assert row.completed is True
    assert [row.text async for row in database.iterate(query=notes.select())] == [
        row.text for row in rows
    ]


async def test_raw_queries(service: databases.Database) -> None:
    """The page "Database queries", its second half."""
    database = service
    query = "INSERT INTO notes(text, completed) VALUES (:text, :completed)"
    await database.execute(query=query, values={"text": "example1", "completed": True})
    values = [{"text": "example2", "completed": False}, {"text": "example3", "completed": True}]
    await database.execute_many(query=query, values=values)
    query = "SELECT * FROM notes WHERE completed = :completed"
    rows = await database.fetch_all(query=query, values={"completed": True})
    assert [row.text for row in rows] == ["example1", "example3"]
    query = "SELECT * FROM notes WHERE id = :id"
    result = await database.fetch_one(query=query, values={"id": 1})
    assert result is not None
    assert result.id == 1
    assert result._mapping["id"] == 1
    assert await database.fetch_one(query=query, values={"id": 999}) is None
    assert await database.fetch_val(query=query, values={"id": 999}) is None


async def test_transaction_in_three_forms(service: databases.Database) -> None:
    """The page "Connections and transactions"."""
    database = service
    async with database.transaction():
        await database.execute(notes.insert(), {"text": "block"})

    transaction = await database.transaction()
    try:
        await database.execute(notes.insert(), {"text": "low level"})
        raise LookupError
    except LookupError:
        await transaction.rollback()
    else:
        await transaction.commit()

    @database.transaction()
    async def create_note(text: str, *, fail: bool = False) -> str:
        await database.execute(notes.insert(), {"text": text})
        if fail:
            raise LookupError
        return text

    assert await create_note("decorated") == "decorated"
    with pytest.raises(LookupError):
        await create_note("failed", fail=True)
    async with database.connection() as connection, connection.transaction():
        await connection.execute(notes.insert(), {"text": "connection"})
    rows = await database.fetch_all(notes.select().order_by(notes.c.id))
    assert [row.text for row in rows] == ["block", "decorated", "connection"]


async def test_child_task_uses_the_parents_connection(service: databases.Database) -> None:
    database = service

    async def add_excitement(connection: Connection, id: int) -> None:
        query = notes.update().where(notes.c.id == id).values(text=notes.c.text + "!!!")
        await connection.execute(query)

    async with database.transaction():
        await database.execute("INSERT INTO notes(id, text) VALUES (1, 'databases is cool')")
        await asyncio.create_task(add_excitement(database.connection(), id=1))
    text = await database.fetch_val("SELECT text FROM notes WHERE id = 1")
    assert text == "databases is cool!!!"


async def test_inner_transaction_is_aborted_alone(service: databases.Database) -> None:
    database = service
    async with database.transaction() as outer:
        await database.execute(notes.insert(), {"text": "outer"})
        with contextlib.suppress(ValueError):
            async with database.transaction():
                await database.execute(notes.insert(), {"text": "inner"})
                raise ValueError("abort the inner transaction")
        assert isinstance(outer, databases.Transaction)
    assert [row.text for row in await database.fetch_all("SELECT text FROM notes")] == ["outer"]


async def test_isolation_by_keyword(service: databases.Database) -> None:
    async with service.transaction(isolation="serializable"):
        assert await service.fetch_val(sqlalchemy.select(sqlalchemy.func.count(notes.c.id))) == 0


async def test_connection_options(database_url: str) -> None:
    query = "?min_size=2&max_size=5"
    async with databases.Database(database_url + query) as database:
        assert await database.fetch_val("SELECT 1") == 1
    async with databases.Database(database_url, min_size=2, max_size=5) as database:
        assert await database.fetch_val("SELECT 1") == 1


async def test_test_database_pattern(database_url: str) -> None:
    """The page "Tests and migrations": connect and disconnect between cases."""
    async with databases.Database(database_url) as database:
        await create_tables(database)
    testing = True
    if testing:
        database = databases.Database(database_url, force_rollback=True)
    else:
        database = databases.Database(database_url)
    for _ in range(3):
        await database.connect()
        assert await database.fetch_all(notes.select()) == []
        async with database.transaction():
            await database.execute(notes.insert(), {"text": "case"})
        await asyncio.create_task(database.execute(notes.insert(), {"text": "task"}))
        assert len(await database.fetch_all(notes.select())) == 2
        await database.disconnect()


async def test_force_rollback_transaction(service: databases.Database) -> None:
    async with service.transaction(force_rollback=True):
        await service.execute(notes.insert(), {"text": "gone"})
        assert await service.fetch_val("SELECT count(*) FROM notes") == 1
    assert await service.fetch_val("SELECT count(*) FROM notes") == 0


# -- what services do with it


@dataclass
class UserIn:
    """What a request brings."""

    email: str
    active: bool = True


@dataclass
class User(UserIn):
    """What a response takes."""

    id: int = 0
    created: datetime.datetime | None = None


class UserRepository:
    """The repository that many services have."""

    def __init__(self, database: databases.Database) -> None:
        self.database = database

    async def create(self, user: UserIn) -> User:
        query = users.insert().values(**asdict(user))
        last_record_id = await self.database.execute(query)
        return User(**asdict(user), id=last_record_id)

    async def get(self, id: int) -> User | None:
        row = await self.database.fetch_one(users.select().where(users.c.id == id))
        return User(**row) if row else None

    async def list(self, skip: int = 0, limit: int = 100) -> list[User]:
        query = users.select().order_by(users.c.id).offset(skip).limit(limit)
        return [User(**dict(row)) for row in await self.database.fetch_all(query=query)]

    async def update(self, id: int, changes: dict[str, Any]) -> int:
        query = users.update().where(users.c.id == id).values(**changes)
        return int(await self.database.execute(query=query))

    async def deactivate(self, id: int) -> User | None:
        await self.database.execute(
            query=users.update().where(users.c.id == id), values={"active": False}
        )
        return await self.get(id)

    async def delete(self, id: int) -> None:
        await self.database.execute(users.delete().where(users.c.id == id))

    async def exists(self, email: str) -> bool:
        query = sqlalchemy.select(sqlalchemy.exists().where(users.c.email == email))
        return bool(await self.database.fetch_val(query=query))


async def test_repository(service: databases.Database) -> None:
    repository = UserRepository(service)
    ada = await repository.create(UserIn(email="ada@example.org"))
    bob = await repository.create(UserIn(email="bob@example.org", active=False))
    assert (ada.id, bob.id) == (1, 2)
    found = await repository.get(ada.id)
    assert found is not None
    assert (found.email, found.active) == ("ada@example.org", True)
    assert isinstance(found.created, datetime.datetime)
    assert await repository.get(99) is None
    assert [user.id for user in await repository.list(skip=1, limit=5)] == [2]
    assert await repository.update(bob.id, {"email": "rob@example.org"}) == 1
    assert await repository.update(99, {"email": "x"}) == 0
    changed = await repository.deactivate(ada.id)
    assert changed is not None
    assert changed.active is False
    assert await repository.exists("rob@example.org")
    await repository.delete(bob.id)
    assert not await repository.exists("rob@example.org")


async def test_records_in_every_way(service: databases.Database) -> None:
    await service.execute(query=notes.insert(), values={"text": "a", "completed": False})
    row = await service.fetch_one(query=notes.select())
    assert isinstance(row, Record)
    assert row.text == row["text"] == row[1] == row[notes.c.text] == row._mapping["text"] == "a"
    assert row._mapping[notes.c.text] == "a"
    expected = {"id": 1, "text": "a", "completed": False}
    assert dict(row) == dict(row._mapping) == {**row} == {**row._mapping} == expected
    assert dict(row.items()) == dict(zip(row.keys(), row.values(), strict=True)) == expected
    assert json.loads(json.dumps([dict(row)])) == [expected]
    assert "text" in row._mapping
    assert row._mapping.get("nothing", 7) == 7
    assert list(row._mapping) == list(row._mapping.keys()) == ["id", "text", "completed"]
    assert isinstance(row._mapping, Mapping)
    assert len(row) == 3
    id, text, completed = row.values()
    assert (id, text, completed) == (1, "a", False)
    with pytest.raises(KeyError):
        row["nothing"]
    with pytest.raises(AttributeError):
        row.nothing  # noqa: B018
    with pytest.raises(KeyError):
        row._mapping["nothing"]
    raw = await service.fetch_one("SELECT id, text FROM notes")
    assert raw is not None
    assert raw[notes.c.text] == raw._mapping[notes.c.text] == "a"


async def test_values_are_mappings_of_every_kind(service: databases.Database) -> None:
    await service.execute(notes.insert(), Form({"text": "mapping", "completed": True}))
    row = await service.fetch_one(notes.select())
    assert row is not None
    copy = {**row, "id": 2}
    await service.execute(query=notes.insert(), values=copy)
    await service.execute(notes.insert().values({**row._mapping, "id": 3}))
    await service.execute(notes.update().where(notes.c.id == 3), {**row._mapping, "id": 4})
    await service.execute_many(notes.insert(), ({"id": id} for id in range(5, 8)))
    found = [row.id for row in await service.fetch_all("SELECT id FROM notes ORDER BY id")]
    assert found == [1, 2, 4, 5, 6, 7]


class Form(Mapping[str, Any]):
    """A mapping that is no dict, as frameworks have them."""

    def __init__(self, data: dict[str, Any]) -> None:
        self._data = data

    def __getitem__(self, key: str) -> Any:
        return self._data[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)


async def test_joins(service: databases.Database) -> None:
    ada = await service.execute(users.insert(), {"email": "ada@example.org"})
    values = {"owner": ada, "title": "first", "tags": ["a", {"b": None}]}
    post = await service.execute(query=posts.insert(), values=values)
    query = (
        sqlalchemy.select(posts, users.c.email.label("author"), users.c.id)
        .select_from(posts.join(users, posts.c.owner == users.c.id))
        .where(users.c.active.is_(True))
    )
    row = await service.fetch_one(query)
    assert row is not None
    assert row.author == row[users.c.email] == "ada@example.org"
    assert (row[posts.c.id], row[users.c.id]) == (post, ada)
    assert row.tags == row["tags"] == row[posts.c.tags] == ["a", {"b": None}]
    assert len(row._mapping) == 6
    count = sqlalchemy.select(sqlalchemy.func.count()).select_from(posts)
    assert await service.fetch_val(count) == 1
    assert await service.fetch_val(query=query, column="author") == "ada@example.org"
    assert await service.fetch_val(query, None, 2) == "first"


async def test_column_types(service: databases.Database) -> None:
    values = {
        "labels": ["x", "y"],
        "payload": {"n": [1, None]},
        "price": decimal.Decimal("12.50"),
        "due": datetime.date(2026, 2, 3),
    }
    key = await service.execute(query=jobs.insert(), values=values)
    row = await service.fetch_one(jobs.select().where(jobs.c.status == Status.waiting))
    assert row is not None
    token = row.token
    assert isinstance(token, uuid.UUID)
    assert dict(row) == {"id": key, "status": Status.waiting, "token": token, **values}
    query = jobs.update().where(jobs.c.token == token)
    assert await service.execute(query, {"status": Status.done, "payload": None}) == 1
    async for row in service.iterate(jobs.select()):
        assert (row.status, row.payload, row.labels) == (Status.done, None, ["x", "y"])
    statuses = [Status.waiting, Status.done]
    assert await service.fetch_val(
        sqlalchemy.select(sqlalchemy.func.count()).where(jobs.c.status.in_(statuses))
    )


async def test_declarative_models(service: databases.Database) -> None:
    """ORM classes as descriptions of tables."""

    class Base(sqlalchemy.orm.DeclarativeBase):
        metadata = metadata

    class Note(Base):
        __table__ = notes

    await service.execute(sqlalchemy.insert(Note).values(text="a", completed=False))
    await service.execute(Note.__table__.insert(), {"text": "b"})
    await service.execute_many(sqlalchemy.insert(Note), [{"text": "c"}, {"text": "d"}])
    query = sqlalchemy.update(Note).where(notes.c.text.in_(["c", "d"]))
    assert await service.execute(query, {"completed": True}) == 2
    row = await service.fetch_one(sqlalchemy.select(Note).order_by(sqlalchemy.desc(notes.c.id)))
    assert row is not None
    assert row.text == row[notes.c.text] == "d"
    assert await service.execute(sqlalchemy.delete(Note)) == 4


async def test_fetch_methods_over_statements_without_rows(service: databases.Database) -> None:
    """What generic CRUD routers do: fetch_one() where execute() would be in place."""
    query = "INSERT INTO notes (text) VALUES (:text)"
    assert await service.fetch_one(query, {"text": "a"}) is None
    assert await service.fetch_val(query, {"text": "b"}) is None
    update = notes.update().where(notes.c.id == 1)
    assert await service.fetch_one(query=update, values={"text": "z"}) is None
    assert await service.fetch_all(update.values(completed=True)) == []
    assert [row async for row in service.iterate(update.values(completed=False))] == []
    assert await service.fetch_one("CREATE TABLE other (n INTEGER)") is None
    rows = await service.fetch_all(notes.select().order_by(notes.c.id))
    assert [tuple(row) for row in rows] == [(1, "z", False), (2, "b", None)]


async def test_text_clauses(service: databases.Database) -> None:
    insert = sqlalchemy.text("INSERT INTO notes (text, completed) VALUES (:text, :completed)")
    await service.execute(insert.bindparams(text="bound", completed=True))
    await service.execute(insert, {"text": "values", "completed": False})
    query = sqlalchemy.text("SELECT * FROM notes WHERE text = :text").bindparams(text="bound")
    row = await service.fetch_one(query)
    assert row is not None
    assert row.text == "bound"
    like = "SELECT count(*) FROM notes WHERE text LIKE '%ou%' OR text = :text"
    assert await service.fetch_val(like, {"text": "12:30"}) == 1


async def test_upsert(service: databases.Database) -> None:
    values = {"email": "ada@example.org", "active": False}
    if service.url.dialect == "mysql":
        insert = mysql.insert(users).values(**values)
        upsert: Any = insert.on_duplicate_key_update(active=insert.inserted.active)
    else:
        make = postgresql.insert if service.url.dialect == "postgresql" else sqlite.insert
        inserted = make(users).values(**values)
        upsert = inserted.on_conflict_do_update(
            index_elements=["email"], set_={"active": inserted.excluded.active}
        )
    await service.execute(users.insert(), {"email": "ada@example.org"})
    await service.execute(upsert)
    assert await service.fetch_val(sqlalchemy.select(users.c.active)) is False
    assert await service.fetch_val("SELECT count(*) FROM users") == 1


async def test_error_classes(service: databases.Database) -> None:
    error_class: type[Exception] = {
        "sqlite": sqlite3.IntegrityError,
        "postgresql": asyncpg.exceptions.UniqueViolationError,
        "mysql": pymysql.err.IntegrityError,
    }[service.url.dialect]
    if service.url.driver == "asyncmy":
        error_class = importlib.import_module("asyncmy.errors").IntegrityError
    await service.execute(users.insert(), {"email": "ada@example.org"})
    for _ in range(2):
        with pytest.raises(error_class):
            await service.execute(users.insert(), {"email": "ada@example.org"})
    assert await service.fetch_val("SELECT count(*) FROM users") == 1


async def test_get_or_create_under_errors(service: databases.Database) -> None:
    """A savepoint around an insert that may fail, inside a transaction that goes on."""

    async def get_or_create(email: str) -> int:
        try:
            async with service.transaction():
                return int(await service.execute(users.insert(), {"email": email}))
        except Exception:
            return int(
                await service.fetch_val(sqlalchemy.select(users.c.id).where(users.c.email == email))
            )

    async with service.transaction():
        first = await get_or_create("ada@example.org")
        assert await get_or_create("ada@example.org") == first
        assert await get_or_create("bob@example.org") != first
    assert await service.fetch_val("SELECT count(*) FROM users") == 2


async def test_low_level_transactions_nest(service: databases.Database) -> None:
    outer = await service.transaction()
    await service.execute(notes.insert(), {"text": "outer"})
    inner = service.transaction()
    await inner.start()
    await service.execute(notes.insert(), {"text": "inner"})
    await inner.rollback()
    await outer.commit()
    assert [row.text for row in await service.fetch_all(notes.select())] == ["outer"]


async def test_module_level_decorator(database_url: str) -> None:
    """A database, tables and decorated functions at import, connected later."""
    database = databases.Database(database_url)

    @database.transaction()
    async def transfer(amount: int, *, fail: bool = False) -> dict[str, int]:
        await database.execute(notes.insert(), {"text": str(amount)})
        if fail:
            raise ZeroDivisionError
        return {"amount": amount}

    assert not database.is_connected
    await database.connect()
    await create_tables(database)
    assert await transfer(5) == {"amount": 5}
    with pytest.raises(ZeroDivisionError):
        await transfer(6, fail=True)
    await asyncio.gather(*(transfer(n) for n in range(5)))
    assert await database.fetch_val("SELECT count(*) FROM notes") == 6
    await database.disconnect()
    assert not database.is_connected


async def test_decorated_methods(service: databases.Database) -> None:
    class Notes:
        @service.transaction()
        async def add(self, text: str, *, completed: bool = False) -> int:
            values = {"text": text, "completed": completed}
            return int(await service.execute(notes.insert(), values))

        @classmethod
        @service.transaction(isolation="serializable")
        async def count(cls) -> tuple[str, int]:
            return cls.__name__, int(await service.fetch_val("SELECT count(*) FROM notes"))

    assert await Notes().add("a", completed=True) == 1
    assert await Notes.count() == ("Notes", 1)
    assert Notes.add.__name__ == "add"


async def test_transaction_as_a_dependency(service: databases.Database) -> None:
    """A generator that yields inside a transaction, as web frameworks inject it."""

    async def transaction() -> AsyncGenerator[databases.Database, None]:
        async with service.transaction():
            yield service

    for error in (None, LookupError()):
        dependency = transaction()
        database = await anext(dependency)
        await database.execute(notes.insert(), {"text": repr(error)})
        if error is None:
            assert await anext(dependency, None) is None
        else:
            with pytest.raises(LookupError):
                await dependency.athrow(error)
    assert [row.text for row in await service.fetch_all(notes.select())] == ["None"]


async def test_lifespan(database_url: str) -> None:
    """Connect and disconnect around an application's life, more than once, in several tasks."""
    database = databases.Database(databases.DatabaseURL(database_url))

    @contextlib.asynccontextmanager
    async def lifespan(application: object) -> AsyncIterator[None]:
        if not database.is_connected:
            await database.connect()
        yield
        if database.is_connected:
            await database.disconnect()

    for _ in range(2):
        async with lifespan(None):
            await database.connect()
            assert database.is_connected
            values = await asyncio.gather(
                *(asyncio.create_task(database.fetch_val("SELECT 1")) for _ in range(20))
            )
            assert values == [1] * 20
        assert not database.is_connected
        await database.disconnect()


async def test_gather_over_one_database(service: databases.Database) -> None:
    async def request(n: int) -> int:
        async with service.transaction():
            key = await service.execute(notes.insert(), {"text": f"note {n}"})
            row = await service.fetch_one(notes.select().where(notes.c.id == key))
            assert row is not None
            assert row.text == f"note {n}"
            return int(key)

    keys = await asyncio.gather(*(request(n) for n in range(25)))
    assert sorted(keys) == list(range(1, 26))
    counts = await asyncio.gather(
        service.fetch_val("SELECT count(*) FROM notes"), service.fetch_all(notes.select())
    )
    assert counts[0] == len(counts[1]) == 25


async def test_tasks_have_connections_of_their_own(service: databases.Database) -> None:
    async def count() -> Any:
        return await service.fetch_val("SELECT count(*) FROM notes")

    async with service.connection() as connection:
        async with service.connection() as same:
            assert same is connection
        assert await connection.fetch_val("SELECT 1") == 1
        async with service.transaction(force_rollback=True):
            await service.execute(notes.insert(), {"text": "unseen"})
            assert await count() == 1
            assert await asyncio.create_task(count()) == 0
            assert list(await asyncio.gather(count(), count())) == [0, 0]


async def test_iterate_writes_a_report(service: databases.Database) -> None:
    await service.execute_many(notes.insert(), [{"text": f"{n}"} for n in range(50)])
    lines = []
    async for row in service.iterate("SELECT * FROM notes WHERE id > :id", {"id": 10}):
        lines.append(f"{row.id};{row['text']}")
        if len(lines) == 20:
            break
    assert len(lines) == 20
    async with service.transaction():
        async for row in service.iterate(query=notes.select(), values=None):
            if row.id % 10 == 0:
                query = notes.update().where(notes.c.id == row.id)
                await service.execute(query, {"completed": True})
    assert len(await service.fetch_all(notes.select().where(notes.c.completed))) == 5


async def test_two_databases_at_once(database_url: str, sqlite_url: str) -> None:
    other_url = sqlite_url.replace("test.db", "other.db")
    async with databases.Database(database_url) as main, databases.Database(other_url) as cache:
        await create_tables(main)
        await create_tables(cache)
        async with main.transaction(), cache.transaction():
            for row in [{"text": "a"}, {"text": "b"}]:
                await main.execute(notes.insert(), row)
            rows = await main.fetch_all(notes.select())
            await cache.execute_many(notes.insert(), [dict(row) for row in rows])
        assert await cache.fetch_all(notes.select()) == await main.fetch_all(notes.select())


async def test_tables_made_by_a_synchronous_engine(sqlite_url: str) -> None:
    url = databases.DatabaseURL(sqlite_url)
    engine = sqlalchemy.create_engine(str(url), connect_args={"check_same_thread": False})
    metadata.create_all(engine)
    async with databases.Database(url) as database:
        await database.execute(notes.insert(), {"text": "async"})
    with engine.connect() as connection:
        assert connection.execute(sqlalchemy.select(notes.c.text)).scalar() == "async"
    engine.dispose()


async def test_database_in_memory() -> None:
    for url in ("sqlite://", "sqlite:///:memory:", "sqlite+aiosqlite://"):
        async with databases.Database(url) as database:
            await create_tables(database)
            await asyncio.create_task(database.execute(notes.insert(), {"text": "kept"}))
            assert await database.fetch_val("SELECT text FROM notes") == "kept"


async def test_postgresql_through_the_raw_connection(postgresql_url: str) -> None:
    """LISTEN, COPY, and types of asyncpg."""
    async with databases.Database(postgresql_url, min_size=1, max_size=3) as database:
        await create_tables(database)
        heard: asyncio.Queue[str] = asyncio.Queue()
        async with database.connection() as connection:
            raw = connection.raw_connection
            assert isinstance(raw, asyncpg.Connection)
            await raw.add_listener("news", lambda *args: heard.put_nowait(args[-1]))
            await asyncio.create_task(database.execute("SELECT pg_notify('news', 'hello')"))
            assert await heard.get() == "hello"
        async with database.connection() as connection:
            await connection.raw_connection.copy_records_to_table(
                "notes", records=[(1, "copied", True), (2, "too", None)]
            )
        async with database.transaction(), database.connection() as connection:
            row = await connection.raw_connection.fetchrow("SELECT * FROM notes WHERE id = $1", 1)
            assert dict(row) == {"id": 1, "text": "copied", "completed": True}
        query = "SELECT text FROM notes WHERE id = ANY(:ids) AND id >= :least::int"
        rows = await database.fetch_all(query, {"ids": [1, 2, 3], "least": 1})
        assert [row.text for row in rows] == ["copied", "too"]
        query = "INSERT INTO notes (text) VALUES (:text) RETURNING id"
        await database.execute("SELECT setval('notes_id_seq', 2)")
        assert await database.execute(query, {"text": "returned"}) == 3
        found = await database.fetch_one("SELECT now() AS now, '{1,2}'::int[] AS list")
        assert found is not None
        assert found.now.tzinfo is not None
        assert found.list == [1, 2]


async def test_mysql_through_the_raw_connection(mysql_url: str) -> None:
    async with databases.Database(mysql_url, pool_recycle=3600) as database:
        await create_tables(database)
        async with database.transaction():
            async with database.connection() as connection:
                cursor = await connection.raw_connection.cursor()
                await cursor.execute("INSERT INTO notes (text) VALUES (%s)", ("raw",))
                assert cursor.lastrowid == 1
                await cursor.close()
            assert await database.fetch_val("SELECT text FROM notes") == "raw"


async def test_sqlite_through_the_raw_connection(sqlite_url: str) -> None:
    async with databases.Database(sqlite_url) as database:
        await create_tables(database)
        async with database.connection() as connection:
            raw = connection.raw_connection
            await raw.create_function("double", 1, lambda n: n * 2)
            assert await connection.fetch_val("SELECT double(21)") == 42
            async with raw.execute("SELECT count(*) FROM notes") as cursor:
                assert await cursor.fetchone() == (0,)
            await raw.executescript("INSERT INTO notes (text) VALUES ('a');")
        assert await database.fetch_val("SELECT count(*) FROM notes") == 1


# -- DatabaseURL


def test_url_attributes() -> None:
    url = databases.DatabaseURL("postgresql+asyncpg://user:p%40ss@localhost:123/mydb?min_size=5")
    assert (url.scheme, url.dialect, url.driver) == ("postgresql+asyncpg", "postgresql", "asyncpg")
    assert (url.username, url.password) == ("user", "p@ss")
    assert (url.hostname, url.port, url.database) == ("localhost", 123, "mydb")
    assert url.netloc == "user:p%40ss@localhost:123"
    assert url.options == {"min_size": "5"}
    assert url.components.path == "/mydb"
    assert "p%40ss" in str(url)
    assert repr(url) == (
        "DatabaseURL('postgresql+asyncpg://user:********@localhost:123/mydb?min_size=5')"
    )
    assert url == str(url) == databases.DatabaseURL(url)
    assert databases.Database(url).url == url


def test_url_for_tests() -> None:
    url = databases.DatabaseURL("mysql://username:password@localhost:3306/app")
    test_url = url.replace(database="test_" + url.database)
    assert str(test_url) == "mysql://username:password@localhost:3306/test_app"
    assert str(url.replace(driver="pymysql")).startswith("mysql+pymysql://username:password@")
    assert url.replace(port=123, hostname="db").netloc == "username:password@db:123"
    assert url.replace(dialect="postgresql").dialect == "postgresql"
    assert str(databases.DatabaseURL("sqlite:///app.db").replace(database="test_app.db")) == (
        "sqlite:///test_app.db"
    )
    assert databases.DatabaseURL("sqlite:////tmp/app.db").database == "/tmp/app.db"
    assert databases.DatabaseURL("sqlite:///app.db").database == "app.db"
    plain = databases.DatabaseURL("postgresql://localhost/app")
    assert (plain.username, plain.password, plain.port) == (None, None, None)
