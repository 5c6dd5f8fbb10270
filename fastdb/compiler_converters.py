"""The result processors of SQLAlchemy that the core can do with fewer calls, or none.

One is given to a type only where the type's processor is known to be SQLAlchemy's own. Values that
it does not usually get still go to that processor, which tells what is wrong with them.
"""

from __future__ import annotations

from types import FunctionType
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Processor = Callable[[Any], Any]

__all__ = ["HasCodecs", "JSONConverter", "LookupConverter", "json_converter", "result_converter"]


class HasCodecs(Protocol):
    """A driver whose users may give a type a codec of their own, on some connection.

    Attributes:
        codecs: The types that have one, by name and schema.
    """

    codecs: frozenset[tuple[str, str]]


class JSONConverter:
    """What a JSON text says.

    Attributes:
        scan: Reads a text from a position on; returns what it says, and where that ends.
        processor: What reads all other values.
        driver: While it has any codecs, `processor` reads every value.
    """

    __slots__ = ("driver", "processor", "scan")

    def __init__(self, processor: Processor, driver: HasCodecs | None = None) -> None:
        """Stand in for `processor`, which calls ``json.loads``."""
        import json  # as SQLAlchemy has by now

        self.processor: Final = processor
        self.driver: Final = driver
        scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
        self.scan: Final[Callable[[str, int], tuple[Any, int]]] = scan

    def __call__(self, value: Any) -> Any:
        """Return the value of a text; None stays."""
        if type(value) is str and (self.driver is None or not self.driver.codecs):
            try:
                found, end = self.scan(value, 0)
            except (StopIteration, ValueError):
                pass  # no JSON, or something stands before it
            else:
                if end == len(value):
                    return found
        return self.processor(value)


class LookupConverter:
    """The member of an Enum that a text stands for.

    Attributes:
        members: Each text's member.
        processor: SQLAlchemy's.
    """

    __slots__ = ("members", "processor")

    def __init__(self, members: Mapping[Any, Any], processor: Processor) -> None:
        """Stand in for `processor`, which looks into `members`."""
        self.members: Final = members
        self.processor: Final = processor

    def __call__(self, value: Any) -> Any:
        """Return the member; None stays."""
        if type(value) is str and value:  # MySQL has an empty text for what is no member
            try:
                return self.members[value]
            except KeyError:
                pass
        return self.processor(value)


def result_converter(type_: Any, dialect: Any) -> Processor | None:
    """Return what turns the driver's value into the one of a SQLAlchemy type, None for as is."""
    processor: Processor | None = type_._cached_result_processor(dialect, None)
    if processor is None or not isinstance(processor, FunctionType):
        return processor
    from sqlalchemy import types
    from sqlalchemy.dialects import mysql
    from sqlalchemy.dialects.sqlite.base import _SQliteJson

    implementation = type_.dialect_impl(dialect)
    kind = type(implementation)
    if not kind.__module__.startswith("sqlalchemy."):
        return processor  # a class of the user's may have its own idea of each step
    if kind.result_processor in (types.JSON.result_processor, _SQliteJson.result_processor):
        return json_converter(implementation, dialect, processor)
    if (
        kind.result_processor is types.Enum.result_processor
        and kind._object_value_for_elem
        in (types.Enum._object_value_for_elem, mysql.ENUM._object_value_for_elem)
        and super(types.Enum, implementation).result_processor(dialect, None) is None
    ):
        return LookupConverter(implementation._object_lookup, processor)
    return processor


def json_converter(
    type_: Any, dialect: Any, processor: Processor, driver: HasCodecs | None = None
) -> Processor:
    """Return what does the work of a type's processor, or that where it is not ``json.loads``.

    Args:
        type_: A JSON type, as it is for the dialect.
        dialect: SQLAlchemy's.
        processor: The type's; it looks at the codecs of `driver` itself.
        driver: Whose codecs may have read a value already.
    """
    if type_._str_impl.result_processor(dialect, None) is None and _loads(processor):
        return JSONConverter(processor, driver)
    return processor


def _loads(processor: Processor) -> bool:
    """Return whether a processor of JSON, or one within it, calls Python's own ``json.loads``."""
    import json

    function = json.loads
    if not isinstance(function, FunctionType) or function.__module__ != "json":
        return False  # some put another package's in its place
    closure = getattr(processor, "__closure__", None) or ()
    held = [cell.cell_contents for cell in closure]
    return function in held or any(isinstance(each, FunctionType) and _loads(each) for each in held)
