"""Teach pytest ``--benchmark``: run the benchmarks, and nothing but them."""

from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent / "benchmarks"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option; pytest-benchmark's own begin with the same word and stay usable."""
    parser.addoption("--benchmark", action="store_true", help="run benchmarks/ instead of tests/")


def pytest_configure(config: pytest.Config) -> None:
    """Look into benchmarks/ where the command line names no file."""
    if config.getoption("--benchmark"):
        if not config.pluginmanager.hasplugin("benchmark"):
            raise pytest.UsageError("--benchmark needs pytest-benchmark: pip install --group bench")
        config.addinivalue_line("python_files", "bench_*.py")
        config.addinivalue_line("python_functions", "bench_*")
        if config.args_source is not pytest.Config.ArgsSource.ARGS:
            config.args = [str(BENCHMARKS)]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is no benchmark."""
    if config.getoption("--benchmark"):
        others = [item for item in items if BENCHMARKS not in item.path.parents]
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if BENCHMARKS in item.path.parents]
