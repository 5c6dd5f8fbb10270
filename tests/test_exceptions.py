from __future__ import annotations

import builtins
import copy
import pickle
import sqlite3
import ssl
import sys
import threading
import traceback
from typing import Any

import asyncmy.errors
import asyncpg
import pymysql
import pytest

from fastdb import exceptions
from fastdb.exceptions import (
    ConnectionFailedError,
    DatabaseError,
    DataError,
    Error,
    IntegrityError,
    InterfaceError,
    InternalError,
    NotSupportedError,
    OperationalError,
    PoolTimeoutError,
    ProgrammingError,
    QueryTimeoutError,
)
from fastdb.exceptions_driver import from_driver

CLASSES = [
    value
    for name, value in vars(exceptions).items()
    if isinstance(value, type)
    and issubclass(value, Exception)
    and value.__module__ == "fastdb.exceptions"
    and name == value.__name__
]


#: The layout of OSError, and none.
HARDEST: tuple[type[Error], ...] = (ConnectionFailedError, IntegrityError)


# -- the tree


def test_the_tree_is_the_one_that_is_drawn() -> None:
    assert exceptions.__doc__ is not None
    path: list[str] = []
    drawn = {}
    for line in exceptions.__doc__.splitlines():
        head, mark, rest = line.partition("── ")
        if "fastdb.Error" in line and not mark:
            path = ["Error"]
        elif mark:
            depth = (len(head) - 5) // 4 + 1
            name, _, note = rest.partition(" ")
            path[depth:] = [name]
            builtin = note.strip().removeprefix("[").partition("]")[0] if "[" in note else None
            drawn[name] = (path[depth - 1], builtin)
    actual = {}
    for cls in CLASSES:
        if cls not in (Error, exceptions.Warning):
            parent = cls.__bases__[0]
            made = type(cls("x"))
            builtin_bases = [base for base in made.__bases__ if not issubclass(base, Error)]
            actual[cls.__name__] = (
                parent.__name__,
                builtin_bases[0].__name__ if builtin_bases else None,
            )
    assert drawn == actual


def test_every_public_name_is_listed() -> None:
    assert sorted(exceptions.__all__) == sorted(cls.__name__ for cls in CLASSES)


def test_pep_249() -> None:
    assert issubclass(exceptions.Warning, Exception)
    assert not issubclass(exceptions.Warning, Error)
    assert Error.__base__ is Exception
    assert InterfaceError.__base__ is Error
    assert DatabaseError.__base__ is Error
    for cls in (
        DataError,
        OperationalError,
        IntegrityError,
        InternalError,
        ProgrammingError,
        NotSupportedError,
    ):
        assert cls.__base__ is DatabaseError


@pytest.mark.parametrize("cls", CLASSES)
def test_each_class_is_documented_shows_its_message_and_pickles(cls: type[Exception]) -> None:
    assert cls.__doc__
    error = cls("the message says it")
    assert str(error) == "the message says it"
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert isinstance(again, cls)
    assert (type(again).__name__, type(again).__qualname__) == (cls.__name__, cls.__name__)
    assert type(again).__doc__ == cls.__doc__
    assert again.args == error.args


# -- errors of drivers


class WantsArguments(Exception):
    """Take what `args` does not hold."""

    def __init__(self, code: int, *, hint: str) -> None:
        super().__init__(f"code {code}")
        self.code = code
        self.hint = hint

    def explain(self) -> str:
        return f"{self.code}: {self.hint}"


class NewWantsArguments(Exception):
    def __new__(cls, first: int, second: int) -> NewWantsArguments:
        return super().__new__(cls, first, second)

    def __init__(self, first: int, second: int) -> None:
        self.sum = first + second
        super().__init__("one message")


class Slotted(Exception):
    __slots__ = ("__private", "code", "unset")

    def __init__(self, code: int | None) -> None:
        super().__init__("slotted")
        self.code = code
        self.__private = code

    @property
    def private(self) -> int | None:
        return self.__private


class Immutable(Exception):
    def __setattr__(self, name: str, value: object) -> None:
        raise TypeError("immutable")


class OwnReduce(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("not this way")

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("not this way")


class Refusing(type):
    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> Refusing:
        if any(isinstance(base, Refusing) for base in bases):
            raise RuntimeError("no subclasses")
        return super().__new__(mcs, name, bases, namespace)


class Final(Exception, metaclass=Refusing):
    pass


def sqlite_error() -> sqlite3.Error:
    connection = sqlite3.connect(":memory:")
    try:
        connection.executescript("CREATE TABLE t (x UNIQUE); INSERT INTO t VALUES (1)")
        connection.execute("INSERT INTO t VALUES (1)")
    except sqlite3.Error as error:
        return error
    finally:
        connection.close()
    raise AssertionError


def asyncpg_error(sqlstate: str = "23505") -> BaseException:
    error: BaseException = asyncpg.PostgresError.new(
        {
            "S": "ERROR",
            "C": sqlstate,
            "M": "duplicate key",
            "D": "Key (id)=(1) exists.",
            "n": "t_pkey",
            "t": "t",
        },
        query="INSERT INTO t VALUES (1)",
    )
    return error


def unicode_error() -> BaseException:
    try:
        b"\xff".decode()
    except UnicodeDecodeError as error:
        return error
    raise AssertionError


SAMPLES: list[tuple[type[Error], BaseException]] = [
    (IntegrityError, sqlite_error()),
    (OperationalError, sqlite3.OperationalError("database is locked")),
    (ConnectionFailedError, sqlite3.OperationalError("unable to open database file")),
    (IntegrityError, asyncpg_error()),
    (ConnectionFailedError, asyncpg_error("08006")),
    (QueryTimeoutError, asyncpg_error("57014")),
    (ConnectionFailedError, asyncpg_error("XX999")),
    (InterfaceError, asyncpg.InterfaceError("closed", detail="d", hint="h")),
    (ConnectionFailedError, asyncpg.ConnectionDoesNotExistError("gone")),
    (DataError, asyncpg.exceptions._base.DataError("invalid input", hint="h")),
    (InternalError, asyncpg.exceptions.OutdatedSchemaCacheError("old", schema="s")),
    (IntegrityError, pymysql.err.IntegrityError(1062, "Duplicate entry '1'")),
    (ConnectionFailedError, pymysql.err.OperationalError(2003, "Can't connect (111)")),
    (QueryTimeoutError, pymysql.err.OperationalError(3024, "interrupted")),
    (OperationalError, pymysql.err.MySQLError()),
    (ConnectionFailedError, asyncmy.errors.OperationalError(1045, "Access denied")),
    (QueryTimeoutError, asyncmy.errors.OperationalError(3024, "interrupted")),
    (IntegrityError, asyncmy.errors.IntegrityError(1062, "Duplicate entry '1'")),
    (ConnectionFailedError, ConnectionRefusedError(111, "Connection refused")),
    (ConnectionFailedError, FileNotFoundError(2, "No such file", "/run/x")),
    (ConnectionFailedError, FileNotFoundError(2, "No such file", "/run/x", None, "/run/y")),
    (ConnectionFailedError, OSError("Multiple exceptions: [Errno 111]")),
    (ConnectionFailedError, ssl.SSLCertVerificationError(1, "certificate verify failed")),
    (ConnectionFailedError, TimeoutError()),
    (QueryTimeoutError, TimeoutError("too late")),
    (OperationalError, TimeoutError("too late")),
    (PoolTimeoutError, TimeoutError("too late")),
    (ConnectionFailedError, EOFError("end")),
    (ConnectionFailedError, unicode_error()),
    (DataError, unicode_error()),
    (DataError, KeyError("x")),
    (ProgrammingError, ValueError("x", 1)),
    (InternalError, Exception("anything")),
    (ConnectionFailedError, ExceptionGroup("all failed", [OSError(1, "a"), OSError(2, "b")])),
    (DataError, WantsArguments(7, hint="do this")),
    (ConnectionFailedError, WantsArguments(7, hint="do this")),
    (DataError, NewWantsArguments(1, 2)),
    (DataError, Slotted(7)),
    (ConnectionFailedError, Slotted(None)),
    (DataError, Immutable("x")),
    (DataError, OwnReduce("x")),
    (DataError, Final("x")),
]
IDS = [f"{kind.__name__}-{type(error).__name__}" for kind, error in SAMPLES]


def attributes(error: BaseException) -> dict[str, Any]:
    found = {}
    for name in dir(error):
        if not name.startswith("__") and name != "_origin":
            try:
                value = getattr(error, name)
            except AttributeError:
                continue
            if not callable(value):
                found[name] = value
    return found


def check(error: BaseException, original: BaseException, kind: type[Error]) -> None:
    assert isinstance(error, Error)
    assert isinstance(error, type(original)) or isinstance(original, Final)
    assert isinstance(error, (kind, kind.__bases__[0]))
    assert error.args == original.args
    assert str(error) == str(original)
    has = attributes(error)
    assert {name: has[name] for name in attributes(original)} == attributes(original)


@pytest.mark.parametrize(("kind", "original"), SAMPLES, ids=IDS)
def test_from_driver_is_both_and_reads_as_the_original(
    kind: type[Error], original: BaseException
) -> None:
    check(from_driver(kind, original), original, kind)


@pytest.mark.parametrize(("kind", "original"), SAMPLES, ids=IDS)
def test_from_driver_survives_pickle_and_copy(kind: type[Error], original: BaseException) -> None:
    error = from_driver(kind, original)
    vars(error)["__notes__"] = ["a note"]  # add_note() would need a mutable one
    if isinstance(original, ExceptionGroup):  # equal only if identical
        copies = [copy.copy(error)]
    else:
        copies = [copy.copy(error), copy.deepcopy(error)]
        copies += [
            pickle.loads(pickle.dumps(error, protocol))
            # Up to protocol 2 pickle itself turns TimeoutError and its like into OSError.
            for protocol in range(3, pickle.HIGHEST_PROTOCOL + 1)
        ]
    for again in copies:
        assert type(again) is type(error)
        assert vars(again).pop("__notes__") == ["a note"]
        check(again, original, kind)


@pytest.mark.parametrize(("kind", "original"), SAMPLES, ids=IDS)
def test_from_driver_can_be_raised_and_caught_as_either(
    kind: type[Error], original: BaseException
) -> None:
    caught_as = Error if isinstance(original, Final) else type(original)
    with pytest.raises(caught_as) as caught:
        raise from_driver(kind, original) from original
    assert isinstance(caught.value, Error)
    assert caught.value.__cause__ is original
    assert traceback.format_exception(caught.value)


def test_the_kind_keeps_its_builtin_wherever_layouts_allow() -> None:
    for original in (asyncpg_error("08006"), pymysql.err.OperationalError(2013, "Lost")):
        error = from_driver(ConnectionFailedError, original)
        assert isinstance(error, ConnectionFailedError)
        assert isinstance(error, ConnectionError)
    error = from_driver(ConnectionFailedError, unicode_error())
    assert isinstance(error, ConnectionFailedError)
    assert not isinstance(error, OSError)


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [(ConnectionFailedError, ConnectionError), (QueryTimeoutError, TimeoutError)],
)
def test_the_builtin_gives_way_to_compiled_classes_and_the_kind_stays(
    kind: type[Error], builtin: type[OSError]
) -> None:
    own = kind("the message")
    assert isinstance(own, builtin)
    assert repr(own) == f"{kind.__name__}('the message')"
    assert repr(copy.copy(own)) == repr(own)
    assert str(kind(111, "refused")) == "[Errno 111] refused"
    with pytest.raises(TypeError):
        kind("x", hint="y")  # type: ignore[call-arg]
    assert isinstance(from_driver(kind, Final("x")), builtin)  # which refuses to be merged
    original = asyncmy.errors.OperationalError(1045, "Access denied")
    error = from_driver(kind, original)
    assert isinstance(error, kind)
    assert isinstance(error, asyncmy.errors.OperationalError)
    assert not isinstance(error, builtin)
    assert type(error).__qualname__ == f"{kind.__name__}[asyncmy.errors.OperationalError]"
    assert str(error) == str(original) == "(1045, 'Access denied')"


def test_a_class_that_refuses_subclasses_gives_the_plain_kind() -> None:
    error = from_driver(DataError, Final("x"))
    assert type(error) is DataError
    assert error.args == ("x",)


def test_a_class_that_the_kind_derives_from_gives_the_plain_kind() -> None:
    assert type(from_driver(QueryTimeoutError, TimeoutError())) is type(QueryTimeoutError())
    error = from_driver(ConnectionFailedError, OSError(113, "No route to host"))
    assert type(error) is type(ConnectionFailedError())
    assert isinstance(error, ConnectionError)
    assert (error.errno, str(error)) == (113, "[Errno 113] No route to host")


def test_sqlite_codes() -> None:
    error: Any = from_driver(IntegrityError, sqlite_error())
    assert error.sqlite_errorcode == sqlite3.SQLITE_CONSTRAINT_UNIQUE
    assert error.sqlite_errorname == "SQLITE_CONSTRAINT_UNIQUE"


def test_asyncpg_fields_and_methods() -> None:
    original: Any = asyncpg_error()
    error: Any = from_driver(IntegrityError, original)
    assert isinstance(error, asyncpg.UniqueViolationError)
    assert (error.sqlstate, error.constraint_name) == ("23505", "t_pkey")
    assert error.query == "INSERT INTO t VALUES (1)"
    assert error.as_dict() == original.as_dict()
    assert str(error) == "duplicate key\nDETAIL:  Key (id)=(1) exists."
    # asyncpg looks classes up by SQLSTATE: it must not find ours.
    assert type(asyncpg_error()) is asyncpg.UniqueViolationError
    closed: Any = from_driver(InterfaceError, asyncpg.InterfaceError("closed", hint="h"))
    assert closed.with_msg("open").hint == "h"


def test_pymysql_numbers_are_no_errno() -> None:
    original = pymysql.err.OperationalError(2003, "Can't connect")
    error = from_driver(ConnectionFailedError, original)
    assert isinstance(error, ConnectionError)
    assert error.args == (2003, "Can't connect")
    assert error.errno is None  # an OSError's, of which the original has none


def test_os_errors_keep_their_errno() -> None:
    error = from_driver(ConnectionFailedError, ConnectionRefusedError(111, "Connection refused"))
    assert isinstance(error, ConnectionRefusedError)
    assert (error.errno, error.strerror, error.filename) == (111, "Connection refused", None)
    assert str(error) == "[Errno 111] Connection refused"


def test_slots_and_methods_of_the_driver() -> None:
    slotted: Any = from_driver(DataError, Slotted(7))
    assert (slotted.code, slotted.private) == (7, 7)
    assert not hasattr(slotted, "unset")
    explained: Any = from_driver(DataError, WantsArguments(7, hint="do this"))
    assert explained.explain() == "7: do this"


def test_names_are_those_that_programs_look_for_and_tracebacks_show_both() -> None:
    original = asyncpg_error()
    error = from_driver(IntegrityError, original)
    assert type(error).__name__ == "UniqueViolationError"
    assert type(error).__module__ == "fastdb.exceptions"
    assert type(error).__doc__ == type(original).__doc__
    error.__cause__ = original
    lines = "".join(traceback.format_exception(error)).splitlines()
    assert lines[0].startswith("asyncpg.exceptions.UniqueViolationError: duplicate key")
    assert lines[-2].startswith(
        "fastdb.exceptions.IntegrityError[asyncpg.exceptions.UniqueViolationError]: duplicate key"
    )
    refused = from_driver(ConnectionFailedError, ConnectionRefusedError(111, "refused"))
    assert type(refused).__qualname__ == "ConnectionFailedError[ConnectionRefusedError]"
    # A conflict of layouts shows what is left.
    broken = from_driver(ConnectionFailedError, unicode_error())
    assert type(broken).__qualname__ == "ConnectionFailedError[UnicodeDecodeError]"


def test_notes_stay_with_the_cause() -> None:
    original = ValueError("x")
    original.add_note("once")
    assert not hasattr(from_driver(DataError, original), "__notes__")
    assert original.__notes__ == ["once"]


def test_an_error_of_ours_keeps_its_class() -> None:
    first = from_driver(IntegrityError, asyncpg_error())
    again = from_driver(OperationalError, first)
    assert again is not first  # so that it can be raised from the first
    assert type(again) is type(first)
    assert attributes(again) == attributes(first)
    plain = from_driver(OperationalError, exceptions.MissingParameterError("no value"))
    assert type(plain) is exceptions.MissingParameterError


def test_each_class_is_made_once() -> None:
    one = type(from_driver(IntegrityError, pymysql.err.IntegrityError(1, "a")))
    assert type(from_driver(IntegrityError, pymysql.err.IntegrityError(2, "b"))) is one
    assert type(from_driver(DatabaseError, pymysql.err.IntegrityError(2, "b"))) is not one


def test_threads_agree_on_the_class() -> None:
    for _ in range(20):
        original_class = type("FreshError", (Exception,), {})
        barrier = threading.Barrier(8)
        made: list[type] = []

        def make(
            cls: type[Exception] = original_class,
            barrier: threading.Barrier = barrier,
            made: list[type] = made,
        ) -> None:
            barrier.wait()
            made.append(type(from_driver(DataError, cls("x"))))

        threads = [threading.Thread(target=make) for _ in range(8)]
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            sys.setswitchinterval(interval)
        assert len(made) == 8
        assert len(set(made)) == 1


def test_every_exception_of_the_drivers_fits_every_kind() -> None:
    kinds = [cls for cls in CLASSES if issubclass(cls, Error)]
    drivers: list[type[BaseException]] = [
        value
        for module in (asyncpg.exceptions, pymysql.err, asyncmy.errors, sqlite3, ssl, builtins)
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Exception)
        and not issubclass(value, ExceptionGroup)
    ]
    assert len(drivers) > 200
    # All pairs make thousands of classes; each driver's class meets the two hardest layouts.
    for driver_class in drivers:
        original = driver_class.__new__(driver_class)
        BaseException.__init__(original, "x")
        for kind in HARDEST:
            error = from_driver(kind, original)
            assert isinstance(error, Error)
            assert isinstance(error, driver_class)
            assert error.args == ("x",)
    for kind in kinds:
        assert isinstance(from_driver(kind, asyncpg_error()), asyncpg.UniqueViolationError)
