from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import fastdb

ROOT = Path(__file__).parent.parent


def test_the_demo_tells_what_it_did_and_ends_well() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", ROOT / "examples" / "demo.py", "--orders", "300"],
        env=os.environ | {"PYTHONPATH": str(Path(fastdb.__file__).parent.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert ("compiled core" if fastdb.COMPILED else "pure Python core") in lines[0]
    assert "nothing lost" in lines[-1]
    for error in ("IntegrityError", "MissingParameterError", "ColumnNotFoundError"):
        assert any(error in line for line in lines), error
