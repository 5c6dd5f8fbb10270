"""Imports point one way, and cost nothing that is not needed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastdb

PACKAGE = Path(fastdb.__file__).parent

# Module or package -> what it may import at run time, with all below it. Modules of one folder
# whose names begin with the same word (`url`, `url_text`) are a family: they share an entry, may
# import each other, and whoever may import the head may import all.
MAY_IMPORT = {
    "exceptions": "",
    "coroutines": "",
    "url": "exceptions",
    "options": "exceptions",
    "sql_text": "exceptions",
    "compiler": "exceptions sql_text",
    "_fallback": "exceptions sql_text compiler _fallback _speedups",
    "_speedups": "exceptions sql_text compiler _fallback _speedups",
    "holders": "",
    "pool": "exceptions options drivers.base holders",
    "drivers": "exceptions options url sql_text compiler _speedups drivers.base",
    "drivers.base": "exceptions",
    "turns": "exceptions",
    "savepoints": "drivers.base",
    "transaction": "coroutines exceptions drivers.base",
    "queries": "coroutines exceptions drivers.base options transaction _speedups",
    "lease": "exceptions holders",
    "iteration": "exceptions queries",
    "synchronous": "exceptions drivers.base",
    "connection": "exceptions drivers.base _speedups iteration lease queries savepoints sql_text "
    "synchronous transaction turns",
    "database": "coroutines exceptions drivers _speedups compiler options pool queries connection "
    "transaction lease turns url",
    "testing": "connection coroutines database drivers.base drivers.sqlite exceptions options "
    "queries sql_text testing transaction turns url",
    "testing.plugin": "connection database drivers.base exceptions migrations pool sql_text "
    "testing url",
    "testing.migrations": "database migrations testing url",
    "migrations": "connection database exceptions migrations url",
    "core": "connection database transaction url",
    "interfaces": "_speedups",
    "": "_speedups connection core database exceptions interfaces queries transaction url",
}
FAMILIES = {"asyncmy": "mysql"}
THIRD_PARTY = {
    "aiomysql",
    "aiosqlite",
    "alembic",
    "asyncmy",
    "asyncpg",
    "greenlet",
    "pymysql",
    "sqlalchemy",
}


def module_name(path: Path) -> str:
    """Return the name below ``fastdb``, "" for ``fastdb`` itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


# What `migrations init` copies is a program of Alembic's, and no module.
MODULES = {
    module_name(path): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.parent.name != "template"
}
SOURCES = [*MODULES.values(), *sorted(PACKAGE.rglob("*.pyx"))]


def runtime_imports(node: ast.AST) -> Iterator[str]:
    """Yield the modules that the code below `node` imports, but for ``if TYPE_CHECKING``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for other in child.orelse:
                yield from runtime_imports(ast.Module([other], []))
        elif isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute here"
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        else:
            yield from runtime_imports(child)


def fastdb_imports(path: Path) -> set[str]:
    """Return the modules of fastdb that a source imports, as names below ``fastdb``."""
    if path.suffix == ".pyx":
        found = re.findall(r"^\s*from (fastdb[\w.]*) import", path.read_text(), re.MULTILINE)
    else:
        found = list(runtime_imports(ast.parse(path.read_text())))
    names = {name.removeprefix("fastdb.") for name in found if name.split(".")[0] == "fastdb"}
    # `from fastdb.url import DatabaseURL` names a class: back to the module that holds it.
    return {name if name in MODULES else name.rpartition(".")[0] for name in names}


def is_below(name: str, allowed: str) -> bool:
    """Return whether an entry is the module, its folder or the head of its family."""
    return any(
        name == entry or name.startswith((f"{entry}.", f"{entry}_")) for entry in allowed.split()
    )


def family(name: str) -> str:
    folder, _, module = name.rpartition(".")
    word = module.lstrip("_").partition("_")[0]
    return f"{folder}.{FAMILIES.get(word, word)}"


def entry_for(name: str) -> str:
    """Return the entry of the table for a module: its own, its family's or its folder's."""
    for entry in (name, family(name).lstrip("."), name.rpartition(".")[0]):
        if entry in MAY_IMPORT:
            return entry
    raise AssertionError(f"MAY_IMPORT lacks {name!r}")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    name = module_name(path)
    allowed = MAY_IMPORT[entry_for(name)]
    forbidden = {
        imported
        for imported in fastdb_imports(path)
        if not is_below(imported, allowed) and family(imported) != family(name)
    }
    assert not forbidden


def run(code: str) -> str:
    """Run `code` in a fresh interpreter in which warnings are errors; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", MODULES)
def test_module_is_importable_alone(name: str) -> None:
    run(f"import {'.'.join(filter(None, ['fastdb', name]))}")


def test_import_brings_no_third_party_package() -> None:
    loaded = run("import fastdb, sys; print(*sys.modules)").split()
    assert THIRD_PARTY.isdisjoint(loaded)


def test_import_brings_nothing_that_few_programs_need() -> None:
    code = "import asyncio, sys; before = {*sys.modules}; import fastdb"
    loaded = set(run(f"{code}; print(*{{*sys.modules}} - before)").split())
    late = {"dataclasses", "datetime", "decimal", "difflib", "random", "ssl", "uuid"}
    assert loaded.isdisjoint(late)
    families = ("fastdb.compiler_", "fastdb.drivers.", "fastdb.sql_text", "fastdb.url_sqlalchemy")
    assert {name for name in loaded if name.startswith(families)} == {"fastdb.drivers.base"}


def test_raw_sql_never_imports_sqlalchemy() -> None:
    code = """
import asyncio, sys
import fastdb

async def main():
    async with fastdb.Database("sqlite://") as database:
        await database.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, text TEXT)")
        await database.execute("INSERT INTO notes (text) VALUES (:text)", {"text": "a"})
        async with database.transaction():
            assert (await database.fetch_one("SELECT * FROM notes")).text == "a"

asyncio.run(main())
print(*sys.modules)
"""
    loaded = run(code).split()
    assert "aiosqlite" in loaded
    assert "sqlalchemy" not in loaded
