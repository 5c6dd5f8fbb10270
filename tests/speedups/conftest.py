"""Run the tests of the compiled core on both of its forms, in one process."""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import pytest


def _is_set(name: str) -> bool:
    return os.environ.get(name, "") not in ("", "0")


def _forms() -> list[str]:
    if _is_set("FASTDB_NO_EXTENSIONS"):
        return ["pure"]
    if _is_set("FASTDB_REQUIRE_EXTENSIONS"):
        return ["compiled", "pure"]  # the import fails where it is missing
    return ["compiled", "pure"] if find_spec("fastdb._speedups.records") else ["pure"]


FORMS = _forms()
PACKAGES = {"compiled": "fastdb._speedups", "pure": "fastdb._fallback"}


def load(form: str, module: str) -> ModuleType:
    """Return a module of one form."""
    return import_module(f"{PACKAGES[form]}.{module}")


@pytest.fixture(scope="session", params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    """Return the name of the form under test."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def records(form: str) -> ModuleType:
    """Return the records module of the form under test."""
    return load(form, "records")


@pytest.fixture(scope="session")
def both_records() -> tuple[ModuleType, ModuleType]:
    """Return the records modules to compare: compiled and pure, or pure twice without it."""
    return load(FORMS[0], "records"), load("pure", "records")
