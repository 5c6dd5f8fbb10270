"""Count the file descriptors of this process, on any system."""

from __future__ import annotations

import contextlib
import os


def open_descriptors() -> int:
    """Return how many there are; only Linux would list them under ``/proc``."""
    count = 0
    for descriptor in range(4096):
        with contextlib.suppress(OSError):
            os.fstat(descriptor)
            count += 1
    return count
