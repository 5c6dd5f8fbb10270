"""What tests of programs that use fastdb need: databases of their own, and sandboxes in them."""

from fastdb.testing.client import DatabaseTestClient
from fastdb.testing.databases import UnsafeDatabaseError
from fastdb.testing.ownership import OwnershipError
from fastdb.testing.sandbox import Sandbox
from fastdb.testing.sandbox_shared import shut_down

__all__ = [
    "DatabaseTestClient",
    "OwnershipError",
    "Sandbox",
    "UnsafeDatabaseError",
    "shut_down",
]
