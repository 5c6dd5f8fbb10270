"""Declare the compiled part; everything else stands in pyproject.toml.

FASTDB_NO_EXTENSIONS=1 builds none of it, FASTDB_REQUIRE_EXTENSIONS=1 stops at the first failure.
With neither, a failing compiler costs speed only, and the build says so.
"""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

NONE = os.environ.get("FASTDB_NO_EXTENSIONS", "") not in ("", "0")
REQUIRED = os.environ.get("FASTDB_REQUIRE_EXTENSIONS", "") not in ("", "0")

# CFLAGS stands in place of Python's own flags in newer versions of setuptools, -O3 among them.
FLAGS = ["-O3", "-fwrapv", "-DNDEBUG"]
if sys.platform == "win32" or "-O" in os.environ.get("CFLAGS", ""):
    FLAGS = []

LOST = """
*****************************************************************************************
* fastdb: {names} could not be compiled (see above).
* The installation goes on in pure Python: everything works, but preparing queries and
* making records takes several times as long.
* A C compiler and Python's headers are needed, on Debian: apt-get install gcc python3-dev
* FASTDB_REQUIRE_EXTENSIONS=1 makes this an error, FASTDB_NO_EXTENSIONS=1 makes it silent.
*****************************************************************************************
"""


class BuildExtensions(build_ext):
    """Say at the end what could not be compiled."""

    def run(self) -> None:
        """Build all extensions."""
        super().run()
        names = [extension.name for extension in self.extensions]
        missing = [name for name in names if not Path(self.get_ext_fullpath(name)).exists()]
        if missing:
            print(LOST.format(names=", ".join(missing)), file=sys.stderr)


def extensions() -> list[Extension]:
    """Return one extension for each ``.pyx`` file."""
    if NONE and REQUIRED:
        sys.exit("fastdb: FASTDB_NO_EXTENSIONS and FASTDB_REQUIRE_EXTENSIONS exclude each other")
    if NONE:
        return []
    from Cython.Build import cythonize

    sources = sorted(Path("fastdb/_speedups").glob("*.pyx"))
    modules: list[Extension] = cythonize(
        [
            Extension(
                ".".join(path.with_suffix("").parts), [path.as_posix()], extra_compile_args=FLAGS
            )
            for path in sources
        ],
        build_dir="build/cython",
        language_level=3,
    )
    for module in modules:
        # cythonize() drops this flag from the extensions that it is given.
        module.optional = not REQUIRED
    return modules


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildExtensions})
