"""Signal-to-noise ratio of the guide's gradient against the number of particles: pathwise and DReG.

The problem of Rainforth et al. (2018), section 4: z ~ N(mu, I), x | z ~ N(z, I) and the guide N(A x + b, 2/3 I), in 20
dimensions with 1024 data, and with parameters near the optimum, each moved by N(0, 0.01^2). The ratio is that of the
whole gradient, |E g| / sqrt(tr Cov g). Both gradients have the same expectation, estimated from the less noisy one.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import record
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

import probgen
from probgen.comparison import GradientReport
from probgen.objectives import IWAE

DIM, NUM_DATA, OFFSET, VARIANCE = 20, 1024, 0.01, 2 / 3
PARTICLES = (1, 3, 10, 30, 100, 300, 1000)
DRAWS = 30_000  # particles of a datum over all replicates of a cell, about
FEWEST, MOST = 60, 1000  # replicates of a cell
ASYMPTOTIC = 10  # particles from which on the slope is also fitted: the rates are limits for large K
GOALS = {"pathwise": -0.5, "dreg": 0.5}
GOAL = "within 0.1"
SIGNAL = "dreg"  # whose mean stands for the common expectation


class Model(PyroModule):
    """z ~ N(mu, I), x | z ~ N(z, I)."""

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.mean = nn.Parameter(mean)

    def forward(self, x: Tensor) -> None:
        """Generates a batch."""
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(self.mean, 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


class Guide(PyroModule):
    """q(z | x) = N(A x + b, 2/3 I)."""

    def __init__(self, matrix: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.matrix, self.shift = nn.Parameter(matrix), nn.Parameter(shift)

    def forward(self, x: Tensor) -> None:
        """Proposes latents for a batch."""
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x @ self.matrix.mT + self.shift, math.sqrt(VARIANCE)).to_event(1))


@dataclass(frozen=True)
class Problem:
    """A pair and its data."""

    model: Model
    guide: Guide
    x: Tensor


def make_problem(seed: int, dim: int = DIM, num_data: int = NUM_DATA) -> Problem:
    """Data from a true mean that is drawn from N(0, I), and parameters near the optimum.

    The optimum is mu = mean of the data, A = I / 2 and b = mu / 2.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    x = normal(dim) + math.sqrt(2.0) * normal(num_data, dim)
    mean = x.mean(0)
    model = Model(mean + OFFSET * normal(dim))
    guide = Guide(torch.eye(dim) / 2 + OFFSET * normal(dim, dim), mean / 2 + OFFSET * normal(dim))
    return Problem(model, guide, x)


def replicates_of(particles: int, draws: int) -> int:
    """Fewer where there are more particles."""
    return min(MOST, max(FEWEST, draws // particles))


def measure(problem: Problem, particles: int, draws: int, seed: int) -> GradientReport:
    """Both gradients at one number of particles."""
    objectives = {name: IWAE(num_particles=particles, gradient=name) for name in GOALS}
    return probgen.gradient_report(
        problem.model,
        problem.guide,
        problem.x,
        objectives,
        seed=seed,
        num_replicates=replicates_of(particles, draws),
    )


def ratio(report: GradientReport, label: str, player: str) -> tuple[float, float]:
    """The signal-to-noise ratio, its signal from the less noisy gradient, and its standard error."""
    signal, noise = report.row(SIGNAL, player), report.row(label, player)
    value = signal.norm / math.sqrt(noise.variance)
    relative = math.hypot(signal.snr_error / signal.snr, noise.variance_error / (2 * noise.variance))
    return value, value * relative


def slope(counts: Sequence[int], ratios: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Least-squares slope of log ratio against log K, all points alike, and its error from those of the ratios."""
    x = torch.tensor(counts, dtype=torch.float64).log()
    x = x - x.mean()
    weights = x / (x @ x)
    y = torch.tensor([value for value, _ in ratios], dtype=torch.float64).log()
    errors = torch.tensor([error / value for value, error in ratios], dtype=torch.float64)
    return float(weights @ y), float((weights * errors).norm())


def figures_of(reports: dict[int, GradientReport]) -> list[record.Figure]:
    """The slopes of the guide's ratio and of the model's, then the ratios."""
    slopes, points = [], []
    for player, name in (("guide", "phi"), ("model", "theta")):
        for label in GOALS:
            ratios = {k: ratio(report, label, player) for k, report in reports.items()}
            expected = GOALS[label] if player == "guide" else 0.5
            goal = GOAL if player == "guide" else None
            for least in (1, ASYMPTOTIC):
                fitted = [k for k in ratios if k >= least]
                if len(fitted) < 2:
                    continue
                value, error = slope(fitted, [ratios[k] for k in fitted])
                slopes.append(
                    record.figure(
                        f"{label}: slope of SNR of {name}, K >= {least}, minus {expected:+}",
                        value - expected,
                        "ratio",
                        standard_error=error,
                        goal=goal,
                        slope=value,
                    )
                )
            for k, (value, error) in ratios.items():
                row = reports[k].row(label, player)
                points.append(
                    record.figure(
                        f"{label}: SNR of {name}, K = {k}",
                        value,
                        "ratio",
                        standard_error=error,
                        particles=k,
                        player=player,
                        gradient=label,
                        variance=row.variance,
                        own_snr=row.snr if math.isfinite(row.snr) else None,
                        own_snr_error=row.snr_error if math.isfinite(row.snr_error) else None,
                        replicates=reports[k].settings["num_replicates"],
                    )
                )
    return slopes + points


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    number = record.whole_number
    parser.add_argument(
        "--particles", type=number, nargs="+", default=list(PARTICLES), metavar="K", help="of the bound"
    )
    parser.add_argument("--draws", type=number, default=DRAWS, help="particles of a datum over all replicates, about")
    parser.add_argument("--dim", type=number, default=DIM, help="dimensions")
    parser.add_argument("--num-data", type=number, default=NUM_DATA, help="data")
    parser.add_argument("--threads", type=number, default=1, help="threads of torch")
    parser.add_argument("--seed", type=int, default=0, help="of data, parameters and noise")
    record.add_output(parser, "snr")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints, writes."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    problem = make_problem(options.seed, options.dim, options.num_data)
    reports = {}
    for k in sorted(set(options.particles)):
        reports[k] = measure(problem, k, options.draws, options.seed)
        print(f"K = {k}\n{reports[k]}\n", flush=True)
    figures = figures_of(reports)
    for entry in figures:
        goal = "" if entry["goal"] is None else f"   {entry['goal']}: {'yes' if entry['met'] else 'no'}"
        print(f"{entry['name']:<52}{entry['value']:>10.4f} +- {entry['standard_error']:.4f}{goal}")
    settings = {
        "source": "Rainforth et al. 2018 (arXiv 1802.04537), section 4",
        "problem": "z ~ N(mu, I), x | z ~ N(z, I), q = N(A x + b, 2/3 I)",
        "dim": options.dim,
        "num_data": options.num_data,
        "offset": OFFSET,
        "particles": list(reports),
        "ratio": "|E g| / sqrt(tr Cov g) of the gradient over all data; E g from the doubly reparameterized gradient",
        "slope": "least squares of log SNR against log K, all K alike; the rates are limits for large K",
    }
    result = record.document("snr", settings, {"data, parameters and noise": options.seed}, figures)
    print(f"\n{record.shown(record.write(result, options.out))}")


if __name__ == "__main__":
    main()
