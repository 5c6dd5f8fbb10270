"""What the benchmarks found, as JSON and as tables in Markdown."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["Section", "machine", "micro_tables", "workload_tables", "write_json"]

FOLDER = Path(__file__).parent.parent / ".benchmarks"
DIALECTS = ["sqlite", "postgresql", "mysql"]

Results = list[dict[str, Any]]
Section = tuple[str, list[str]]


def machine(*packages: str) -> dict[str, str]:
    """Return what was measured on, and the versions of fastdb and of `packages`."""
    import fastdb

    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "fastdb": fastdb.__version__,
        **{name: version(name) for name in packages},
    }


def write_json(name: str, content: Any) -> Path:
    """Write one report to ``.benchmarks/``; return where it is."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps(content, indent=1))
    return path


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


# -- the workloads


def workload_tables(measured: Results) -> Iterator[Section]:
    """Yield title and lines of each table of the workloads."""
    measured.sort(key=lambda run: (DIALECTS.index(run["dialect"]), run["loop"], run["form"]))
    for key, title in (("wall", "time"), ("cpu", "CPU time of the client")):
        yield f"fastdb ÷ bare driver, best of rounds: {title}", ratios(measured, "results", key)
    if any(run["memory"] for run in measured):
        yield "fastdb ÷ bare driver: memory", ratios(measured, "memory", "bytes")
    if rows := list(latencies(measured)):
        head = ("on", "side", "p50 (ms)", "p99 (ms)", "p99 ÷ p50", "best round's")
        yield "W9: latency of a query, median of rounds", markdown(head, rows)


def column(run: dict[str, Any]) -> str:
    """Return the head of a run's column."""
    loop = "" if run["loop"] == "asyncio" else f", {run['loop']}"
    return f"{run['dialect']}, {run['form']}{loop}"


def ratios(measured: Results, part: str, key: str) -> list[str]:
    """Return the ratios of ``wall``, ``cpu`` or ``bytes`` as the lines of a table."""
    columns = [column(run) for run in measured]
    cells: dict[str, dict[str, str]] = {}
    for head, run in zip(columns, measured, strict=True):
        for result in run[part]:
            row = cells.setdefault(f"{result['case']} {result['title']}", {})
            row[head] = f"{result[f'{key}_ratio']:.2f}"
    rows = [[title, *(row.get(head, "") for head in columns)] for title, row in cells.items()]
    return markdown(["workload", *columns], rows)


def latencies(measured: Results) -> Iterator[list[str]]:
    """Yield the latencies of each run that has some, fastdb's and the bare driver's."""
    for run in measured:
        for result in run["results"]:
            if "fastdb_p50" not in result:
                continue
            for side, name in (("fastdb", "fastdb"), ("driver", "bare driver")):
                times = [f"{result[f'{side}_{key}'] * 1e3:.2f}" for key in ("p50", "p99")]
                tails = [f"{result[f'{side}_{key}']:.2f}" for key in ("p99_p50", "best_p99_p50")]
                yield [column(run), name, *times, *tails]


# -- what needs no database


def micro_tables(measured: Results) -> Iterator[Section]:
    """Yield title and lines of each table of what needs no database, one for each subject."""
    subjects: dict[str, dict[str, Results]] = {}
    for result in measured:
        operations = subjects.setdefault(result["subject"], {})
        operations.setdefault(result["operation"], []).append(result)
    head = ("operation", "form", "time", "floor", "its time", "ratio", "wanted")
    for subject, operations in subjects.items():
        rows = [
            [
                result["operation"],
                result["form"],
                duration(result["seconds"]),
                result["floor"],
                duration(result["floor_seconds"]),
                f"{result['ratio']:.2f}",
                wanted(result),
            ]
            for results in operations.values()
            for result in results
        ]
        yield f"{subject}, best of rounds", markdown(head, rows)


def wanted(result: dict[str, Any]) -> str:
    """Return what the compiled form is to reach, and whether it needs more."""
    seconds, ratio = result["wanted_seconds"], result["wanted_ratio"]
    if result["form"] == "pure" or (seconds is None and ratio is None):
        return ""
    if seconds is not None:
        text, missed = f"≤ {duration(seconds)}", result["seconds"] > seconds
    else:
        text, missed = f"≤ {ratio:.2f}", result["ratio"] > ratio
    return f"{text}: more" if missed else text


def duration(seconds: float) -> str:
    """Return a time in a unit that people can read."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if abs(seconds) >= size:
            return f"{seconds / size:.2f} {unit}"
    return f"{seconds / 1e-9:.1f} ns"
