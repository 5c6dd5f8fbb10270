from typing import Any

__all__ = ["Walker"]

class Walker:
    def walked(self, query: Any) -> tuple[tuple[Any, ...], list[Any]] | None: ...
