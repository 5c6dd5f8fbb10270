"""``python -m fastdb.migrations``: Alembic's command line, with a folder for fastdb."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import CommandLine, Config

from fastdb.exceptions import ConnectionFailedError, InterfaceError
from fastdb.migrations.configuration import DIRECTORY, has_location
from fastdb.migrations.errors import MigrationError, named

#: What ``init`` copies; also for ``alembic init -t``.
TEMPLATE: Final = Path(__file__).parent / "template"
PROGRAM: Final = "python -m fastdb.migrations"


class MigrationsCommandLine(CommandLine):
    """Alembic's command line, which finds ``migrations/`` without an ``alembic.ini``."""

    def run_cmd(self, config: Config, options: argparse.Namespace) -> None:
        """Run one command; tell an error with what to do about it."""
        try:
            with named():
                function, positional, keywords = options.cmd
                if function is command.init and options.template == "generic":
                    init([options.directory, "-c", str(config.config_file_name)])
                    return
                needs_folder = function not in (command.init, command.list_templates)
                if needs_folder:
                    _check_files(options)
                if needs_folder and not has_location(config):
                    if not (Path(DIRECTORY) / "env.py").is_file():
                        raise MigrationError(
                            f"there is neither an alembic.ini nor a folder {DIRECTORY!r} in "
                            f"{str(Path.cwd())!r}; `{PROGRAM} init` makes them"
                        )
                    config.set_main_option("script_location", DIRECTORY)
                function(
                    config,
                    *[getattr(options, name, None) for name in positional],
                    **{name: getattr(options, name, None) for name in keywords},
                )
        except (MigrationError, ConnectionFailedError, InterfaceError) as error:
            # Where they come from is no matter; what a migration itself raises keeps its traceback.
            if getattr(options, "raiseerr", False):
                raise
            sys.exit(f"FAILED: {error}")


def _check_files(options: argparse.Namespace) -> None:
    """Refuse a configuration that is named and missing, where Alembic goes on without."""
    given = getattr(options, "config", None) or os.environ.get("ALEMBIC_CONFIG") or []
    for name in [given] if isinstance(given, str) else given:
        if name != "alembic.ini" and not Path(name).is_file():
            raise MigrationError(f"there is no file {name!r} in {str(Path.cwd())!r}")


def init(arguments: Sequence[str]) -> None:
    """Write a folder of migrations and an ``alembic.ini``; overwrite nothing."""
    parser = argparse.ArgumentParser(prog=f"{PROGRAM} init", description=init.__doc__)
    parser.add_argument("directory", nargs="?", default=DIRECTORY)
    parser.add_argument("-c", "--config", default="alembic.ini")
    options = parser.parse_args(arguments)
    directory, file = Path(options.directory), Path(options.config)
    there = file.exists()
    config = Config(str(file), cmd_opts=argparse.Namespace(quiet=True))
    try:
        with named():
            command.init(config, str(directory), template=str(TEMPLATE))
    except MigrationError as error:
        sys.exit(f"FAILED: {error}; nothing was written, choose another directory")
    lines = (directory / "env.py").read_text(encoding="utf-8").splitlines()
    print(f"made {directory}/")
    if there:
        print(f"left {file} as it is; it needs `script_location = {directory}` under [alembic]")
    else:
        print(f"made {file}")
    print(f"fill in, in {directory / 'env.py'}:")
    for number, line in enumerate(lines, 1):
        if line.startswith(("DATABASE_URL =", "metadata =")):
            print(f"  line {number}: {line}")
    print(f'then: {PROGRAM} revision --autogenerate -m "first"; {PROGRAM} upgrade head')


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command of ``python -m fastdb.migrations``.

    Args:
        arguments: Those of the command line, ``sys.argv`` by default.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["template"]:
        print(TEMPLATE)
    elif given[:1] == ["init"]:
        init(given[1:])
    else:
        MigrationsCommandLine(prog=PROGRAM).main(given)


if __name__ == "__main__":
    main()
