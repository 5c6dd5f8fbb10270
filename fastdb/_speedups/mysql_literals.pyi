from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

__all__ = ["StatementWriter"]

class StatementWriter:
    def __init__(
        self,
        known: tuple[tuple[Callable[..., Any], str], ...],
        literal: Callable[[Any, Mapping[Any, Callable[..., Any]], bool], str],
    ) -> None: ...
    def statement(
        self,
        sql: str,
        args: Iterable[Any],
        encoders: Mapping[Any, Callable[..., Any]],
        encoding: str,
        backslashes: bool,
    ) -> bytes: ...
    def rows(
        self,
        group: str,
        rows: Sequence[Iterable[Any]],
        start: int,
        size: int,
        encoders: Mapping[Any, Callable[..., Any]],
        encoding: str,
        backslashes: bool,
    ) -> tuple[bytes, int]: ...
