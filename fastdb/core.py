"""Re-export the main classes where users of ``databases`` look for them."""

from fastdb.connection import Connection
from fastdb.database import Database
from fastdb.transaction import Transaction
from fastdb.url import DatabaseURL

__all__ = ["Connection", "Database", "DatabaseURL", "Transaction"]
