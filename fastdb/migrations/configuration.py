"""Where the migrations are: Alembic's configuration for a run of ours."""

from __future__ import annotations

import copy
import re
from io import StringIO
from pathlib import Path
from typing import Any

from alembic.config import Config
from alembic.script import ScriptDirectory

from fastdb.migrations.errors import MigrationError, named

__all__ = ["ATTRIBUTE", "DIRECTORY", "check_environment", "find", "has_location"]

#: The key of ``Config.attributes`` under which a run of ours tells env.py of itself.
ATTRIBUTE = "fastdb.migrations"

#: The folder that is looked for where nothing is said.
DIRECTORY = "migrations"


def has_location(config: Config) -> bool:
    """Return whether a configuration names a folder of migrations."""
    try:
        read: Any = config.get_alembic_option  # since Alembic 1.16, which also reads TOML
    except AttributeError:
        read = config.get_main_option
    return bool(read("script_location"))


def find(directory: str | Path | None, config: Config | str | Path | None) -> Config:
    """Return a configuration of our own, whose attributes and output are nobody else's.

    Args:
        directory: The folder of the migrations.
        config: Alembic's configuration, or the path of its file.

    Raises:
        MigrationError: Both are given, or there is no such file or folder.
    """
    if directory is not None and config is not None:
        raise MigrationError("directory= and config= are both given; give one")
    if isinstance(config, Config):
        found = copy.copy(config)
        found.__dict__["attributes"] = dict(config.attributes)
    elif config is not None:
        if not Path(config).is_file():
            raise MigrationError(
                f"there is no file {str(config)!r}; `python -m fastdb.migrations init` makes one"
            )
        found = Config(str(config))
    elif directory is None and Path("alembic.ini").is_file():
        found = Config("alembic.ini")
    else:
        path = Path(DIRECTORY if directory is None else directory)
        if not (path / "env.py").is_file():
            where = f"{str(path)!r} in {str(Path.cwd())!r}"
            if directory is None:
                missing = f"there is neither an alembic.ini nor a folder of migrations {where}"
            else:
                missing = f"there is no folder of migrations {where}"
            raise MigrationError(
                f"{missing}; `python -m fastdb.migrations init` makes them, or say where they "
                "are with directory= or config="
            )
        found = Config()
        found.set_main_option("script_location", str(path).replace("%", "%%"))
    found.stdout = StringIO()
    found.output_buffer = StringIO()
    return found


def check_environment(script: ScriptDirectory) -> None:
    """Refuse an env.py that would open a connection of its own, to who knows which database.

    Raises:
        MigrationError: It is one of Alembic's own templates, or alike, or it is missing.
    """
    path = Path(script.dir) / "env.py"
    if not path.is_file():
        raise MigrationError(
            f"there is no {str(path)!r}; `python -m fastdb.migrations init` makes a folder with one"
        )
    text = path.read_text(encoding="utf-8")
    opens = r"engine_from_config|create_(async_)?engine|context\.configure\(|\.connect\("
    if re.search(opens, text) and not re.search(r"run_env|attributes", text):
        raise MigrationError(
            f"{str(path)!r} opens a connection of its own and would ignore the database that is "
            "given here; let it be `from fastdb.migrations import run_env` and "
            "`run_env(DATABASE_URL, target_metadata=metadata)`"
        )


def script_directory(config: Config) -> ScriptDirectory:
    """Return the folder of migrations of a configuration, checked.

    Raises:
        MigrationError: There is none.
    """
    with named():
        script = ScriptDirectory.from_config(config)
    check_environment(script)
    return script
