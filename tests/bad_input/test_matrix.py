"""Bad input is taken for what it plainly is, or refused by name, with everything left as it was."""

import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from matrix import entries, page, walk
from matrix.kinds import KINDS
from matrix.pairs import FUNCTIONS, MODULES
from matrix.training import LATE, observe_late

import probgen
from probgen import registry

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "bad-input.md"
CELLS = page.cells()


@cache
def outcome(cell: page.Cell) -> walk.Outcome:
    return walk.observe(*cell)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_every_cell(cell: page.Cell) -> None:
    seen = outcome(cell)
    assert not seen.problems, f"{seen.problems}: {seen.text}"


@pytest.mark.parametrize("which", [MODULES, FUNCTIONS], ids=["modules", "functions"])
@pytest.mark.parametrize("late", LATE, ids=lambda late: late.name)
def test_numbers_that_stop_being_finite_while_a_pair_trains(late, which) -> None:
    seen = observe_late(late, which)
    assert not seen.problems, f"{seen.problems}: {seen.text}"


def test_there_are_twenty_kinds_and_every_objective() -> None:
    assert len({kind.name for kind in KINDS}) == 20
    assert {type(make(2)) for make in entries.OBJECTIVES.values()} == {
        registry.get("objective", name) for name in registry.names("objective")
    }


def test_few_cells_make_no_sense() -> None:
    senseless = [cell for cell in CELLS if cell.entry.senseless(cell.kind) is not None]
    assert len(senseless) < len(CELLS) / 8


@pytest.mark.skipif(not PAGE.is_file(), reason="needs the folder docs/ of the repository")
def test_the_page_is_what_the_library_does() -> None:
    assert page.page({cell: outcome(cell) for cell in CELLS}, page.walk_late()) == PAGE.read_text(), (
        "run `make bad-input`"
    )


@pytest.mark.skipif(not PAGE.is_file(), reason="needs the folder docs/ of the repository")
@pytest.mark.slow
def test_the_same_under_python_O() -> None:
    program = [sys.executable, "-O", str(Path(__file__).parent / "write_page.py"), "--check"]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


# --- the walk itself --------------------------------------------------------------------------------------------------


def cell_of(kind: str, entry: str) -> page.Cell:
    return next(cell for cell in CELLS if cell.kind.name == kind and entry in cell.entry.name)


def test_the_walk_sees_an_error_that_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object, **kwargs: object) -> None:
        raise ValueError("nan at (4, 1)")

    monkeypatch.setattr("probgen.log_weights", fails)
    assert "ValueError is no error of ours" in walk.observe(*cell_of("NaN", "log_weights")).problems[0]


def test_the_walk_sees_a_check_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("probgen.guides._amortized.check_finite", lambda x: None)
    assert walk.observe(*cell_of("NaN", "guide.posterior")).problems


def test_the_walk_sees_noise_that_was_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    original = probgen.log_weights

    def drawing(*args: object, **kwargs: object) -> torch.Tensor:
        torch.rand(())
        return original(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr("probgen.log_weights", drawing)
    assert walk.observe(*cell_of("NaN", "log_weights")).problems == ("moved: generators",)


def test_the_walk_sees_a_wrong_result(monkeypatch: pytest.MonkeyPatch) -> None:
    original = entries.IWAE.bound
    monkeypatch.setattr(entries.IWAE, "bound", lambda self, m, g, x: original(self, m, g, x) + float(x.dtype.itemsize))
    assert (
        "differs from what the coerced input gives" in walk.observe(*cell_of("float64", "objective.bound")).problems[0]
    )
    assert "the truth is" in walk.observe(*cell_of("batch of one", "objective.bound")).problems[0]
