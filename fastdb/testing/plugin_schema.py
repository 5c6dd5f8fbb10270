"""What the databases of tests hold from the start: the tables of models, or of migrations."""

from __future__ import annotations

import hashlib
import os
import secrets
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastdb.exceptions import OptionError

if TYPE_CHECKING:
    import sqlalchemy

    from fastdb.database import Database

__all__ = ["Schema"]

#: Changes where what is made of the same schema changes.
_VERSION = 1


class Schema:
    """The tables of a MetaData, or what the migrations of a folder make, or nothing."""

    def __init__(self, metadata: Any, migrations: Any) -> None:
        """Check what the fixtures ``fastdb_metadata`` and ``fastdb_migrations`` return.

        Raises:
            OptionError: It is none, or both are given.
        """
        if metadata is not None and migrations is not None:
            raise OptionError(
                "fastdb_metadata and fastdb_migrations both return something; return the "
                "migrations' folder, which says more, and leave the other fixture alone"
            )
        self._metadata: sqlalchemy.MetaData | None = None
        self._migrations: Path | None = None
        if metadata is not None:
            self._metadata = _checked_metadata(metadata)
        if migrations is not None:
            self._migrations = _checked_migrations(migrations)

    def fingerprint(self, dialect: str) -> str:
        """Return a text that stays the same as long as :meth:`fill` would do the same."""
        digest = hashlib.sha256(f"{_VERSION} {dialect}".encode())
        if self._metadata is not None:
            import sqlalchemy

            digest.update(f"metadata {sqlalchemy.__version__}".encode())
            for statement in _statements(self._metadata, dialect):
                digest.update(b"\0" + statement.encode())
        elif self._migrations is not None:
            from fastdb import migrations  # noqa: F401  # it says what to install

            digest.update(f"migrations {version('alembic')}".encode())
            for path in _files(self._migrations):
                name = path.relative_to(self._migrations).as_posix()
                digest.update(f"\0{name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()[:16]

    async def fill(self, database: Database) -> None:
        """Make all of it in an empty, connected database."""
        if self._metadata is not None:
            await database.create_all(self._metadata)
        elif self._migrations is not None:
            from fastdb import migrations

            await migrations.upgrade(database, "head", directory=self._migrations)


def _checked_metadata(metadata: Any) -> sqlalchemy.MetaData:
    from sqlalchemy import MetaData

    if isinstance(metadata, MetaData):
        return metadata
    within = getattr(metadata, "metadata", None)
    way = "its `.metadata`" if isinstance(within, MetaData) else "one, or None"
    raise OptionError(f"fastdb_metadata returns {metadata!r}, which is no MetaData; return {way}")


def _checked_migrations(migrations: Any) -> Path:
    if not isinstance(migrations, str | os.PathLike):
        raise OptionError(
            f"fastdb_migrations returns {migrations!r}; return the path of a folder, or None"
        )
    # A worker may stand in another directory by the time that it is read.
    path = Path(os.fspath(migrations)).absolute()
    if not (path / "env.py").is_file():
        raise OptionError(
            f"fastdb_migrations returns {str(path)!r}, which is no folder of migrations: it has "
            "no env.py; `python -m fastdb.migrations init` makes one"
        )
    return path


def _files(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    )


def _statements(metadata: sqlalchemy.MetaData, dialect: str) -> list[str]:
    """Return all that ``create_all`` would run, in an order that does not depend on the process.

    Where that cannot be told, since a listener of the tables asks the database something: a text
    that only the workers of this run share, so that the next run makes it anew.
    """
    from sqlalchemy import create_mock_engine

    found: list[str] = []

    def note(statement: Any, parameters: Any = None, *more: Any, **options: Any) -> None:
        text = statement
        if not isinstance(statement, str):
            text = statement.compile(dialect=engine.dialect)
        found.append(f"{text} {parameters!r} {more!r}")

    engine = create_mock_engine(f"{dialect}://", note)
    try:
        metadata.create_all(engine, checkfirst=False)
    except Exception:
        return [os.environ.get("PYTEST_XDIST_TESTRUNUID") or secrets.token_hex(8)]
    # Indexes of a table come out of a set.
    return sorted(found)
