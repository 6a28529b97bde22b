"""Writes docs/bad-input.md, or with --check compares it with what the library does: exit status 1 if they differ."""

import sys
from pathlib import Path

import torch
from matrix.page import LATE_TITLE, page, walk, walk_late

PAGE = Path(__file__).resolve().parents[2] / "docs" / "bad-input.md"


def main(arguments: list[str]) -> int:
    torch.set_num_threads(1)
    outcomes = walk()
    late = walk_late()
    problems = [
        f"{what}: {'; '.join(outcome.problems)} ({outcome.text})"
        for what, outcome in [*((cell.name, outcome) for cell, outcome in outcomes.items()), *late.items()]
        if outcome.problems
    ]
    for problem in problems:
        print(problem, file=sys.stderr)
    text = page(outcomes, late)
    if "--check" not in arguments:
        PAGE.write_text(text)
    elif _compared(PAGE.read_text()) != _compared(text):
        print(f"{PAGE.name} is not what the library does: run `make bad-input`", file=sys.stderr)
        return 1
    return 1 if problems else 0


def _compared(text: str) -> str:
    """All of a page; under ``python -O``, where Pyro checks less and the library says it, which errors there are."""
    return text if __debug__ else text.partition(LATE_TITLE)[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
