"""The benchmarks of gradient estimators: their arithmetic against truth, and that they run."""

import importlib
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from probgen.comparison import RunSpec
from probgen.data import Dataset
from probgen.objectives import ELBO, IWAE

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="needs the folder benchmarks/ of the repository")

if BENCHMARKS.is_dir():  # they are programs, not a package: their folder is their path
    sys.path.insert(0, str(BENCHMARKS))
    names = ("record", "cells", "snr", "estimators_mnist", "sbn_mnist", "resampled")
    record, cells, snr, estimators_mnist, sbn_mnist, resampled = map(importlib.import_module, names)
    sys.path.remove(str(BENCHMARKS))

BRIEF = "--train-size 300 --test-size 60 --eval-particles 5 --seeds 0 1"


@pytest.fixture
def data() -> Dataset:
    return Dataset(torch.rand(300, 12, generator=torch.Generator().manual_seed(1)), binarize="dynamic")


# --- signal-to-noise ratio -------------------------------------------------------------------------------------


def test_slopes_of_power_laws() -> None:
    counts = [1, 3, 10, 100]
    value, error = snr.slope(counts, [(2.0 * k**-0.5, 0.0) for k in counts])
    assert value == pytest.approx(-0.5)
    assert error == 0.0
    assert snr.slope([1, 10], [(1.0, 0.1), (10.0, 1.0)])[1] == pytest.approx(math.sqrt(2) * 0.1 / math.log(10))


def test_the_parameters_are_near_the_optimum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snr, "OFFSET", 0.0)
    problem = snr.make_problem(0, dim=4, num_data=300)
    row = snr.measure(problem, 1, 1, 0).row("dreg", "guide")
    assert row.norm < 4 * math.sqrt(row.variance / 100)  # the exact gradient of the ELBO is 0 there
    assert row.variance == pytest.approx(exact_variance(problem.x), abs=4 * row.variance_error)


def exact_variance(x: torch.Tensor) -> float:
    """Of sticking-the-landing at the optimum: dl/dz = noise / scale - 2 scale noise, times (x, 1)."""
    slope = 1 / math.sqrt(snr.VARIANCE) - 2 * math.sqrt(snr.VARIANCE)
    return float(slope**2 * x.shape[1] * ((x**2).sum() + len(x)))


def test_snr_runs(tmp_path: Path) -> None:
    snr.main(f"--particles 1 10 40 --draws 1 --dim 3 --num-data 20 --out {tmp_path}".split())
    content = record.read(tmp_path / "snr.json")
    assert record.problems(content) == []
    assert len(content["figures"]) == 2 * 2 * 2 + 2 * 2 * 3


# --- cells -----------------------------------------------------------------------------------------------------


def outcome(cell: str, seed: int, log_prob: list[float]) -> Any:
    return cells.Outcome(cell, seed, 10, 1.0, 100.0, log_prob, log_prob, 2.0)


def test_differences_are_paired_by_seed() -> None:
    better = [outcome("a", seed, [value, value + 2]) for seed, value in enumerate((1.0, 5.0, 9.0))]
    worse = [outcome("b", seed, [value, value]) for seed, value in enumerate((0.0, 4.0, 9.0))]
    figure = cells.difference_figure("a minus b", better, worse)
    assert figure["by_seed"] == [2.0, 2.0, 1.0]
    assert figure["value"] == pytest.approx(5 / 3)
    assert figure["standard_error"] == pytest.approx(1 / 3)
    assert figure["met"]
    assert cells.difference_figure("one seed", better[:1], worse[:1])["met"] is None
    assert cells.cell_figure(worse)["value"] == pytest.approx(-13 / 3)


def test_finished_runs_are_kept(data: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = dict.fromkeys(cells.DEPENDENCIES, 1)
    plan = [cells.Cell("elbo", ELBO(), 3), cells.Cell("iwae", IWAE(num_particles=2), 2)]
    evaluation = cells.Evaluation(torch.bernoulli(data.x[:20]), 4)

    def spec(cell: Any) -> RunSpec:
        return estimators_mnist.spec_of(cell, data, "full", False)

    def run(plan: Any) -> Any:
        return cells.run_all(plan, (0, 1), spec, data, evaluation, cells.Folder(tmp_path, settings))

    first = run(plan)
    assert {name: [o.num_steps for o in found] for name, found in first.items()} == {"elbo": [3, 3], "iwae": [2, 2]}
    assert len(first["elbo"][0].log_prob) == 20
    monkeypatch.setattr(cells, "train", None)  # nothing is left to be trained
    assert run(plan) == first
    monkeypatch.undo()
    assert run([replace(plan[0], num_steps=1)])["elbo"][0].num_steps == 1  # another length is another run


def test_cells_of_a_seed_start_alike(data: Dataset) -> None:
    weights = []
    for gradient in estimators_mnist.GRADIENTS:
        cell = cells.Cell(gradient, IWAE(num_particles=2, gradient=gradient), 1)
        svi = estimators_mnist.spec_of(cell, data, "full", False).build(3, "cpu")
        weights.append(torch.cat([p.flatten() for p in (*svi.model.parameters(), *svi.guide.parameters())]))  # type: ignore[union-attr]
    assert torch.equal(*weights)


def test_steps_of_epochs(data: Dataset) -> None:
    assert (cells.steps_of(2, data), cells.steps_of(0.5, data), cells.steps_of(0.01, data)) == (6, 2, 1)


# --- the programs ----------------------------------------------------------------------------------------------


def test_every_estimator_has_its_plain_one() -> None:
    plan = {cell.name: cell.objective for cell in sbn_mnist.cells_of(1)}
    for better, plain in sbn_mnist.PAIRS.items():
        assert type(plan[better]) is type(plan[plain])
        assert plan[better].num_particles == plan[plain].num_particles
        assert plan[plain].gradient == "score"


def test_ratio_of_steps() -> None:
    def blocks(*seconds: float) -> list[Any]:
        return [resampled.Block(value, 2 * value) for value in seconds]

    found = {"pathwise": blocks(1.0, 2.0, 1.0), "resampled": blocks(0.5, 1.2, 0.4)}
    figure = resampled.ratio_figure(resampled.MEASURED, "resampled", found)
    assert figure["value"] == figure["by_clock"] == pytest.approx(0.5)
    assert figure["met"]
    assert figure["milliseconds_of_full"] == pytest.approx(1000.0)


@pytest.mark.slow
def test_estimators_mnist_runs(data_dir: Path, tmp_path: Path) -> None:
    arguments = f"{BRIEF} --particles 2 3 --epochs 1 1 --keep {tmp_path / 'keep'} --out {tmp_path}"
    estimators_mnist.main(arguments.split())
    content = record.read(tmp_path / "estimators_mnist.json")
    assert record.problems(content) == []
    assert len(content["figures"]) == 4 + 2


@pytest.mark.slow
def test_sbn_mnist_runs(data_dir: Path, tmp_path: Path) -> None:
    sbn_mnist.main(f"{BRIEF} --epochs 1 --keep {tmp_path / 'keep'} --out {tmp_path}".split())
    content = record.read(tmp_path / "sbn_mnist.json")
    assert record.problems(content) == []
    assert len(content["figures"]) == 5 + 3


@pytest.mark.slow
def test_resampled_runs(data_dir: Path, tmp_path: Path) -> None:
    arguments = f"{BRIEF} --particles 4 --seconds 0.1 --rounds 3 --steps 1 --keep {tmp_path / 'keep'} --out {tmp_path}"
    resampled.main(arguments.split())
    content = record.read(tmp_path / "resampled.json")
    assert record.problems(content) == []
    assert len(content["figures"]) == 4 + 2 + 1
