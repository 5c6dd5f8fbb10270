"""The migrations lead where the tables are, and back, and fail without a trace."""

from fastdb.testing.migrations import *  # noqa: F403
