"""A figure with the numbers behind it."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from probgen.errors import ArgumentError
from probgen.plots.folder import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150
Columns = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, eq=False, repr=False)
class Drawing:
    """A figure, and a table of what it shows.

    Attributes:
        figure: a figure that no global state knows.
        columns: the numbers behind it, by the name of the column, all ``[rows]``.

    Raises:
        ArgumentError: the columns differ in length.

    Example:
        >>> import numpy as np
        >>> from matplotlib.figure import Figure
        >>> drawing = Drawing(Figure(), {"epoch": np.array([1, 2]), "loss": np.array([0.5, math.nan])})
        >>> print(drawing.to_csv(), end="")
        epoch,loss
        1,0.5
        2,
    """

    figure: Figure
    columns: Columns

    def __post_init__(self) -> None:
        lengths = {name: len(values) for name, values in self.columns.items()}
        if len(set(lengths.values())) > 1:
            raise ArgumentError(f"`columns` must have one length, got {lengths}")

    def save(self, folder: str | os.PathLike[str], name: str) -> tuple[Path, Path]:
        """Writes ``<name>.png`` and ``<name>.csv``, each whole or not at all.

        Args:
            folder: made where it is missing.
            name: of the files, without a suffix; no path.

        Returns:
            The two paths.

        Raises:
            ArgumentError: the name is a path, or the folder is a file.
        """
        if name in ("", "..") or name != Path(name).name:
            raise ArgumentError(f"`name` must be the name of a file without a folder, such as 'loss', got {name!r}")
        path = Path(folder)
        if path.exists() and not path.is_dir():
            raise ArgumentError(f"`folder`: '{path}' is a file; name a folder")
        path.mkdir(parents=True, exist_ok=True)
        files = path / f"{name}.png", path / f"{name}.csv"
        for file, content in zip(files, (self.to_png(), self.to_csv().encode()), strict=True):
            write_atomically(file, content)
        return files

    def to_png(self, *, dpi: int = DPI) -> bytes:
        """The figure as the content of a PNG file."""
        return as_png(self.figure, dpi=dpi)

    def to_csv(self) -> str:
        """The columns as comma-separated values that read back to the same numbers; NaN is an empty cell."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(self.columns)
        writer.writerows(zip(*map(_cells, self.columns.values()), strict=True))
        return text.getvalue()

    def _repr_png_(self) -> bytes:
        """What notebooks show."""
        return self.to_png(dpi=100)

    def __repr__(self) -> str:
        rows = len(next(iter(self.columns.values()), ()))
        return f"Drawing({rows} rows of {', '.join(list(self.columns)[:6])}{', ...' if len(self.columns) > 6 else ''})"


def as_png(figure: Figure, *, dpi: int = DPI) -> bytes:
    """The figure as the content of a PNG file."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=dpi)
    return image.getvalue()


def _cells(values: npt.NDArray[Any]) -> list[Any]:
    """Shortest texts that read back to the same numbers of the column's own precision."""
    if values.dtype.kind != "f":
        return values.tolist()
    single = values.dtype.itemsize < 8
    return ["" if math.isnan(value) else str(value) if single else float(value) for value in values]


def event_columns(name: str, values: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
    """Rows of numbers as columns ``name[0]``, ``name[1]``, ...; of one number, as the column ``name``.

    Args:
        name: of the site.
        values: ``[rows, D]``.

    Example:
        >>> import numpy as np
        >>> list(event_columns("x", np.zeros((3, 2)))), list(event_columns("z", np.zeros((3, 1))))
        (['x[0]', 'x[1]'], ['z'])
    """
    return dict(zip(entry_names(name, values.shape[1]), values.T, strict=True))


def entry_names(name: str, count: int) -> list[str]:
    """Names of the entries of a site: ``name[i]``, or the site's own where it has one entry."""
    return [name] if count == 1 else [f"{name}[{i}]" for i in range(count)]
