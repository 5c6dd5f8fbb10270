"""Declare the compiled part, and an sdist that is the same each time it is built.

Everything else stands in pyproject.toml.

FASTDB_NO_EXTENSIONS=1 builds none of it, FASTDB_REQUIRE_EXTENSIONS=1 stops at the first failure.
With neither, a failing compiler costs speed only, and the build says so.

SOURCE_DATE_EPOCH, in seconds since 1970, is the time of all files in the sdist: the same commit,
setuptools and zlib then give the same bytes, whoever builds it, wherever and whenever.
"""

import gzip
import os
import sys
import tarfile
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist

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


class SourceDistribution(sdist):
    """Take times from SOURCE_DATE_EPOCH, which setuptools does for wheels only."""

    def make_archive(
        self, base_name: Any, format: str, root_dir: Any = None, base_dir: Any = None, **owners: Any
    ) -> str:
        """Write the archive of what stands in `base_dir`."""
        epoch = os.environ.get("SOURCE_DATE_EPOCH")
        if epoch is None or format != "gztar" or root_dir is not None:
            written: str = super().make_archive(base_name, format, root_dir, base_dir, **owners)
            return written

        def anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
            member.mtime = int(epoch)
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            # What a umask left is the builder's, too.
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            return member

        name = f"{base_name}.tar.gz"
        with (
            open(name, "wb") as file,
            gzip.GzipFile("", "wb", fileobj=file, mtime=int(epoch)) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for path in sorted([Path(base_dir), *Path(base_dir).rglob("*")]):
                archive.add(path, path.as_posix(), recursive=False, filter=anonymous)
        return name


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


setup(
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildExtensions, "sdist": SourceDistribution},
)
