"""Run the operations under callgrind, for :mod:`benchmarks.instructions`, which starts this.

Instrumentation, which makes a program fifty times slower, is on only while an operation runs.
Each is counted in a process of its own, forked once everything is imported, and several times:
what memory happens to lie where moves a count by up to one percent. Nothing else that varies is
left in: hashes and addresses are fixed from outside, the garbage collector is off.

``python -m benchmarks.counting LIBRARY SITE`` takes the library that talks to callgrind and the
folder that `fastdb` has to come from. Callgrind writes the figures into a file for each loop; what
is printed are lines of JSON, one for each operation that this fastdb lacks.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import traceback
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from benchmarks.operations import Form, all_operations

if TYPE_CHECKING:
    from benchmarks.operations import Operation

__all__ = ["LAYOUTS", "turns_of"]

#: In how many layouts of memory each operation is counted.
LAYOUTS = 3


def turns_of(operation: Operation) -> int:
    """Return the `n` of ``(Ir(3n) - Ir(n)) / 2n``; what grows now and then has to even out."""
    return max(400 // operation.size, 20)


def rehearse(operation: Operation) -> None:
    """Do it a few times, which imports what it needs; fails where this fastdb lacks something."""
    with ExitStack() as closing:
        operation.ours(Form("compiled", closing))(operation.inputs(2))


def count(operation: Operation, layout: int, callgrind: Any) -> None:
    """Let callgrind count `n` turns, and three times as many."""
    spacers = [bytearray(16 + 97 * n % 500) for n in range(37 * layout)]
    loop = operation.ours(Form("compiled", ExitStack()))
    turns = turns_of(operation)
    # Made before anything is counted.
    warm_up, *rounds = [(n, operation.inputs(n)) for n in (turns, turns, 3 * turns)]
    callgrind.start()
    loop(warm_up[1])
    for number, inputs in rounds:
        callgrind.zero()
        loop(inputs)
        callgrind.dump(f"{layout} {number} {operation.name}".encode())
    del spacers


def count_and_exit(operation: Operation, layout: int, callgrind: Any) -> NoReturn:
    """Count, and end this process without the ado of an interpreter that ends."""
    try:
        count(operation, layout, callgrind)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def main(library: str, site: str) -> int:
    """Count every operation in every layout."""
    import fastdb

    if Path(site) not in Path(fastdb.__file__).parents or not fastdb.COMPILED:
        print(f"{fastdb.__file__} is not the compiled fastdb of {site}", file=sys.stderr)
        return 1
    callgrind = ctypes.CDLL(library)
    gc.disable()
    for operation in all_operations().values():
        try:
            rehearse(operation)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            print(json.dumps({"operation": operation.name, "reason": reason}), flush=True)
            continue
        for layout in range(LAYOUTS):
            child = os.fork()
            if child == 0:
                count_and_exit(operation, layout, callgrind)
            _, status = os.waitpid(child, 0)
            if status:
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
