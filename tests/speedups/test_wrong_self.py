"""No method of the core trusts what it is called on."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.speedups.conftest import FORMS, PACKAGES

PROGRAM = """
import importlib, inspect, sys
module = importlib.import_module(sys.argv[1])
calls = 0
for cls in vars(module).values():
    if not inspect.isclass(cls) or cls.__module__ != module.__name__:
        continue
    if issubclass(cls, (tuple, BaseException)):
        continue
    for name, method in list(vars(cls).items()):
        if isinstance(method, (staticmethod, classmethod)) or not callable(method):
            if not hasattr(method, "__get__") or isinstance(method, (staticmethod, classmethod)):
                continue
            try:
                method.__get__(5, int)
            except (TypeError, AttributeError):
                pass
            calls += 1
            continue
        for wrong in (5, "x", (), object(), None):
            for count in range(4):
                try:
                    method(wrong, *[None] * count)
                except Exception:
                    pass
                calls += 1
print(calls)
"""


@pytest.mark.parametrize("module", ["records", "query_cache", "mysql_rows", "mysql_literals"])
@pytest.mark.parametrize("form", FORMS)
def test_a_wrong_self_never_crashes(form: str, module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, f"{PACKAGES[form]}.{module}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert int(done.stdout) > 20
