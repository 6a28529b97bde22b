"""``--config FILE``: options from a TOML file, which take the place of the defaults."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from probgen.errors import ArgumentError
from probgen.runs import toml
from probgen.runs.saved import split_record
from probgen.runs.settings import read_settings


def config_path(arguments: Sequence[str]) -> str | None:
    """The file that the arguments name; None where they name none.

    Raises:
        ArgumentError: two files.

    Example:
        >>> config_path(["vae", "--config=run.toml", "--seed", "1"])
        'run.toml'
    """
    paths = [arguments[i + 1] for i, word in enumerate(arguments[:-1]) if word == "--config"]
    paths += [word.removeprefix("--config=") for word in arguments if word.startswith("--config=")]
    if len(paths) > 1:
        raise ArgumentError(f"`--config` is given twice, as '{paths[0]}' and as '{paths[1]}'; give one file")
    return paths[0] if paths and paths[0] != "None" else None


def defaults_from(path: str, cls: type[Any], excluded: tuple[str, ...]) -> Any:
    """The options of a command as a file has them.

    Args:
        path: of the file.
        cls: the command.
        excluded: options that no file may hold.

    Raises:
        DataFileError: missing, no TOML, or with unknown keys or values of another type.
    """
    settings, _ = split_record(toml.read(path), path)
    return replace(read_settings(cls, settings, path, excluded=excluded), config=path)
