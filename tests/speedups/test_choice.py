"""The FASTDB_* variables choose the form of the core, or say why they cannot."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

MODULES = (
    "binding",
    "fingerprint",
    "mysql_literals",
    "mysql_rows",
    "plans",
    "postgresql_times",
    "query_cache",
    "records",
)
BUILT = all(find_spec(f"fastdb._speedups.{module}") is not None for module in MODULES)
SHOW = "import fastdb._speedups as s; print(s.COMPILED, s.RecordLayout.__module__)"
COMPILED, PURE = "True fastdb._speedups.records", "False fastdb._fallback.records"


def run(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("FASTDB_")
    }
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment | variables,
        capture_output=True,
        text=True,
        check=False,
    )


def without(module: str) -> str:
    """Return code after which a compiled module cannot be imported."""
    return f"import sys; sys.modules['fastdb._speedups.{module}'] = None; "


@pytest.mark.parametrize("value", ["", "0"])
def test_compiled_is_taken_where_it_is_built(value: str) -> None:
    result = run(SHOW, FASTDB_NO_EXTENSIONS=value, FASTDB_REQUIRE_EXTENSIONS=value)
    assert result.stdout.strip() == (COMPILED if BUILT else PURE), result.stderr


def test_no_extensions_takes_the_pure_form() -> None:
    result = run(SHOW, FASTDB_NO_EXTENSIONS="1")
    assert result.stdout.strip() == PURE, result.stderr


def test_require_extensions_takes_the_compiled_form_or_fails() -> None:
    result = run(SHOW, FASTDB_REQUIRE_EXTENSIONS="1")
    if BUILT:
        assert result.stdout.strip() == COMPILED, result.stderr
    else:
        assert "FASTDB_REQUIRE_EXTENSIONS is set but the compiled form" in result.stderr


@pytest.mark.parametrize("module", MODULES)
def test_one_missing_module_makes_all_pure(module: str) -> None:
    result = run(without(module) + SHOW)
    assert result.stdout.strip() == PURE, result.stderr


@pytest.mark.parametrize("module", MODULES)
def test_require_extensions_says_what_is_missing(module: str) -> None:
    result = run(without(module) + SHOW, FASTDB_REQUIRE_EXTENSIONS="1")
    assert result.returncode != 0
    assert "ImportError: FASTDB_REQUIRE_EXTENSIONS is set but the compiled form" in result.stderr
    assert f"fastdb._speedups.{module if BUILT else ''}" in result.stderr


def test_both_variables_are_refused() -> None:
    result = run(SHOW, FASTDB_NO_EXTENSIONS="1", FASTDB_REQUIRE_EXTENSIONS="1")
    assert result.returncode != 0
    assert "are both set; unset one of them" in result.stderr


def test_the_choice_exports_the_same_names_in_both_forms() -> None:
    code = (
        "import fastdb._speedups as s; print([s.__dict__[name] is not None for name in s.__all__])"
    )
    default, pure = run(code), run(code, FASTDB_NO_EXTENSIONS="1")
    assert default.stdout == pure.stdout == f"{[True] * 12}\n", default.stderr + pure.stderr
