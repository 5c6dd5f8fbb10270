"""pytest-alembic's own tests in projects whose env.py is run_env()."""

from __future__ import annotations

import re

import pytest

import fastdb
from tests.databases import dialect_of
from tests.migrations.conftest import Project
from tests.migrations.test_run_env import async_url

TESTS = """
from pytest_alembic.tests import (
    test_model_definitions_match_ddl,
    test_single_head_revision,
    test_up_down_consistency,
    test_upgrade,
)


def test_rows_survive(alembic_runner):
    alembic_runner.migrate_up_before("b2")
    alembic_runner.insert_into("notes", {"id": 7})
    alembic_runner.migrate_up_one()
    assert alembic_runner.current == "b2"
"""
# It rolls migrations back to a savepoint, which MySQL has forgotten at the first DDL.
TRACE = "from pytest_alembic.tests.experimental import test_downgrade_leaves_no_trace\n"
ENGINE = """
import os
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

@pytest.fixture
def alembic_engine():
    engine = {make}(os.environ["ENGINE_URL"])
    yield engine
    with sa.create_engine(os.environ["EMPTY_URL"]).begin() as connection:
        metadata = sa.MetaData()
        metadata.reflect(connection)
        metadata.drop_all(connection)
    connection.engine.dispose()
"""


@pytest.mark.parametrize("make", ["sa.create_engine", "create_async_engine"])
def test_its_tests_pass(make: str, database_url: str, notes_project: Project) -> None:
    tests = TESTS if dialect_of(database_url) == "mysql" else TRACE + TESTS
    (notes_project.root / "conftest.py").write_text(ENGINE.format(make=make))
    (notes_project.root / "test_schema.py").write_text(tests)
    sync_url = fastdb.DatabaseURL(database_url).sync_url
    done = notes_project.run(
        *("pytest", "-q", "-rA", "-p", "no:asyncio", "-p", "no:cacheprovider"),
        url="postgresql://nobody@127.0.0.1:1/nowhere",  # the engine that is injected counts
        status=None,
        ENGINE_URL=sync_url if make == "sa.create_engine" else async_url(database_url),
        EMPTY_URL=sync_url,
    )
    told = done.stdout + done.stderr
    passed = re.findall(r"^PASSED \S+::(\w+)", told, re.MULTILINE)
    assert sorted(passed) == sorted(re.findall(r"\btest_\w+", tests)), told
    assert done.returncode == 0
