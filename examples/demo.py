"""A small shop on an embedded SQLite: what fastdb does, and how fast, beside bare aiosqlite.

Run it with ``./dev demo``, or ``python examples/demo.py [--orders 5000]``.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import enum
import gc
import platform
import random
import sqlite3
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiosqlite
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.schema import CreateTable

import fastdb

NOW = datetime.datetime(2025, 3, 1, 12, 0, 0)
ROUNDS = 5


class Tier(enum.Enum):
    """What a customer is worth to the shop."""

    BASIC = "basic"
    GOLD = "gold"


class Status(enum.Enum):
    """How far an order has come."""

    PAID = "paid"
    SHIPPED = "shipped"


metadata = sa.MetaData()
customers = sa.Table(
    "customers",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.String(80), nullable=False),
    sa.Column("email", sa.String(80), nullable=False, unique=True),
    sa.Column("tier", sa.Enum(Tier), nullable=False, default=Tier.BASIC),
    sa.Column("address", sa.JSON, nullable=False),
)
products = sa.Table(
    "products",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("sku", sa.String(20), nullable=False, unique=True),
    sa.Column("price", sa.Numeric(10, 2), nullable=False),
    sa.Column("stock", sa.Integer, sa.CheckConstraint("stock >= 0"), nullable=False),
    sa.Column("changed", sa.DateTime, default=NOW, onupdate=datetime.datetime.now),
)
orders = sa.Table(
    "orders",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("customer_id", sa.ForeignKey("customers.id"), nullable=False),
    sa.Column("status", sa.Enum(Status), nullable=False, default=Status.PAID),
    sa.Column("placed", sa.DateTime, nullable=False, default=NOW),
)
# This one is made, filled and read with plain SQL.
ORDER_LINES = """
    CREATE TABLE order_lines (
        order_id INTEGER NOT NULL REFERENCES orders (id),
        position INTEGER NOT NULL,
        product_id INTEGER NOT NULL REFERENCES products (id),
        quantity INTEGER NOT NULL CHECK (quantity > 0),
        PRIMARY KEY (order_id, position)
    )
"""
ADD_LINE = """
    INSERT INTO order_lines (order_id, position, product_id, quantity)
    VALUES (:order_id, :position, :product_id, :quantity)
"""


# -- what is printed


def say(text: str = "") -> None:
    """Print a line."""
    print(f"  {text}" if text else "", flush=True)


def section(title: str) -> None:
    """Print a heading."""
    print(f"\n{title}", flush=True)


@contextmanager
def clock(what: str, count: int) -> Iterator[None]:
    """Print what the block did to `count` rows, and how fast."""
    start = time.perf_counter()
    yield
    seconds = time.perf_counter() - start
    say(f"{count:>7,} {what:<52} {seconds * 1e3:8.1f} ms {seconds / count * 1e6:8.1f} µs each")


def check(what: str, found: object, expected: object) -> None:
    """Print that a figure is as it must be, or end the program."""
    if found != expected:
        sys.exit(f"FAILED: {what}: found {found!r}, expected {expected!r}")
    say(f"ok: {what}: {found}")


# -- the shop


async def make_tables(database: fastdb.Database) -> None:
    """Make the tables: three from SQLAlchemy's metadata, one with plain SQL."""
    for table in metadata.sorted_tables:
        await database.execute(CreateTable(table))
    await database.execute(ORDER_LINES)
    names = await database.fetch_all(
        "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
    )
    say(f"made {', '.join(record.name for record in names)}")


async def fill(database: fastdb.Database, order_count: int) -> int:
    """Write the rows, with Core and with plain SQL; return how many."""
    rng = random.Random(7)
    customer_rows = [
        {
            "id": n,
            "name": f"Customer {n}",
            "email": f"customer{n}@example.org",
            "tier": Tier.GOLD if n % 10 == 0 else Tier.BASIC,
            "address": {"city": rng.choice(["Oslo", "Porto", "Graz"]), "zip": f"{n:05}"},
        }
        for n in range(1, order_count // 5 + 1)
    ]
    product_rows = [
        {
            "id": n,
            "sku": f"SKU-{n:04}",
            "price": Decimal(rng.randrange(100, 9999)) / 100,
            "stock": 50,
        }
        for n in range(1, 201)
    ]
    order_rows = [
        {
            "id": n,
            "customer_id": rng.randint(1, len(customer_rows)),
            "placed": NOW - datetime.timedelta(minutes=rng.randrange(200_000)),
        }
        for n in range(1, order_count + 1)
    ]
    line_rows = [
        {
            "order_id": order["id"],
            "position": position,
            "product_id": rng.randint(1, len(product_rows)),
            "quantity": rng.randint(1, 5),
        }
        for order in order_rows
        for position in range(1, 4)
    ]
    with clock("customers (Enum, JSON) by Core, execute_many", len(customer_rows)):
        await database.execute_many(customers.insert(), customer_rows)
    with clock("products (Numeric) by Core, execute_many", len(product_rows)):
        await database.execute_many(products.insert(), product_rows)
    with clock("orders (datetime, defaults) by Core, execute_many", len(order_rows)):
        await database.execute_many(orders.insert(), order_rows)
    with clock("order lines by plain SQL, execute_many", len(line_rows)):
        await database.execute_many(ADD_LINE, line_rows)
    return len(customer_rows) + len(product_rows) + len(order_rows) + len(line_rows)


async def read(database: fastdb.Database, order_count: int) -> None:
    """Read with plain SQL and with Core: one value, one record, joins and sums."""
    count = await database.fetch_val("SELECT count(*) FROM order_lines")
    check("order lines", count, 3 * order_count)

    customer = await database.fetch_one(customers.select().where(customers.c.id == 10))
    assert customer is not None
    say(f"customer 10: {customer.name}, {customer.tier}, lives in {customer.address['city']}")

    in_porto = sa.select(sa.func.count()).where(customers.c.address["city"].as_string() == "Porto")
    say(f"customers in Porto (a JSON path): {await database.fetch_val(in_porto)}")

    lines = sa.table(
        "order_lines", sa.column("order_id"), sa.column("product_id"), sa.column("quantity")
    )
    revenue = sa.func.sum(lines.c.quantity * products.c.price)
    best = (
        sa.select(
            customers.c.name,
            sa.func.count(orders.c.id.distinct()).label("orders"),
            revenue.label("revenue"),
        )
        .join_from(customers, orders)
        .join(lines, lines.c.order_id == orders.c.id)
        .join(products, products.c.id == lines.c.product_id)
        .group_by(customers.c.id)
        .order_by(revenue.desc())
        .limit(3)
    )
    with clock("order lines joined and summed by Core", 3 * order_count):
        records = await database.fetch_all(best)
    for name, bought, spent in records:
        say(f"        {name} spent {spent} in {bought} orders")

    with clock("order lines by plain SQL, every column read", 3 * order_count):
        total = 0
        for line in await database.fetch_all("SELECT * FROM order_lines"):
            total += line.quantity if line.order_id and line.position and line.product_id else 0
    check("pieces sold", total, await database.fetch_val("SELECT sum(quantity) FROM order_lines"))


async def write(database: fastdb.Database) -> None:
    """Write one by one: keys, an upsert, RETURNING, row counts."""
    key = await database.execute(
        products.insert(), {"sku": "SKU-NEW", "price": Decimal("9.90"), "stock": 1}
    )
    say(f"an insert gives the key of the new row: {key}")

    add = upsert(products).values(sku="SKU-NEW", price=Decimal("8.90"), stock=4)
    add = add.on_conflict_do_update(
        index_elements=["sku"],
        set_={"price": add.excluded.price, "stock": products.c.stock + add.excluded.stock},
    )
    record = await database.fetch_one(
        add.returning(products.c.id, products.c.price, products.c.stock)
    )
    assert record is not None
    check("an upsert with RETURNING", record, (key, Decimal("8.90"), 5))

    changed = await database.execute(products.update().where(products.c.id <= 10), {"stock": 60})
    check("an update gives the number of rows", changed, 10)
    check(
        "rows deleted",
        await database.execute("DELETE FROM products WHERE id = :id", {"id": key}),
        1,
    )


async def stream(database: fastdb.Database, order_count: int) -> None:
    """Stream a table in constant memory, while other queries change it."""
    shipped = 0
    long_ago = NOW - datetime.timedelta(days=120)
    with clock("orders streamed by iterate, the oldest updated", order_count):
        async with database.transaction():
            async for order in database.iterate(orders.select().order_by(orders.c.id)):
                if order.placed < long_ago:
                    await database.execute(
                        orders.update().where(orders.c.id == order.id), {"status": Status.SHIPPED}
                    )
                    shipped += 1
    count = sa.select(sa.func.count()).where(orders.c.status == Status.SHIPPED)
    check("orders updated in the body of the loop", shipped, await database.fetch_val(count))


async def sell(database: fastdb.Database, order_id: int, product_id: int, quantity: int) -> None:
    """Book one order; the table's CHECK refuses what is not in stock."""
    async with database.transaction():
        await database.execute(orders.insert(), {"id": order_id, "customer_id": 1})
        line = {"order_id": order_id, "position": 1, "product_id": product_id, "quantity": quantity}
        await database.execute(ADD_LINE, line)
        await database.execute(
            "UPDATE products SET stock = stock - :quantity WHERE id = :id",
            {"quantity": quantity, "id": product_id},
        )


async def nest(database: fastdb.Database, order_count: int) -> int:
    """Nest transactions: a savepoint that fails is undone, the rest is kept."""
    before = await totals(database)
    refused = []
    async with database.transaction() as transaction:
        transaction.on_commit(lambda: say("the outer transaction is committed"))
        for n, quantity in enumerate([10, 20, 15, 40, 5], start=1):
            try:
                await sell(database, order_count + n, product_id=200, quantity=quantity)
            except fastdb.IntegrityError as error:
                refused.append(quantity)
                say(f"the order of {quantity} pieces is rolled back alone: {error}")
    check("orders refused, of 10, 20, 15, 40 and 5 pieces of 50", refused, [40])
    after = await totals(database)
    check("sold and in stock together", after.sold + after.stock, before.sold + before.stock)
    check("new orders", after.orders - before.orders, 4)
    return 8


async def totals(database: fastdb.Database) -> fastdb.Record:
    """Return the sums by which lost or invented rows would show."""
    record = await database.fetch_one(
        """
        SELECT (SELECT count(*) FROM orders) AS orders,
               (SELECT sum(quantity) FROM order_lines) AS sold,
               (SELECT sum(stock) FROM products) AS stock,
               (SELECT count(*) FROM customers) AS customers
        """
    )
    assert record is not None
    return record


async def fail(database: fastdb.Database, order_count: int) -> None:
    """Make mistakes on purpose: each has its error, and none leaves a trace."""
    before = await totals(database)

    async def twice() -> None:
        taken = {"name": "Twin", "email": "customer1@example.org", "address": {}}
        await database.execute(customers.insert(), taken)

    async def half_a_transaction() -> None:
        async with database.transaction():
            await sell(database, order_count + 100, product_id=1, quantity=1)
            await database.execute(ADD_LINE, {"order_id": order_count + 100})

    async def unknown_parameter() -> None:
        await database.fetch_all("SELECT * FROM orders WHERE id = :id", {"id": 1, "status": 2})

    async def unknown_column() -> None:
        record = await database.fetch_one("SELECT id, name FROM customers")
        assert record is not None
        record["surname"]

    async def unknown_table() -> None:
        await database.execute("DELETE FROM order_line")

    async def ended_twice() -> None:
        async with database.transaction() as transaction:
            await transaction.rollback()
            await transaction.commit()

    mistakes: list[tuple[Callable[[], Awaitable[None]], type[fastdb.Error]]] = [
        (twice, fastdb.IntegrityError),
        (half_a_transaction, fastdb.MissingParameterError),
        (unknown_parameter, fastdb.UnknownParameterError),
        (unknown_column, fastdb.ColumnNotFoundError),
        (unknown_table, fastdb.DatabaseError),
        (ended_twice, fastdb.TransactionError),
    ]
    for mistake, expected in mistakes:
        try:
            await mistake()
        except expected as error:
            say(f"{type(error).__name__}: {error}")
        else:
            sys.exit(f"FAILED: {mistake.__name__} raised no {expected.__name__}")
    check(
        "nothing changed (orders, sold, stock, customers)",
        tuple(await totals(database)),
        tuple(before),
    )


async def share(database: fastdb.Database) -> int:
    """Let many tasks work at once, each on a connection of its own."""
    before = await totals(database)

    async def take_one(task: int) -> None:
        async with database.transaction():
            stock = await database.fetch_val("SELECT stock FROM products WHERE id = 5")
            await database.execute(
                products.update().where(products.c.id == 5), {"stock": stock - 1}
            )

    async def look(task: int) -> None:
        await database.fetch_all(orders.select().where(orders.c.customer_id == task))

    with clock("tasks: 20 read, then write; 200 read", 220):
        await asyncio.gather(*map(take_one, range(20)), *map(look, range(200)))
    after = await totals(database)
    check("pieces taken by 20 concurrent transactions", before.stock - after.stock, 20)
    stats = database.pool.stats()
    say(f"the pool opened {stats.opened} connections; callers waited {stats.waits} times")
    return 20


# -- how fast


async def compare(database: fastdb.Database, bare: aiosqlite.Connection) -> list[str]:
    """Do the same with fastdb and with bare aiosqlite, in turns; return what was measured."""
    by_key = "SELECT id, customer_id, status, placed FROM orders WHERE id = {}"
    thousand = "SELECT order_id, position, product_id, quantity FROM order_lines LIMIT 1000"
    everything = "SELECT order_id, position, product_id, quantity FROM order_lines"
    rows = [{"id": n, "a": n, "b": f"text {n}"} for n in range(1000)]
    for table in ("ours", "theirs"):
        await database.execute(f"CREATE TABLE {table} (id INTEGER, a INTEGER, b TEXT)")

    async def our_row() -> None:
        for n in range(1, 301):
            await database.fetch_one(by_key.format(":id"), {"id": n})

    async def our_core_row() -> None:
        for n in range(1, 301):
            await database.fetch_one(orders.select().where(orders.c.id == n))

    async def their_row() -> None:
        for n in range(1, 301):
            async with bare.execute(by_key.format("?"), (n,)) as cursor:
                await cursor.fetchone()

    async def our_thousand() -> None:
        for line in await database.fetch_all(thousand):
            line.order_id, line.position, line.product_id, line.quantity  # noqa: B018

    async def their_thousand() -> None:
        async with bare.execute(thousand) as cursor:
            for line in await cursor.fetchall():
                line["order_id"], line["position"], line["product_id"], line["quantity"]

    async def our_inserts() -> None:
        await database.execute_many("INSERT INTO ours VALUES (:id, :a, :b)", rows)

    async def their_inserts() -> None:
        await bare.executemany("INSERT INTO theirs VALUES (:id, :a, :b)", rows)
        await bare.commit()

    async def our_stream() -> None:
        async for _ in database.iterate(everything):
            pass

    async def their_stream() -> None:
        async with bare.execute(everything) as cursor:
            async for _ in cursor:
                pass

    cases: list[tuple[str, Callable[[], Awaitable[None]], Callable[[], Awaitable[None]]]] = [
        ("300 times one row by key, plain SQL", our_row, their_row),
        ("300 times one row by key, a new Core select each", our_core_row, their_row),
        ("1,000 rows, every column read by name", our_thousand, their_thousand),
        ("1,000 rows inserted and committed", our_inserts, their_inserts),
        ("all order lines streamed", our_stream, their_stream),
    ]
    say(f"{'best of ' + str(ROUNDS) + ' rounds':<50} {'fastdb':>10} {'aiosqlite':>11} {'ratio':>7}")
    ratios = []
    for title, ours, theirs in cases:
        best: dict[Any, float] = {ours: float("inf"), theirs: float("inf")}
        for _ in range(ROUNDS):
            for side in (ours, theirs):
                gc.collect()
                start = time.perf_counter()
                await side()
                best[side] = min(best[side], time.perf_counter() - start)
        ratio = f"{best[ours] / best[theirs]:.2f}"
        say(f"{title:<50} {best[ours] * 1e3:7.2f} ms {best[theirs] * 1e3:8.2f} ms {ratio:>7}")
        ratios.append(ratio)
    return ratios


async def main(folder: Path, order_count: int) -> None:
    """Run the shop from the first table to the last figure."""
    start = time.perf_counter()
    form = "compiled" if fastdb.COMPILED else "pure Python"
    print(
        f"fastdb {fastdb.__version__} with the {form} core; "
        f"{platform.python_implementation()} {platform.python_version()}, "
        f"SQLite {sqlite3.sqlite_version}, SQLAlchemy {version('SQLAlchemy')}, "
        f"aiosqlite {version('aiosqlite')}"
    )
    path = folder / "shop.db"
    options = "journal_mode=wal&synchronous=normal&foreign_keys=true"
    async with fastdb.Database(f"sqlite:///{path}?{options}") as database:
        section("Make tables")
        await make_tables(database)
        section("Write")
        written = await fill(database, order_count)
        await write(database)
        section("Read")
        await read(database, order_count)
        section("Stream, and write meanwhile")
        await stream(database, order_count)
        section("Nest transactions")
        written += await nest(database, order_count)
        section("Make mistakes")
        await fail(database, order_count)
        section("Share")
        await share(database)
        section("Compare with the bare driver: less than 1 is faster than aiosqlite")
        async with aiosqlite.connect(path) as bare:
            bare.row_factory = aiosqlite.Row
            for pragma in ("synchronous", "cache_size"):
                value = await database.fetch_val(f"PRAGMA {pragma}")
                await bare.execute(f"PRAGMA {pragma} = {value}")
            ratios = await compare(database, bare)
    seconds = time.perf_counter() - start
    print(
        f"\nDone in {seconds:.1f} s: {written:,} rows written and accounted for, nothing lost; "
        f"{form} core; one row by key takes {ratios[0]} of aiosqlite's time."
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=5000, help="how many (default: 5000)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fastdb-demo-") as name:
        asyncio.run(main(Path(name), arguments.orders))
