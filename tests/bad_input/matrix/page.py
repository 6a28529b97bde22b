"""The table as a page of the documentation."""

from collections.abc import Iterator
from typing import NamedTuple

from matrix.commands import COMMANDS
from matrix.entries import ENTRIES, Entry
from matrix.kinds import KINDS, Kind
from matrix.pairs import FUNCTIONS, MODULES, Pairs
from matrix.training import LATE, observe_late
from matrix.walk import Outcome, observe

HEAD = """# Bad input

Every kind of bad input, at every way into the library. A cell either works, and gives what the coerced input gives,
or raises an error of `probgen.errors` that says where, what and what to do. Parameters, buffers, Pyro's store and the
global generators are then as they were, and no step has been taken. `python -O` gives the same
tables, at times in other words.

`make bad-input` writes this page from `tests/bad_input/matrix`, and the tests compare it with what the library does.
Texts of other libraries are left out (`...`). A command's error is one line on standard error, with exit status 2.

`=` works, `A` ArgumentError, `T` ArgumentTypeError, `D` DataError, `F` DataFileError, `N` DivergedError,
`P` ProgramError, `U` UnsupportedObjective, `2` exit status 2, `-` makes no sense. Below, `*` marks functions in plain
Pyro.
"""
LATE_TITLE = "## While a pair trains"
LETTERS = {
    "works": "=",
    "ArgumentError": "A",
    "ArgumentTypeError": "T",
    "DataError": "D",
    "DataFileError": "F",
    "DivergedError": "N",
    "ProgramError": "P",
    "UnsupportedObjective": "U",
    "Refused": "2",
    "n/a": "-",
}


class Cell(NamedTuple):
    """A kind at an entry, with the library's own modules or with functions."""

    kind: Kind
    entry: Entry
    pairs: Pairs

    @property
    def name(self) -> str:
        return f"{self.kind.name}, {self.entry.name}, {'functions' if self.pairs is FUNCTIONS else 'modules'}"


def cells() -> list[Cell]:
    """All cells, in the order of the page."""
    found = [Cell(kind, entry, kind.modules) for kind in KINDS for entry in (*ENTRIES, *COMMANDS)]
    return found + [Cell(kind, entry, FUNCTIONS) for kind in KINDS for entry in ENTRIES if entry.functions]


def walk() -> dict[Cell, Outcome]:
    """What every cell does."""
    return {cell: observe(*cell) for cell in cells()}


def walk_late() -> dict[str, Outcome]:
    """What happens while a pair trains."""
    return {f"{late.name}, {which.name}": observe_late(late, which) for late in LATE for which in (MODULES, FUNCTIONS)}


def page(outcomes: dict[Cell, Outcome], late: dict[str, Outcome]) -> str:
    """The page, in Markdown."""
    parts = [HEAD]
    for title, functions in (("Models and guides of the library", False), ("Functions in plain Pyro", True)):
        chosen = {cell: outcome for cell, outcome in outcomes.items() if (cell.pairs is FUNCTIONS) is functions}
        parts.append("\n".join([f"## {title}", "", *_grid(chosen)]))
    parts.append("\n".join([LATE_TITLE, "", *_late(late)]))
    parts.append("## Cell by cell\n")
    parts += ["\n".join(_kind(kind, outcomes)) for kind in KINDS]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _grid(outcomes: dict[Cell, Outcome]) -> Iterator[str]:
    kinds = list(dict.fromkeys(cell.kind.name for cell in outcomes))
    entries = list(dict.fromkeys(cell.entry.name for cell in outcomes))
    found = {(cell.kind.name, cell.entry.name): LETTERS[outcome.short] for cell, outcome in outcomes.items()}
    yield f"| | {' | '.join(kinds)} |"
    yield f"|---|{'---|' * len(kinds)}"
    for entry in entries:
        yield f"| {entry} | {' | '.join(found[kind, entry] for kind in kinds)} |"


def _late(late: dict[str, Outcome]) -> Iterator[str]:
    yield "On the CPU the step is refused, and the parameters are those before it."
    yield ""
    yield "| what | outcome |"
    yield "|---|---|"
    for name, outcome in late.items():
        yield f"| {name} | {_escaped(outcome.text)} |"


def _kind(kind: Kind, outcomes: dict[Cell, Outcome]) -> Iterator[str]:
    yield f"### {kind.name}: {kind.what}"
    yield ""
    yield "| where | outcome |"
    yield "|---|---|"
    grouped: dict[str, list[str]] = {}
    for cell, outcome in outcomes.items():
        if cell.kind is kind:
            grouped.setdefault(outcome.text, []).append(f"{cell.entry.name}{' *' if cell.pairs is FUNCTIONS else ''}")
    for text, names in grouped.items():
        yield f"| {', '.join(names)} | {_escaped(text)} |"


def _escaped(text: str) -> str:
    return text.replace("|", r"\|")
