"""No password shown, no TLS given up, no value taken for SQL, no code in a pickle."""

from __future__ import annotations

import asyncio
import io
import logging
import pickle
import pickletools
import ssl
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
import sqlalchemy as sa

import fastdb
from tests.certificates import Certificates, make_certificates
from tests.databases import Session, dialect_of, with_database
from tests.faults.conftest import OwnServer
from tests.servers import start_own

PASSWORD = "S3cr3t/p@ss: w%rd?&+ä"
WRONG = "Wr0ng/p@ss: w%rd?&+ä"
PACKAGE = str(Path(fastdb.__file__).parent)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def tls_server(request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[OwnServer]:
    """Start a server with TLS, and users who need a certificate and a password."""
    server = start_own(request.param, certificates)
    process = server.process
    assert process is not None
    try:
        with Session(server.url) as session:
            session.run("CREATE DATABASE fastdb_faults")
            if request.param == "postgresql":
                session.run("CREATE ROLE certified LOGIN")
                session.run(f"CREATE ROLE secretive LOGIN PASSWORD '{PASSWORD}'")
                rules = process.folder / "data" / "pg_hba.conf"
                lines = "hostssl all certified all cert\nhost all secretive all scram-sha-256\n"
                rules.write_text(lines + rules.read_text())
                session.run("SELECT pg_reload_conf()")
            else:
                for user, how in (
                    ("certified", "REQUIRE X509"),
                    ("secretive", f"IDENTIFIED BY '{PASSWORD}'"),
                ):
                    session.run(f"CREATE USER {user}@'%' {how}")
                    session.run(f"GRANT ALL ON fastdb_faults.* TO {user}@'%'")
        yield OwnServer(with_database(server.url, "fastdb_faults"), server.dialect, process)
    finally:
        process.stop()


def at(server: OwnServer, host: str, query: str = "", **changes: Any) -> str:
    url = str(fastdb.DatabaseURL(server.url).replace(hostname=host, **changes))
    return f"{url}?{query}" if query else url


# -- passwords


def everything(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all that it hangs together with."""
    pending, seen = [error], set[int]()
    while pending:
        each = pending.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        pending += [other for other in (each.__cause__, each.__context__) if other is not None]


def shown(error: BaseException) -> tuple[list[str], int]:
    """Return all that a report of the error may show, and how many of our frames it saw."""
    texts = ["".join(traceback.format_exception(error))]
    frames = 0
    for each in everything(error):
        texts += [str(each), repr(each), repr(each.args), repr(vars(each))]
        entry: TracebackType | None = each.__traceback__
        while entry is not None:
            if entry.tb_frame.f_code.co_filename.startswith(PACKAGE):
                frames += 1
                texts += [f"{n} = {v!r}" for n, v in entry.tb_frame.f_locals.items()]
            entry = entry.tb_next
    return texts, frames


def forms(password: str) -> set[str]:
    """Return the ways in which a password may be written."""
    as_latin = password.encode().decode("latin-1")
    written = {password, quote(password, safe=""), quote_plus(password), quote(password), as_latin}
    return written | {repr(each)[1:-1] for each in written}


def check_hidden(texts: list[str], password: str) -> None:
    for text in texts:
        for form in forms(password):
            assert form not in text, text


async def given(password: str) -> str:
    return password


def ways(server: OwnServer, host: str, password: str) -> dict[str, Callable[[], fastdb.Database]]:
    """Return databases that are told the password in each way."""
    url = at(server, host, username="secretive")
    in_query = f"{url}?password={quote_plus(password)}"
    in_url = str(fastdb.DatabaseURL(url).replace(password=password))
    return {
        "before the host": lambda: fastdb.Database(in_url),
        "as a DatabaseURL": lambda: fastdb.Database(fastdb.DatabaseURL(in_url)),
        "as a sqlalchemy.URL": lambda: fastdb.Database(fastdb.DatabaseURL(in_url).sqlalchemy_url),
        "in the query": lambda: fastdb.Database(in_query),
        "as an option": lambda: fastdb.Database(url, password=password),
        "by a callable": lambda: fastdb.Database(url, password=lambda: password),
        "by a coroutine": lambda: fastdb.Database(url, password=lambda: given(password)),
    }


WAYS = [
    "before the host",
    "as a DatabaseURL",
    "as a sqlalchemy.URL",
    "in the query",
    "as an option",
    "by a callable",
    "by a coroutine",
]


@pytest.mark.parametrize("way", WAYS)
async def test_the_right_password_lets_in_and_is_not_shown(
    tls_server: OwnServer, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    database = ways(tls_server, "127.0.0.1", PASSWORD)[way]()
    async with database:
        assert await database.fetch_val("SELECT 1") == 1
        connection = database.connection()
        texts = [repr(each) for each in (database, database.url, database.pool, connection)]
        texts += [repr(database.pool.stats()), repr(database.settings), repr(database._driver)]
        texts += [repr(vars(database._driver))]
    texts += [record.getMessage() for record in caplog.records]
    assert any("connected to" in text for text in texts)
    check_hidden(texts, PASSWORD)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fault", ["wrong password", "no such host", "no answer", "bad TLS"])
async def test_a_failed_connect_shows_no_password(
    tls_server: OwnServer, way: str, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    host = "nosuch.invalid" if fault == "no such host" else "127.0.0.1"
    database = ways(tls_server, host, WRONG)[way]()
    options: dict[str, Any] = {}
    if fault == "no answer":
        options["port"] = 1
    if fault == "bad TLS":
        options["ssl"] = True
    if options:
        database = fastdb.Database(database.url, **database.options, **options)
    with pytest.raises(fastdb.ConnectionFailedError) as caught:
        await database.connect()
    texts, frames = shown(caught.value)
    assert frames >= 3
    texts += [record.getMessage() for record in caplog.records]
    check_hidden(texts, WRONG)


@pytest.mark.parametrize(
    "options",
    [
        {"colour": "red"},
        {"min_size": "many"},
        {"ssl": "perhaps"},
        {"ssl": "verify-ca", "sslrootcert": "/nowhere"},
        {"init": 5},
        {"timeout": object()},
        {"connect_timeout": "soon"},
        {"force_rollback": "perhaps"},
    ],
    ids=lambda options: " ".join(options),
)
@pytest.mark.parametrize("way", WAYS)
async def test_a_refused_option_shows_no_password(
    server_url: str, way: str, options: dict[str, Any]
) -> None:
    server = OwnServer(server_url, dialect_of(server_url), None)  # type: ignore[arg-type]
    told = ways(server, "127.0.0.1", WRONG)[way]()
    with pytest.raises(fastdb.Error) as caught:
        await fastdb.Database(str(told.url), **told.options, **options).connect()
    texts, frames = shown(caught.value)
    assert frames
    check_hidden(texts, WRONG)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me:{}@host:port/db",
        "postgresql:/me:{}@host/db",
        "mysql://me:{}@[::1/db",
        "mysql://me:{}@a,b/db?port=1,2,3",
        "postgresql://me:{}@host:99999/db",
        "oracle://me:{}@host/db",
        "postgresql+psycopg://me:{}@host/db",
        "sqlite://me:{}@host/db",
        "mysql://me:{}@host/db\n",
        "mysql://me@host/db?password={}&password=x&colour=red",
        "postgresql://me@host/db?sslpassword={}&sslcert=/nowhere&ssl=true",
    ],
)
async def test_a_wrong_url_shows_no_password(text: str) -> None:
    password = quote(WRONG, safe="")
    with pytest.raises(fastdb.InterfaceError) as caught:
        await fastdb.Database(f"\0{text}".format(password)[1:] + "\x01" * ("\n" in text)).connect()
    texts, frames = shown(caught.value)
    assert frames
    check_hidden(texts, WRONG)


@pytest.mark.parametrize(
    "changes",
    [
        {"password": WRONG, "colour": "red"},
        {"password": WRONG, "port": "x"},
        {"userinfo": f"me:{WRONG}", "username": "you"},
        {"netloc": f"me:{WRONG}@host/"},
        {"options": {"password": WRONG, "port": "x"}},
    ],
    ids=lambda changes: " ".join(changes),
)
def test_a_wrong_change_of_a_url_shows_no_password(changes: dict[str, Any]) -> None:
    with pytest.raises(fastdb.Error) as caught:
        fastdb.DatabaseURL("mysql://host/db").replace(**changes)
    texts, _ = shown(caught.value)
    check_hidden(texts, WRONG)


@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
@pytest.mark.parametrize("password", ["half\ud800hidden", "half%80hidden"])
async def test_a_password_that_is_no_text(scheme: str, password: str) -> None:
    url = f"{scheme}://me@127.0.0.1:1/db"
    if "%" in password:
        url = url.replace("me@", f"me:{password}@")
        options: dict[str, Any] = {}
    else:
        options = {"password": password}
    with pytest.raises(fastdb.Error) as caught:
        await fastdb.Database(url, **options).connect()
    texts, _ = shown(caught.value)
    for text in texts:
        assert "hidden" not in text


# -- TLS

Make = Callable[[Certificates], dict[str, Any]]


def context(authority: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority)


#: The options, whether only MySQL has them, and what they check: nothing, the authority, the host.
SPELLINGS: dict[str, tuple[Make, bool, str]] = {
    "ssl=require": (lambda _: {"ssl": "require"}, False, ""),
    "sslmode=require": (lambda _: {"sslmode": "require"}, False, ""),
    "ssl_mode=REQUIRED": (lambda _: {"ssl_mode": "REQUIRED"}, True, ""),
    "ssl={}": (lambda _: {"ssl": {}}, True, ""),
    "ssl=true": (lambda _: {"ssl": "true"}, False, "system"),
    "ssl=True": (lambda _: {"ssl": True}, False, "system"),
    "verify-full": (lambda _: {"sslmode": "verify-full", "sslrootcert": "{ca}"}, False, "host"),
    "ssl=verify-full": (lambda _: {"ssl": "verify-full", "sslrootcert": "{ca}"}, False, "host"),
    "ssl=True, CA": (lambda _: {"ssl": "true", "sslrootcert": "{ca}"}, False, "host"),
    "verify-ca": (lambda _: {"sslmode": "verify-ca", "sslrootcert": "{ca}"}, False, "authority"),
    "ssl=verify-ca": (lambda _: {"ssl": "verify-ca", "sslrootcert": "{ca}"}, False, "authority"),
    "VERIFY_CA": (lambda _: {"ssl_mode": "VERIFY_CA", "ssl_ca": "{ca}"}, True, "authority"),
    "VERIFY_IDENTITY": (lambda _: {"ssl_mode": "VERIFY_IDENTITY", "ssl_ca": "{ca}"}, True, "host"),
    "ssl_ca": (lambda _: {"ssl_ca": "{ca}"}, True, "host"),
    "require, CA": (lambda _: {"sslmode": "require", "sslrootcert": "{ca}"}, False, "authority"),
}


def spelled(spelling: str, authority: str, certificates: Certificates) -> dict[str, Any]:
    options = SPELLINGS[spelling][0](certificates)
    return {name: authority if value == "{ca}" else value for name, value in options.items()}


def open_database(server: OwnServer, host: str, options: dict[str, Any], how: str) -> Any:
    if how == "keywords":
        return fastdb.Database(at(server, host), **options)
    query = "&".join(f"{name}={quote_plus(str(value))}" for name, value in options.items())
    return fastdb.Database(at(server, host, query))


async def is_encrypted(database: fastdb.Database) -> bool:
    if database.url.dialect == "postgresql":
        query = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
        return bool(await database.fetch_val(query))
    return bool(await database.fetch_val("SHOW STATUS LIKE 'Ssl_cipher'", column=1))


@pytest.mark.parametrize("how", ["keywords", "query"])
@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_tls_is_had_with_its_check_or_refused(
    tls_server: OwnServer, certificates: Certificates, spelling: str, how: str
) -> None:
    _, only_mysql, checked = SPELLINGS[spelling]
    options = spelled(spelling, certificates.authority, certificates)
    if only_mysql and tls_server.dialect != "mysql":
        with pytest.raises(fastdb.InterfaceError):
            await open_database(tls_server, "localhost", options, how).connect()
        return
    if how == "query" and not all(isinstance(each, str) for each in options.values()):
        options = {name: "require" if value == {} else value for name, value in options.items()}
    for host in ("localhost", "127.0.0.1"):
        lets_in = checked in ("", "authority") or (checked == "host" and host == "localhost")
        database = open_database(tls_server, host, options, how)
        if lets_in:
            async with database:
                assert await is_encrypted(database)
        else:
            with pytest.raises(fastdb.ConnectionFailedError, match=r"(?i)certificate"):
                await database.connect()
        if checked in ("authority", "host"):
            stranger = spelled(spelling, certificates.stranger, certificates)
            database = open_database(tls_server, host, stranger, how)
            with pytest.raises(fastdb.ConnectionFailedError, match=r"(?i)certificate"):
                await database.connect()


async def test_an_ssl_context_is_used_as_it_is(
    tls_server: OwnServer, certificates: Certificates
) -> None:
    trusting = context(certificates.authority)
    async with fastdb.Database(at(tls_server, "localhost"), ssl=trusting) as database:
        assert await is_encrypted(database)
    for host, chosen in (
        ("127.0.0.1", trusting),
        ("localhost", context(certificates.stranger)),
    ):
        with pytest.raises(fastdb.ConnectionFailedError, match=r"(?i)certificate"):
            await fastdb.Database(at(tls_server, host), ssl=chosen).connect()


async def test_a_client_certificate_lets_in(
    tls_server: OwnServer, certificates: Certificates
) -> None:
    own: dict[str, Any] = {"sslcert": certificates.client, "sslkey": certificates.client_key}
    checked: dict[str, Any] = {"sslmode": "verify-full", "sslrootcert": certificates.authority}
    url = at(tls_server, "localhost", username="certified")
    async with fastdb.Database(url, **own, **checked) as database:
        assert await is_encrypted(database)
    with pytest.raises(fastdb.OperationalError):
        await fastdb.Database(url, **checked).connect()
    trusting = context(certificates.authority)
    trusting.load_cert_chain(certificates.client, certificates.client_key)
    async with fastdb.Database(url, ssl=trusting) as database:
        assert await is_encrypted(database)


async def test_every_connection_of_a_pool_is_encrypted(
    tls_server: OwnServer, certificates: Certificates
) -> None:
    options: dict[str, Any] = {"sslmode": "verify-full", "sslrootcert": certificates.authority}
    url = at(tls_server, "localhost")
    async with fastdb.Database(url, min_size=3, max_size=3, reset="always", **options) as database:
        for _ in range(2):
            found = await asyncio.gather(*[is_encrypted(database) for _ in range(3)])
            assert found == [True] * 3


# -- values stay values

EVIL = [
    "\\' OR 1=1 -- ",
    "' OR '1'='1",
    "'; DROP TABLE things; -- ",
    '" OR ""="',
    "\\",
    "\\\\'",
    "a\\'' OR 1=1 #",
    "你\\' OR 1=1 -- ",
    "¥' OR 1=1 -- ",
    "ソ' OR 1=1 -- ",
    "\u20a9' OR 1=1 -- ",
    "縗' OR 1=1 /*",
    "é\\",
    "%s %(x)s %% %",
    ":name ? $1 ::int",
    "$$ $tag$ E'\\''",
    "/* */ -- #",
    "\r\n\x1a\x08\t",
    "`; --",
    "{d '2020-01-01'}",
]

THINGS = sa.Table(
    "things",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("v", sa.String(100)),
)


async def check_values(
    connection: fastdb.Connection | fastdb.Database, values: list[str], raw: str
) -> None:
    """Write and find `values` by every way in which a value reaches a statement."""
    await connection.execute("DELETE FROM things")
    for number, value in enumerate(values, 1):
        await connection.execute(raw, {"id": number, "v": value})
        await connection.execute(THINGS.insert(), {"id": number + 1000, "v": value})
    rows = [{"id": number + 2000, "v": value} for number, value in enumerate(values, 1)]
    await connection.execute_many(raw, rows)
    rows = [{"id": number + 3000, "v": value} for number, value in enumerate(values, 1)]
    await connection.execute_many(THINGS.insert(), rows)
    for number, value in enumerate(values, 1):
        wanted = [number, number + 1000, number + 2000, number + 3000]
        column = THINGS.c.v
        literal = sa.bindparam("x", value, sa.String, literal_execute=True)
        escaped = "".join(f"\\{each}" if each in "%_\\" else each for each in value)
        for condition in (
            column == value,
            column == literal,
            column.in_([value]),
            column.in_(sa.bindparam("y", [value], expanding=True, literal_execute=True)),
            column.startswith(value, autoescape=True),
            column.like(escaped, escape="\\"),
        ):
            query = sa.select(THINGS.c.id).where(condition).order_by(THINGS.c.id).limit(1000)
            found = [row.id for row in await connection.fetch_all(query)]
            if condition.right is literal or "LIKE" not in str(condition):
                assert found == wanted, (value, str(condition))
            else:
                assert set(wanted) <= set(found), (value, str(condition))
        rows_of = "SELECT id, v FROM things WHERE v = :v ORDER BY id"
        found_rows = await connection.fetch_all(rows_of, {"v": value})
        assert [tuple(row) for row in found_rows] == [(each, value) for each in wanted]
        assert await connection.fetch_val(sa.select(literal)) == value
        async for row in connection.iterate(rows_of, {"v": value}):
            assert row.v == value


RAW = "INSERT INTO things (id, v) VALUES (:id, :v)"


async def make_things(database: fastdb.Database) -> None:
    await database.execute(
        "CREATE TABLE things (id INTEGER PRIMARY KEY, v VARCHAR(100)"
        + (" CHARACTER SET utf8mb4 COLLATE utf8mb4_bin)" if is_mysql(database) else ")")
    )


def is_mysql(database: fastdb.Database) -> bool:
    return database.url.dialect in ("mysql", "mariadb")


async def test_values_stay_values(database: fastdb.Database) -> None:
    await make_things(database)
    await check_values(database, EVIL, RAW)


MODES = ["", "NO_BACKSLASH_ESCAPES", "ANSI_QUOTES", "ANSI,NO_BACKSLASH_ESCAPES", "TRADITIONAL"]


@pytest.mark.parametrize("before", MODES[:2])
@pytest.mark.parametrize("mode", MODES)
async def test_values_stay_values_in_every_sql_mode(mysql_url: str, before: str, mode: str) -> None:
    """The mode is changed in a session; what was compiled before it serves that session, too."""
    async with fastdb.Database(mysql_url, sql_mode=before, max_size=1) as database:
        await make_things(database)
        await check_values(database, EVIL[:6], RAW)
        async with database.connection() as connection:
            await connection.execute("SET sql_mode = :mode", {"mode": mode})
            await check_values(connection, EVIL, RAW)
        await check_values(database, EVIL[:6], RAW)


@pytest.mark.parametrize("mode", ["", "NO_BACKSLASH_ESCAPES"])
async def test_a_batch_that_changes_the_sql_mode(mysql_url: str, mode: str) -> None:
    """What one statement of a batch changes holds for the next one's literals."""
    async with fastdb.Database(mysql_url, sql_mode=mode) as database, database.connection() as one:
        other = "NO_BACKSLASH_ESCAPES" if not mode else ""
        values = [{"m": other, "v": "x"}, {"m": mode, "v": "\\' OR 1=1 -- "}]
        await one.execute_many("SET sql_mode = :m, @kept = :v", values)
        assert await one.fetch_val("SELECT @kept") == "\\' OR 1=1 -- "


CHARSETS = ["utf8mb3", "latin1", "latin2", "cp1251", "euckr", "gb2312", "ascii", "koi8r"]
UNSAFE = ["big5", "cp932", "eucjpms", "gbk", "sjis", "swe7", "ujis"]


@pytest.mark.parametrize("how", ["SET NAMES", "SET CHARACTER SET", "init", "charset", "command"])
@pytest.mark.parametrize("charset", CHARSETS)
async def test_values_stay_values_in_every_charset(mysql_url: str, charset: str, how: str) -> None:
    """A value is stored as it is, or refused where the charset has no such character."""

    async def init(raw: Any) -> None:
        async with raw.cursor() as cursor:
            await cursor.execute(f"SET NAMES {charset}")

    options: dict[str, Any] = {}
    if how == "init":
        options["init"] = init
    if how == "charset":
        options["charset"] = charset
    if how == "command":
        options["init_command"] = f"SET NAMES {charset}"
    async with fastdb.Database(mysql_url) as database:
        await make_things(database)
    async with fastdb.Database(mysql_url, **options) as database:
        async with database.connection() as connection:
            if how.startswith("SET"):
                await connection.execute(f"{how} {charset}")
            stored = 0
            for value in EVIL:
                try:
                    await check_values(connection, [value], RAW)
                except fastdb.DataError as error:
                    assert "cannot be sent in the connection's charset" in str(error)  # noqa: PT017
                else:
                    stored += 1
            assert stored >= 12
            if how.startswith("SET"):
                await connection.execute("SET NAMES utf8mb4")
                await check_values(connection, EVIL, RAW)
        if how.startswith("SET"):  # the session was reset, and with it what we know of it
            await check_values(database, EVIL, RAW)


@pytest.mark.parametrize("how", ["SET NAMES", "SET CHARACTER SET", "init", "charset", "command"])
@pytest.mark.parametrize("charset", UNSAFE)
async def test_charsets_in_which_values_could_be_sql_are_refused(
    mysql_url: str, charset: str, how: str
) -> None:
    async def init(raw: Any) -> None:
        async with raw.cursor() as cursor:
            await cursor.execute(f"SET NAMES {charset}")

    async with fastdb.Database(mysql_url) as database:
        await make_things(database)
        if how.startswith("SET"):
            async with database.connection() as connection:
                with pytest.raises(fastdb.NotSupportedError, match=charset):
                    await connection.execute(f"{how} {charset}")
                await check_values(connection, EVIL, RAW)
            await check_values(database, EVIL, RAW)
            return
    options: dict[str, Any] = {"init_command": f"SET NAMES {charset}"}
    if how != "command":
        options = {how: init if how == "init" else charset}
    with pytest.raises(fastdb.Error, match=f"{charset}.*cannot be used"):
        await fastdb.Database(mysql_url, **options).connect()


@pytest.mark.parametrize("charset", ["gbk", "big5", "sjis", "cp932"])
async def test_a_charset_that_is_changed_unseen(mysql_url: str, charset: str) -> None:
    """On a session that may have been changed, no byte of a value can swallow a backslash."""
    async with fastdb.Database(mysql_url) as database:
        await make_things(database)
        await database.execute("INSERT INTO things (id, v) VALUES (1, 'kept')")
        async with database.connection() as connection:
            raw: Any = connection.raw_connection
            await raw.query(f"SET NAMES {charset}")
            for value in EVIL:
                found: list[Any] = []
                try:
                    found = await connection.fetch_all(
                        "SELECT id FROM things WHERE v = :v", {"v": value}
                    )
                    found += await connection.fetch_all(
                        sa.select(THINGS.c.id).where(
                            THINGS.c.v == sa.bindparam("x", value, sa.String, literal_execute=True)
                        )
                    )
                except fastdb.DatabaseError:
                    pass  # the server does not take the bytes, or compare them
                assert found == [], value
            raw._encoding = charset
            with pytest.raises(fastdb.OptionError, match=charset):
                await connection.fetch_all("SELECT :v", {"v": "x"})


def test_no_charset_writes_a_letter_as_a_sign() -> None:
    """Bytes below 128 are ASCII in each charset that is taken, and nothing else is."""
    from pymysql.charset import charset_by_name

    from fastdb.drivers.mysql import MySQLDriver

    driver = MySQLDriver(fastdb.DatabaseURL("mysql://localhost/db"), {})
    taken = 0
    for name in sorted({charset_by_name("utf8mb4").name, *CHARSETS, *UNSAFE, *_charsets()}):
        try:
            encoding = driver.encoding_of(name)
        except fastdb.OptionError:
            continue
        taken += 1
        for number in range(0x10000):
            letter = chr(number).encode(encoding, "ignore")
            if number < 128:
                assert letter == bytes([number]), name
            else:
                assert all(byte > 127 for byte in letter), (name, number)
    assert taken >= len(CHARSETS)
    assert all(name in _charsets() for name in UNSAFE)


def _charsets() -> list[str]:
    from pymysql import charset

    return sorted({each.name for each in charset._charsets._by_id.values()})


@pytest.mark.parametrize("setting", ["on", "off"])
async def test_values_stay_values_without_standard_strings(
    postgresql_url: str, setting: str
) -> None:
    async with fastdb.Database(postgresql_url) as database:
        await make_things(database)
        await check_values(database, EVIL[:6], RAW)
        async with database.connection() as connection:
            await connection.execute(f"SET standard_conforming_strings = {setting}")
            await connection.execute("SET escape_string_warning = off")
            await check_values(connection, EVIL, RAW)


@pytest.mark.parametrize("encoding", ["LATIN1", "BIG5", "GBK", "UHC", "EUC_KR"])
async def test_values_stay_values_in_every_client_encoding(
    postgresql_url: str, encoding: str
) -> None:
    async with fastdb.Database(postgresql_url) as database:
        await make_things(database)
        await database.execute("INSERT INTO things (id, v) VALUES (1, 'kept')")
        async with database.connection() as connection:
            await connection.execute(f"SET client_encoding = '{encoding}'")
            for value in EVIL:
                try:
                    found = await connection.fetch_all(
                        "SELECT id FROM things WHERE v = :v", {"v": value}
                    )
                    assert await connection.fetch_val("SELECT :v || ''", {"v": value}) == value
                except fastdb.DatabaseError:
                    continue
                assert found == []


# -- pickles


async def test_a_pickled_record_carries_data_only(database: fastdb.Database) -> None:
    record = await database.fetch_one("SELECT 1 AS a, 'x' AS b")
    assert record is not None
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        data = pickle.dumps(record, protocol)
        named = []
        strings: list[str] = []
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name == "GLOBAL":
                named.append(str(argument))
            if "UNICODE" in opcode.name:
                strings.append(str(argument))
            if opcode.name == "STACK_GLOBAL":
                named.append(" ".join(strings[-2:]))
        assert len(named) == 1, named
        assert named[0].startswith("fastdb."), named
        assert pickle.loads(data) == record


class OnlyRecords(pickle.Unpickler):
    """Read no other class or function than what a record's pickle names."""

    def find_class(self, module: str, name: str) -> Any:
        if not module.startswith("fastdb.") or name != "restore_record":
            raise pickle.UnpicklingError(f"{module}.{name}")
        return super().find_class(module, name)


@pytest.mark.parametrize(
    ("names", "values"),
    [
        (("os.system",), ("echo",)),
        (("__class__", "__reduce__", "keys"), (1, 2, 3)),
        ("ab", (1, 2)),
        (("a",), ()),
        ((), (1,)),
        ((b"a",), (1,)),
        (("a",), "x"),
        (None, None),
        ((("a",),), ((1,),)),
        (("a",), {"a": 1}),
    ],
)
async def test_a_forged_pickle_makes_a_record_or_fails(
    database: fastdb.Database, names: Any, values: Any
) -> None:
    record = await database.fetch_one("SELECT 1 AS a, 'x' AS b")
    assert record is not None
    function = record.__reduce__()[0]

    class Forged:
        def __reduce__(self) -> Any:
            return function, (names, values)

    assert OnlyRecords(io.BytesIO(pickle.dumps(record))).load() == record
    data = pickle.dumps([Forged()])
    try:
        (made,) = OnlyRecords(io.BytesIO(data)).load()
    except (TypeError, ValueError, fastdb.Error):
        return
    assert type(made).__name__ == "Record"
    assert made.keys() == list(names)
    assert tuple(made) == tuple(values)
