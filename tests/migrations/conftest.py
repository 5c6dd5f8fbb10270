"""Projects with migrations."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastdb
from tests.databases import Session

#: What has a meaning in URLs, in configparser, or in format strings.
PASSWORD = "p%s@x/y:#?%%"

ENV = """
import os
import sqlalchemy as sa
from fastdb.migrations import run_env

metadata = sa.MetaData()
notes = sa.Table(
    "notes", metadata,
    sa.Column("id", sa.Integer, primary_key=True), sa.Column("text", sa.String(50)),
)
run_env(os.environ.get("TEST_URL", ""), target_metadata=metadata)
"""

NOTES = """op.create_table("notes", sa.Column("id", sa.Integer, primary_key=True))"""
TEXT = """op.add_column("notes", sa.Column("text", sa.String(50)))"""


class Project:
    """A folder with migrations, and what is run in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.directory = root / "migrations"
        (self.directory / "versions").mkdir(parents=True)
        (self.directory / "env.py").write_text(ENV)
        template = Path(fastdb.__file__).parent / "migrations" / "template" / "script.py.mako"
        (self.directory / "script.py.mako").write_text(template.read_text())
        (root / "alembic.ini").write_text(
            "[alembic]\nscript_location = %(here)s/migrations\npath_separator = os\n"
        )

    def add(
        self,
        revision: str,
        upgrade: str,
        downgrade: str = "pass",
        *,
        after: str | None = None,
        arguments: str = "",
    ) -> None:
        """Write a migration."""
        (self.directory / "versions" / f"{revision}.py").write_text(
            "import sqlalchemy as sa\nfrom alembic import op\n\n"
            f"revision = {revision!r}\ndown_revision = {after!r}\n\n"
            f"def upgrade({arguments}):\n    {upgrade}\n\n"
            f"def downgrade({arguments}):\n    {downgrade}\n"
        )

    def add_notes(self) -> None:
        """Write two migrations, which make what the models of env.py say."""
        self.add("a1", NOTES, 'op.drop_table("notes")')
        down = "with op.batch_alter_table('notes') as batch:\n        batch.drop_column('text')"
        self.add("b2", TEXT, down, after="a1")

    def run(
        self, *command: str, url: str = "", status: int | None = 0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run ``python -W error -m …`` in the project."""
        # Not what this run of pytest was told.
        env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", *command],
            cwd=self.root,
            env=env
            | {"PYTHONPATH": str(Path(fastdb.__file__).parent.parent), "TEST_URL": url}
            | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert status is None or done.returncode == status, done.stderr
        return done


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Provide a project without migrations."""
    return Project(tmp_path / "project")


@pytest.fixture
def notes_project(project: Project) -> Project:
    """Provide a project with two migrations."""
    project.add_notes()
    return project


@pytest.fixture
def secret_mysql_url(mysql_url: str) -> Iterator[fastdb.DatabaseURL]:
    """Return the URL of a database for a role whose password has to be right."""
    url = fastdb.DatabaseURL(mysql_url)
    role = url.database
    accounts = [f"'{role}'@'{host}'" for host in ("%", "localhost")]
    with Session(mysql_url) as session:
        for account in accounts:
            session.run(
                f"DROP USER IF EXISTS {account}",
                f"CREATE USER {account} IDENTIFIED BY '{PASSWORD}'",
                f"GRANT ALL ON {url.database}.* TO {account}",
            )
        try:
            yield url.replace(username=role, password=PASSWORD)
        finally:
            for account in accounts:
                session.run(f"DROP USER {account}")
