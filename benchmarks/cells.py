"""Trains one pair many ways, seed by seed, and compares log p(x) of the same test images in pairs of runs.

A cell is an objective and a length. All cells of a seed start from the same weights and see the same minibatches; all
are evaluated on the same images with the same noise. What a run leaves is kept in a folder, so that a benchmark that is
stopped goes on where it was.
"""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import record
import torch
from torch import Tensor

import probgen
from probgen.comparison import RunSpec
from probgen.config import describe
from probgen.data import Dataset, load
from probgen.errors import DataFileError
from probgen.objectives import Objective


@dataclass(frozen=True)
class Cell:
    """One way to train.

    Attributes:
        name: unlike every other cell's.
        objective: what is optimised.
        num_steps: optimizer steps.
    """

    name: str
    objective: Objective
    num_steps: int


@dataclass(frozen=True)
class Evaluation:
    """How runs are evaluated.

    Attributes:
        x: bits of the test images, ``[N, D]``.
        num_particles: importance samples an image.
        seed: of their noise.
        at_once: importance samples of a minibatch at once.
    """

    x: Tensor
    num_particles: int
    seed: int = 1
    at_once: int = 50

    def __call__(self, svi: probgen.SVI) -> probgen.Evidence:
        """Log p(x) of every image."""
        return probgen.evaluate(
            svi.model,
            svi.guide,
            self.x,
            num_particles=self.num_particles,
            batch_size=100,
            seed=self.seed,
            max_particles_at_once=self.at_once,
        )


@dataclass(frozen=True)
class Outcome:
    """What a run leaves.

    Attributes:
        cell: the cell's name.
        seed: of weights, order, bits and noise.
        num_steps: optimizer steps.
        seconds: of training.
        ms_per_step: the median step.
        log_prob: estimate of log p(x) of every test image, in nats.
        elbo: likewise the evidence lower bound.
        ess: mean effective sample size of the evaluation.
    """

    cell: str
    seed: int
    num_steps: int
    seconds: float
    ms_per_step: float
    log_prob: list[float]
    elbo: list[float]
    ess: float

    @property
    def mean(self) -> float:
        """Mean of ``log_prob``."""
        return sum(self.log_prob) / len(self.log_prob)


Spec = Callable[[Cell], RunSpec]


DEPENDENCIES = ("net", "train_size", "test_size", "batch_size", "learning_rate", "precision", "eval_particles")


class Folder:
    """Outcomes in files, one a run, under a digest of everything that they depend on.

    Args:
        path: the folder.
        settings: of the benchmark; runs depend on those named in ``DEPENDENCIES``.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path, self.settings = path, {name: settings[name] for name in DEPENDENCIES}

    def file(self, cell: Cell, seed: int) -> Path:
        """Where the outcome of a run lies."""
        key = [self.settings, cell.name, describe(cell.objective), cell.num_steps, seed]
        return self.path / f"{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]}.json"

    def read(self, cell: Cell, seed: int) -> Outcome | None:
        """What an earlier run has left, or None."""
        file = self.file(cell, seed)
        return Outcome(**json.loads(file.read_text())) if file.is_file() else None

    def write(self, cell: Cell, outcome: Outcome) -> None:
        """Keeps an outcome."""
        self.path.mkdir(parents=True, exist_ok=True)
        file = self.file(cell, outcome.seed)
        file.with_suffix(".tmp").write_text(json.dumps(asdict(outcome)))
        file.with_suffix(".tmp").replace(file)


def run_all(
    cells: Sequence[Cell],
    seeds: Sequence[int],
    spec: Spec,
    data: Dataset,
    evaluation: Evaluation,
    folder: Folder,
    *,
    batch_size: int = 100,
) -> dict[str, list[Outcome]]:
    """The outcomes of every cell, in the order of the seeds; seeds are outermost, so that pairs are complete early."""
    found: dict[str, list[Outcome]] = {cell.name: [] for cell in cells}
    for seed in seeds:
        for cell in cells:
            outcome = folder.read(cell, seed)
            if outcome is None:
                outcome = train(cell, seed, spec(cell), data, evaluation, batch_size)
                folder.write(cell, outcome)
            print(
                f"{cell.name}, seed {seed}: log p(x) {outcome.mean:.3f}, {outcome.num_steps} steps in "
                f"{outcome.seconds:.0f} s, {outcome.ms_per_step:.2f} ms a step",
                file=sys.stderr,
                flush=True,
            )
            found[cell.name].append(outcome)
    return found


def train(cell: Cell, seed: int, spec: RunSpec, data: Dataset, evaluation: Evaluation, batch_size: int) -> Outcome:
    """Trains and evaluates one cell."""
    svi = spec.build(seed, "cpu")
    start = time.perf_counter()
    result = svi.run(data, batch_size=batch_size, num_steps=cell.num_steps, seed=seed, progress=False)
    seconds = time.perf_counter() - start
    evidence = evaluation(svi)
    return Outcome(
        cell=cell.name,
        seed=seed,
        num_steps=cell.num_steps,
        seconds=seconds,
        ms_per_step=result.state.ms_per_step,
        log_prob=evidence.log_prob.tolist(),
        elbo=evidence.elbo.tolist(),
        ess=float(evidence.ess.mean()),
    )


def cell_figure(outcomes: Sequence[Outcome]) -> record.Figure:
    """-log p(x) of a cell, with its standard error over the seeds."""
    means = [-outcome.mean for outcome in outcomes]
    return record.figure(
        f"{outcomes[0].cell}: -log p(x)",
        sum(means) / len(means),
        "nats per datum",
        standard_error=record.standard_error(means) if len(means) > 1 else None,
        by_seed=means,
        images=len(outcomes[0].log_prob),
        image_standard_error=record.standard_error(outcomes[0].log_prob),
        elbo=sum(sum(outcome.elbo) / len(outcome.elbo) for outcome in outcomes) / len(outcomes),
        steps=[outcome.num_steps for outcome in outcomes],
        seconds=[outcome.seconds for outcome in outcomes],
        ms_per_step=[outcome.ms_per_step for outcome in outcomes],
    )


def difference_figure(
    name: str, better: Sequence[Outcome], worse: Sequence[Outcome], goal: str | None = "> 2 standard errors"
) -> record.Figure:
    """How far log p(x) of one cell is above another's: the mean of the seeds' paired differences."""
    differences = [ours.mean - theirs.mean for ours, theirs in zip(better, worse, strict=True)]
    images = torch.tensor([ours.log_prob for ours in better]) - torch.tensor([theirs.log_prob for theirs in worse])
    several = len(differences) > 1
    return record.figure(
        name,
        sum(differences) / len(differences),
        "nats per datum",
        standard_error=record.standard_error(differences) if several else None,
        goal=goal if several else None,
        by_seed=differences,
        standard_error_over_images=record.standard_error(images.mean(0).tolist()),
    )


def load_mnist(train_size: int, test_size: int, test_seed: int = 0) -> tuple[Dataset, Tensor]:
    """Training images as probabilities, binarized afresh at each use, and test images as fixed bits.

    Raises:
        SystemExit: MNIST is not there; says where it is looked for.
    """
    try:
        train_set = load("mnist", split="train", binarize="dynamic")
        test = load("mnist", split="test", binarize="fixed", seed=test_seed)
    except DataFileError as error:
        raise SystemExit(f"{Path(sys.argv[0]).name}: {error}") from None
    return Dataset(train_set.x[:train_size], name="mnist", binarize="dynamic"), test.x[:test_size]


def steps_of(epochs: float, data: Dataset, batch_size: int = 100) -> int:
    """Optimizer steps of a number of passes over the data."""
    return max(1, round(epochs * -(-len(data) // batch_size)))


def seeds_of(seeds: Sequence[int], evaluation: Evaluation) -> dict[str, int]:
    """Seeds by purpose, as a result records them."""
    return {f"run {i}": seed for i, seed in enumerate(seeds)} | {"evaluation": evaluation.seed, "test bits": 0}


def show(figures: Sequence[record.Figure]) -> None:
    """Prints figures, one a line."""
    for entry in figures:
        error = "" if entry["standard_error"] is None else f" +- {entry['standard_error']:.3f}"
        goal = "" if entry["goal"] is None else f"   {entry['goal']}: {'yes' if entry['met'] else 'no'}"
        print(f"{entry['name']:<62}{entry['value']:>10.3f}{error} {entry['unit']}{goal}")
