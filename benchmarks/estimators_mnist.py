"""Trains the IWAE net on MNIST by pathwise and by doubly reparameterized gradients, at equal steps.

For each number of particles and each seed the two runs start from the same weights and see the same minibatches; what
differs is the guide's gradient. The question is whether log p(x) of the test images is higher under DReG.
"""

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path

import cells
import record
import torch

from probgen.comparison import RunSpec
from probgen.data import Dataset
from probgen.guides import AmortizedNormal
from probgen.models import VAE
from probgen.objectives import IWAE
from probgen.svi import warmup_cosine

BATCH_SIZE, LEARNING_RATE = 100, 1e-3
HIDDEN, LATENT_DIM, MIN_SCALE = (200, 200), 50, 1e-4
EPOCHS = {5: 12, 50: 4}  # particles -> passes over the training images
GRADIENTS = ("pathwise", "dreg")
REFERENCES = {
    "Burda et al. 2016 (arXiv 1509.00519), IWAE, one layer": "85.54 nats at k = 5, 84.78 at k = 50, 3280 epochs",
    "Tucker et al. 2019 (arXiv 1810.04152), DReG, one layer": "84.90 nats at k = 5, 84.32 at k = 50",
}


def spec_of(cell: cells.Cell, data: Dataset, precision: str, capture: bool) -> RunSpec:
    """The net of Burda et al. (2016), the decoder's output starting at the mean of the data."""
    return RunSpec(
        functools.partial(VAE, data.event_shape, LATENT_DIM, HIDDEN, data_mean=data.mean),
        functools.partial(AmortizedNormal, data.event_shape, LATENT_DIM, HIDDEN, min_scale=MIN_SCALE),
        functools.partial(torch.optim.Adam, lr=LEARNING_RATE, fused=True),
        cell.objective,
        schedule=warmup_cosine(),
        precision=precision,
        capture=capture,
    )


def cells_of(particles: Sequence[int], epochs: dict[int, float], data: Dataset) -> list[cells.Cell]:
    """Both gradients at each number of particles."""
    return [
        cells.Cell(f"k = {k}, {name}", IWAE(num_particles=k, gradient=name), cells.steps_of(epochs[k], data))
        for k in particles
        for name in GRADIENTS
    ]


def figures_of(outcomes: dict[str, list[cells.Outcome]], particles: Sequence[int]) -> list[record.Figure]:
    """A figure for each cell, and the difference at each number of particles."""
    pairs = [
        cells.difference_figure(
            f"k = {k}: log p(x), dreg minus pathwise", outcomes[f"k = {k}, dreg"], outcomes[f"k = {k}, pathwise"]
        )
        for k in particles
    ]
    return [cells.cell_figure(members) for members in outcomes.values()] + pairs


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    number = record.whole_number
    parser.add_argument("--particles", type=number, nargs="+", default=[5, 50], metavar="K", help="of the bound")
    parser.add_argument("--epochs", type=float, nargs="+", help="passes for each K (default: 12 for 5, 4 for others)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of weights, order, bits and noise")
    parser.add_argument("--threads", type=number, default=1, help="threads of torch")
    parser.add_argument("--train-size", type=number, default=50_000, help="first training images")
    parser.add_argument("--test-size", type=number, default=2000, help="first test images")
    parser.add_argument("--eval-particles", type=number, default=1000, help="importance samples an image")
    parser.add_argument(
        "--precision", choices=("full", "bfloat16"), default="bfloat16", help="of the networks' training"
    )
    parser.add_argument("--no-capture", dest="capture", action="store_false", help="without captured steps")
    parser.add_argument("--keep", type=Path, default=record.ROOT / "runs" / "estimators_mnist", help="finished runs")
    record.add_output(parser, "estimators_mnist")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains, prints, writes."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    data, x = cells.load_mnist(options.train_size, options.test_size)
    particles = list(dict.fromkeys(options.particles))
    lengths = options.epochs or [EPOCHS.get(k, 4) for k in particles]
    epochs = dict(zip(particles, lengths, strict=True))
    settings = {
        "net": [*data.event_shape, *HIDDEN, LATENT_DIM],
        "activation": "tanh",
        "data": "mnist: dynamic binarization to train, one fixed Bernoulli draw to test",
        "train_size": len(data),
        "test_size": len(x),
        "epochs": {str(k): length for k, length in epochs.items()},
        "batch_size": BATCH_SIZE,
        "optimizer": "fused torch.optim.Adam",
        "learning_rate": LEARNING_RATE,
        "schedule": "cosine to 0",
        "precision": options.precision,
        "capture": options.capture,
        "eval_particles": options.eval_particles,
        "pairing": "at a seed: the same first weights, order and bits for all cells",
        "standard_error": "over the seeds",
    }
    spec = functools.partial(spec_of, data=data, precision=options.precision, capture=options.capture)
    folder = cells.Folder(options.keep, settings)
    evaluation = cells.Evaluation(x, options.eval_particles)
    outcomes = cells.run_all(cells_of(particles, epochs, data), options.seeds, spec, data, evaluation, folder)
    figures = figures_of(outcomes, particles)
    cells.show(figures)
    for name, value in REFERENCES.items():
        print(f"for comparison: {name}: {value}")
    seeds = cells.seeds_of(options.seeds, evaluation)
    result = record.document("estimators_mnist", settings | {"references": REFERENCES}, seeds, figures)
    print(f"\n{record.shown(record.write(result, options.out))}")


if __name__ == "__main__":
    main()
