from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy.dialects.postgresql import psycopg2
from sqlalchemy.engine import make_url

import fastdb.url_sqlalchemy
from fastdb.exceptions import InterfaceError, InvalidURLError, URLTypeError
from fastdb.url import DatabaseURL
from fastdb.url_secrets import concealed

SQLALCHEMY_20 = sqlalchemy.__version__.startswith("2.0.")


# -- reading


def test_every_part_of_a_url() -> None:
    url = DatabaseURL("postgresql+asyncpg://user:p%40ss@localhost:123/mydb?min_size=1&ssl=true")
    assert url.scheme == "postgresql+asyncpg"
    assert url.dialect == "postgresql"
    assert url.driver == "asyncpg"
    assert url.userinfo == b"user:p%40ss"
    assert url.username == "user"
    assert url.password == "p@ss"
    assert url.hostname == "localhost"
    assert url.port == 123
    assert url.hosts == [("localhost", 123)]
    assert url.netloc == "user:p%40ss@localhost:123"
    assert url.database == "mydb"
    assert url.options == {"min_size": "1", "ssl": "true"}
    assert url.components.scheme == "postgresql+asyncpg"
    assert url.components.netloc == url.netloc
    assert url.components.path == "/mydb"
    assert url.components.query == "min_size=1&ssl=true"
    assert url.components.fragment == ""


def test_parts_that_are_absent() -> None:
    url = DatabaseURL("postgresql://")
    assert (url.driver, url.netloc, url.database) == ("", "", "")
    assert (url.userinfo, url.username, url.password) == (None, None, None)
    assert (url.hostname, url.port, url.hosts, url.options) == (None, None, [], {})


@pytest.mark.parametrize(
    ("text", "database"),
    [
        ("sqlite://", ""),
        ("sqlite:///", ""),
        ("sqlite:///:memory:", ":memory:"),
        ("sqlite:///rel.db", "rel.db"),
        ("sqlite:///dir/rel.db?x=1", "dir/rel.db"),
        ("sqlite:////abs/file.db", "/abs/file.db"),
        ("sqlite:///C:\\dir\\x.db", "C:\\dir\\x.db"),
        ("sqlite:///file::memory:?cache=shared", "file::memory:"),
        ("sqlite:///my%20file%3F.db", "my file?.db"),
        ("sqlite:///a#1.db", "a#1.db"),
        ("sqlite:///a@b.db", "a@b.db"),
        ("postgresql:///db", "db"),
        ("mysql://h/a%2Fb", "a/b"),
    ],
)
def test_database(text: str, database: str) -> None:
    url = DatabaseURL(text)
    assert url.database == database
    assert url.hostname is None or url.hostname == "h"


@pytest.mark.parametrize(
    ("netloc", "username", "password"),
    [
        ("h", None, None),
        ("user@h", "user", None),
        ("user:@h", "user", ""),
        (":pw@h", None, "pw"),
        ("@h", None, None),
        ("user:p@ss@h", "user", "p@ss"),
        ("user@server:p@h", "user@server", "p"),
        ("user:a:b@h", "user", "a:b"),
        ("user:a#b@h", "user", "a#b"),
        ("user:100%@h", "user", "100%"),
        ("user:%25%40%3A%2F%3F%23@h", "user", "%@:/?#"),
        ("%C3%A9:%C3%A9@h", "é", "é"),
        ("user:a+b@h", "user", "a+b"),
    ],
)
def test_username_and_password(netloc: str, username: str | None, password: str | None) -> None:
    url = DatabaseURL(f"postgresql://{netloc}/db")
    assert (url.username, url.password, url.hostname) == (username, password, "h")
    assert url.database == "db"
    raw = netloc.rpartition("@")[0]
    assert url.userinfo == (raw.encode() if raw else None)


def test_username_and_password_from_the_query() -> None:
    url = DatabaseURL("postgresql:///db?user=me&password=a%26b")
    assert (url.username, url.password, url.userinfo) == ("me", "a&b", None)
    assert DatabaseURL("mysql:///db?username=me").username == "me"
    assert DatabaseURL("mysql://you:x@/db?username=me&password=y").username == "you"


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("postgresql://[::1]:5432/db", [("::1", 5432)]),
        ("postgresql://u:p@[2001:db8::1]/db", [("2001:db8::1", None)]),
        ("postgresql://[fe80::1%25eth0]/db", [("fe80::1%eth0", None)]),
        ("postgresql://[fe80::1%eth0]/db", [("fe80::1%eth0", None)]),
        ("postgresql://a:5432,b:5433/db", [("a", 5432), ("b", 5433)]),
        ("postgresql://u:p@a,[::1]:1,c/db", [("a", None), ("::1", 1), ("c", None)]),
        ("postgresql://a,b/db?port=7", [("a", 7), ("b", 7)]),
        ("postgresql:///db?host=a:1&host=b:2", [("a", 1), ("b", 2)]),
        ("postgresql:///db?host=a,b&port=1,2", [("a", 1), ("b", 2)]),
        ("postgresql:///db?host=::1&port=1", [("::1", 1)]),
        ("postgresql:///db?host=[::1]:2", [("::1", 2)]),
        ("postgresql://u@%2Fvar%2Frun/db", [("/var/run", None)]),
        ("postgresql://u@%2Fvar%2Frun:5433/db", [("/var/run", 5433)]),
        ("postgresql://u@/db?host=/var/run/postgresql", [("/var/run/postgresql", None)]),
        ("postgresql://u@:5433/db?host=/var/run", [("/var/run", 5433)]),
        ("mysql:///db?unix_sock=/tmp/x", [("/tmp/x", None)]),
        ("mysql://u@/db?unix_socket=/x", []),
        ("mysql://real/db?host=other", [("real", None)]),
        ("mysql://host:/db", [("host", None)]),
        ("mysql://DB.Example.com/db", [("DB.Example.com", None)]),
    ],
)
def test_hosts(text: str, hosts: list[tuple[str, int | None]]) -> None:
    url = DatabaseURL(text)
    assert url.hosts == hosts
    assert url.hostname == (hosts[0][0] if hosts else None)
    assert url.port == (hosts[0][1] if hosts else None)
    assert str(url) == text


def test_port_without_host() -> None:
    assert DatabaseURL("postgresql://:5433/db").port == 5433
    assert DatabaseURL("postgresql:///db?port=5434").port == 5434
    assert DatabaseURL("postgresql://:5433/db").hostname is None


def test_options_keep_blank_values_and_the_last_of_equal_names() -> None:
    url = DatabaseURL("mysql://h/db?a=1&b=&c&a=2&&d=x+y%2B")
    assert url.options == {"a": "2", "b": "", "c": "", "d": "x y+"}


def test_options_are_a_copy() -> None:
    url = DatabaseURL("mysql://h/db?a=1")
    url.options["a"] = "2"
    url.hosts.clear()
    assert (url.options, url.hosts) == ({"a": "1"}, [("h", None)])


def test_scheme_is_read_in_lower_case_and_kept_as_written() -> None:
    url = DatabaseURL("PostgreSQL+AsyncPG://h/db")
    assert (url.scheme, url.dialect, url.driver) == ("postgresql+asyncpg", "postgresql", "asyncpg")
    assert str(url.replace(database="x")) == "PostgreSQL+AsyncPG://h/x"
    assert str(DatabaseURL("postgres://h/db")) == "postgres://h/db"


def test_white_space_around_is_dropped() -> None:
    assert str(DatabaseURL(" sqlite:///x.db\r\n")) == "sqlite:///x.db"


# -- what is no URL


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("hunter2", "does not begin with a scheme"),
        ("user:hunter2@host/db", "does not begin with a scheme"),
        ("postgresql:user:hunter2@host/db", "does not begin with a scheme"),
        ("://user:hunter2@host/db", "does not begin with a scheme"),
        ("1postgresql://user:hunter2@host/db", "does not begin with a scheme"),
        ("postgresql://user:hunter2@host:port/db", "cannot read the host and port"),
        ("postgresql://user:hunter2@host:-1/db", "cannot read the host and port"),
        ("postgresql://user:hunter2@host:65536/db", "a number from 0 to 65535"),
        ("postgresql://user:hunter2@host:٣/db", "cannot read the host and port"),
        ("postgresql://user:hunter2@::1/db", r"an IPv6 address stands in \[brackets\]"),
        ("postgresql://user:hunter2@[::1/db", r"an IPv6 address stands in \[brackets\]"),
        ("postgresql://user:hunter2/x@host/db", "must be percent-quoted"),
        ("postgresql://user:hunter2?x@host/db", "must be percent-quoted"),
        ("postgresql://user:12/hunter2@host/db", "must be percent-quoted"),
        ("postgresql://user:hunter2@host/db?port=x", "cannot read the host and port"),
        ("postgresql://user:hunter2@a,b,c/db?port=1,2", "3 hosts but 2 ports"),
        ("postgresql://user:hunter2@host/d\nb", "control character"),
        ("sqlite:hunter2.db", "'sqlite:///relative.db' or 'sqlite:////absolute.db'"),
        ("sqlite:/hunter2.db", "'sqlite:///relative.db' or 'sqlite:////absolute.db'"),
        ("SQLite+aiosqlite:hunter2.db", "does not begin.*'sqlite:///relative.db'"),
        ("mysql:hunter2", "does not begin.*'postgresql://user"),
        ("sqlite://hunter2.db", "an SQLite URL has no host"),
        ("sqlite://:memory:", "an SQLite URL has no host"),
    ],
)
def test_malformed_urls_are_refused_without_being_quoted(text: str, message: str) -> None:
    with pytest.raises(InvalidURLError, match=message) as caught:
        DatabaseURL(text)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, InterfaceError)
    assert "hunter2" not in repr(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, "not None; is a variable of the environment not set?"),
        (b"sqlite://", "not 'bytes'"),
        (("sqlite", "x"), "not 'tuple'"),
        (42, "not 'int'"),
    ],
)
def test_other_types_are_refused(value: Any, found: str) -> None:
    with pytest.raises(URLTypeError) as caught:
        DatabaseURL(value)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, InvalidURLError)
    assert str(caught.value).endswith(found)


# -- as a value


def test_made_of_another() -> None:
    url = DatabaseURL("mysql://u:p@h/db")
    assert DatabaseURL(url) == url


def test_equal_to_its_text_and_hashed_alike() -> None:
    text = "postgresql://u:p@h/db"
    url = DatabaseURL(text)
    assert url == DatabaseURL(text)
    assert url == text
    assert text == url
    assert url != DatabaseURL("postgresql://u:p@h/other")
    assert url != "postgresql://u:********@h/db"
    assert url != 1
    assert len({url, text, DatabaseURL(text)}) == 1


def test_immutable() -> None:
    url = DatabaseURL("postgresql://h/db")
    with pytest.raises(AttributeError, match=r"immutable; use replace\(database=\.\.\.\)"):
        url.database = "x"  # type: ignore[misc]
    with pytest.raises(AttributeError, match="immutable"):
        url._text = "x"
    with pytest.raises(AttributeError, match="immutable"):
        del url._text
    with pytest.raises(AttributeError, match="immutable"):
        url.extra = 1


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle(protocol: int) -> None:
    url = DatabaseURL("postgresql://u:p@h/db")
    again = pickle.loads(pickle.dumps(url, protocol))
    assert again == url
    assert again.hosts == url.hosts


def test_copy() -> None:
    url = DatabaseURL("postgresql://u:p@h/db")
    assert copy.copy(url) == copy.deepcopy(url) == url


class TenantURL(DatabaseURL):
    pass


def test_subclasses_are_kept() -> None:
    url = TenantURL("postgresql://u:p@h/db")
    assert type(url.replace(database="x")) is TenantURL
    assert type(copy.copy(url)) is TenantURL
    assert repr(url) == "TenantURL('postgresql://u:********@h/db')"


# -- hiding the password


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("mysql://u:hunter2@h/db", "mysql://u:********@h/db"),
        ("mysql://:hunter2@h/db", "mysql://:********@h/db"),
        ("mysql://u:hunter2@hunter2@h/db", "mysql://u:********@h/db"),
        ("mysql:///db?password=hunter2&a=1", "mysql:///db?password=********&a=1"),
        ("mysql:///db?a=1&PASSWD=hunter2", "mysql:///db?a=1&PASSWD=********"),
        ("mysql:///db?pass%77ord=hunter2", "mysql:///db?pass%77ord=********"),
        ("mysql:///db?sslpassword=hunter2", "mysql:///db?sslpassword=********"),
        ("mysql://u:hunter2@/db?password=hunter2", "mysql://u:********@/db?password=********"),
        ("mysql://u:@h/db?password=", "mysql://u:@h/db?password="),
        ("mysql://u@h/db?a=1", "mysql://u@h/db?a=1"),
        ("sqlite:///x.db?", "sqlite:///x.db?"),
    ],
)
def test_obscure_password(text: str, masked: str) -> None:
    url = DatabaseURL(text)
    assert url.obscure_password == masked
    assert repr(url) == f"DatabaseURL({masked!r})"
    assert str(url) == text


# -- replace


URL = "postgresql+asyncpg://user:p%40ss@host:5432/db%20x?a=%2f&b=x+y"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, URL),
        ({"database": "new"}, URL.replace("db%20x", "new")),
        ({"database": "a?b#c%d@e"}, URL.replace("db%20x", "a%3Fb%23c%25d%40e")),
        ({"database": Path("/abs/x")}, URL.replace("db%20x", "/abs/x")),
        ({"database": None}, URL.replace("/db%20x", "")),
        ({"path": "/raw%20"}, URL.replace("/db%20x", "/raw%20")),
        ({"path": "raw"}, URL.replace("/db%20x", "/raw")),
        ({"path": ""}, URL.replace("/db%20x", "")),
        ({"hostname": "other"}, URL.replace("host", "other")),
        ({"hostname": "::1"}, URL.replace("host", "[::1]")),
        ({"hostname": "/var/run"}, URL.replace("host", "%2Fvar%2Frun")),
        ({"hostname": None}, URL.replace("host", "")),
        ({"port": 1}, URL.replace("5432", "1")),
        ({"port": "1"}, URL.replace("5432", "1")),
        ({"port": None}, URL.replace(":5432", "")),
        ({"hostname": "x", "port": None}, URL.replace("host:5432", "x")),
        ({"hosts": [("a", 1), ("::1", None)]}, URL.replace("host:5432", "a:1,[::1]")),
        ({"hosts": None}, URL.replace("host:5432", "")),
        ({"username": "a:b@c"}, URL.replace("user", "a%3Ab%40c")),
        ({"username": None}, URL.replace("user", "")),
        ({"password": "@:/?#% é"}, URL.replace("p%40ss", "%40%3A%2F%3F%23%25%20%C3%A9")),
        ({"password": ""}, URL.replace("p%40ss", "")),
        ({"password": None}, URL.replace(":p%40ss", "")),
        ({"username": None, "password": None}, URL.replace("user:p%40ss@", "")),
        ({"userinfo": "x:%41"}, URL.replace("user:p%40ss", "x:%41")),
        ({"userinfo": b"x"}, URL.replace("user:p%40ss", "x")),
        ({"userinfo": None}, URL.replace("user:p%40ss@", "")),
        ({"netloc": "a:b@c:1"}, URL.replace("user:p%40ss@host:5432", "a:b@c:1")),
        ({"netloc": "c:1", "port": 2}, URL.replace("user:p%40ss@host:5432", "c:2")),
        ({"dialect": "mysql"}, URL.replace("postgresql", "mysql")),
        ({"driver": "psycopg2"}, URL.replace("asyncpg", "psycopg2")),
        ({"driver": None}, URL.replace("+asyncpg", "")),
        ({"driver": ""}, URL.replace("+asyncpg", "")),
        ({"dialect": "mysql", "driver": "pymysql"}, URL.replace(URL[:18], "mysql+pymysql")),
        ({"scheme": "postgres"}, URL.replace(URL[:18], "postgres")),
        ({"query": "c=%3d"}, URL.replace("a=%2f&b=x+y", "c=%3d")),
        ({"query": ""}, URL.replace("?a=%2f&b=x+y", "")),
        ({"options": None}, URL.replace("?a=%2f&b=x+y", "")),
        ({"options": {"c": "&=+ /"}}, URL.replace("a=%2f&b=x+y", "c=%26%3D%2B%20/")),
        ({"options": {"c": 1, "d": True}}, URL.replace("a=%2f&b=x+y", "c=1&d=true")),
        ({"options": {"c": ["1", "2"]}}, URL.replace("a=%2f&b=x+y", "c=1&c=2")),
    ],
)
def test_replace(changes: dict[str, Any], expected: str) -> None:
    url = DatabaseURL(URL)
    assert str(url.replace(**changes)) == expected
    assert str(url) == URL


@pytest.mark.parametrize(
    ("text", "changes", "expected"),
    [
        ("mysql://h/db", {"password": "pw"}, "mysql://:pw@h/db"),
        ("mysql://h/db", {"username": "me"}, "mysql://me@h/db"),
        ("mysql://u:@h/db", {"username": "me"}, "mysql://me:@h/db"),
        ("mysql://h/db", {"driver": "pymysql"}, "mysql+pymysql://h/db"),
        ("mysql:///db?user=a&x=1", {"username": "b"}, "mysql://b@/db?x=1"),
        ("mysql:///db?password=a&x=1", {"password": None}, "mysql:///db?x=1"),
        ("mysql:///db?user=u&password=a", {"password": "b"}, "mysql://:b@/db?user=u"),
        ("mysql:///db?host=/s&x=1", {"hostname": "h"}, "mysql://h/db?x=1"),
        ("mysql:///db?host=/s&port=1", {"port": 2}, "mysql://%2Fs:2/db"),
        ("postgresql://a:1,b:2/db", {"hostname": "c"}, "postgresql://c:1/db"),
        ("postgresql://a:1,b:2/db", {"port": 3}, "postgresql://a:3,b:3/db"),
        ("postgresql://a:1,b:2/db", {"database": "x"}, "postgresql://a:1,b:2/x"),
        ("postgresql:///db", {"port": 3}, "postgresql://:3/db"),
        ("sqlite:///x.db", {"database": "/tmp/y.db"}, "sqlite:////tmp/y.db"),
        ("sqlite:////tmp/y.db", {"database": ":memory:"}, "sqlite:///:memory:"),
        ("sqlite:///x.db", {"database": ""}, "sqlite://"),
        ("mysql://h", {"database": "db"}, "mysql://h/db"),
    ],
)
def test_replace_where_parts_are_absent_or_in_the_query(
    text: str, changes: dict[str, Any], expected: str
) -> None:
    url = DatabaseURL(text).replace(**changes)
    assert str(url) == expected
    for name, value in changes.items():
        assert getattr(url, name) == value


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"fragment": "x"}, URLTypeError, "takes no keyword 'fragment'; it takes 'scheme'"),
        ({"host": "x"}, URLTypeError, "takes no keyword 'host'"),
        ({"scheme": "a", "driver": "b"}, URLTypeError, "'scheme' or 'driver', not both"),
        ({"database": "a", "path": "b"}, URLTypeError, "'path' or 'database', not both"),
        ({"options": {}, "query": ""}, URLTypeError, "'query' or 'options', not both"),
        ({"password": 12345}, URLTypeError, "password takes a str or None, not 'int'"),
        ({"port": 1.5}, URLTypeError, "port takes an int or None, not 'float'"),
        ({"port": True}, URLTypeError, "port takes an int or None, not 'bool'"),
        ({"port": -1}, InvalidURLError, "-1 is no port"),
        ({"port": "x"}, InvalidURLError, "'x' is no port"),
        ({"port": 70000}, InvalidURLError, "70000 is no port"),
        ({"hosts": "ab:"}, URLTypeError, r"an iterable of \(host, port\) tuples"),
        ({"hosts": 1}, URLTypeError, r"an iterable of \(host, port\) tuples"),
        ({"options": "a=1"}, URLTypeError, "options takes a mapping, not 'str'"),
        ({"options": {"a": None}}, URLTypeError, "the option 'a' of a URL takes a str"),
        ({"netloc": "a/b"}, InvalidURLError, "netloc is taken as it is; quote the '/' in it"),
        ({"userinfo": "a/b"}, InvalidURLError, "userinfo is taken as it is; quote the '/' in it"),
        ({"path": "/a?b"}, InvalidURLError, r"path is taken as it is; quote the '\?' in it"),
        ({"query": "a\nb"}, InvalidURLError, "control character"),
        ({"scheme": ""}, InvalidURLError, "'' is no scheme"),
        ({"scheme": "mysql://h"}, InvalidURLError, "'mysql://h' is no scheme"),
        ({"driver": "a/b"}, InvalidURLError, "is no scheme"),
        ({"dialect": "sqlite"}, InvalidURLError, "an SQLite URL has no host"),
        ({"dialect": "a+b"}, InvalidURLError, r"use replace\(scheme='a\+b'\)"),
    ],
)
def test_replace_refuses(
    changes: dict[str, Any], error: type[InvalidURLError], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        DatabaseURL("postgresql://user:hunter2@host/db").replace(**changes)
    assert "hunter2" not in str(caught.value)
    assert "12345" not in str(caught.value)


@pytest.mark.parametrize("name", ["pymysql", "psycopg2", "asyncpg", "aiomysql", "aiosqlite"])
def test_a_driver_given_as_dialect_names_the_right_keyword(name: str) -> None:
    with pytest.raises(InvalidURLError, match=rf"use replace\(driver='{name}'\)"):
        DatabaseURL("mysql://h/db").replace(dialect=name)


# -- properties


# Surrogates that stand for single bytes round-trip; others are no text.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
names = texts.filter(bool)
ports = st.none() | st.integers(0, 65535)
hostnames = (
    st.sampled_from(["localhost", "::1", "fe80::1%eth0", "/var/run/x", "db.example.com", "a,b:c"])
    | names
)
parts = st.fixed_dictionaries(
    {
        "dialect": st.sampled_from(["postgresql", "postgres", "mysql", "mariadb"]),
        "driver": st.sampled_from(["", "asyncpg", "aiomysql"]),
        "username": st.none() | names,
        "password": st.none() | texts,
        "hosts": st.lists(st.tuples(hostnames, ports), max_size=3),
        "database": texts,
        "options": st.dictionaries(
            names.filter(lambda name: name not in fastdb.url.URL_OPTIONS), texts, max_size=3
        ),
    }
)
EMPTY = DatabaseURL("x://")


@given(parts)
def test_parts_are_read_as_they_were_built(parts: dict[str, Any]) -> None:
    url = EMPTY.replace(**parts)
    assert {name: getattr(url, name) for name in parts} == parts
    assert str(DatabaseURL(str(url))) == str(url)
    assert pickle.loads(pickle.dumps(url)) == url


CHANGEABLE = ["dialect", "username", "password", "hosts", "database", "options"]


@given(parts, parts, st.sets(st.sampled_from(CHANGEABLE)))
def test_replace_keeps_the_rest(
    old: dict[str, Any], new: dict[str, Any], changed: set[str]
) -> None:
    changes = {name: new[name] for name in changed}
    url = EMPTY.replace(**old).replace(**changes)
    assert {name: getattr(url, name) for name in old} == old | changes


raw = st.text("abz09%@:/?#[]&=+,. é~\\", max_size=30)


@given(st.sampled_from(["postgresql", "mysql+aiomysql", "sqlite"]), raw)
@example("postgresql", "/ ?")
def test_valid_text_is_kept_and_invalid_refused(scheme: str, rest: str) -> None:
    text = f"{scheme}://{rest}".strip()
    try:
        url = DatabaseURL(text)
    except InvalidURLError:
        return
    assert str(url) == text
    assert url.replace() == url
    again = url.replace(hosts=url.hosts or [("", url.port)])
    assert (again.hosts, again.port, again.username, again.password, again.database) == (
        url.hosts,
        url.port,
        url.username,
        url.password,
        url.database,
    )


@given(st.text("xyz@:/?#%&=+", min_size=3, max_size=12))
def test_no_password_is_shown(password: str) -> None:
    secret = f"S3{password}cret"
    url = EMPTY.replace(dialect="mysql", password=secret, options={"password": secret})
    assert url.password == secret
    for shown in (repr(url), url.obscure_password):
        assert "S3" not in shown
        assert "cret" not in shown
    # Put in without quoting, it may be read otherwise, but an error never shows it.
    try:
        DatabaseURL(f"mysql://user:{secret}@host/db")
    except InvalidURLError as error:
        assert "S3" not in str(error)  # noqa: PT017
        assert "cret" not in str(error)  # noqa: PT017


def test_bytes_that_are_no_utf8() -> None:
    name = os.fsdecode(b"/tmp/\xff.db")
    url = DatabaseURL("sqlite://").replace(database=name)
    assert str(url) == "sqlite:////tmp/%FF.db"
    assert os.fsencode(url.database) == b"/tmp/\xff.db"


# -- SQLAlchemy


def test_importing_takes_no_sqlalchemy() -> None:
    code = "import fastdb.url, sys; fastdb.url.DatabaseURL('sqlite://'); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert b"sqlalchemy" not in loaded.stdout.split()
    assert b"fastdb.url_sqlalchemy" not in loaded.stdout.split()


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ({"drivername": "sqlite"}, "sqlite://"),
        ({"drivername": "sqlite", "database": "/a b?.db"}, "sqlite:////a%20b%3F.db"),
        (
            {
                "drivername": "postgresql+asyncpg",
                "username": "u@",
                "password": "p/w",
                "host": "::1",
                "port": 1,
                "database": "db",
                "query": {"host": ("a:1", "b:2"), "x": "é"},
            },
            "postgresql+asyncpg://u%40:p%2Fw@[::1]:1/db?host=a:1&host=b:2&x=%C3%A9",
        ),
        ({"drivername": "mysql", "host": "a,b"}, "mysql://a,b"),
    ],
)
def test_made_of_a_sqlalchemy_url(parts: dict[str, Any], text: str) -> None:
    url = DatabaseURL(sqlalchemy.URL.create(**parts))
    assert str(url) == text
    if parts["drivername"] != "mysql" and "query" not in parts:
        assert url.sqlalchemy_url == sqlalchemy.URL.create(**parts)


def test_sqlalchemy_url() -> None:
    text = "postgresql+asyncpg://u%40:p%2Fw%25@[::1]:1/db?x=1&y=a+b"
    url = DatabaseURL(text).sqlalchemy_url
    assert isinstance(url, sqlalchemy.URL)
    assert url == make_url(text)
    assert DatabaseURL(url).sqlalchemy_url == url


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("postgres://u:p@h:1/db", {"user": "u", "password": "p", "host": "h", "port": 1}),
        ("postgresql://:p@h/db", {"password": "p", "host": "h"}),
        ("postgresql:///db?user=u&password=p", {"user": "u", "password": "p"}),
        ("postgresql://u@%2Fvar%2Frun/db", {"user": "u", "host": "/var/run"}),
        ("postgresql://:5/db?host=/var/run", {"host": "/var/run", "port": "5"}),
        ("postgresql://a:1,b/db", {"host": "a,b", "port": "1,"}),
        ("postgresql://a,[::1]:2/db", {"host": "a,::1", "port": ",2"}),
        ("postgresql:///db?host=a:1&host=b:2", {"host": "a,b", "port": "1,2"}),
        ("postgresql:///db?host=h&port=7", {"host": "h", "port": 7}),
    ],
)
def test_sqlalchemy_connects_psycopg2_where_the_url_says(
    text: str, arguments: dict[str, Any]
) -> None:
    dialect: Any = psycopg2.dialect  # untyped
    dialect = dialect()
    for url in (DatabaseURL(text).sqlalchemy_url, make_url(DatabaseURL(text).sync_url)):
        assert dialect.create_connect_args(url)[1] == arguments | {"dbname": "db"}


@pytest.mark.parametrize(
    "text",
    ["mysql://u@%2Ftmp%2Fx/db", "mysql://u@/db?unix_socket=/tmp/x", "mysql://u@/db?host=/tmp/x"],
)
def test_sqlalchemy_connects_pymysql_to_a_socket(text: str) -> None:
    url = make_url(DatabaseURL(text).sync_url)
    assert url.query == {"unix_socket": "/tmp/x"}
    assert (url.drivername, url.host, url.username) == ("mysql+pymysql", None, "u")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sqlite://", "sqlite+pysqlite://"),
        ("sqlite+aiosqlite:////tmp/x.db?min_size=1", "sqlite+pysqlite:////tmp/x.db"),
        ("sqlite:///x.db?timeout=3&foreign_keys=1", "sqlite+pysqlite:///x.db?timeout=3"),
        (
            "sqlite:///file:m?mode=memory&cache=shared&max_size=2",
            "sqlite+pysqlite:///file:m?cache=shared&mode=memory&uri=true",
        ),
        (
            "mysql://u:p@h/db?charset=utf8mb4&maxsize=3&echo=1",
            "mysql+pymysql://u:p@h/db?charset=utf8mb4",
        ),
        ("mariadb+asyncmy://u@h:1/db", "mariadb+pymysql://u@h:1/db"),
        ("mysql+mysqldb://u@h/db?pool_recycle=3", "mysql+mysqldb://u@h/db"),
        (
            "mysql://h/db?ssl=true",
            "mysql+pymysql://h/db?ssl_verify_cert=true&ssl_verify_identity=true",
        ),
        ("mysql://h/db?ssl=false", "mysql+pymysql://h/db?ssl_disabled=true"),
        (
            "postgresql+psycopg://h/db?min_size=3&sslmode=require",
            "postgresql+psycopg://h/db?sslmode=require",
        ),
        ("oracle://h/db?x=1&min_size=3", "oracle://h/db?x=1"),
        ("mysql://u:p@ss@h/db?empty=", "mysql+pymysql://u:p%40ss@h/db"),
    ],
)
def test_sync_url(text: str, expected: str) -> None:
    assert make_url(DatabaseURL(text).sync_url) == make_url(expected)
    if "file:" not in text:  # the colon may be quoted or not
        assert DatabaseURL(text).sync_url == expected


@pytest.mark.parametrize(
    ("installed", "driver"),
    [
        ({"psycopg2", "psycopg"}, "psycopg2"),
        ({"psycopg"}, "psycopg"),
        (set(), "psycopg2"),
    ],
)
def test_sync_url_takes_the_driver_that_is_installed(
    installed: set[str], driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fastdb.url_sqlalchemy, "find_spec", lambda name: name in installed or None)
    for scheme in ("postgresql", "postgres", "postgresql+asyncpg", "postgres+asyncpg"):
        url = DatabaseURL(f"{scheme}://u@h/db?statement_cache_size=0&timeout=3")
        assert url.sync_url == f"postgresql+{driver}://u@h/db"


@pytest.mark.parametrize(
    ("ssl", "expected"),
    [
        ("true", {"sslmode": "verify-full", "sslrootcert": "system"}),
        ("false", {"sslmode": "disable"}),
        ("require", {"sslmode": "require"}),
        ("true&sslrootcert=/ca.pem", {"sslmode": "verify-full", "sslrootcert": "/ca.pem"}),
        ("true&sslmode=require", {"sslmode": "require", "sslrootcert": "system"}),
    ],
)
def test_sync_url_asks_for_no_less_tls(ssl: str, expected: dict[str, str]) -> None:
    url = make_url(DatabaseURL(f"postgresql://h/db?ssl={ssl}").sync_url)
    assert url.query == expected


def test_sync_url_connects(tmp_path: Path) -> None:
    url = DatabaseURL("sqlite://").replace(database=str(tmp_path / "a b%.db"))
    engine = sqlalchemy.create_engine(url.replace(options={"max_size": 3}).sync_url)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE t (x)"))
    engine.dispose()
    assert [file.name for file in tmp_path.iterdir()] == ["a b%.db"]


def test_sync_url_with_a_question_mark_in_the_name() -> None:
    url = DatabaseURL("mysql://u:hunter2@h/a%3Fb")
    if SQLALCHEMY_20:
        with pytest.raises(InvalidURLError, match="this version of SQLAlchemy") as caught:
            _ = url.sync_url
        assert "hunter2" not in str(caught.value)
    else:
        assert make_url(url.sync_url).database == "a?b"


def test_alembic_url_survives_a_config_parser() -> None:
    import configparser

    url = DatabaseURL("postgresql://u:p%40s%25s@h/db?max_size=3")
    parser = configparser.ConfigParser()
    parser.read_dict({"alembic": {"sqlalchemy.url": url.alembic_url}})
    assert url.alembic_url == url.sync_url.replace("%", "%%")
    read = make_url(parser.get("alembic", "sqlalchemy.url"))
    assert (read.password, read.query) == ("p@s%s", {})


@given(parts)
def test_sqlalchemy_urls_of_any_parts(parts: dict[str, Any]) -> None:
    url = EMPTY.replace(**parts)
    converted = url.sqlalchemy_url
    assert converted.username == (
        parts["username"] or ("" if parts["password"] is not None else None)
    )
    assert (converted.password, converted.database) == (
        parts["password"],
        parts["database"] or None,
    )
    if len(parts["hosts"]) == 1 and "/" not in parts["hosts"][0][0]:
        assert (converted.host, converted.port) == parts["hosts"][0]
    try:
        text = url.sync_url
    except InvalidURLError:
        return
    assert make_url(text).password == parts["password"]


def test_a_password_in_bytes_is_not_shown() -> None:
    options = concealed({"password": b"hush", "user": b"me"})
    assert options["password"] == b"hush"
    assert "hush" not in repr(options)
    assert "b'********'" in repr(options)
