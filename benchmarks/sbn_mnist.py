"""Trains a sigmoid belief net on MNIST by score-function gradients with and without variance reduction, at equal steps.

One layer of 200 binary latents, a linear encoder and a linear decoder. Under the importance-weighted bound VIMCO stands
beside the plain score function, under the ELBO the leave-one-out baseline and DisARM do, each with as many particles as
the plain one. All cells of a seed start from the same weights and see the same minibatches.
"""

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path

import cells
import pyro
import pyro.distributions as dist
import record
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from probgen.comparison import RunSpec
from probgen.data import Dataset
from probgen.objectives import ELBO, IWAE
from probgen.svi import warmup_cosine

BATCH_SIZE, LEARNING_RATE, LATENT_DIM, EPOCHS = 100, 1e-3, 200, 4
IWAE_PARTICLES, ELBO_PARTICLES = 5, 2
# better -> the plain score function of the same bound and number of particles
PAIRS = {"iwae, vimco": "iwae, score", "elbo, rloo": "elbo, score", "elbo, disarm": "elbo, score"}


class Model(PyroModule):
    """z ~ Bernoulli(prior), x | z ~ Bernoulli(W z + c), with c at the mean of the data."""

    def __init__(self, mean: Tensor, latent_dim: int) -> None:
        super().__init__()
        self.prior = nn.Parameter(torch.zeros(latent_dim))
        self.decoder = nn.Linear(latent_dim, len(mean))
        with torch.no_grad():
            self.decoder.bias.copy_(mean.clamp(0.001, 0.999).logit())

    def forward(self, x: Tensor) -> None:
        """Generates a batch."""
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Bernoulli(logits=self.prior.expand(len(x), -1)).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)


class Guide(PyroModule):
    """q(z | x) = Bernoulli(V (x - mean) + d)."""

    def __init__(self, mean: Tensor, latent_dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.encoder = nn.Linear(len(mean), latent_dim)

    def forward(self, x: Tensor) -> None:
        """Proposes latents for a batch."""
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Bernoulli(logits=self.encoder(x - self.mean)).to_event(1))


def cells_of(num_steps: int) -> list[cells.Cell]:
    """Every estimator that is compared."""
    importance = [
        cells.Cell(f"iwae, {name}", IWAE(num_particles=IWAE_PARTICLES, gradient=name), num_steps)
        for name in ("score", "vimco")
    ]
    evidence = [
        cells.Cell(f"elbo, {name}", ELBO(num_particles=ELBO_PARTICLES, gradient=name), num_steps)
        for name in ("score", "rloo", "disarm")
    ]
    return importance + evidence


def spec_of(cell: cells.Cell, mean: Tensor, learning_rate: float) -> RunSpec:
    """The net, by an objective."""
    return RunSpec(
        functools.partial(Model, mean, LATENT_DIM),
        functools.partial(Guide, mean, LATENT_DIM),
        functools.partial(torch.optim.Adam, lr=learning_rate, fused=True),
        cell.objective,
        schedule=warmup_cosine(),
        capture=True,
    )


def figures_of(outcomes: dict[str, list[cells.Outcome]]) -> list[record.Figure]:
    """A figure for each cell, and each estimator's lead on the plain score function."""
    leads = [
        cells.difference_figure(f"log p(x), {better} minus {worse}", outcomes[better], outcomes[worse])
        for better, worse in PAIRS.items()
    ]
    return [cells.cell_figure(members) for members in outcomes.values()] + leads


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    number = record.whole_number
    parser.add_argument("--epochs", type=float, default=EPOCHS, help="passes over the training images")
    parser.add_argument("--learning-rate", type=float, default=LEARNING_RATE, help="of Adam, the same for all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of weights, order, bits and noise")
    parser.add_argument("--threads", type=number, default=1, help="threads of torch")
    parser.add_argument("--train-size", type=number, default=50_000, help="first training images")
    parser.add_argument("--test-size", type=number, default=2000, help="first test images")
    parser.add_argument("--eval-particles", type=number, default=1000, help="importance samples an image")
    parser.add_argument("--keep", type=Path, default=record.ROOT / "runs" / "sbn_mnist", help="finished runs")
    record.add_output(parser, "sbn_mnist")
    return parser.parse_args(arguments)


def settings_of(options: argparse.Namespace, data: Dataset, x: Tensor) -> dict[str, object]:
    """What the result says about the runs."""
    return {
        "net": [*data.event_shape, LATENT_DIM],
        "encoder": "linear, of centred data",
        "data": "mnist: dynamic binarization to train, one fixed Bernoulli draw to test",
        "train_size": len(data),
        "test_size": len(x),
        "epochs": options.epochs,
        "batch_size": BATCH_SIZE,
        "optimizer": "fused torch.optim.Adam",
        "learning_rate": options.learning_rate,
        "schedule": "cosine to 0",
        "precision": "full",
        "iwae_particles": IWAE_PARTICLES,
        "elbo_particles": f"{ELBO_PARTICLES}, which is one antithetic pair of DisARM",
        "eval_particles": options.eval_particles,
        "pairing": "at a seed: the same first weights, order and bits for all cells",
        "standard_error": "over the seeds",
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains, prints, writes."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    data, x = cells.load_mnist(options.train_size, options.test_size)
    settings = settings_of(options, data, x)
    spec = functools.partial(spec_of, mean=data.mean, learning_rate=options.learning_rate)
    folder, evaluation = cells.Folder(options.keep, settings), cells.Evaluation(x, options.eval_particles)
    plan = cells_of(cells.steps_of(options.epochs, data))
    outcomes = cells.run_all(plan, options.seeds, spec, data, evaluation, folder)
    figures = figures_of(outcomes)
    cells.show(figures)
    result = record.document("sbn_mnist", settings, cells.seeds_of(options.seeds, evaluation), figures)
    print(f"\n{record.shown(record.write(result, options.out))}")


if __name__ == "__main__":
    main()
