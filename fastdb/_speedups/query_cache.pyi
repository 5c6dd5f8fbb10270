from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from fastdb._speedups.plans import QueryPlan
from fastdb.compiler import Compiler

__all__ = ["CacheInfo", "QueryCache"]

class CacheInfo(NamedTuple):
    hits: int
    misses: int
    evictions: int
    maxsize: int
    currsize: int

class QueryCache:
    def __init__(self, compiler: Compiler, maxsize: int = 1024) -> None: ...
    def prepare(
        self, query: Any, values: Mapping[Any, Any] | None = None
    ) -> tuple[QueryPlan, tuple[Any, ...], tuple[Any, ...] | None]: ...
    def prepare_many(
        self, query: Any, rows: Iterable[Mapping[Any, Any]], batch_size: int
    ) -> Iterator[tuple[QueryPlan, list[tuple[Any, ...]]]]: ...
    def info(self) -> CacheInfo: ...
    def clear(self) -> None: ...
