"""What tests of programs that use fastdb need: databases of their own."""

from fastdb.testing.client import DatabaseTestClient
from fastdb.testing.databases import UnsafeDatabaseError

__all__ = ["DatabaseTestClient", "UnsafeDatabaseError"]
