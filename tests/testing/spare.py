"""A name for databases, and what is made in it."""

from __future__ import annotations

from pathlib import Path

from tests.databases import Session, dialect_of

__all__ = ["Spare"]


class Spare:
    """A database that is not there, and those that are made beside it.

    Attributes:
        url: Of the one that is not there.
        dialect: Of that.
        name: Its name, without a suffix.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.dialect = dialect_of(url)
        self.name = url.rpartition("/")[2].removesuffix(".db")

    def databases(self) -> list[str]:
        """Return what stands beside it, without the common beginning."""
        start = f"{self.name}_fastdb_"
        if self.dialect == "sqlite":
            folder = Path(self.url.removeprefix("sqlite:///")).parent
            found = [path.stem for path in folder.glob(f"{start}*.db")]
        else:
            with self.session() as session:
                if session.dialect == "postgresql":
                    rows = session.run("SELECT datname FROM pg_database")
                else:
                    rows = session.run("SHOW DATABASES")
            found = [name for (name,) in rows if name.startswith(start)]
        return sorted(name.removeprefix(start) for name in found)

    def templates(self) -> list[str]:
        """Return the templates; nothing else may be left."""
        names = self.databases()
        assert all(name.startswith("template_") for name in names), names
        return names

    def session(self, name: str | None = None) -> Session:
        """Return a connection to the server, or to a database beside this one."""
        base = self.url.replace("+asyncmy", "").rpartition("/")[0]
        if name is not None:
            return Session(f"{base}/{self.name}_fastdb_{name}")
        return Session(f"{base}/{'postgres' if self.dialect == 'postgresql' else ''}")
