"""Times a training step: probgen beside Pyro, hand-written torch and NumPyro; and how long imports take.

The competitors take turns in rounds, each a block of steps on the same batches, so that a slow moment of the machine
hits them all. What counts is the ratio to hand-written torch. Every process is held to as many processors as there
are threads.
"""

import argparse
import functools
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import handwritten
import pyro
import pyro.distributions as dist
import record
import torch
from pyro.infer import RenyiELBO, Trace_ELBO
from step_settings import BATCH_SIZE, DATA_DIM, HIDDEN, LATENT_DIM, LEARNING_RATE, MIN_SCALE, bits
from torch import Tensor

import probgen
from probgen.guides import AmortizedNormal
from probgen.models import VAE
from probgen.objectives import ELBO, IWAE

REFERENCE = "hand-written"
GOALS = {1: "<= 1.3", 50: "<= 1.05"}  # probgen, captured, in hand-written steps
IMPORT_GOAL, FIRST_USE_GOAL = "< 0.1", "<= 0.3"  # seconds
FIRST_USE = (
    "import probgen; probgen.SVI; probgen.evaluate; probgen.log_weights; probgen.models.VAE; "
    "probgen.guides.AmortizedNormal; probgen.objectives.IWAE"
)
FUSED_ADAM = functools.partial(torch.optim.Adam, lr=LEARNING_RATE, fused=True)


@dataclass(frozen=True)
class Block:
    """A block of steps: seconds it took, and the last loss per datum."""

    seconds: float
    loss: float


Competitor = Callable[[Tensor], Block]  # batches [steps, B, D] -> how long


# --- the competitors -----------------------------------------------------------------------------------------


def timed(step: Callable[[Tensor], float]) -> Competitor:
    """A competitor that takes one step a call."""

    def block(batches: Tensor) -> Block:
        start = time.perf_counter()
        for x in batches:
            loss = step(x)
        return Block(time.perf_counter() - start, loss / BATCH_SIZE)

    return block


def ours(particles: int, capture: bool) -> Competitor:
    """`probgen.SVI` with the same fused Adam as the hand-written loop."""
    model = VAE((DATA_DIM,), LATENT_DIM, HIDDEN)
    guide = AmortizedNormal((DATA_DIM,), LATENT_DIM, HIDDEN, min_scale=MIN_SCALE)
    objective = IWAE(num_particles=particles) if particles > 1 else ELBO()
    return timed(probgen.SVI(model, guide, FUSED_ADAM, objective, accelerator="cpu", capture=capture).step)


def by_hand(particles: int, likelihood: handwritten.Likelihood) -> Competitor:
    """The hand-written loop, with a form of the Bernoulli log-likelihood."""
    net = handwritten.Net(DATA_DIM, HIDDEN, LATENT_DIM, likelihood, MIN_SCALE)
    optimizer = handwritten.make_optimizer(net, LEARNING_RATE)
    return timed(functools.partial(_step_by_hand, net, optimizer, particles))


def _step_by_hand(net: handwritten.Net, optimizer: torch.optim.Optimizer, particles: int, x: Tensor) -> float:
    return handwritten.train_step(net, optimizer, x, particles)


def pyros(particles: int) -> Competitor:
    """Pyro's own SVI on the same network, as in Pyro's VAE tutorial; validation off, its own Adam."""
    net = handwritten.Net(DATA_DIM, HIDDEN, LATENT_DIM, min_scale=MIN_SCALE)
    zeros, ones = torch.zeros(LATENT_DIM), torch.ones(LATENT_DIM)
    name = f"net_{particles}"

    def model(x: Tensor) -> None:
        pyro.module(f"{name}.decoder", net.decoder)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(zeros, ones).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=net.decoder(z)).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        pyro.module(f"{name}.encoder", net.encoder)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(*net.encode(x)).to_event(1))

    renyi = RenyiELBO(alpha=0, num_particles=particles, max_plate_nesting=1, vectorize_particles=True)
    svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": LEARNING_RATE}), renyi if particles > 1 else Trace_ELBO())
    block = timed(svi.step)

    def unchecked(batches: Tensor) -> Block:
        with pyro.validation_enabled(False):
            return block(batches)

    return unchecked


class NumPyro:
    """NumPyro in a process of its own, which lives as long as the `with` block."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def __enter__(self) -> "NumPyro":
        program = Path(__file__).with_name("numpyro_epoch.py")
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        self._process = subprocess.Popen(
            [sys.executable, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        return self

    def __exit__(self, *error: object) -> None:
        self._process.communicate()

    def competitor(self, particles: int) -> Competitor:
        """Trains for as many steps as there are batches; it draws them itself, from the same seed."""

        def block(batches: Tensor) -> Block:
            request = json.dumps({"particles": particles, "steps": len(batches), "seed": self._seed})
            print(request, file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()  # type: ignore[union-attr]
            if not answer:
                raise SystemExit("step_time.py: NumPyro's process ended early; see its message above")
            return Block(**json.loads(answer))

        return block


def competitors(particles: int, numpyro: NumPyro) -> dict[str, Competitor]:
    """All competitors by name, in the order of their turns."""
    return {
        "probgen": ours(particles, capture=True),
        "probgen, not captured": ours(particles, capture=False),
        "Pyro": pyros(particles),
        REFERENCE: by_hand(particles, handwritten.cross_entropy),
        f"{REFERENCE}, log-sigmoid": by_hand(particles, handwritten.log_sigmoid),
        "NumPyro, lax.scan": numpyro.competitor(particles),
    }


# --- rounds and their statistics -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Times:
    """Milliseconds a step of one competitor, one number a round, and its last loss per datum."""

    ms: list[float]
    loss: float

    @property
    def median(self) -> float:
        """Median over the rounds."""
        return statistics.median(self.ms)


def race(field: dict[str, Competitor], batches: Tensor, rounds: int) -> dict[str, Times]:
    """Everybody takes a block of steps in each round; the one who begins changes from round to round."""
    names = list(field)
    for name in names:  # captures, compiles, fills caches
        field[name](batches)
    blocks: dict[str, list[Block]] = {name: [] for name in names}
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            blocks[name].append(field[name](batches))
    return {
        name: Times([1e3 * block.seconds / len(batches) for block in done], done[-1].loss)
        for name, done in blocks.items()
    }


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """An interval for the median without assumptions, from order statistics; the range where there are too few values.

    The number of values below the median is Binomial(n, 1/2); the interval cuts off the same number at both ends.
    """
    ordered, n = sorted(values), len(values)
    cut, tail = 0, 0.5**n
    while tail <= (1 - confidence) / 2:
        cut += 1
        tail += math.comb(n, cut) * 0.5**n
    cut = max(0, cut - 1)
    return ordered[cut], ordered[n - 1 - cut]


def ratio_interval(times: Times, reference: Times) -> tuple[float, float]:
    """An interval for the ratio of two competitors' times, from their ratios round by round."""
    return median_interval([a / b for a, b in zip(times.ms, reference.ms, strict=True)])


# --- the limit -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limit:
    """The matrix products of a step alone: their floating-point operations, and how long they take here."""

    gflop: float
    ms: float

    @property
    def gflops(self) -> float:
        """The measured rate."""
        return self.gflop / self.ms * 1e3


def layer_sizes(particles: int) -> list[tuple[int, int, int, bool]]:
    """(rows, inputs, outputs, whether the input has a gradient) of every linear layer."""
    encoder, decoder = (DATA_DIM, *HIDDEN, 2 * LATENT_DIM), (LATENT_DIM, *HIDDEN[::-1], DATA_DIM)
    sizes = [(BATCH_SIZE, a, b, i > 0) for i, (a, b) in enumerate(itertools.pairwise(encoder))]
    return sizes + [(particles * BATCH_SIZE, a, b, True) for a, b in itertools.pairwise(decoder)]


def matmul_limit(particles: int, repeats: int) -> Limit:
    """Measures every float32 matrix product of a step at its own size: forward, weights' gradient, input's gradient."""
    flop, seconds = 0.0, 0.0
    for rows, inputs, outputs, differentiated in layer_sizes(particles):
        x, weight, out = torch.randn(rows, inputs), torch.randn(outputs, inputs), torch.randn(rows, outputs)
        products = [functools.partial(torch.mm, x, weight.t()), functools.partial(torch.mm, out.t(), x)]
        if differentiated:
            products.append(functools.partial(torch.mm, out, weight))
        flop += 2.0 * rows * inputs * outputs * len(products)
        seconds += sum(_median_seconds(product, repeats) for product in products)
    return Limit(flop / 1e9, 1e3 * seconds)


def _median_seconds(function: Callable[[], object], repeats: int) -> float:
    function()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


# --- imports -------------------------------------------------------------------------------------------------


def import_seconds(before: str, statement: str, repeats: int) -> list[float]:
    """Seconds that a statement takes in fresh interpreters, after ``before`` has run there."""
    lines = [before, "import time", "start = time.perf_counter()", statement, "print(time.perf_counter() - start)"]
    command = [sys.executable, "-c", "\n".join(lines)]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(repeats + 1)]
    return [float(text) for text in runs[1:]]  # the first one fills the file system's caches


def import_figures(repeats: int) -> list[record.Figure]:
    """How long `import probgen` takes, and its first use beside what torch and Pyro take anyway."""
    bare = import_seconds("", "import probgen", repeats)
    theirs = import_seconds("", "import torch, pyro", repeats)
    first = import_seconds("import torch, pyro", FIRST_USE, repeats)
    return [
        _seconds_figure("import probgen", bare, IMPORT_GOAL, "import probgen"),
        _seconds_figure("import torch, pyro", theirs, None, "import torch, pyro"),
        _seconds_figure("first use of probgen after torch and pyro", first, FIRST_USE_GOAL, FIRST_USE),
    ]


def _seconds_figure(name: str, values: list[float], goal: str | None, statement: str) -> record.Figure:
    interval = median_interval(values)
    return record.figure(name, statistics.median(values), "s", goal=goal, interval=interval, statement=statement)


# --- the result ----------------------------------------------------------------------------------------------


def step_figures(particles: int, times: dict[str, Times], limit: Limit) -> list[record.Figure]:
    """Milliseconds, and ratios to the hand-written step."""
    reference, label = times[REFERENCE], f"K={particles}"
    details: dict[str, Any] = {"gflop": limit.gflop, "gflop_per_second": limit.gflops, "particles": particles}
    figures = [record.figure(f"{label}: matrix products alone", limit.ms, "ms", **details)]
    for name, own in times.items():
        details = {"interval": median_interval(own.ms), "of_limit": own.median / limit.ms, "loss": own.loss}
        figures.append(
            record.figure(f"{label}: {name}", own.median, "ms", particles=particles, competitor=name, **details)
        )
    for name, own in times.items():
        if name != REFERENCE:
            goal = GOALS.get(particles) if name == "probgen" else None
            ratio, interval = own.median / reference.median, ratio_interval(own, reference)
            title = f"{label}: {name} / {REFERENCE}"
            figures.append(record.figure(title, ratio, "ratio", goal=goal, interval=interval, particles=particles))
    return figures


def table(particles: int, times: dict[str, Times], limit: Limit) -> str:
    """The rows of one number of particles as text."""
    reference = times[REFERENCE]
    lines = [f"\nK = {particles}{'ms/step':>31}{'ratio':>8}{'95 % interval':>18}{'x limit':>9}{'loss':>9}   goal"]
    for name, own in times.items():
        low, high = ratio_interval(own, reference)
        goal = GOALS.get(particles, "") if name == "probgen" else ""
        lines.append(
            f"  {name:<26}{own.median:>9.2f}{own.median / reference.median:>8.3f}{low:>9.3f} ..{high:>6.3f}"
            f"{own.median / limit.ms:>9.2f}{own.loss:>9.2f}   {goal}"
        )
    name = f"matrix products alone: {limit.gflop:.2f} Gflop at {limit.gflops:.0f} Gflop/s"
    return "\n".join([*lines, f"  {name}, {limit.ms:.2f} ms"])


@contextmanager
def limited_to(threads: int) -> Iterator[None]:
    """Holds this process and its children to some processors, and torch to as many threads."""
    before = torch.get_num_threads()
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if allowed is not None and threads > len(allowed):
        raise SystemExit(f"step_time.py: --threads {threads}, but this process may use {len(allowed)} processors")
    torch.set_num_threads(threads)
    if allowed is not None:
        os.sched_setaffinity(0, sorted(allowed)[-threads:])
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if allowed is not None:
            os.sched_setaffinity(0, allowed)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--threads", type=record.whole_number, default=1, help="threads of every competitor")
    parser.add_argument("--rounds", type=record.whole_number, default=25, help="blocks of steps of each competitor")
    parser.add_argument("--steps", type=record.whole_number, default=40, help="steps a block at K = 1, fewer at more")
    parser.add_argument(
        "--particles", type=record.whole_number, nargs="+", default=[1, 5, 50], metavar="K", help="numbers of particles"
    )
    parser.add_argument("--imports", type=record.whole_number, default=7, help="fresh interpreters for each import")
    parser.add_argument("--seed", type=int, default=0, help="of weights, batches and noise")
    record.add_output(parser, "step_time")
    return parser.parse_args(arguments)


def steps_of_block(steps: int, particles: int) -> int:
    """Fewer steps where each takes longer, at least 2."""
    return max(2, round(steps / math.sqrt(particles)))


def measure(options: argparse.Namespace) -> list[record.Figure]:
    """Runs all races, and prints a table of each."""
    figures: list[record.Figure] = []
    with NumPyro(options.seed) as numpyro:
        for particles in dict.fromkeys(options.particles):
            pyro.set_rng_seed(options.seed)
            pyro.clear_param_store()
            batches = torch.from_numpy(bits(steps_of_block(options.steps, particles), options.seed))
            times = race(competitors(particles, numpyro), batches, options.rounds)
            limit = matmul_limit(particles, repeats=2 * options.rounds)
            print(table(particles, times, limit), flush=True)
            figures += step_figures(particles, times, limit)
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints, writes."""
    options = parse(arguments)
    with limited_to(options.threads):
        figures = measure(options)
        imports = import_figures(options.imports)
    for entry in imports:
        print(f"{entry['name']}: {entry['value']:.3f} s{'' if entry['goal'] is None else '   ' + entry['goal'] + ' s'}")
    settings = {
        "net": [DATA_DIM, *HIDDEN, LATENT_DIM],
        "batch_size": BATCH_SIZE,
        "threads": options.threads,
        "rounds": options.rounds,
        "steps_per_block": {str(k): steps_of_block(options.steps, k) for k in options.particles},
        "optimizer": "fused torch.optim.Adam for probgen and hand-written; Pyro's and NumPyro's Adam for theirs",
        "data": "random bits, drawn beforehand",
        "interval": "95 % for the median over rounds, from order statistics; ratios round by round",
        "limit": "float32 matrix products of the step, each timed at its own size; no gradient for the data",
    }
    result = record.document("step_time", settings, {"weights, batches and noise": options.seed}, figures + imports)
    print(f"\n{record.shown(record.write(result, options.out))}")


if __name__ == "__main__":
    main()
