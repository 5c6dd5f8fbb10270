"""Count the instructions of the core's operations, here and at an earlier commit.

``python -m benchmarks.instructions [--base REVISION]`` builds this checkout, as it stands, and the
commit that it is compared with; counts on both, with callgrind, what each operation of
:mod:`benchmarks.operations` needs; and fails where one needs over 2 % more than before. Wall times
scatter by half on a machine that others use, these counts by less than one percent.

The commit is that of ``--base``, or where HEAD left ``origin/main`` or ``main``, or, where HEAD is
itself on them, its parent. Where there is none, as in a clone of depth 1, nothing is compared.

What is worth its price is accepted by the message of the commit, in a trailer that names the
operation, how much more it may need, and why::

    Instructions: record[0] +5 %: negative positions are checked, too
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.counting import LAYOUTS, turns_of
from benchmarks.operations import all_operations
from benchmarks.report import markdown
from tests.databases import ServerError
from tests.servers import install_debian_package

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from benchmarks.operations import Operation

ROOT = Path(__file__).resolve().parent.parent
#: By how much an operation may grow without a word.
TOLERANCE = 0.02
TIMEOUT = 1_800.0
BRANCHES = ("origin/main", "main")

#: Macros of valgrind's header, as functions that Python can call.
LIBRARY = """
#include <valgrind/callgrind.h>
void start(void) { CALLGRIND_START_INSTRUMENTATION; }
void zero(void) { CALLGRIND_ZERO_STATS; }
void dump(char *name) { CALLGRIND_DUMP_STATS_AT(name); }
"""


class Stop(Exception):
    """End with one clear line."""


# -- git


class Base(NamedTuple):
    """The commit to compare with.

    Attributes:
        commit: Its full name.
        reason: Why it is that one, for people.
    """

    commit: str
    reason: str


def git(root: Path, *words: str) -> str | None:
    """Return what git prints, or None where it fails."""
    try:
        done = subprocess.run(
            ["git", *words], cwd=root, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def find_base(root: Path, given: str | None = None) -> Base | None:
    """Return the commit to compare the checkout at `root` with, or None where there is none.

    Raises:
        Stop: `given` is no commit here.
    """
    top = git(root, "rev-parse", "--show-toplevel")
    if top is None or not root.samefile(top):
        return None  # an unpacked archive, perhaps inside the repository of something else
    if given is not None:
        commit = git(root, "rev-parse", "--verify", "--quiet", f"{given}^{{commit}}")
        if commit is None:
            raise Stop(f"{given!r} is no commit of {root}")
        return Base(commit, "named by --base")
    head = git(root, "rev-parse", "HEAD")
    for branch in BRANCHES:
        commit = git(root, "merge-base", "HEAD", branch)
        if commit is not None and commit != head:
            return Base(commit, f"where HEAD left {branch}")
    parent = git(root, "rev-parse", "--verify", "--quiet", "HEAD~1^{commit}")
    return None if parent is None else Base(parent, "HEAD's parent: HEAD itself is on main")


def described(root: Path, commit: str) -> str:
    """Return a commit as people name it."""
    return git(root, "log", "-1", "--format=%h %s", commit) or commit


class Acceptance(NamedTuple):
    """A regression that a commit accepts.

    Attributes:
        operation: Its name.
        growth: By how much, 0.05 being 5 %.
        reason: Why.
    """

    operation: str
    growth: float
    reason: str


def parse_trailer(text: str) -> Acceptance | None:
    """Return what the value of a trailer ``Instructions:`` says, or None where that is unclear."""
    match = re.fullmatch(r"(.+\S)\s+\+(\d+(?:\.\d+)?)\s*%:\s*(\S.*)", text.strip())
    if match is None:
        return None
    return Acceptance(match[1], float(match[2]) / 100, match[3])


def trailers(root: Path, base: str) -> list[str]:
    """Return the values of the trailers ``Instructions:`` of the commits since `base`."""
    pattern = "--format=%(trailers:key=Instructions,valueonly=true,unfold=true)"
    found = git(root, "log", pattern, f"{base}..HEAD") or ""
    return [line for line in found.splitlines() if line.strip()]


# -- the two builds


def copy_checkout(root: Path, target: Path) -> None:
    """Copy what git knows of the checkout, as it stands, and new files that are not ignored."""
    listed = git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard") or ""
    for name in filter(None, listed.split("\0")):
        source, copy = root / name, target / name
        if source.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, copy)


def copy_commit(root: Path, commit: str, target: Path) -> None:
    """Unpack the files of `commit`."""
    packed = subprocess.run(
        ["git", "archive", "--format=tar", commit], cwd=root, stdout=subprocess.PIPE, check=True
    )
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(target, filter="data")


def clean_environment(**more: str) -> dict[str, str]:
    """Return our environment without what would choose another Python, or form of the core."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "FASTDB_"))
    }
    return kept | {"FASTDB_REQUIRE_EXTENSIONS": "1"} | more


def build(folder: Path) -> str | None:
    """Install the compiled fastdb of ``source`` into ``site``; return what went wrong, or None."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(
        [*pip, "--no-deps", "--target", str(folder / "site"), str(folder / "source")],
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    return done.stdout if done.returncode else None


# -- counting


def need_valgrind() -> None:
    """Install valgrind where it is missing.

    Raises:
        Stop: We cannot.
    """
    if shutil.which("valgrind") is not None:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Stop("valgrind is missing on this machine, do: apt-get install valgrind")
    print("installing valgrind with apt-get", flush=True)
    try:
        install_debian_package("valgrind")
    except ServerError as error:
        raise Stop(f"valgrind is missing and cannot be installed: {error}") from error


def make_library(folder: Path) -> Path:
    """Compile what talks to callgrind.

    Raises:
        Stop: There is no compiler, or it fails, as without valgrind's headers.
    """
    compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    path = folder / "callgrind.so"
    command = [*shlex.split(compiler), "-O2", "-shared", "-fPIC", "-o", str(path), "-xc", "-"]
    try:
        done = subprocess.run(command, input=LIBRARY, capture_output=True, text=True, check=False)
    except OSError as error:
        raise Stop(f"no C compiler: {error}") from error
    if done.returncode:
        raise Stop(f"`{shlex.join(command)}` failed; it needs valgrind's headers\n{done.stderr}")
    return path


def fixed_addresses() -> list[str]:
    """Return the command before a command that lays its memory out alike each time."""
    words = ["setarch", "-R"]
    try:
        done = subprocess.run([*words, "true"], capture_output=True, check=False)
    except OSError:
        return []
    return [] if done.returncode else words


class Counted(NamedTuple):
    """What callgrind found.

    Attributes:
        costs: Instructions of one time of each operation.
        lacking: Why an operation cannot be done, by its name.
    """

    costs: dict[str, float]
    lacking: dict[str, str]


def count(folder: Path, library: Path, prefix: list[str]) -> Counted:
    """Count the operations of this checkout on the fastdb that is in ``site``.

    Raises:
        Stop: It failed.
    """
    site, dumps = folder / "site", folder / "dumps"
    dumps.mkdir()
    # fmt: off
    command = [
        *prefix, "valgrind", "--quiet", "--tool=callgrind", "--instr-atstart=no",
        f"--callgrind-out-file={dumps}/%p",
        sys.executable, "-P", "-m", "benchmarks.counting", str(library), str(site),
    ]
    # fmt: on
    done = subprocess.run(
        command,
        cwd=dumps,
        # The operations are this checkout's; fastdb is found before it.
        env=clean_environment(
            PYTHONPATH=f"{site}{os.pathsep}{ROOT}", PYTHONHASHSEED="0", PYTHONDONTWRITEBYTECODE="1"
        ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    if done.returncode:
        raise Stop(f"`{shlex.join(command)}` failed ({done.returncode})\n{done.stderr}")
    lacking = {}
    for line in done.stdout.splitlines():
        each = json.loads(line)
        lacking[each["operation"]] = each["reason"]
    totals = parse_dumps(path.read_text() for path in dumps.iterdir())
    operations = {name: each for name, each in all_operations().items() if name not in lacking}
    return Counted({name: cost(each, totals) for name, each in operations.items()}, lacking)


def parse_dumps(dumps: Iterable[str]) -> dict[tuple[str, int, int], int]:
    """Return the instructions of each loop by operation, layout and number of turns.

    Callgrind writes other dumps, too, such as when a process ends; they are left out.
    """
    totals = {}
    for dump in dumps:
        label = re.search(r"^desc: Trigger: Client Request: (\d+) (\d+) (.+)$", dump, re.MULTILINE)
        total = re.search(r"^totals: (\d+)$", dump, re.MULTILINE)
        if label is not None and total is not None:
            totals[label[3], int(label[1]), int(label[2])] = int(total[1])
    return totals


def cost(operation: Operation, totals: Mapping[tuple[str, int, int], int]) -> float:
    """Return the instructions of one time: the median of the layouts.

    Raises:
        Stop: Callgrind has not counted it.
    """
    turns = turns_of(operation)
    costs = []
    for layout in range(LAYOUTS):
        try:
            few = totals[operation.name, layout, turns]
            many = totals[operation.name, layout, 3 * turns]
        except KeyError as error:
            raise Stop(f"callgrind has no figure for {error}") from None
        costs.append((many - few) / (2 * turns * operation.size))
    return statistics.median(costs)


# -- the verdict


@dataclass(frozen=True)
class Comparison:
    """One operation, here and before.

    Attributes:
        name: Of the operation.
        before: Instructions at the base, or None where it lacks the operation.
        now: Instructions here.
        accepted: What commits accept.
    """

    name: str
    before: float | None
    now: float
    accepted: tuple[Acceptance, ...] = ()

    @property
    def growth(self) -> float:
        """How much more it needs, 0.05 being 5 %; 0 where it is new."""
        return self.now / self.before - 1 if self.before else 0.0

    @property
    def failed(self) -> bool:
        """Whether it needs more than it may."""
        return self.growth > self.allowed

    @property
    def allowed(self) -> float:
        """How much more it may need: the tolerance, on top of what all commits accept."""
        accepted = math.prod(1 + each.growth for each in self.accepted)
        return accepted * (1 + TOLERANCE) - 1

    def cells(self) -> list[str]:
        """Return the cells of the table's row."""
        if self.before is None:
            return [self.name, "", f"{self.now:,.1f}", "", "new"]
        verdict = f"over +{self.allowed:.1%}" if self.failed else ""
        reasons = [f"accepted +{each.growth:.1%}: {each.reason}" for each in self.accepted]
        return [
            self.name,
            f"{self.before:,.1f}",
            f"{self.now:,.1f}",
            f"{self.growth:+.2%}",
            "; ".join(filter(None, [verdict, *reasons])),
        ]


def compare(base: Counted, head: Counted, accepted: Iterable[Acceptance]) -> list[Comparison]:
    """Return the comparisons of all operations that can be done here."""
    accepted = list(accepted)
    return [
        Comparison(
            name,
            base.costs.get(name),
            now,
            tuple(each for each in accepted if each.operation == name),
        )
        for name, now in head.costs.items()
    ]


def check(root: Path, given: str | None) -> bool:
    """Build, count and compare; say what was found, and return whether it is well.

    Raises:
        Stop: That was not possible.
    """
    base = find_base(root, given)
    if base is None:
        print("no commit to compare with: this is no git clone, or HEAD has no parent here")
        print("nothing was compared")
        return True
    print(f"before: {described(root, base.commit)} ({base.reason})")
    changed = " with what is not committed" if git(root, "status", "--porcelain") else ""
    print(f"now:    {described(root, 'HEAD')}{changed}", flush=True)
    need_valgrind()
    # Names of one length: so are the paths in memory.
    with tempfile.TemporaryDirectory(prefix="fastdb-") as name, ThreadPoolExecutor(2) as threads:
        library = make_library(Path(name))
        folders = Path(name, "base"), Path(name, "head")
        copy_commit(root, base.commit, folders[0] / "source")
        copy_checkout(root, folders[1] / "source")
        print("building both", flush=True)
        failed_before, failed_now = threads.map(build, folders)
        if failed_now is not None:
            raise Stop(f"this checkout could not be built\n{failed_now}")
        if failed_before is not None:
            # Else nobody could ever mend a commit that no longer builds.
            print(f"{failed_before}\nthe commit before could not be built; nothing was compared")
            return True
        print("counting on both", flush=True)
        if not (prefix := fixed_addresses()):
            print("`setarch -R` does not work here: counts of expressions scatter by one percent")
        before, now = threads.map(lambda folder: count(folder, library, prefix), folders)
    return judge(root, base.commit, before, now)


def judge(root: Path, base: str, before: Counted, now: Counted) -> bool:
    """Print the table, and return whether all is well."""
    accepted = []
    for text in trailers(root, base):
        acceptance = parse_trailer(text)
        if acceptance is None:
            print(f"not understood, and not counted: `Instructions: {text}`")
        elif acceptance.operation not in now.costs:
            print(f"there is no operation {acceptance.operation!r}: `Instructions: {text}`")
        else:
            accepted.append(acceptance)
    comparisons = compare(before, now, accepted)
    head = ("operation", "instructions before", "now", "change", "")
    print("\n".join(markdown(head, [each.cells() for each in comparisons])))
    for name, reason in before.lacking.items():
        print(f"the commit before cannot do {name!r}: {reason}")
    for name, reason in now.lacking.items():
        print(f"this checkout cannot do {name!r}: {reason}")
    failed = [each.name for each in comparisons if each.failed]
    if failed:
        print(f"more instructions than before, by over {TOLERANCE:.0%}: {'; '.join(failed)}")
        print("where that is worth it, say so in a commit's message, as in this module's docstring")
    return not failed and not now.lacking


def main(arguments: list[str] | None = None) -> int:
    """Check; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.instructions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--base", metavar="REVISION", help="the commit to compare with")
    options = parser.parse_args(arguments)
    try:
        return 0 if check(ROOT, options.base) else 1
    except Stop as error:
        print(f"instructions: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
