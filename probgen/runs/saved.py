"""``config.toml`` of a run: its settings, and a record of what the run found beside them."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from probgen.errors import ArgumentError, DataFileError
from probgen.runs import toml
from probgen.runs.program_files import is_file_spec
from probgen.runs.settings import FROM_FILE, PairSettings, TrainSettings, read_settings

T = TypeVar("T")

CONFIG = "config.toml"


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a run found: read again when it is loaded, and ignored where its settings serve another run.

    Attributes:
        event_shape: the shape of one datum.
        num_classes: of the labels, or None.
        guide: spec of the guide, with ``auto`` resolved.
        model_file: ``path.py:Name`` of a model from a file, or None.
        model_sha256: of that file.
        guide_file: likewise of the guide.
        guide_sha256: of that file.
        probgen: version.
        torch: version.
        python: version.
    """

    event_shape: tuple[int, ...] = ()
    num_classes: int | None = None
    guide: str = ""
    model_file: str | None = None
    model_sha256: str | None = None
    guide_file: str | None = None
    guide_sha256: str | None = None
    probgen: str = ""
    torch: str = ""
    python: str = ""

    @property
    def file_options(self) -> str:
        """The options that later commands on the run need: its programs from files."""
        files = {kind: self.file_of(kind) for kind in ("model", "guide")}
        return " ".join(f"--{kind} {found[0]}" for kind, found in files.items() if found is not None)

    def file_of(self, kind: str) -> tuple[str, str] | None:
        """``path.py:Name`` and sha256 of a program from a file; None for one of the registry."""
        spec, digest = (getattr(self, f"{kind}_{what}") for what in ("file", "sha256"))
        return None if spec is None else (spec, digest or "")


@dataclass(frozen=True)
class SavedRun:
    """A run that lies in a folder.

    Attributes:
        path: the folder.
        settings: as it was started; programs from files are :data:`probgen.runs.settings.FROM_FILE`.
        record: what it found.
    """

    path: Path
    settings: TrainSettings
    record: Record


def config_text(settings: PairSettings, record: Record | None, *, left_out: tuple[str, ...] = ()) -> str:
    """The content of ``config.toml``: settings, without programs from files, and a record of those."""
    table = {key: value for key, value in _table(settings).items() if key not in left_out}
    files = {kind: table.pop(kind) for kind in ("model", "guide") if is_file_spec(table[kind])}
    if record is None and files:
        record = Record(model_file=files.get("model"), guide_file=files.get("guide"))
    return toml.dumps(table | ({} if record is None else {"record": _table(record)}))


def _table(values: Any) -> dict[str, Any]:
    """The fields that are not None, which TOML has no word for."""
    return {key: value for key, value in asdict(values).items() if value is not None}


def split_record(table: Mapping[str, Any], source: str) -> tuple[dict[str, Any], Record | None]:
    """The settings of a file, and its record where it is that of a run.

    Raises:
        DataFileError: the record is damaged, or the settings name a program from a file.
    """
    settings = {key: value for key, value in table.items() if key != "record"}
    for key in ("model", "guide"):
        if isinstance(settings.get(key), str) and is_file_spec(settings[key]):
            cure = f"`probgen train {settings[key]} --config ...`" if key == "model" else f"`--guide {settings[key]}`"
            raise DataFileError(
                f"'{source}': `{key}` names a program in a file, {settings[key]!r}, which would run whatever that file "
                f"holds; files of settings cannot do that: leave it out and give it on the command line, {cure}"
            )
    if "record" not in table:
        return settings, None
    if not isinstance(table["record"], Mapping):
        raise DataFileError(f"'{source}': `record` must be a table, as `probgen train` writes it")
    record = read_settings(Record, table["record"], f"{source}, [record]")
    for kind in ("model", "guide"):
        if record.file_of(kind) is not None:
            settings.setdefault(kind, FROM_FILE)
    return settings, record


def read_run(path: str | os.PathLike[str]) -> SavedRun:
    """The run in a folder.

    Raises:
        ArgumentError: there is no folder, or no run in it.
        DataFileError: its ``config.toml`` is damaged.
    """
    path = Path(path)
    config = path / CONFIG
    if not config.is_file():
        raise ArgumentError(f"'{path}' is no run: {_why_none(path)}")
    settings, record = split_record(toml.read(config), str(config))
    if record is None:
        raise ArgumentError(f"'{path}' is no run: its {CONFIG} has no [record], which `probgen train` writes")
    return SavedRun(path, read_settings(TrainSettings, settings, str(config)), record)


def require_resumable(run: SavedRun) -> None:
    """Raises if a run has nothing to go on with.

    Raises:
        ArgumentError: NumPyro has trained it.
    """
    if run.settings.backend != "pyro":
        raise ArgumentError(
            f"the run in '{run.path}' was trained by `--backend numpyro`, which keeps the weights but no state of the "
            "optimizer to go on with; train anew for longer: `probgen train --config "
            f"{run.path / 'config.toml'} --num-epochs N --run-dir ...`"
        )


def _why_none(path: Path) -> str:
    if not path.exists():
        return f"it does not exist{_elsewhere(path)}"
    if not path.is_dir():
        return "it is a file; name the folder that `probgen train --run-dir` wrote"
    if (path / "comparison.csv").exists() or (path / "config.json").exists():
        return "it holds a comparison, which keeps no parameters; train one run by `probgen train --run-dir`"
    if (path / "checkpoints").is_dir():
        return (
            f"it has no {CONFIG}; what `SVI.run` has left there `probgen.svi.load_weights` writes into a pair of yours"
        )
    return f"it has no {CONFIG}; name the folder that `probgen train --run-dir` wrote{_elsewhere(path)}"


def _elsewhere(path: Path) -> str:
    """The runs beside or below a path that is none."""
    for folder in (path, path.parent):
        found = sorted(str(config.parent) for config in folder.glob(f"*/{CONFIG}")) if folder.is_dir() else []
        if found:
            return f"; there are: {', '.join(found[:8])}"
    return ""


def differing(old: TrainSettings, new: TrainSettings, *, except_for: tuple[str, ...]) -> list[str]:
    """The names of the settings in which two runs differ."""
    names = [f.name for f in fields(TrainSettings) if f.name not in except_for]
    return [name for name in names if getattr(old, name) != getattr(new, name)]
