"""Re-export Record where users of ``databases`` look for it."""

from __future__ import annotations

from fastdb._speedups import Record

__all__ = ["Record"]
