"""What the drivers of MySQL and MariaDB take as options."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastdb.exceptions import OptionError
from fastdb.options import unknown_option
from fastdb.url_secrets import Secret

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from fastdb.url import DatabaseURL

__all__ = ["OWN_NAMES", "UNSAFE_CHARSETS", "Settings", "check_charset", "read_settings"]

#: Options beside the parameters of the driver's ``connect()``.
OWN_NAMES = frozenset(
    {"connect_timeout", "database", "db", "echo", "host", "init", "password", "port"}
    | {"ssl", "ssl_ca", "ssl_capath", "ssl_cert", "ssl_check_hostname", "ssl_cipher", "ssl_key"}
    | {"ssl_mode", "sslcert", "sslkey", "sslmode", "sslrootcert", "time_zone", "unix_sock"}
    | {"unix_socket", "user", "username"}
)

_SYNONYMS = {
    "db": "database",
    "username": "user",
    "unix_sock": "unix_socket",
    "sslmode": "ssl_mode",
    "sslrootcert": "ssl_ca",
    "sslcert": "ssl_cert",
    "sslkey": "ssl_key",
    "password_creator": "password",
}

_REFUSED = {
    "cursorclass": "fastdb reads results itself",
    "cursor_cls": "fastdb reads results itself",
    "query_callback": "fastdb uses no cursor of the driver; its logger 'fastdb' shows the queries",
    "loop": "fastdb uses the running event loop",
    "sock": "one socket serves one connection, and a pool opens several",
}

#: Bytes of these can be a backslash or a quote inside a character (CVE-2006-2753), or are no
#: superset of ASCII: text written by one side's rules would be read by the other's. Python's codecs
#: of the Japanese ones write a yen sign as a backslash. PyMySQL names each codec as the charset.
UNSAFE_CHARSETS = frozenset(
    {"big5", "cp932", "eucjpms", "gb18030", "gbk", "sjis", "swe7", "ucs2", "ujis"}
    | {"utf16", "utf16le", "utf32"}
)

# What a user may add to the handshake. Others would change the protocol under the driver.
_MULTI_STATEMENTS, _LOCAL_FILES = 1 << 16, 1 << 7
_HARMLESS_FLAGS = sum(1 << bit for bit in (0, 1, 2, 4, 6, 8, 9, 10, 12, 13, 15, 17, 18, 19, 20, 21))

_DEFAULT_CONNECT_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Settings:
    """Checked options.

    Attributes:
        arguments: For the driver's connection, beside the password and TLS.
        password: A string, or a callable that gives one (or an awaitable of one).
        database: The database chosen at connect, if any.
        tls: The context to use where TLS is wanted.
        tls_required: Whether a server without TLS is refused.
        connect_timeout: Seconds for the whole of a connect.
        time_zone: For ``SET time_zone``.
        sql_mode: As a literal for ``SET sql_mode``.
        init: Awaited with each new connection of the driver.
    """

    arguments: dict[str, Any]
    password: Any
    database: str | None
    tls: ssl.SSLContext | None
    tls_required: bool
    connect_timeout: float
    time_zone: str | None
    sql_mode: str | None
    init: Callable[[Any], Awaitable[None]] | None

    @property
    def place(self) -> str:
        """Say where a connection goes to and as whom, never with the password."""
        chosen = self.arguments
        where = chosen.get("unix_socket")
        if where is None:
            where = f"{chosen.get('host', 'localhost')}:{chosen.get('port', 3306)}"
        return f"{where} as user {chosen.get('user')!r} to " + (
            f"database {self.database!r}" if self.database else "no database"
        )


def read_settings(url: DatabaseURL, options: Mapping[str, Any], known: frozenset[str]) -> Settings:
    """Check the options, bring strings to their types, and make the TLS context.

    Args:
        url: Host, port, user, password and database where no option names them.
        options: The URL's query, overlaid by the caller's.
        known: The names that the driver takes.

    Raises:
        OptionError: An option is unknown, refused, contradicts another, or has a bad value.
    """
    chosen = _renamed(options, known)
    for name, value in (
        ("host", url.hostname),
        ("port", url.port),
        ("user", url.username),
        ("password", None if url.password is None else Secret(url.password)),
        ("database", url.database),
    ):
        if value not in (None, ""):
            chosen.setdefault(name, value)
    host = chosen.get("host")
    if isinstance(host, str) and "," in host:
        raise OptionError(f"MySQL connects to one host; the URL names {host!r}")
    if isinstance(host, str) and host.startswith("/"):
        chosen.setdefault("unix_socket", chosen.pop("host"))
    _check_fixed(chosen)
    tls, tls_required = _tls(chosen)
    password = chosen.pop("password", "")
    if password is None:
        password = ""
    if not isinstance(password, (str, bytes)) and not callable(password):
        raise OptionError(
            f"password is of type {type(password).__name__}; it must be a str, or a callable"
            " that gives one"
        )
    init = chosen.pop("init", None)
    if init is not None and not callable(init):
        raise OptionError(f"init is {init!r}; it must be an async callable")
    timeout = _seconds("connect_timeout", chosen.pop("connect_timeout", None))
    database = chosen.pop("database", None)
    time_zone = _text("time_zone", chosen.pop("time_zone", None))
    sql_mode = _text("sql_mode", chosen.pop("sql_mode", None))
    for name, value in chosen.items():
        if name in _CONVERTERS:
            chosen[name] = _CONVERTERS[name](name, value)
    chosen["charset"] = (_text("charset", chosen.get("charset")) or "utf8mb4").lower()
    return Settings(
        arguments=chosen,
        password=password,
        database=_text("database", database),
        tls=tls,
        tls_required=tls_required,
        connect_timeout=timeout,
        time_zone=None if time_zone is None else _quoted(time_zone),
        # The drivers write it into SET sql_mode= as it stands.
        sql_mode=None if sql_mode is None else _quoted(sql_mode),
        init=init,
    )


def _renamed(options: Mapping[str, Any], known: frozenset[str]) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for name, value in options.items():
        if name in _REFUSED:
            raise OptionError(f"the option {name!r} is not taken: {_REFUSED[name]}")
        if name not in known:
            raise unknown_option(name, known)
        target = _SYNONYMS.get(name, name)
        if target in chosen and chosen[target] != value:
            raise OptionError(
                f"the options {origin[target]!r} and {name!r} mean the same; give one of them"
            )
        chosen[target] = value
        origin[target] = name
    return chosen


def _check_fixed(chosen: dict[str, Any]) -> None:
    """Refuse what would change how the driver works."""
    if "autocommit" in chosen and _boolean("autocommit", chosen.pop("autocommit")) is not True:
        raise OptionError(
            "the option 'autocommit' can only be true: fastdb begins transactions itself"
        )
    if "local_infile" in chosen and _boolean("local_infile", chosen.pop("local_infile")):
        raise OptionError(
            "the option 'local_infile' can only be false: a server could read any file of the"
            " client through LOAD DATA LOCAL INFILE"
        )
    flags = _integer("client_flag", chosen.get("client_flag", 0))
    if flags & _MULTI_STATEMENTS:
        raise OptionError("client_flag holds MULTI_STATEMENTS, which fastdb never enables")
    if flags & _LOCAL_FILES:
        raise OptionError("client_flag holds LOCAL_FILES, which fastdb never enables")
    if flags & ~_HARMLESS_FLAGS:
        raise OptionError(
            f"client_flag holds {flags & ~_HARMLESS_FLAGS:#x}, which the driver sets itself or"
            " cannot speak"
        )
    # Rows matched, not rows changed: what SQLAlchemy asks of every driver, too.
    chosen["client_flag"] = flags | 2


def check_charset(name: str) -> None:
    """Refuse a charset under which a value could be read as SQL.

    Raises:
        OptionError: It is such a one.
    """
    if name in UNSAFE_CHARSETS:
        raise OptionError(
            f"the charset {name!r} cannot be used for a connection: bytes of its characters can"
            " be read as quotes or backslashes; use 'utf8mb4'"
        )


def _quoted(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        text = text[1:-1]
    if "'" in text or "\\" in text:
        raise OptionError(f"{text!r} holds a quote or a backslash")
    return f"'{text}'"


# -- TLS

_MODES = {
    "disable": "disabled",
    "disabled": "disabled",
    "false": "disabled",
    "0": "disabled",
    "allow": "preferred",
    "prefer": "preferred",
    "preferred": "preferred",
    "require": "required",
    "required": "required",
    "verify-ca": "verify-ca",
    "verify-full": "verify-identity",
    "verify-identity": "verify-identity",
    "true": "verify-identity",
    "1": "verify-identity",
}
_FILES = ("ssl_ca", "ssl_capath", "ssl_cert", "ssl_key", "ssl_cipher")
_DICT_NAMES = ("ca", "capath", "cert", "key", "cipher", "check_hostname", "verify_mode")


def _tls(chosen: dict[str, Any]) -> tuple[ssl.SSLContext | None, bool]:
    """Take the options of TLS out and return the context, and whether TLS must be had."""
    given = chosen.pop("ssl", None)
    mode = chosen.pop("ssl_mode", None)
    name = "ssl_mode"
    files = {name: chosen.pop(name) for name in _FILES if name in chosen}
    check = chosen.pop("ssl_check_hostname", None)
    if isinstance(given, str):
        if mode is not None:
            raise OptionError("the options 'ssl' and 'ssl_mode' both name a mode; give one of them")
        given, mode, name = None, given, "ssl"
    if mode is not None:
        mode = _mode(name, mode)
    if isinstance(given, ssl.SSLContext):
        if files or check is not None or mode in ("disabled", "preferred"):
            raise OptionError("ssl is an SSLContext; it takes no further options of TLS beside it")
        return given, True
    if given is False:
        if mode not in (None, "disabled"):
            raise OptionError(f"ssl is False, but ssl_mode is {mode!r}")
        mode = "disabled"
    elif isinstance(given, dict):
        unknown = sorted(set(given) - set(_DICT_NAMES))
        if unknown:
            raise OptionError(
                f"unknown key {unknown[0]!r} in ssl; it takes {', '.join(_DICT_NAMES)}"
            )
        for name in _DICT_NAMES[:5]:
            if given.get(name) is not None:
                files.setdefault(f"ssl_{name}", given[name])
        check = given.get("check_hostname", check)
        verify = given.get("verify_mode")
        if mode is None and verify is not None:
            verified = verify in (True, ssl.CERT_REQUIRED, "required", "true", "yes", "1")
            mode = "verify-identity" if verified else "required"
        # As PyMySQL has it: a CA is there to be checked against.
        if mode is None:
            mode = "verify-identity" if files.keys() & {"ssl_ca", "ssl_capath"} else "required"
    elif given is True:
        mode = mode or "verify-identity"
    elif given is not None:
        raise OptionError(
            f"ssl is of type {type(given).__name__}; it must be a bool, a mode, a dict or an"
            " ssl.SSLContext"
        )
    if mode is None:
        if not files and check is None:
            return None, False
        mode = "verify-identity" if files.keys() & {"ssl_ca", "ssl_capath"} else "required"
    if mode == "disabled":
        if files or given:
            raise OptionError("TLS is disabled, but options of TLS are given beside that")
        return None, False
    # libpq: with a root certificate, "require" checks against it.
    if mode == "required" and files.keys() & {"ssl_ca", "ssl_capath"}:
        mode = "verify-ca"
    if check is not None and not _boolean("ssl_check_hostname", check):
        mode = "verify-ca" if mode == "verify-identity" else mode
    elif check is not None and mode == "verify-ca":
        mode = "verify-identity"
    return _context(mode, files), mode != "preferred"


def _mode(name: str, value: Any) -> str:
    mode = _MODES.get(str(value).lower().replace("_", "-"))
    if mode is None:
        raise OptionError(
            f"{name} is {value!r}; it is one of DISABLED, PREFERRED, REQUIRED, VERIFY_CA,"
            " VERIFY_IDENTITY, or libpq's disable, allow, prefer, require, verify-ca, verify-full"
        )
    return mode


def _context(mode: str, files: Mapping[str, Any]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(
            cafile=files.get("ssl_ca"), capath=files.get("ssl_capath")
        )
        context.check_hostname = mode == "verify-identity"
        if mode not in ("verify-ca", "verify-identity"):
            context.verify_mode = ssl.CERT_NONE
        if "ssl_cert" in files:
            context.load_cert_chain(files["ssl_cert"], keyfile=files.get("ssl_key"))
        elif "ssl_key" in files:
            raise OptionError("ssl_key is given without ssl_cert")
        if "ssl_cipher" in files:
            context.set_ciphers(files["ssl_cipher"])
    except (OSError, TypeError, ValueError) as error:
        if isinstance(error, OptionError):
            raise
        raise OptionError(f"the options of TLS cannot be used: {error}") from error
    return context


# -- values out of a URL are strings


def _boolean(name: str, value: Any) -> bool:
    if isinstance(value, bool) or value in (0, 1):
        return bool(value)
    if isinstance(value, str):
        lowered = value.lower()
        if lowered in ("1", "true", "yes", "on"):
            return True
        if lowered in ("0", "false", "no", "off"):
            return False
    raise OptionError(f"{name} is {value!r}; it must be true or false")


def _integer(name: str, value: Any) -> int:
    try:
        if isinstance(value, (bool, float)):
            raise ValueError
        return int(value)
    except (TypeError, ValueError):
        raise OptionError(f"{name} is {value!r}; it must be a whole number") from None


def _port(name: str, value: Any) -> int:
    number = _integer(name, value)
    if not 0 < number < 65536:
        raise OptionError(f"{name} is {value!r}; it must be from 1 to 65535")
    return number


def _seconds(name: str, value: Any) -> float:
    if value is None:
        return _DEFAULT_CONNECT_TIMEOUT
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = -1.0
    if not 0 < seconds <= 31536000:
        raise OptionError(f"{name} is {value!r}; it must be a number of seconds above 0")
    return seconds


def _text(name: str, value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise OptionError(f"{name} is {value!r}; it must be a string")
    return value


def _mapping(name: str, value: Any) -> Any:
    if not isinstance(value, dict):
        raise OptionError(f"{name} is {value!r}; it must be a dict")
    return value


def _optional_seconds(name: str, value: Any) -> float | None:
    return None if value is None else _seconds(name, value)


_CONVERTERS: dict[str, Callable[[str, Any], Any]] = {
    "auth_plugin": _text,
    "auth_plugin_map": _mapping,
    "binary_prefix": _boolean,
    "conv": _mapping,
    "echo": _boolean,
    "host": _text,
    "init_command": _text,
    "max_allowed_packet": _integer,
    "port": _port,
    "program_name": _text,
    "read_default_file": _text,
    "read_default_group": _text,
    "read_timeout": _optional_seconds,
    "stmt_cache_size": _integer,
    "unix_socket": _text,
    "use_unicode": _boolean,
    "user": _text,
}
