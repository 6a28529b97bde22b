"""The resampled backward pass of IWAE: what a step costs beside the full one, and what that buys at equal seconds.

All K particles go forward, one of them, drawn by weight, goes backward. The two steps take turns on the same batches in
rounds; time is that of the processor, since other processes may share the machine. Then both train for the same number
of seconds, each for as many steps as fit in, from the same weights.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cells
import estimators_mnist
import record
import torch
from torch import Tensor

import probgen
from probgen.comparison import RunSpec
from probgen.data import Dataset
from probgen.objectives import IWAE
from probgen.seeding import seeded

FULL, RESAMPLED = "pathwise", "resampled"
GRADIENTS = (FULL, RESAMPLED, "resampled-dreg")
TIME_GOAL = "<= 0.55"
WAYS = {"eager, float32": ("full", False), "captured, bfloat16": ("bfloat16", True)}
MEASURED = "eager, float32"  # the way to train whose times carry the goal


@dataclass(frozen=True)
class Block:
    """A block of steps: seconds a step, of the processor and of the clock."""

    processor: float
    clock: float


def spec_of(cell: cells.Cell, data: Dataset, way: str) -> RunSpec:
    """The net of `estimators_mnist`, trained in one of the ways."""
    precision, capture = WAYS[way]
    return estimators_mnist.spec_of(cell, data, precision, capture)


def objective_of(gradient: str, particles: int) -> IWAE:
    """The importance-weighted bound with a gradient."""
    return IWAE(num_particles=particles, gradient=gradient)


def race(data: Dataset, particles: int, way: str, rounds: int, steps: int, seed: int) -> dict[str, list[Block]]:
    """Blocks of steps of every gradient, in turns on the same batches."""
    with seeded(seed):
        batches = [torch.bernoulli(part) for part in data.x[: 100 * steps].split(100)]
    loops = {}
    for name in GRADIENTS:
        cell = cells.Cell(name, objective_of(name, particles), 1)
        spec = spec_of(cell, data, way)
        with seeded(seed):
            model, guide = spec.model(), spec.guide()  # type: ignore[misc]
        loops[name] = probgen.SVI(
            model, guide, spec.optim, spec.objective, precision=spec.precision, capture=spec.capture, accelerator="cpu"
        )
        block(loops[name], batches[:2])
    return {
        name: [found[i] for found in rows]
        for rows in [[[block(loop, batches) for loop in loops.values()] for _ in range(rounds)]]
        for i, name in enumerate(loops)
    }


def block(svi: probgen.SVI, batches: Sequence[Tensor]) -> Block:
    """Takes a step on every batch."""
    processor, clock = time.process_time(), time.perf_counter()
    for x in batches:
        svi.step(x)
    count = len(batches)
    return Block((time.process_time() - processor) / count, (time.perf_counter() - clock) / count)


def ratio_figure(way: str, name: str, blocks: dict[str, list[Block]]) -> record.Figure:
    """The median over the rounds of the ratio to the full backward pass, in time of the processor."""
    pairs = list(zip(blocks[name], blocks[FULL], strict=True))
    ratios = [ours.processor / full.processor for ours, full in pairs]
    return record.figure(
        f"{way}: step of {name}, in steps of the full backward pass",
        statistics.median(ratios),
        "ratio",
        standard_error=1.2533 * record.standard_error(ratios),  # of a median of normal values
        goal=TIME_GOAL if (way, name) == (MEASURED, RESAMPLED) else None,
        of_the_fastest_blocks=min(ours.processor for ours, _ in pairs) / min(full.processor for _, full in pairs),
        by_clock=statistics.median(ours.clock / full.clock for ours, full in pairs),
        milliseconds=1e3 * statistics.median(ours.processor for ours, _ in pairs),
        milliseconds_of_full=1e3 * statistics.median(full.processor for _, full in pairs),
        rounds=len(ratios),
    )


def times(data: Dataset, options: argparse.Namespace) -> tuple[dict[str, float], list[record.Figure]]:
    """Seconds a step of every gradient, in the way that is trained; and all ratios."""
    per_step: dict[str, float] = {}
    figures = []
    for way in WAYS:
        blocks = race(data, options.particles, way, options.rounds, options.steps, options.seeds[0])
        figures += [ratio_figure(way, name, blocks) for name in GRADIENTS if name != FULL]
        if way == options.way:
            per_step = {name: statistics.median(b.processor for b in found) for name, found in blocks.items()}
    return per_step, figures


def name_of(gradient: str, particles: int) -> str:
    """Of a cell."""
    return f"k = {particles}, {gradient}"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    number = record.whole_number
    parser.add_argument("--particles", type=number, default=50, metavar="K", help="of the bound")
    parser.add_argument("--seconds", type=float, default=60.0, help="of the processor, for each run")
    parser.add_argument(
        "--lengths",
        type=number,
        nargs=2,
        metavar="STEPS",
        help="of the full and the resampled runs, as an earlier call found (default: as fit into --seconds)",
    )
    parser.add_argument("--way", choices=tuple(WAYS), default=MEASURED, help="how the runs train")
    parser.add_argument("--rounds", type=number, default=25, help="blocks of steps of each gradient")
    parser.add_argument("--steps", type=number, default=2, help="steps a block")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of weights, order, bits and noise")
    parser.add_argument("--threads", type=number, default=1, help="threads of torch")
    parser.add_argument("--train-size", type=number, default=50_000, help="first training images")
    parser.add_argument("--test-size", type=number, default=2000, help="first test images")
    parser.add_argument("--eval-particles", type=number, default=1000, help="importance samples an image")
    parser.add_argument("--keep", type=Path, default=record.ROOT / "runs" / "resampled", help="finished runs")
    record.add_output(parser, "resampled")
    return parser.parse_args(arguments)


def settings_of(options: argparse.Namespace, data: Dataset, x: Tensor) -> dict[str, object]:
    """What the result says about the runs."""
    return {
        "net": [*data.event_shape, *estimators_mnist.HIDDEN, estimators_mnist.LATENT_DIM],
        "data": "mnist: dynamic binarization to train, one fixed Bernoulli draw to test",
        "train_size": len(data),
        "test_size": len(x),
        "num_particles": options.particles,
        "batch_size": 100,
        "optimizer": "fused torch.optim.Adam",
        "learning_rate": estimators_mnist.LEARNING_RATE,
        "schedule": "cosine to 0",
        "precision": WAYS[options.way][0],
        "capture": WAYS[options.way][1],
        "threads": options.threads,
        "seconds": options.seconds,
        "time": "of the processor, one thread; the machine was shared",
        "eval_particles": options.eval_particles,
        "pairing": "at a seed: the same first weights, order and bits for all cells",
        "standard_error": "of times over the rounds, of log p(x) over the seeds",
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, trains, prints, writes."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    data, x = cells.load_mnist(options.train_size, options.test_size)
    per_step, figures = times(data, options)
    cells.show(figures)
    settings = settings_of(options, data, x)
    folder, evaluation = cells.Folder(options.keep, settings), cells.Evaluation(x, options.eval_particles)
    compared = (FULL, RESAMPLED)
    lengths = options.lengths or [max(1, int(options.seconds / per_step[name])) for name in compared]
    plan = [
        cells.Cell(name_of(name, options.particles), objective_of(name, options.particles), steps)
        for name, steps in zip(compared, lengths, strict=True)
    ]
    settings["lengths"] = "given" if options.lengths else "by the times measured here"
    settings["seconds_by_these_times"] = {n: k * per_step[n] for n, k in zip(compared, lengths, strict=True)}
    spec = functools.partial(spec_of, data=data, way=options.way)
    outcomes = cells.run_all(plan, options.seeds, spec, data, evaluation, folder)
    figures += [cells.cell_figure(members) for members in outcomes.values()]
    full, resampled = (outcomes[name_of(name, options.particles)] for name in (FULL, RESAMPLED))
    figures.append(cells.difference_figure("equal seconds: log p(x), resampled minus full backward", resampled, full))
    cells.show(figures)
    result = record.document("resampled", settings, cells.seeds_of(options.seeds, evaluation), figures)
    print(f"\n{record.shown(record.write(result, options.out))}")


if __name__ == "__main__":
    main()
