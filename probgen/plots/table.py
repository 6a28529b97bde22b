"""Tables as text: aligned for a terminal, in Markdown, or as comma-separated values."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        title: what stands above it.
        field: the attribute of a row that it shows.
        spec: the format of its values; text is left-aligned, numbers are right-aligned.
    """

    title: str
    field: str
    spec: str = ""

    def cell(self, row: Any) -> str:
        """The entry of a row; ``-`` for None and NaN, which stand for nothing known.

        Example:
            >>> from types import SimpleNamespace
            >>> Column("gap", "gap", ".2f").cell(SimpleNamespace(gap=1.5))
            '1.50'
        """
        value = getattr(row, self.field)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return "-"
        return format(value, self.spec)


def to_text(columns: Sequence[Column], rows: Sequence[Any]) -> str:
    """A table for the terminal, in ASCII where the rows are.

    Example:
        >>> from types import SimpleNamespace as Row
        >>> print(to_text([Column("name", "name"), Column("bound", "b", ".1f")], [Row(name="elbo", b=-1.0)]))
        name  bound
        ----  -----
        elbo   -1.0
    """
    cells = [[column.title for column in columns], *([column.cell(row) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = [_aligned(columns, line, widths) for line in cells]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join([lines[0], rule, *lines[1:]])


def to_markdown(columns: Sequence[Column], rows: Sequence[Any]) -> str:
    """A table in Markdown; ``|`` inside a cell is escaped.

    Example:
        >>> from types import SimpleNamespace as Row
        >>> print(to_markdown([Column("name", "name"), Column("bound", "b", ".1f")], [Row(name="elbo", b=-1.0)]))
        | name | bound |
        |:---|---:|
        | elbo | -1.0 |
    """
    lines = [[column.title for column in columns], *([column.cell(row) for column in columns] for row in rows)]
    marks = "|".join("---:" if column.spec else ":---" for column in columns)
    body = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines]
    return "\n".join([body[0], f"|{marks}|", *body[1:]])


def to_csv(rows: Sequence[Any]) -> str:
    """All fields of dataclass rows at full precision; None is an empty cell.

    Example:
        >>> print(to_csv([Column("name", "name", ".1f")]), end="")
        title,field,spec
        name,name,.1f
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [f.name for f in fields(rows[0])]
    writer.writerow(names)
    writer.writerows(["" if getattr(row, name) is None else getattr(row, name) for name in names] for row in rows)
    return text.getvalue()


def _aligned(columns: Sequence[Column], cells: Sequence[str], widths: Sequence[int]) -> str:
    parts = [
        cell.rjust(width) if column.spec else cell.ljust(width)
        for column, cell, width in zip(columns, cells, widths, strict=True)
    ]
    return "  ".join(parts).rstrip()
