"""The code of docs/ runs, on every database, in the order in which a reader does it.

A block of Python or ini whose first line is a comment with a path is that file of the reader's
project. The commands of a console block run there. Any other Python block is run in place, with a
connected ``database``, as those of the README are.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points, metadata
from pathlib import Path

import alembic
import pytest

import fastdb
from tests.databases import dialect_of
from tests.documents import Block, blocks, run

DOCS = Path(__file__).parent.parent / "docs"
PAGE = DOCS / "tests-and-migrations.md"
#: The database of the page, in whose place that of the test stands.
URL = "postgresql://localhost/app"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in an empty project; forget its modules afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    for name in [name for name in sys.modules if name == "app" or name.startswith("app.")]:
        del sys.modules[name]


def file_of(block: Block) -> str | None:
    """Return the path of the file that a block is; None where it is none."""
    match = re.match(r"# (\S+\.(?:py|ini))\n", block.source)
    return match[1] if match else None


def check_installation(words: list[str]) -> None:
    """Check that what is to be installed is what is installed here; install nothing."""
    extras = metadata("fastdb-sql").get_all("Provides-Extra") or []
    for word in words:
        match = re.fullmatch(r"([\w-]+)(?:\[(.*)\])?", word)
        assert match, word
        assert metadata(match[1])["Name"]
        if match[1] == "fastdb-sql":
            assert {*match[2].split(",")} <= {*extras}, word


def execute(command: str, folder: Path, url: str, seconds: float) -> None:
    """Run a command as the page has it; it must succeed."""
    words = shlex.split(command)
    # Not what this run of pytest was told.
    unwanted = ("PYTEST_", "FASTDB_TEST_", "TESTING")
    env = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    env["PYTHONPATH"] = str(Path(fastdb.__file__).parent.parent)
    env["DATABASE_URL"] = url
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        env[name] = value
    program, *arguments = words
    if program == "pip":
        assert arguments.pop(0) == "install"
        check_installation(arguments)
        return
    if program == "python":
        assert arguments.pop(0) == "-m"
        program = arguments.pop(0)
    if program == "pytest":
        # pytest-alembic, which is here for its own tests, looks into every folder named tests.
        arguments += ["-W", "error", "-p", "no:cacheprovider", "-p", "no:pytest_alembic"]
        # A bare checkout was never installed.
        if not entry_points(group="pytest11", name="fastdb"):
            arguments += ["-p", "_fastdb_pytest"]
    done = subprocess.run(
        [sys.executable, "-m", program, *arguments],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("chapter", ["Tests", "Migrations"])
async def test_the_page_on_tests_and_migrations(
    database_url: str,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    chapter: str,
    pytestconfig: pytest.Config,
) -> None:
    """Each chapter is run with the files of what stands before it."""
    # Each command has as much time as a test.
    seconds = float(pytestconfig.getini("faulthandler_timeout"))
    faulthandler.cancel_dump_traceback_later()
    # The page joins "test_" and the database's name.
    url = "sqlite:///app.db" if dialect_of(database_url) == "sqlite" else database_url
    monkeypatch.setenv("DATABASE_URL", url)
    heading = PAGE.read_text().splitlines().index("## Migrations")
    has_run = set()
    async with fastdb.Database(url) as database:
        namespace = {"database": database}
        for block in blocks(PAGE):
            source = block.source.replace(URL, url)
            is_meant = (block.line > heading) == (chapter == "Migrations")
            if path := file_of(block):
                if is_meant or chapter == "Migrations":
                    (project / path).parent.mkdir(parents=True, exist_ok=True)
                    (project / path).write_text(source)
            elif is_meant and block.language == "console":
                has_run.add("commands")
                for line in source.splitlines():
                    assert line.startswith("$ "), f"{PAGE.name}:{block.line}"
                    await asyncio.to_thread(execute, line[2:], project, url, seconds)
            elif is_meant:
                has_run.add("statements")
                assert block.language == "python", f"{PAGE.name}:{block.line}"
                await run(block._replace(source=source), PAGE, namespace)
    assert has_run == ({"commands"} if chapter == "Tests" else {"commands", "statements"})


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    headings = {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings, target
        elif "://" not in target:
            assert (page.parent / target).exists(), target


def test_the_errors_of_the_page_are_those_that_are_raised() -> None:
    packages = [Path(fastdb.__file__).parent, Path(alembic.__file__).parent]
    sources = [path.read_text() for package in packages for path in package.rglob("*.py")]
    # Literals that stand one after the other are one.
    texts = [re.sub(r'"\s+f?"', "", source).lower() for source in sources]
    table = PAGE.read_text().partition("## Errors")[2]
    rows = re.findall(r"^\| (?:`(\w+)`: )?(.*?) \| .* \|$", table, re.MULTILINE)[1:]
    assert len(rows) > 10
    for name, message in rows:
        parts = [part.strip() for part in message.lower().split("…")]
        parts += [f"class {name.lower()}("] if name else []
        for part in parts:
            assert any(part in text for text in texts), part
