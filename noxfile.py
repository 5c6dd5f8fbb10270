"""What runs beside `./dev test`: lint, types, other versions, wheels, coverage."""

import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import nox

PYPROJECT = nox.project.load_toml("pyproject.toml")
BACKENDS = "--backends=sqlite,postgresql,mysql,asyncmy"

nox.needs_version = ">=2025.5"
nox.options.sessions = ["lint", "types", "tests", "pure", "wheels"]
nox.options.error_on_missing_interpreters = True


def install(session: nox.Session, *groups: str, form: str, pins: tuple[str, ...] = ()) -> None:
    """Install the checkout in place with all extras, in the form that `form` names."""
    requirements = nox.project.dependency_groups(PYPROJECT, *groups)
    session.install("-e", ".[all]", *requirements, *pins, env={form: "1"})


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format."""
    session.install(*nox.project.dependency_groups(PYPROJECT, "lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Check types, strictly, in package, tests, benchmarks and examples."""
    install(session, "types", form="FASTDB_NO_EXTENSIONS")
    # The folders of pyproject.toml that this checkout has.
    folders = [name for name in PYPROJECT["tool"]["mypy"]["files"] if Path(name).is_dir()]
    session.run("mypy", *folders)


@nox.session
@nox.parametrize("sqlalchemy", ["2.0", "2.1"])
def tests(session: nox.Session, sqlalchemy: str) -> None:
    """Run the suite, compiled, on each minor version of SQLAlchemy, with asyncmy too."""
    pins = (f"SQLAlchemy=={sqlalchemy}.*",)
    install(session, "test", form="FASTDB_REQUIRE_EXTENSIONS", pins=pins)
    env = {"FASTDB_REQUIRE_EXTENSIONS": "1"}
    session.run("python", "-m", "pytest", BACKENDS, *session.posargs, env=env)


@nox.session
def pure(session: nox.Session) -> None:
    """Run the suite in plain Python, with asyncmy too."""
    install(session, "test", form="FASTDB_NO_EXTENSIONS")
    env = {"FASTDB_NO_EXTENSIONS": "1"}
    session.run("python", "-m", "pytest", BACKENDS, *session.posargs, env=env)


@nox.session
def coverage(session: nox.Session) -> None:
    """Measure the lines and branches of the Python files, over both forms."""
    install(session, "test", form="FASTDB_REQUIRE_EXTENSIONS")
    session.run("coverage", "erase")
    for form in ("FASTDB_REQUIRE_EXTENSIONS", "FASTDB_NO_EXTENSIONS"):
        command = ["coverage", "run", "-m", "pytest", BACKENDS, *session.posargs]
        session.run(*command, env={form: "1"})
    session.run("coverage", "combine")
    session.run("coverage", "report")


@nox.session
def wheels(session: nox.Session) -> None:
    """Build sdist and wheels, and run a copy of the suite against the installed wheel."""
    folder = Path(session.create_tmp())
    for name in ("dist", "pure", "copy"):
        shutil.rmtree(folder / name, ignore_errors=True)
    requirements = nox.project.dependency_groups(PYPROJECT, "build", "test")
    session.install(*requirements)
    # By way of the sdist: a wheel built right here would take what an older build left.
    build = ["python", "-m", "build", "--outdir"]
    required = {"FASTDB_REQUIRE_EXTENSIONS": "1", "CFLAGS": "-g0"}
    session.run(*build, f"{folder}/dist", env=required)
    session.run(*build, f"{folder}/pure", env={"FASTDB_NO_EXTENSIONS": "1"})
    (wheel,) = (folder / "dist").glob("*.whl")
    (sdist,) = (folder / "dist").glob("*.tar.gz")
    (pure_wheel,) = (folder / "pure").glob("*-py3-none-any.whl")
    check_contents(session, sdist, wheel, pure_wheel)
    session.install("--force-reinstall", "--no-deps", str(wheel))
    session.install(f"fastdb-sql[all] @ {wheel.resolve().as_uri()}")
    copy = folder / "copy"
    skipped = shutil.ignore_patterns("__pycache__")
    for name in ("tests", "examples", "docs"):
        if Path(name).is_dir():
            shutil.copytree(name, copy / name, ignore=skipped)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(name, copy)
    with session.chdir(copy):
        env = {"FASTDB_REQUIRE_EXTENSIONS": "1"}
        session.run("python", "-c", "import fastdb; print(fastdb.__file__)", env=env)
        session.run("python", "-m", "pytest", *session.posargs, env=env)


def check_contents(session: nox.Session, sdist: Path, wheel: Path, pure_wheel: Path) -> None:
    """Stop where a file stands in a distribution that it does not belong to, or lacks."""
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    sources = {path.as_posix() for path in Path("fastdb").rglob("*.py*") if path.suffix != ".pyc"}
    sources = {name for name in sources if "__pycache__" not in name}
    if missing := sources - names:
        session.error(f"the sdist lacks {sorted(missing)}")
    if stray := [name for name in names if name.endswith((".c", ".so"))]:
        session.error(f"the sdist holds {stray}")
    wanted = {name for name in sources if not name.endswith((".pyx", ".pxd"))} | {"fastdb/py.typed"}
    for path in (wheel, pure_wheel):
        content = zipfile.ZipFile(path).namelist()
        if missing := wanted - set(content):
            session.error(f"{path.name} lacks {sorted(missing)}")
        stray = [name for name in content if name.endswith((".c", ".pyx"))]
        stray += [name for name in content if not name.startswith(("fastdb/", "fastdb_sql-"))]
        if stray:
            session.error(f"{path.name} holds {stray}")
    compiled = len([name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".so")])
    expected = len(list(Path("fastdb/_speedups").glob("*.pyx")))
    if compiled != expected:
        session.error(f"{wheel.name} holds {compiled} compiled modules, not {expected}")
    session.log(f"{wheel.name}: {os.path.getsize(wheel) // 1024} KiB, {compiled} compiled modules")
