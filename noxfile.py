"""What runs beside `./dev test`: lint, types, other versions, wheels, coverage, workflows."""

import fnmatch
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from pathlib import Path

import nox

PYPROJECT = nox.project.load_toml("pyproject.toml")
BACKENDS = "--backends=sqlite,postgresql,mysql,asyncmy"

nox.needs_version = ">=2025.5"
nox.options.sessions = ["lint", "types", "workflows", "tests", "pure", "wheels"]
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
def faults(session: nox.Session) -> None:
    """Run the fault suite five times over, in random order, with its storms at full size."""
    install(session, "test", form="FASTDB_REQUIRE_EXTENSIONS")
    env = {"FASTDB_REQUIRE_EXTENSIONS": "1", "FASTDB_STORM": "100000"}
    # A storm of that size takes minutes.
    command = ["python", "-m", "pytest", BACKENDS, "-o", "faulthandler_timeout=1800"]
    for _ in range(5):
        session.run(*command, *(session.posargs or ["tests/faults"]), env=env)


@nox.session
def coverage(session: nox.Session) -> None:
    """Measure the lines and branches of the Python files, over both forms."""
    install(session, "test", form="FASTDB_REQUIRE_EXTENSIONS")
    session.run("coverage", "erase")
    # `coverage run` starts pytest, not pytest-cov, so that all data is one kind, and all of it.
    # What is measured takes memory, which tests of memory would take for fastdb's.
    memory = "--ignore=tests/faults/test_memory.py"
    pytest = ["coverage", "run", "-m", "pytest", "-n", "2", BACKENDS, memory]
    storm = {"FASTDB_STORM": "1000"}  # how many faults there are makes no other lines run
    session.run(*pytest, *session.posargs, env={"FASTDB_REQUIRE_EXTENSIONS": "1", **storm})
    # tests/speedups runs on both forms wherever there are both; of what is below the forms, the
    # drivers and the pool, the other folders reach no more in plain Python.
    folders = ("speedups", "faults", "migrations", "testing")
    where = session.posargs or [f"--ignore=tests/{folder}" for folder in folders]
    session.run(*pytest, *where, env={"FASTDB_NO_EXTENSIONS": "1", **storm})
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


@nox.session
def cython_coverage(session: nox.Session) -> None:
    """Measure the lines of the Cython modules, in a copy that traces them; there are no branches.

    What traces a line runs Python code, where the core counts on that none runs. Tests of many
    threads, and of what each operation keeps, are therefore left out.
    """
    session.install(*core_requirements("postgresql", "mysql", "asyncmy"), "coverage>=7.10")
    folder = copy_checkout(session)
    modules = [path.as_posix() for path in sorted(Path("fastdb/_speedups").glob("*.pyx"))]
    settings = folder / "coverage.toml"
    settings.write_text(
        """
[run]
plugins = ["Cython.Coverage"]
source_pkgs = ["fastdb"]
parallel = true
patch = ["subprocess", "_exit"]

[report]
include = ["*.pyx"]
show_missing = true
skip_covered = true
fail_under = 100
exclude_lines = ["# *pragma: no cover: ."]
"""
    )
    where = session.posargs or [
        "tests/speedups",
        "--ignore=tests/speedups/test_threads.py",
        "--ignore=tests/speedups/test_leaks.py",
        *("tests/test_types.py", "tests/test_execute.py", "tests/test_iterate.py"),
        *("tests/test_compiler.py", "tests/test_compiler_converters.py"),
        *("tests/test_bad_input.py", "tests/drivers/test_mysql_driver.py"),
    ]
    options = f"--rcfile={settings.name}"
    run = {"FASTDB_REQUIRE_EXTENSIONS": "1", "FASTDB_STORM": "1000"}
    with session.chdir(folder):
        # No optimization: each line is there. The plugin reads the C code beside the modules.
        flags = {"CFLAGS": "-O0 -g0 -DNDEBUG -DCYTHON_TRACE=1 -DCYTHON_TRACE_NOGIL=1"}
        session.run("cythonize", "-i", "-q", "-X", "linetrace=True", *modules, env=flags)
        command = ["coverage", "run", options, "-m", "pytest", "-n", "2", *where]
        session.run(*command, env=run)
        session.run("coverage", "combine", "--quiet", options)
        session.run("coverage", "report", options)


@nox.session
def instructions(session: nox.Session) -> None:
    """Count the instructions of the core's operations; fail at 2 % more than before."""
    extras = PYPROJECT["project"]["optional-dependencies"]
    # fastdb itself is built by what runs here, twice.
    needed = [*PYPROJECT["project"]["dependencies"], *extras["postgresql"], *extras["mysql"]]
    session.install(*needed)
    session.run("python", "-m", "benchmarks.instructions", *session.posargs)


def copy_checkout(session: nox.Session) -> Path:
    """Copy what a build and its tests need into a folder of the session's own."""
    folder = Path(session.create_tmp()).resolve() / "checkout"
    shutil.rmtree(folder, ignore_errors=True)
    skipped = shutil.ignore_patterns("__pycache__", "*.so", "*.c")
    for name in ("fastdb", "tests"):
        shutil.copytree(name, folder / name, ignore=skipped)
    for name in ("pyproject.toml", "setup.py", "_fastdb_pytest.py", "README.md", "LICENSE"):
        shutil.copy(name, folder)
    return folder


def core_requirements(*extras: str) -> list[str]:
    """Return what the core is built with, and what its tests need on any interpreter."""
    project = PYPROJECT["project"]
    found = [*PYPROJECT["build-system"]["requires"], *project["dependencies"]]
    for extra in extras:
        found += project["optional-dependencies"][extra]
    return [*found, *nox.project.dependency_groups(PYPROJECT, "test-portable")]


@nox.session
def sanitizers(session: nox.Session) -> None:
    """Run what crosses the core with AddressSanitizer and UndefinedBehaviorSanitizer (gcc)."""
    session.install(*core_requirements("postgresql", "mysql", "asyncmy"))
    folder = copy_checkout(session)
    flags = "-fsanitize=address,undefined -fno-sanitize-recover=undefined"
    build = {
        "FASTDB_REQUIRE_EXTENSIONS": "1",
        "CFLAGS": f"-O1 -g -fwrapv -fno-omit-frame-pointer {flags}",
        "LDFLAGS": flags,
    }
    libraries = []
    for name in ("libasan.so", "libubsan.so"):
        found = session.run("gcc", f"-print-file-name={name}", silent=True, external=True)
        libraries.append(str(Path(str(found).strip()).resolve()))
    run = {
        "FASTDB_REQUIRE_EXTENSIONS": "1",
        "LD_PRELOAD": " ".join(libraries),
        # What the interpreter and other extensions keep to their end is no leak of ours; pytest
        # shall not handle the signals that tell where memory was misused.
        "ASAN_OPTIONS": "detect_leaks=0:handle_segv=2:handle_abort=2",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",  # the interpreter's own allocator hides errors
    }
    where = session.posargs or [
        *("tests/speedups", "tests/test_types.py", "tests/test_execute.py"),
        *("tests/test_iterate.py", "tests/drivers/test_mysql_driver.py"),
    ]
    with session.chdir(folder):
        session.run("python", "setup.py", "-q", "build_ext", "--inplace", env=build)
        session.run("python", "-m", "pytest", *where, env=run)


def find_interpreter(session: nox.Session, variable: str, names: list[str], test: str) -> str:
    """Return the first interpreter of these that passes a test, or that a variable names."""
    given = os.environ.get(variable)
    tried = [given] if given else names
    for name in tried:
        path = shutil.which(name)
        if path is not None:
            done = subprocess.run([path, "-c", test], capture_output=True, check=False)
            if done.returncode == 0:
                return path
    session.error(
        f"there is no such interpreter; tried {', '.join(tried)}; install one, or name it in "
        f"{variable}"
    )


def run_core_tests(session: nox.Session, interpreter: str, *options: str) -> None:
    """Build the core for an interpreter, and run its tests there."""
    folder = copy_checkout(session)
    venv = folder.parent / "venv"
    session.run(interpreter, "-m", "venv", "--clear", str(venv), external=True)
    python = str(venv / "bin" / "python")
    # SQLAlchemy's own extensions know neither how a debug build counts, nor always of threads.
    # An interpreter that few use has no wheels of the newest hypothesis, which is no more pure.
    kinds = ["--no-binary=SQLAlchemy", "--only-binary=hypothesis"]
    pure = [*kinds, *core_requirements("mysql")]
    install = [python, "-m", "pip", "install", "--quiet", *pure]
    session.run(*install, env={"DISABLE_SQLALCHEMY_CEXT": "1"}, external=True)
    build = [python, "setup.py", "-q", "build_ext", "--inplace"]
    where = session.posargs or ["tests/speedups"]
    env = {"FASTDB_REQUIRE_EXTENSIONS": "1"}
    with session.chdir(folder):
        session.run(*build, env=env, external=True)
        pytest = [python, "-m", "pytest", "--backends=sqlite", *options, *where]
        session.run(*pytest, env=env, external=True)


@nox.session(python=False)
def refcounts(session: nox.Session) -> None:
    """Run the core's tests on a debug build of CPython, which counts references.

    FASTDB_DEBUG_PYTHON names one; Debian has one, which root gets here.
    """
    names = ["python3-dbg", *[f"python3.{minor}-dbg" for minor in range(11, 16)]]
    test = "import sys; sys.gettotalrefcount(); assert sys.version_info >= (3, 11)"
    if "FASTDB_DEBUG_PYTHON" not in os.environ and not any(map(shutil.which, names)):
        apt = shutil.which("apt-get")
        if apt is not None and os.geteuid() == 0:
            session.run(apt, "update", "-qq", external=True)
            packages = ["python3-dbg", "python3-dev", "python3-venv"]
            session.run(apt, "install", "-y", "-qq", *packages, external=True)
    interpreter = find_interpreter(session, "FASTDB_DEBUG_PYTHON", names, test)
    run_core_tests(session, interpreter)


@nox.session(python=False)
def freethreading(session: nox.Session) -> None:
    """Run the core's tests on a free-threaded CPython, where threads run at the same time.

    FASTDB_FREETHREADED_PYTHON names one.
    """
    names = [f"python3.{minor}t" for minor in range(13, 16)]
    test = "import sysconfig; assert sysconfig.get_config_var('Py_GIL_DISABLED') == 1"
    interpreter = find_interpreter(session, "FASTDB_FREETHREADED_PYTHON", names, test)
    # 3.13 keeps classes for ever once there was a second thread; `refcounts` counts leaks better.
    records = "tests/speedups/test_records.py"
    left_out = ["--ignore=tests/speedups/test_leaks.py"]
    left_out += [f"--deselect={records}::test_classes_are_bounded_and_collected"]
    # A collection takes many times as long there.
    run_core_tests(session, interpreter, *left_out, "-o", "faulthandler_timeout=600")


def build_sdist(session: nox.Session, folder: Path) -> Path:
    """Build the sdist; stop where what is built from it is not the same, byte by byte."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if not epoch:  # the commit's
        git = ["git", "log", "-1", "--format=%ct"]
        epoch = subprocess.run(git, capture_output=True, check=True, text=True).stdout.strip()
    build = ["python", "-m", "build", "--sdist", "--outdir"]
    env = {"SOURCE_DATE_EPOCH": epoch}
    session.run(*build, str(folder), env=env)
    (sdist,) = folder.glob("*.tar.gz")
    again = Path(session.create_tmp()).resolve() / "again"
    shutil.rmtree(again, ignore_errors=True)
    with tarfile.open(sdist) as archive:
        archive.extractall(again, filter="data")
    (source,) = again.iterdir()
    session.run(*build, str(again), str(source), env=env)
    if (again / sdist.name).read_bytes() != sdist.read_bytes():
        session.error(f"{sdist.name} and what is built from it differ; compare with {again}")
    session.log(f"{sdist.name}: twice the same {sdist.stat().st_size // 1024} KiB")
    return sdist


def build_wheel(session: nox.Session, sdist: Path, folder: Path, form: str) -> Path:
    """Build a wheel from the sdist, in the form that `form` names."""
    # Never right here, where a build would take what an older one left.
    build = ["python", "-m", "pip", "wheel", "--quiet", "--no-deps", f"--wheel-dir={folder}"]
    session.run(*build, str(sdist), env={form: "1", "CFLAGS": "-g0"})
    (wheel,) = folder.glob("*.whl")
    return wheel


def run_suite_on(session: nox.Session, wheel: Path, form: str, *options: str) -> None:
    """Install a wheel, and run a copy of the suite against it."""
    session.install("--force-reinstall", "--no-deps", str(wheel))
    session.install(f"fastdb-sql[all] @ {wheel.resolve().as_uri()}")
    copy = Path(session.create_tmp()).resolve() / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    skipped = shutil.ignore_patterns("__pycache__")
    for name in ("tests", "benchmarks", "examples", "docs"):
        if Path(name).is_dir():
            shutil.copytree(name, copy / name, ignore=skipped)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(name, copy)
    with session.chdir(copy):
        # Projects that tests make must not lie in this one, whose settings pytest would find.
        env = {form: "1", "TMPDIR": tempfile.gettempdir()}
        session.run("python", "-c", "import fastdb; print(fastdb.__file__)", env=env)
        session.run("python", "-m", "pytest", *options, *session.posargs, env=env)


@nox.session
def wheels(session: nox.Session) -> None:
    """Build sdist and wheels, and run a copy of the suite against the installed wheel."""
    folder = Path(session.create_tmp()).resolve()
    for name in ("dist", "pure"):
        shutil.rmtree(folder / name, ignore_errors=True)
    session.install(*nox.project.dependency_groups(PYPROJECT, "build", "test"))
    sdist = build_sdist(session, folder / "dist")
    wheel = build_wheel(session, sdist, folder / "dist", "FASTDB_REQUIRE_EXTENSIONS")
    pure_wheel = build_wheel(session, sdist, folder / "pure", "FASTDB_NO_EXTENSIONS")
    check_contents(session, sdist, wheel, pure_wheel)
    run_suite_on(session, wheel, "FASTDB_REQUIRE_EXTENSIONS")


@nox.session
def sdist(session: nox.Session) -> None:
    """Build what is released for every system, sdist and pure wheel, into dist/, and test it.

    The wheels with the core are cibuildwheel's, which builds them from this sdist.
    """
    session.install(*nox.project.dependency_groups(PYPROJECT, "build", "test"))
    shutil.rmtree("dist", ignore_errors=True)
    folder = Path("dist").resolve()
    source = build_sdist(session, folder)
    wheel = build_wheel(session, source, folder, "FASTDB_NO_EXTENSIONS")
    session.run("twine", "check", "--strict", str(source), str(wheel))
    left_out = [f"--ignore=tests/{name}" for name in ("faults", "test_benchmarks.py")]
    run_suite_on(session, wheel, "FASTDB_NO_EXTENSIONS", "--backends=sqlite", *left_out)


@nox.session(python=False)
def release(session: nox.Session) -> None:
    """Check that a tag (`-- v1.2.3`), the version and the changelog agree."""
    (tag,) = session.posargs or ["(none given)"]
    found = re.search(r'^__version__ = "(.+)"$', Path("fastdb/__init__.py").read_text(), re.M)
    version = found[1] if found else "(none found)"
    if tag != f"v{version}":
        session.error(f"the tag is {tag!r}, and fastdb.__version__ is {version!r}")
    heading = re.compile(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", re.M)
    if not heading.search(Path("CHANGELOG.md").read_text()):
        session.error(f"CHANGELOG.md has no heading `## [{version}] - YYYY-MM-DD`")
    session.log(f"{tag} can be released")


@nox.session
def workflows(session: nox.Session) -> None:
    """Check the workflows, what builds the wheels, and pre-commit's hooks, all without network."""
    session.install(*nox.project.dependency_groups(PYPROJECT, "wheels", "workflows"))
    files = sorted(map(str, Path(".github/workflows").glob("*.yml")))
    schema = ["check-jsonschema", "--builtin-schema"]
    session.run(*schema, "vendor.github-workflows", *files)
    session.run(*schema, "vendor.dependabot", ".github/dependabot.yml")
    session.run("zizmor", "--offline", "--no-progress", "--persona=pedantic", ".github")
    session.run("pre-commit", "validate-config", ".pre-commit-config.yaml")
    built = set()
    for platform in ("linux", "macos", "windows"):
        command = ["cibuildwheel", "--print-build-identifiers", "--platform", platform]
        built |= set(str(session.run(*command, silent=True)).split())
    settings = PYPROJECT["tool"]["cibuildwheel"]
    selectors = settings["build"].split() + [item["select"] for item in settings["overrides"]]
    if stray := [text for text in selectors if not fnmatch.filter(built, text)]:
        session.error(f"cibuildwheel knows nothing that is like {stray}")
    session.log(f"{len(built)} wheels: {' '.join(sorted(built))}")


def check_contents(session: nox.Session, sdist: Path, wheel: Path, pure_wheel: Path) -> None:
    """Stop where a file stands in a distribution that it does not belong to, or lacks."""
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[-1] for name in archive.getnames()}
    sources = {path.as_posix() for path in Path("fastdb").rglob("*.py*") if path.suffix != ".pyc"}
    sources = {name for name in sources if "__pycache__" not in name} | {"_fastdb_pytest.py"}
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
        ours = ("fastdb/", "fastdb_sql-", "_fastdb_pytest.py")
        stray += [name for name in content if not name.startswith(ours)]
        if stray:
            session.error(f"{path.name} holds {stray}")
        if not [name for name in content if name.endswith(".dist-info/licenses/LICENSE")]:
            session.error(f"{path.name} lacks its licence, where PEP 639 wants it")
    compiled = len([name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".so")])
    expected = len(list(Path("fastdb/_speedups").glob("*.pyx")))
    if compiled != expected:
        session.error(f"{wheel.name} holds {compiled} compiled modules, not {expected}")
    session.log(f"{wheel.name}: {os.path.getsize(wheel) // 1024} KiB, {compiled} compiled modules")
