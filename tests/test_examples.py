from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import fastdb
from tests.databases import dialect_of

ROOT = Path(__file__).parent.parent
# How many tests the applications have.
APPLICATIONS = {"fastapi_notes": 17, "starlette_notes": 13}


def test_the_demo_tells_what_it_did_and_ends_well() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", ROOT / "examples" / "demo.py", "--orders", "300"],
        env=os.environ | {"PYTHONPATH": str(Path(fastdb.__file__).parent.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert ("compiled core" if fastdb.COMPILED else "pure Python core") in lines[0]
    assert "nothing lost" in lines[-1]
    for error in ("IntegrityError", "MissingParameterError", "ColumnNotFoundError"):
        assert any(error in line for line in lines), error


def run_in(folder: Path, *command: str, **environment: str) -> str:
    """Run a module of Python in the folder of an application; return what it prints."""
    # Not what this run of pytest was told.
    unwanted = ("PYTEST_", "DATABASE_URL", "FASTDB_TEST_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=env | {"PYTHONPATH": str(Path(fastdb.__file__).parent.parent)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(params=APPLICATIONS)
def application(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return the folder of an application, as somebody has copied it."""
    folder: Path = tmp_path / request.param
    skipped = shutil.ignore_patterns("__pycache__", ".*_cache", "*.db")
    shutil.copytree(ROOT / "examples" / request.param, folder, ignore=skipped)
    return folder


def test_the_applications_tests_pass_on_four_workers(
    application: Path, database_url: str, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/for_tests.db"
    if dialect_of(database_url) != "sqlite":
        # What it makes there begins as the names of this run do, and is dropped with the run.
        url = f"{database_url}_{application.name}"
    # pytest-alembic, which is here for its own tests, looks into every folder named tests.
    plugins = ["-p", "no:pytest_alembic"]
    plugins += [] if has_entry_point() else ["-p", "_fastdb_pytest"]
    output = run_in(application, "pytest", "-n", "4", *plugins, FASTDB_TEST_URL=url)
    assert f"{APPLICATIONS[application.name]} passed" in output, output


def has_entry_point() -> bool:
    """Return whether pytest finds the plugin by itself; a bare checkout was never installed."""
    return bool(entry_points(group="pytest11", name="fastdb"))


def test_the_applications_migrations_on_the_command_line(
    application: Path, database_url: str
) -> None:
    environment = {"DATABASE_URL": database_url}
    run_in(application, "alembic", "upgrade", "head", **environment)
    run_in(application, "alembic", "check", **environment)
    run_in(application, "fastdb.migrations", "downgrade", "base", **environment)
    script = run_in(application, "alembic", "upgrade", "head", "--sql", **environment)
    assert "CREATE TABLE notes" in script
