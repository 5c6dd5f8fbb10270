"""The query cache, in both forms: never another answer than a fresh compile gives."""

from __future__ import annotations

import datetime
import decimal
import functools
import gc
import importlib
import random
import uuid
import weakref
from types import MappingProxyType
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.sql import operators

from fastdb.compiler_fingerprint import check_walk
from fastdb.compiler_parts import MISSING
from fastdb.exceptions import (
    DataError,
    EmptyQueryError,
    MissingParameterError,
    OptionError,
    ProgrammingError,
    QueryTypeError,
    UnknownParameterError,
)
from tests.speedups.query_shapes import (
    DIALECTS,
    SHAPES,
    UPSERTS,
    Color,
    Grumpy,
    Maker,
    Shout,
    SQLiteDateTime,
    User,
    make_compiler,
    oracle,
    t,
    u,
)

PACKAGES = {"pure": "fastdb._fallback", "compiled": "fastdb._speedups"}


@pytest.fixture
def module(form: str) -> Any:
    return importlib.import_module(f"{PACKAGES[form]}.query_cache")


@pytest.fixture(params=sorted(DIALECTS))
def dialect(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def cache(module: Any) -> Any:
    return module.QueryCache(make_compiler("sqlite"))


@functools.cache
def expected(shape: str, n: int, dialect: str) -> tuple[Any, ...]:
    """Return what a fresh compile makes of a shape: SQL, arguments, and its columns."""
    statement = SHAPES[shape](n)
    made = DIALECTS[dialect][0]()
    entries = statement.compile(dialect=made)._result_columns
    names = tuple(entry.keyname for entry in entries)
    converters = [entry.type._cached_result_processor(made, None) for entry in entries]
    return *oracle(statement, dialect), names, [sample(converter) for converter in converters]


def sample(converter: Any) -> Any:
    """Return what a converter makes of a value; what it refuses is compared, too."""
    try:
        return None if converter is None else (converter("1"),)
    except Exception as exc:
        return repr(exc)


def check(cache: Any, query: Any, shape: str, n: int, dialect: str) -> None:
    """Compare all that a cache says of a query with a fresh compile."""
    sql, args, names, samples = expected(shape, n, dialect)
    plan, found, given = cache.prepare(query)
    assert (plan.sql, found, given) == (sql, args, None), shape
    if not names:
        assert plan._result is None
        return
    converters = plan._result.converters(names) or [None] * len(names)
    assert [sample(converter) for converter in converters] == samples, shape
    # The author's own columns stand where they are selected.
    selected = getattr(query, "_all_selected_columns", ())
    if len(selected) == len(names):
        layout = plan.layout(names)
        for place, column in enumerate(selected):
            if samples[place] is None and sum(each is column for each in selected) == 1:
                row: list[Any] = [None] * len(names)
                row[place] = "here"
                assert layout.record(row)[column] == "here", shape


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_each_shape_gives_what_a_fresh_compile_gives(module: Any, dialect: str, shape: str) -> None:
    cache = module.QueryCache(make_compiler(dialect))
    for n in (1, 2, 3, 2):
        check(cache, SHAPES[shape](n), shape, n, dialect)


@pytest.mark.parametrize("seed", range(3))
def test_no_shape_takes_another_ones_plan(module: Any, dialect: str, seed: int) -> None:
    cache = module.QueryCache(make_compiler(dialect), maxsize=1024 if seed else 20)
    order = [(name, n) for name in SHAPES for n in (1, 2, 3)]
    random.Random(seed).shuffle(order)
    kept = [SHAPES[name](n) for name, n in order]
    for (name, n), statement in zip(order, kept, strict=True):
        for query in (SHAPES[name](n), statement, statement):
            check(cache, query, name, n, dialect)


@pytest.mark.filterwarnings(
    "ignore::sqlalchemy.exc.SAWarning", "ignore::sqlalchemy.exc.SADeprecationWarning"
)
@pytest.mark.parametrize("part", range(4))
def test_any_expressions_give_what_fresh_compiles_give(
    module: Any, dialect: str, part: int
) -> None:
    cache = module.QueryCache(make_compiler(dialect), maxsize=64)
    compared = 0
    for seed in range(part * 100, part * 100 + 100):
        try:
            wanted = oracle(Maker(seed).statement(), dialect)
        except Exception:  # SQLAlchemy or a type refuses it
            continue
        kept = Maker(seed).statement()
        # What was made before is there to be confused with; so is another of the same shape.
        for query in (kept, Maker(seed).statement(), kept, kept):
            plan, args, _ = cache.prepare(query)
            assert (plan.sql, args) == wanted, seed
        compared += 1
    assert compared > 50


CACHEABLE = sorted(
    set(SHAPES)
    # Their types are kept apart from equal ones; their SQL differs with their values.
    - {"cast_decorated", "cast_variant", "cast_variant_other", "coerce_literal", "decorated_bind"}
    - {"literal_enum", "literal_enum_strings", "table_valued_typed", "text_typed", "time_formats"}
    - {"time_formats_other", "type_coerce", "typed_column", "uncacheable"}
    - {"bool", "deep", "values_construct", "wide"}
)


@pytest.mark.parametrize("shape", CACHEABLE)
def test_an_equal_expression_is_compiled_once(module: Any, shape: str) -> None:
    cache = module.QueryCache(make_compiler("sqlite"))
    cache.prepare(SHAPES[shape](1))
    cache.prepare(SHAPES[shape](2))
    assert cache.info().misses == 1
    assert cache.info().hits == 1


# -- inserts and updates: values

SELF_SERVICE: dict[str, Any] = {
    "insert": lambda n: (sa.insert(u), {"t_id": n}),
    "insert_key": lambda n: (sa.insert(u), {"t_id": n, "id": n}),
    "insert_other": lambda n: (sa.insert(t), {"name": f"x{n}"}),
    "insert_nothing": lambda n: (sa.insert(u), None),
    "insert_own": lambda n: (sa.insert(u).values(t_id=n), None),
    "insert_own_and_more": lambda n: (sa.insert(u).values(t_id=n), {"n": n}),
    "insert_override": lambda n: (sa.insert(u).values(t_id=n, n=3), {"n": n}),
    "insert_expression": lambda n: (sa.insert(u), {"t_id": sa.func.abs(n), "n": n}),
    "insert_column_key": lambda n: (sa.insert(u), {u.c.t_id: n}),
    "insert_returning": lambda n: (sa.insert(u).returning(u.c.n, u.c.id), {"t_id": n}),
    "insert_rows": lambda n: (sa.insert(u).values([{"t_id": n}, {"t_id": n + 1}]), None),
    "insert_select": lambda n: (
        sa.insert(u).from_select(["t_id"], sa.select(t.c.id).where(t.c.id == n)),
        None,
    ),
    "insert_types": lambda n: (
        sa.insert(t),
        {"amount": decimal.Decimal(n), "color": Color.RED, "data": {"n": n}, "loud": f"x{n}"},
    ),
    "update": lambda n: (sa.update(u).where(u.c.id == n), {"t_id": n}),
    "update_bind": lambda n: (
        sa.update(u).where(u.c.id == sa.bindparam("which")),
        {"which": n, "t_id": n + 1},
    ),
    "update_same_name": lambda n: (
        sa.update(u).where(u.c.id == sa.bindparam("id")),
        {"id": n, "t_id": n + 1},
    ),
    "update_expression": lambda n: (sa.update(u).where(u.c.id == n), {"n": u.c.n + n}),
    "update_override": lambda n: (sa.update(u).values(n=1).where(u.c.id == n), {"n": n}),
    "update_onupdate": lambda n: (sa.update(u).where(u.c.id == n), None),
    "select_bind": lambda n: (sa.select(t.c.id).where(t.c.id == sa.bindparam("x")), {"x": n}),
    "select_list": lambda n: (
        sa.select(t.c.id).where(t.c.id.in_(sa.bindparam("x", expanding=True))),
        {"x": list(range(n))},
    ),
    "select_set": lambda n: (
        sa.select(t.c.id).where(t.c.id.in_(sa.bindparam("x", expanding=True))),
        {"x": {n}},
    ),
    "select_default": lambda n: (sa.select(t.c.id).where(t.c.id == sa.bindparam("x", 4)), None),
    "delete_bind": lambda n: (sa.delete(t).where(t.c.id == sa.bindparam("x")), {"x": n}),
    "text_bind": lambda n: (sa.text("SELECT :x"), {"x": n}),
}


@pytest.mark.parametrize("shape", sorted(SELF_SERVICE))
def test_values_bind_alike_cached_and_uncached(module: Any, dialect: str, shape: str) -> None:
    cache = module.QueryCache(make_compiler(dialect))
    make = SELF_SERVICE[shape]
    kept = {n: make(n) for n in (1, 2, 3)}
    for n in (1, 2, 3, 2, 1):
        fresh = make_compiler(dialect)
        adapted = fresh.adapt(*make(n))
        variant, args, given = fresh.compile_expression(adapted.query, adapted.keys).arguments(
            adapted.values, None, None
        )
        for query, values in (make(n), kept[n], kept[n]):
            plan, cached_args, cached_given = cache.prepare(query, values)
            assert plan.sql == variant.parts.sql
            assert cached_args == args
            assert cached_given == given
            assert plan.key_sources == variant.parts.key_sources


def test_defaults_are_called_for_each_execution(module: Any) -> None:
    calls = iter(range(100))
    table = sa.Table(
        "d",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("a", sa.Integer, default=lambda: next(calls)),
        sa.Column("b", sa.Integer, default=lambda c: c.get_current_parameters()["a"] + 10),
        sa.Column("c", sa.Integer, default=sa.func.abs(-1)),
    )
    cache = module.QueryCache(make_compiler("sqlite"))
    query = sa.insert(table)
    assert cache.prepare(query)[1] == (0, 10, -1) or cache.prepare(query)[0].sql.count("?") == 3
    first = cache.prepare(query)[1]
    second = cache.prepare(query)[1]
    assert second[0] == first[0] + 1
    assert second[1] == second[0] + 10


def test_defaults_see_the_values_so_far(module: Any, dialect: str) -> None:
    seen: list[Any] = []

    def look(context: Any) -> int:
        parameters = context.current_parameters
        seen.append(
            (context.current_column.name, dict(parameters), context.isinsert, context.isupdate)
        )
        assert context.get_current_parameters() == parameters
        assert context.dialect.name == dialect
        return 5

    table = sa.Table(
        "d",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("a", sa.Integer, default=lambda: 3),
        sa.Column("b", sa.Integer, default=look, onupdate=look),
        sa.Column("c", sa.Integer, default=4),
        sa.Column("d", sa.Integer),
    )
    cache = module.QueryCache(make_compiler(dialect))
    for d in (1, 2):
        seen.clear()
        assert sorted(cache.prepare(sa.insert(table), {"d": d})[1]) == sorted((d, 3, 5, 4))
        ((name, parameters, isinsert, isupdate),) = seen
        assert (name, isinsert, isupdate) == ("b", True, False)
        assert (parameters["a"], parameters["b"], parameters["d"]) == (3, None, d)
        seen.clear()
        args = cache.prepare(sa.update(table).where(table.c.id == 7), {"d": d})[1]
        assert sorted(args) == sorted((d, 5, 7))
        assert [each[0] for each in seen] == ["b"]
        assert (seen[0][2], seen[0][3]) == (False, True)


def test_a_default_may_change_other_values(cache: Any) -> None:
    def change(context: Any) -> int:
        context.current_parameters["a"] = 9
        return 5

    table = sa.Table(
        "d",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("a", sa.Integer),
        sa.Column("b", sa.Integer, default=change),
        sa.Column("c", sa.Integer, default=lambda context: context.current_parameters["b"] + 1),
        sa.Column("d", sa.Integer, default=8),
    )
    for a in (1, 2):
        plan, args, _ = cache.prepare(sa.insert(table), {"a": a})
        assert args == (9, 5, 6, 8)
        assert plan.sql == "INSERT INTO d (a, b, c, d) VALUES (?, ?, ?, ?)"


def test_a_default_may_leave_the_key_to_the_server(cache: Any) -> None:
    calls = []
    table = sa.Table(
        "d",
        sa.MetaData(),
        sa.Column("id", sa.Integer, primary_key=True, default=lambda: calls.append(1)),
    )
    for number in (1, 2):
        plan, args, given = cache.prepare(sa.insert(table))
        assert args == (None,)
        assert given == (MISSING,)
        assert plan.key_sources != (("given",),)
        assert len(calls) == number


# -- values that take a short way in the compiled form


class Text(str):
    pass


class Moment(datetime.datetime):
    pass


UTC = datetime.UTC
ODD_VALUES: dict[str, list[Any]] = {
    "flag": [True, False, None, 1, 0, 2, "x", 1.0, [], object()],
    "ratio": [1.5, 3, None, True, decimal.Decimal("1.25"), "2.5", "x", b"1", [], float("inf")],
    "amount": [1.5, 3, None, decimal.Decimal("1.25"), "2.5", "x"],
    "at": [
        datetime.datetime(1, 1, 1),
        datetime.datetime(9999, 12, 31, 23, 59, 59, 999999),
        datetime.datetime(2020, 1, 2, 3, 4, 5, 67, tzinfo=UTC),
        Moment(2020, 1, 2),
        datetime.date(2020, 1, 2),
        None,
        "2020-01-01",
        5,
    ],
    "day": [
        datetime.date(1, 1, 1),
        datetime.date(2020, 10, 20),
        datetime.datetime(2020, 1, 2, 3),
        Moment(2020, 1, 2),
        None,
        "x",
    ],
    "clock": [
        datetime.time(),
        datetime.time(23, 59, 58, 1, tzinfo=UTC),
        datetime.datetime(2020, 1, 2, 3),
        None,
        "x",
    ],
    "short": [datetime.datetime(2020, 1, 2, 3, 4, 5, 67), None, "x"],
    "name": ["x", Text("y"), None, 5, b"x"],
    "id": [1, True, None, "x", 10**30],
}
odd = sa.Table(
    "odd",
    sa.MetaData(),
    sa.Column("id", sa.Integer),
    sa.Column("name", sa.String(5)),
    sa.Column("flag", sa.Boolean),
    sa.Column("ratio", sa.Float),
    sa.Column("amount", sa.Numeric(10, 2)),
    sa.Column("at", sa.DateTime),
    sa.Column("day", sa.Date),
    sa.Column("clock", sa.Time),
    sa.Column(
        "short", sa.DateTime().with_variant(SQLiteDateTime(storage_format="%(year)d"), "sqlite")
    ),
)


def answer(function: Any) -> Any:
    try:
        found = function()
    except Exception as exc:
        return type(exc), str(exc)
    return [(type(each), each) for each in found]


@pytest.mark.parametrize("column", sorted(ODD_VALUES))
def test_odd_values_are_processed_as_sqlalchemy_does(
    module: Any, dialect: str, column: str
) -> None:
    made = DIALECTS[dialect][0]()
    processor = odd.c[column].type.dialect_impl(made).bind_processor(made)
    cache = module.QueryCache(make_compiler(dialect))
    queries = (
        (sa.insert(odd), lambda value: {column: value}),
        (sa.select(odd).where(odd.c[column] == sa.bindparam("v")), lambda value: {"v": value}),
        (
            sa.select(odd).where(odd.c[column].in_(sa.bindparam("v", expanding=True))),
            lambda value: {"v": [value]},
        ),
    )
    for value in ODD_VALUES[column]:
        expected = answer(lambda value=value: [value if processor is None else processor(value)])
        for query, values in queries:
            for _ in range(2):
                found = answer(lambda v=value, q=query, w=values: cache.prepare(q, w(v))[1])
                if isinstance(expected, tuple):
                    assert found[0] is DataError
                    assert found[1].endswith(expected[1])
                else:
                    assert found == expected
            found = answer(
                lambda v=value: next(cache.prepare_many(sa.insert(odd), [{column: v}] * 2, 9))[1][1]
            )
            assert (found[0] is DataError) if isinstance(expected, tuple) else found == expected


class Opposite(sa.Boolean):
    def bind_processor(self, dialect: Any) -> Any:
        return lambda value: None if value is None else int(not value)


class Lenient(sa.Boolean):
    def _strict_as_bool(self, value: Any) -> Any:
        return bool(value)


def test_subclasses_of_types_process_values_in_their_own_way(cache: Any) -> None:
    for _ in range(2):
        query = sa.select(sa.literal(True, Opposite()), sa.literal(False, Opposite()))
        assert cache.prepare(query)[1] == (0, 1)
        query = sa.select(sa.literal("yes", Lenient()), sa.literal(None, Lenient()))
        assert cache.prepare(query)[1] == (1, 0)


def test_text_on_sqlite_writes_subclasses_as_they_are(cache: Any) -> None:
    values = [Text("x"), True, 5, 1.5, b"x", None, datetime.datetime(1, 2, 3, tzinfo=UTC)]
    args = cache.prepare(
        "SELECT :a, :b, :c, :d, :e, :f, :g", dict(zip("abcdefg", values, strict=True))
    )[1]
    assert args == ("x", True, 5, 1.5, b"x", None, "0001-02-03 00:00:00.000000")
    assert [type(each) for each in args[:2]] == [Text, bool]


@pytest.mark.parametrize("kind", [tuple, set, iter])
def test_lists_may_be_any_iterable(cache: Any, kind: Any) -> None:
    query = sa.select(t.c.id).where(
        t.c.id.in_(sa.bindparam("a", expanding=True)), t.c.name.in_(["x", "y"])
    )
    assert cache.prepare(query, {"a": kind([1, 2, 3])})[1] == (1, 2, 3, "x", "y")


def test_lists_of_many_lengths_are_forgotten_again(cache: Any) -> None:
    query = sa.select(t.c.id).where(t.c.id.in_(sa.bindparam("a", expanding=True)))
    for size in (*range(200), *range(200)):
        plan, args, _ = cache.prepare(query, {"a": list(range(size))})
        assert args == tuple(range(size))
        assert plan.sql.count("?") == size


def test_columns_of_text_keep_their_plans_for_lists_of_few_lengths(cache: Any) -> None:
    text = sa.text("SELECT id FROM t WHERE id IN :a").bindparams(sa.bindparam("a", expanding=True))
    query = text.columns(t.c.id)
    for size in (*range(1, 150), *range(1, 150)):
        plan, args, _ = cache.prepare(query, {"a": list(range(size))})
        assert args == tuple(range(size))
        assert plan.sql.count("?") == size
        assert plan.layout(("id",)).record((5,))[t.c.id] == 5


def test_columns_of_ones_own_keep_their_plans_for_lists_of_few_lengths(cache: Any) -> None:
    def labelled() -> tuple[Any, Any]:
        column = t.c.id.label("x")
        return column, sa.select(column).where(t.c.id.in_(sa.bindparam("a", expanding=True)))

    cache.prepare(labelled()[1], {"a": [1]})
    column, query = labelled()  # an equal one, which has a column of its own
    for size in (*range(1, 150), *range(1, 150)):
        plan, args, _ = cache.prepare(query, {"a": list(range(size))})
        assert args == tuple(range(size))
        assert plan.sql.count("?") == size
        assert plan.layout(("x",)).record((5,))[column] == 5


def test_a_required_value_that_no_row_has_is_told(cache: Any) -> None:
    query = sa.insert(u).values(n=sa.bindparam("m"))
    with pytest.raises(MissingParameterError, match="'m'"):
        list(cache.prepare_many(query, [{"t_id": 1}, {"t_id": 2}], 10))
    deletion = sa.delete(u).where(u.c.n == sa.bindparam("m"))
    with pytest.raises(MissingParameterError, match=r"row 1: .*'m'"):
        list(cache.prepare_many(deletion, [{"m": 1}, {}], 10))


def test_text_that_is_a_subclass_of_str(cache: Any) -> None:
    for query in (Text("SELECT :a"), "SELECT :a"):
        plan, args, _ = cache.prepare(query, {"a": 1})
        assert (plan.sql, args) == ("SELECT ?", (1,))
    assert cache.info().hits == 1


def test_expressions_whose_values_depend_on_the_sql(cache: Any) -> None:
    value: Any = sa.bindparam("value", 5, literal_execute=True)
    query = sa.select(t.c.id).where(t.c.id == value, t.c.name == "x")
    for number in (5, 7):
        plan, args, _ = cache.prepare(query, {"value": number})
        assert f"id = {number}" in plan.sql
        assert args == ("x",)
    at = datetime.datetime(2024, 1, 2)
    query = sa.select(t.c.id).where(t.c.id == value, t.c.at == at)
    assert cache.prepare(query, {"value": 7})[1] == ("2024-01-02 00:00:00.000000",)
    with pytest.raises(ProgrammingError):
        cache.prepare(
            sa.select(t.c.id).where(t.c.color == sa.bindparam("x", literal_execute=True)),
            {"x": object()},
        )


def test_lists_of_names_that_are_escaped(cache: Any) -> None:
    query = sa.select(t.c.id).where(t.c.id.in_(sa.bindparam("a(b", expanding=True)))
    for size in (2, 3):
        plan, args, _ = cache.prepare(query, {"a(b": list(range(size))})
        assert args == tuple(range(size))
        assert plan.sql.count("?") == size


def refused(n: int) -> Any:
    """Return an element that only SQLAlchemy can tell from others."""
    element = u.c.n + n
    vars(element)["_annotations"] = {"mine": True}
    return element


def refused_bind(n: int) -> Any:
    element = sa.bindparam(None, n, sa.Integer, unique=True)
    vars(element)["_annotations"] = {"mine": True}
    return element


class Bind(sa.BindParameter[Any]):
    """Might be compiled in another way than SQLAlchemy's own."""

    inherit_cache = True


class Refused(sa.Column[Any]):
    """The same."""

    inherit_cache = True


mine = sa.Table("mine", sa.MetaData(), Refused("n", sa.Integer), sa.Column("t_id", sa.Integer))

REFUSED: dict[str, Any] = {
    "annotated": lambda n: sa.select(t.c.id).where(t.c.id == refused(n)),
    "bind": lambda n: sa.select(t.c.id).where(t.c.id == refused_bind(n)),
    "prefix": lambda n: sa.select(t.c.id).prefix_with(refused(n)).where(t.c.id == n),
    "value by name": lambda n: sa.insert(u).values(n=refused(n), t_id=n),
    "value by column": lambda n: sa.insert(u).values({u.c.n: refused(n), u.c.t_id: n}),
    "join": lambda n: sa.select(t.c.id).join(u, (u.c.t_id == t.c.id) & (u.c.n == refused(n))),
    "bind of a text": lambda n: sa.text("SELECT :n").bindparams(Bind("n", n, sa.Integer)),
    "column to be set": lambda n: sa.update(mine).values({mine.c.n: n, mine.c.t_id: n}),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_elements_that_cannot_be_walked_are_left_to_sqlalchemy(cache: Any, case: str) -> None:
    for n in (1, 2, 1):
        plan, args, _ = cache.prepare(REFUSED[case](n))
        sql, expected, *_ = oracle(REFUSED[case](n), "sqlite")
        # Behind these two come defaults, which differ with each call.
        assert (plan.sql, args[:2]) == (sql, tuple(expected)[:2])


def test_a_client_made_key_is_given(cache: Any) -> None:
    table = sa.Table(
        "k",
        sa.MetaData(),
        sa.Column("id", sa.Uuid, primary_key=True, default=lambda: uuid.UUID(int=5)),
    )
    plan, args, given = cache.prepare(sa.insert(table))
    assert given == (uuid.UUID(int=5),)
    assert args == (uuid.UUID(int=5).hex,)
    assert plan.key_sources == (("given",),)


def test_a_null_key_asks_for_a_generated_one(cache: Any) -> None:
    plan, args, given = cache.prepare(sa.insert(u), {"id": None, "t_id": 1})
    assert given == (MISSING,)
    assert plan.key_sources == (("lastrowid",),)
    assert args[0] is None
    assert cache.prepare(sa.insert(u), {"id": 4, "t_id": 1})[0].key_sources == (("given",),)


# -- SQL text


def test_text_is_rendered_and_bound(module: Any) -> None:
    for dialect, expected in (
        ("sqlite", ("SELECT ?, ?, ?", (1, 2, 1))),
        ("postgresql", ("SELECT $1, $2, $1", (1, 2))),
        ("mysql", ("SELECT %s, %s, %s", (1, 2, 1))),
    ):
        cache = module.QueryCache(make_compiler(dialect))
        for _ in range(2):
            plan, args, given = cache.prepare("SELECT :a, :b, :a", {"a": 1, "b": 2})
            assert (plan.sql, args) == expected
            assert given is None
            assert plan.kind == "select"
            assert not plan.is_expression


def test_text_on_sqlite_takes_what_sqlite3_does_not_know(cache: Any) -> None:
    at = datetime.datetime(2020, 1, 2, 3, 4, 5)
    values = {
        "a": at,
        "b": at.date(),
        "c": at.time(),
        "d": datetime.timedelta(days=1),
        "e": decimal.Decimal("1.5"),
        "f": uuid.UUID(int=1),
    }
    args = cache.prepare("SELECT :a, :b, :c, :d, :e, :f", values)[1]
    assert args == (
        "2020-01-02 03:04:05.000000",
        "2020-01-02",
        "03:04:05.000000",
        "1970-01-02 00:00:00.000000",
        1.5,
        "0" * 31 + "1",
    )


# -- mistakes

WRONG: list[tuple[Any, Any, type[Exception], str]] = [
    (None, None, EmptyQueryError, "the query is None"),
    ("", None, EmptyQueryError, "the query is empty"),
    (" \n-- :x\n/* y */;", None, EmptyQueryError, "the query is empty"),
    (5, None, QueryTypeError, "not 'int'"),
    (b"SELECT 1", None, QueryTypeError, "not 'bytes'"),
    (t, None, QueryTypeError, "not 'Table'"),
    (t.c.id, None, QueryTypeError, "not 'Column'"),
    (
        "SELECT :id",
        None,
        MissingParameterError,
        "parameter 'id' has no value; the query takes 'id'",
    ),
    (
        "SELECT :id, :b",
        {"id": 1},
        MissingParameterError,
        "'b' has no value; the query takes 'id', 'b'",
    ),
    (
        "SELECT :id",
        {"id": 1, "x": 2},
        UnknownParameterError,
        "no parameter 'x'; the query takes 'id'",
    ),
    ("SELECT 1", {"x": 2}, UnknownParameterError, "the query takes no parameters"),
    ("SELECT :id", [1], QueryTypeError, "must be a mapping"),
    ("SELECT :id", "id", QueryTypeError, "must be a mapping"),
    (sa.insert(t), [{"name": "x"}], QueryTypeError, "execute_many"),
    (sa.insert(t), {"nme": "x"}, UnknownParameterError, "no parameter 'nme'"),
    (sa.insert(t), {"nme": sa.func.now()}, UnknownParameterError, "no parameter 'nme'"),
    (sa.insert(t), {5: "x"}, QueryTypeError, "names or columns"),
    (sa.update(t).where(t.c.id == 1), None, MissingParameterError, "sets no column"),
    (
        sa.update(t).where(t.c.id == sa.bindparam("i")),
        {"name": "x"},
        MissingParameterError,
        "'i' has no value",
    ),
    (
        sa.select(t).where(t.c.id == sa.bindparam("i")),
        None,
        MissingParameterError,
        "'i' has no value",
    ),
    (sa.select(t).where(t.c.id == 5), {"id": 1}, UnknownParameterError, "no parameter 'id'"),
    (sa.select(t).where(t.c.id == 5), {"id_1": 1}, UnknownParameterError, "no parameter 'id_1'"),
    (sa.text("SELECT :a"), {"b": 1}, MissingParameterError, "'a' has no value"),
    (
        sa.select(t).where(t.c.id.in_(sa.bindparam("i", expanding=True))),
        {"i": 5},
        QueryTypeError,
        "takes a list",
    ),
    (sa.select(t).where(t.c.color == sa.bindparam("c", 5, t.c.color.type)), None, DataError, "'c'"),
    (sa.insert(t), {"color": 5}, DataError, "'color'"),
    (sa.insert(t), {"at": "yesterday"}, DataError, "'at'"),
    (sa.insert(t), {"data": {1, 2}}, DataError, "'data'"),
    (sa.insert(t).values([{"name": "x"}]), {"id": 1}, ProgrammingError, "cannot be compiled"),
    (sa.select(sa.literal("x", Grumpy)), None, LookupError, "the user's own"),
]


@pytest.mark.parametrize("case", range(len(WRONG)))
def test_mistakes_are_named(cache: Any, case: int) -> None:
    query, values, error, message = WRONG[case]
    for _ in range(2):
        with pytest.raises(error, match=message.replace("(", r"\(")):
            cache.prepare(query, values)


def test_both_forms_say_the_same(module: Any) -> None:
    messages = []
    for each in (module, importlib.import_module("fastdb._fallback.query_cache")):
        said = []
        for query, values, _, _ in WRONG:
            try:
                each.QueryCache(make_compiler("sqlite")).prepare(query, values)
            except Exception as exc:
                said.append((type(exc), str(exc)))
        messages.append(said)
    assert len(messages[0]) == len(WRONG)
    assert messages[0] == messages[1]


# -- many rows


def test_rows_of_the_same_keys_form_batches(module: Any, dialect: str) -> None:
    cache = module.QueryCache(make_compiler(dialect))
    rows = [{"t_id": 1, "n": 1}, {"n": 2, "t_id": 2}, {"id": 3}, {"id": 4}, {"t_id": 5, "n": 5}]
    batches = list(cache.prepare_many(sa.insert(u), rows, 100))
    assert [len(args) for _, args in batches] == [2, 2, 1]
    assert batches[0][1] == [(1, 1, 70), (2, 2, 70)]
    assert batches[1][1] == [(3, 7, 70), (4, 7, 70)]
    assert not any(plan.implicit_returning for plan, _ in batches)
    assert [len(args) for _, args in cache.prepare_many(sa.insert(u), rows[:2] * 5, 4)] == [4, 4, 2]
    text = list(
        cache.prepare_many("INSERT INTO u (n) VALUES (:n)", ({"n": i} for i in range(3)), 2)
    )
    assert [args for _, args in text] == [[(0,), (1,)], [(2,)]]
    assert list(cache.prepare_many(sa.insert(u), [], 10)) == []


def test_rows_are_not_read_ahead(cache: Any) -> None:
    read = []

    def rows() -> Any:
        for number in range(10):
            read.append(number)
            yield {"t_id": number}

    batches = cache.prepare_many(sa.insert(u), rows(), 2)
    assert read == []
    next(batches)
    assert len(read) <= 3


def test_rows_may_hold_expressions(cache: Any) -> None:
    rows = [{"t_id": 1}, {"t_id": sa.func.abs(-2)}, {"t_id": 3}]
    batches = list(cache.prepare_many(sa.insert(u), rows, 10))
    assert [len(args) for _, args in batches] == [1, 1, 1]
    assert "abs" in batches[1][0].sql


MANY: dict[str, tuple[Any, list[Any]]] = {
    "other_order": (sa.insert(u), [{"t_id": 1, "n": 2}, {"n": 3, "t_id": 4}]),
    "mappings": (sa.insert(u), [MappingProxyType({"t_id": 1}), {"t_id": 2}, {"n": 2}]),
    "other_names": (sa.insert(u), [{"t_id": 1, "n": 2}, {"id": 3, "n": 4}, {"n": 1, "t_id": 5}]),
    "more_names": (sa.insert(u), [{"t_id": 1}, {"t_id": 2, "n": 3}, {"t_id": 4}]),
    "no_names": (sa.insert(u), [{}, {}, {"n": 1}]),
    "columns": (sa.insert(u), [{"n": 1}, {u.c.n: 2}, {"n": 3}]),
    "subclasses": (sa.insert(t), [{"name": "x"}, {"name": Text("y")}, {Text("name"): "z"}]),
    "expressions": (sa.insert(u), [{"n": 1}, {"n": sa.func.abs(2)}, {"n": u.c.n + 1}, {"n": 4}]),
    "own_values": (sa.insert(u).values(n=5), [{"t_id": 1}, {"t_id": 2}, {"n": 3}]),
    "where": (
        sa.update(u).where(u.c.id == sa.bindparam("which")),
        [{"which": 1, "n": 2}, {"which": 3, "n": 4}, {"which": 5, "t_id": 6}],
    ),
    "where_default": (
        sa.update(u).where(u.c.id == sa.bindparam("which", 9)),
        [{"n": 2}, {"n": 4, "which": 8}, {"n": 5}],
    ),
    "where_value": (sa.update(u).where(u.c.id == 3), [{"n": 2}, {"n": 4}]),
    "where_list": (
        sa.update(u).where(u.c.id.in_(sa.bindparam("ids", expanding=True))),
        [{"n": 1, "ids": [1]}, {"n": 2, "ids": [3]}, {"n": 4, "ids": [5, 6]}],
    ),
    "delete": (sa.delete(u).where(u.c.id == sa.bindparam("i")), [{"i": 1}, {"i": 2}]),
    "text": (sa.text("DELETE FROM u WHERE id = :i"), [{"i": 1}, {"i": 2}]),
    "types": (
        sa.insert(t),
        [{"color": each, "flag": True, "data": {"n": 1}} for each in (Color.RED, Color.BLUE, None)],
    ),
}


@pytest.mark.parametrize("case", sorted(MANY))
def test_many_rows_bind_as_each_alone(module: Any, dialect: str, case: str) -> None:
    query, rows = MANY[case]
    cache = module.QueryCache(make_compiler(dialect))
    together = [
        (plan.sql, args) for plan, batch in cache.prepare_many(query, rows, 100) for args in batch
    ]
    alone = []
    for row in rows:
        fresh = module.QueryCache(make_compiler(dialect))
        ((plan, batch),) = fresh.prepare_many(query, [row], 100)
        alone += [(plan.sql, args) for args in batch]
    assert together == alone
    assert cache.info().hits + cache.info().misses == len(rows)


def test_a_wrong_row_among_many_is_told(cache: Any) -> None:
    query = sa.update(u).where(u.c.id == sa.bindparam("which"))
    for row, error, message in (
        ({"n": 1}, MissingParameterError, "'which'"),
        ({"n": 1, "what": 1}, UnknownParameterError, "'what'"),
        ({"n": 1, "which": 1, "what": 1}, UnknownParameterError, "'what'"),
    ):
        with pytest.raises(error, match=message):
            list(cache.prepare_many(query, [{"n": 1, "which": 2}, row], 10))


@pytest.mark.parametrize("rows", [[5], [{"t_id": 1}, [1]]])
def test_a_row_that_is_no_mapping_is_named(cache: Any, rows: Any) -> None:
    with pytest.raises(QueryTypeError, match=f"row {len(rows) - 1} is"):
        list(cache.prepare_many(sa.insert(u), rows, 10))


# -- columns of the result


def test_records_are_read_by_the_columns_of_the_users_own_statement(module: Any) -> None:
    cache = module.QueryCache(make_compiler("sqlite"))
    for _ in range(3):
        a, b = t.alias(), t.alias()
        label = t.c.name.label("foo")
        sub = sa.select(u.c.n).subquery()
        query = sa.select(a.c.id, b.c.id, t.c.id, label, sub.c.n, t.c.loud)
        plan, _, _ = cache.prepare(query)
        names = ("id", "id_1", "id_2", "foo", "n", "loud")
        record = plan.layout(names).record((1, 2, 3, "x", 5, "y"))
        assert record[a.c.id] == 1
        assert record[b.c.id] == 2
        assert record[t.c.id] == 3
        assert record[label] == "x"
        assert record[t.c.name] == "x"
        assert record[sub.c.n] == 5
        assert record[t.c.loud] == "y!"
        assert record[5] == "y!"
        with pytest.raises(KeyError):
            record[t.c.flag]
        with pytest.raises(KeyError):
            record[object()]
    assert cache.info().misses == 1


def test_mapped_attributes_and_text_columns_are_found(module: Any) -> None:
    cache = module.QueryCache(make_compiler("sqlite"))
    plan, _, _ = cache.prepare(sa.select(User))
    record = plan.layout(("id", "name")).record((1, "x"))
    assert record[User.name] == "x"
    plan, _, _ = cache.prepare(sa.text("SELECT id, name FROM t"))
    record = plan.layout(("id", "name")).record((1, "x"))
    assert record[t.c.name] == "x"
    plan, _, _ = cache.prepare(sa.text("SELECT name, loud FROM t").columns(loud=Shout))
    record = plan.layout(("name", "loud")).record(("x", "y"))
    assert tuple(record) == ("x", "y!")
    assert record[t.c.loud] == "y!"


def test_a_layout_is_made_once_per_tuple_of_names(cache: Any) -> None:
    plan, _, _ = cache.prepare("SELECT 1 AS a")
    assert plan.layout(("a",)) is plan.layout(("a",))
    assert plan.layout(("b",)).names == ("b",)
    assert plan.layout(("a",)).names == ("a",)


# -- the cache as such


def test_it_counts_and_is_bounded(module: Any) -> None:
    cache = module.QueryCache(make_compiler("sqlite"), maxsize=3)
    for number in range(5):
        cache.prepare(f"SELECT {number}")
    cache.prepare("SELECT 4")
    assert cache.info() == (1, 5, 2, 3, 3)
    assert cache.info()._fields == ("hits", "misses", "evictions", "maxsize", "currsize")
    cache.prepare("SELECT 2")
    cache.prepare("SELECT 9")
    cache.prepare("SELECT 2")
    assert cache.info().hits == 3, "the least recently used goes first"
    cache.clear()
    assert cache.info() == (0, 0, 0, 3, 0)


def test_it_may_be_off(module: Any) -> None:
    cache = module.QueryCache(make_compiler("sqlite"), maxsize=0)
    query = sa.select(t.c.id)
    for _ in range(2):
        cache.prepare(query)
        cache.prepare("SELECT 1")
    assert cache.info() == (0, 4, 0, 0, 0)


@pytest.mark.parametrize("size", [-1, True, "5", None, 1.5])
def test_a_wrong_size_is_refused(module: Any, size: Any) -> None:
    with pytest.raises(OptionError, match="query cache"):
        module.QueryCache(make_compiler("sqlite"), size)


def test_it_does_not_keep_expressions_alive(module: Any) -> None:
    cache = module.QueryCache(make_compiler("sqlite"))
    query = sa.insert(u).values([{"t_id": 1}, {"t_id": 2}])
    cache.prepare(query)
    cache.prepare(query)
    assert cache.info().hits == 1
    reference = weakref.ref(query)
    fresh = sa.select(t.c.id).where(t.c.id == 5)
    cache.prepare(sa.select(t.c.id).where(t.c.id == 4))
    cache.prepare(fresh)
    other = weakref.ref(fresh)
    del query, fresh
    gc.collect()
    assert other() is None
    assert reference() is None


def test_it_keeps_what_its_keys_name(module: Any) -> None:
    cache = module.QueryCache(make_compiler("sqlite"))
    for number in range(50):
        table = sa.Table("same", sa.MetaData(), sa.Column(f"c{number}", sa.Integer))
        plan, _, _ = cache.prepare(sa.insert(table), {f"c{number}": number})
        assert plan.sql == f"INSERT INTO same (c{number}) VALUES (?)"
        plan, _, _ = cache.prepare(sa.select(table))
        assert f"c{number}" in plan.sql
        del table
        gc.collect()


def test_upserts(module: Any, dialect: str) -> None:
    cache = module.QueryCache(make_compiler(dialect))
    for n in (1, 2):
        insert = UPSERTS[dialect](u).values(t_id=n)
        if dialect == "mysql":
            query = insert.on_duplicate_key_update(n=insert.inserted.n + n)
            expected: Any = (("lastrowid",),)
        else:
            query = insert.on_conflict_do_update(
                index_elements=[u.c.id], set_={"n": insert.excluded.n + n}
            )
            expected = (("returning", 0),)
        plan, args, _ = cache.prepare(query)
        assert args == (n, 7, 70, n)
        assert plan.key_sources == expected
        assert plan.implicit_returning == (dialect != "mysql")


def test_plans_tell_what_they_are(module: Any) -> None:
    cache = module.QueryCache(make_compiler("postgresql"))
    plan, _, _ = cache.prepare(sa.insert(u), {"t_id": 1})
    assert (plan.verb, plan.kind, plan.returning) == ("INSERT", "insert", False)
    assert plan.implicit_returning
    assert plan.returns_rows
    plan, _, _ = cache.prepare(sa.insert(u).returning(u.c.n), {"t_id": 1})
    assert plan.returning
    assert not plan.implicit_returning
    assert plan.key_sources == (("none",),)
    plan, _, _ = cache.prepare(sa.schema.CreateTable(u))
    assert (plan.verb, plan.kind) == ("CREATE", "ddl")
    plan, _, _ = cache.prepare(sa.select(sa.func.set_config("a", "b", True)))
    assert plan.changes_session
    plan, _, _ = cache.prepare(sa.func.now())
    assert plan.kind == "select"
    assert "SELECT" in repr(plan)


# -- the walk of the compiled form, and its check


def test_the_check_of_a_walk_tells_what_is_wrong() -> None:
    def told(query: Any) -> Any:
        return str(query), sorted(query.compile().binds.values(), key=lambda bind: bind.key)

    assert check_walk(lambda query: None) == "an ordinary select() is not understood"
    assert "taken for different" in str(check_walk(lambda query: (id(query), [query])))
    assert "are not found" in str(check_walk(lambda query: ("same", [])))
    assert check_walk(told) is not None
    binds: Any = list(sa.bindparam(name, value) for name, value in (("a", 2), ("b", "y"), ("c", 2)))
    assert "taken for equal" in str(check_walk(lambda query: ("same", binds)))


@pytest.mark.parametrize("wrong", ["it says so", "it raises"])
def test_a_walk_that_fails_its_check_is_turned_off(
    module: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, wrong: str
) -> None:
    def fail(walk: Any) -> str:
        if wrong == "it raises":
            raise AttributeError("renamed")
        return "all is different"

    monkeypatch.setattr("fastdb.compiler_fingerprint.check_walk", fail)
    cache = module.QueryCache(make_compiler("sqlite"))
    with caplog.at_level("WARNING", "fastdb"):
        for n in (1, 2, 3):
            assert cache.prepare(SHAPES["limit_offset"](n))[1] == (n, n + 1)
    assert cache.info().misses == 1
    said = [record.getMessage() for record in caplog.records]
    walks = module.__name__.startswith("fastdb._speedups")
    assert len(said) == walks
    if walks:
        assert "looked up the slow way" in said[0]
        assert ("renamed" if wrong == "it raises" else "all is different") in said[0]


def test_big_expressions_are_told(module: Any) -> None:
    cache = module.QueryCache(make_compiler("sqlite"))

    def wide(n: int, size: int) -> Any:
        # More elements, and more to say of them, than the compiled walk has room for at once.
        a = t.alias()
        return sa.select(*[(a.c.id + n + each).label(f"c{each}") for each in range(size)]).where(
            sa.and_(*[a.c.ratio > n + each for each in range(size)])
        )

    for size in (5, 24, 25, 60, 300):
        for n in (1, 2):
            query = wide(n, size)
            plan, args, _ = cache.prepare(query)
            assert (plan.sql, args) == oracle(wide(n, size), "sqlite")
    assert cache.info().hits == cache.info().misses == 5


def test_deep_expressions_are_told_up_to_a_limit(module: Any) -> None:
    cache = module.QueryCache(make_compiler("sqlite"))

    def deep(n: int, depth: int) -> Any:
        inner = t.c.id + n
        for _ in range(depth):
            inner = sa.func.abs(-inner)
        return sa.select(inner)

    for depth in (2, 20, 40, 60):
        for n in (1, 2):
            plan, args, _ = cache.prepare(deep(n, depth))
            assert (plan.sql, args) == oracle(deep(n, depth), "sqlite")
    # The deepest is compiled each time.
    assert cache.info()[:2] == (3, 5)


def test_an_expression_too_deep_for_sqlalchemy_crashes_nothing(module: Any) -> None:
    cache = module.QueryCache(make_compiler("sqlite"))
    links: list[Any] = [t.c.id]
    for _ in range(20_000):
        links.append(sa.UnaryExpression(links[-1], operator=operators.neg, type_=t.c.id.type))
    with pytest.raises(RecursionError):
        cache.prepare(sa.select(links[-1]))
    while links:  # piece by piece: freeing it at once recurses, too
        links.pop()
    assert cache.prepare(sa.select(t.c.id))[0].kind == "select"


def test_attributes_of_the_users_own_change_nothing(module: Any) -> None:
    cache = module.QueryCache(make_compiler("sqlite"))
    for n in range(200):
        query = SHAPES["by_key"](n)
        vars(query).update({f"mine{each}": each for each in range(n)})
        plan, args, _ = cache.prepare(query)
        assert (plan.sql, args) == oracle(SHAPES["by_key"](n), "sqlite")
    assert cache.info().misses <= 2


def test_many_types_and_functions_are_told(module: Any) -> None:
    cache = module.QueryCache(make_compiler("sqlite"), maxsize=16)
    for n in range(1500):
        kind = type(f"Kind{n}", (Shout,), {"cache_ok": True})()
        query = sa.select(sa.type_coerce(t.c.name, kind), sa.literal("x", kind))
        for _ in range(2):
            plan, args, _ = cache.prepare(query)
            assert args == ("X",)
            assert plan._result.converters(("name", "b"))[0]("y") == "y!"


def test_many_types_that_come_again_are_told(module: Any) -> None:
    cache = module.QueryCache(make_compiler("sqlite"), maxsize=16)
    for n in range(1100):
        for kind, expected in (
            (type(f"Kind{n}", (Shout,), {"cache_ok": True})(), "X"),
            (sa.String(n + 1), "x"),
        ):
            for column in (t.c.name, t.c.id):
                query = sa.select(sa.type_coerce(column, kind), sa.literal("x", kind))
                assert cache.prepare(query)[1] == (expected,)


def test_many_classes_of_elements_are_told(module: Any) -> None:
    cache = module.QueryCache(make_compiler("sqlite"), maxsize=16)
    for n in range(1100):
        kind = type(f"Mine{n}", (sa.sql.functions.Function,), {"inherit_cache": True})
        for _ in range(2):
            assert f"mine{n}(" in cache.prepare(sa.select(kind(f"mine{n}", u.c.n)))[0].sql


def test_an_expression_that_comes_again_is_found_by_itself(module: Any) -> None:
    cache = module.QueryCache(make_compiler("sqlite"))
    kept = [sa.select(t.c.id.label("x")).where(t.c.id == n) for n in range(3)]
    plans = [[cache.prepare(query)[0] for _ in range(12)] for query in kept]
    # From some time on each has its plan, which knows its columns.
    assert all(each[-1] is each[-2] for each in plans)
    assert len({id(each[-1]) for each in plans}) == 3
    assert cache.info().misses == 1


def test_this_sqlalchemy_passes_the_check(module: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("WARNING", "fastdb"):
        module.QueryCache(make_compiler("sqlite")).prepare(SHAPES["by_key"](1))
    assert not caplog.records
