"""Trains one IWAE net on MNIST twice, with probgen and by hand, and compares -log p(x) on the test images.

The two runs are paired: the same first weights, batches, binarization and posterior noise. The first steps therefore
have the same losses, which is checked before the long runs; later the two part by rounding errors. Both are evaluated
by the same evaluator on the same noise, and on some images by the hand-written evaluator too.
"""

import argparse
import functools
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import handwritten
import record
import torch
from torch import Tensor, nn

import probgen
from probgen.data import Dataset, load
from probgen.errors import DataFileError
from probgen.guides import AmortizedNormal
from probgen.models import VAE
from probgen.objectives import ELBO, IWAE
from probgen.seeding import seeded
from probgen.svi import warmup_cosine

BATCH_SIZE, LEARNING_RATE = 100, 1e-3
HIDDEN, LATENT_DIM, MIN_SCALE = (200, 200), 50, 1e-4
GOAL = "within 0.1"  # nats between the two
EVALUATORS_GOAL = "within 0.001"  # nats between the evaluators
TOLERANCE = 1e-4  # relative difference of the first losses
FIRST_STEPS = 20
REFERENCES = {
    "Burda et al. 2016 (arXiv 1509.00519), IWAE, one layer, k = 5": "85.54 nats after 3280 epochs of batches of 20",
    "the same net after 40 epochs of batches of 100, k = 5": "about 91.5 nats on the first 1000 test images",
}
FIRST_IMAGES = 1000


@dataclass(frozen=True)
class Pair:
    """A model and its guide."""

    model: VAE
    guide: AmortizedNormal


@dataclass(frozen=True)
class Plan:
    """How to train.

    Attributes:
        num_particles: K.
        num_steps: optimizer steps.
        seed: of order, bits and noise.
        capture: whether probgen captures its step as a graph.
        progress: whether to show progress.
    """

    num_particles: int
    num_steps: int
    seed: int
    capture: bool = True
    progress: bool = False


# --- the same weights in both --------------------------------------------------------------------------------


def make_pair(data_mean: Tensor, hidden: Sequence[int] = HIDDEN, latent_dim: int = LATENT_DIM) -> Pair:
    """A fresh pair whose decoder starts at the mean of the data."""
    shape = tuple(data_mean.shape)
    model = VAE(shape, latent_dim, hidden, data_mean=data_mean)
    return Pair(model, AmortizedNormal(shape, latent_dim, hidden, min_scale=MIN_SCALE))


def make_net(pair: Pair) -> handwritten.Net:
    """The hand-written net of the same sizes, with a copy of the pair's weights."""
    layers = [layer for layer in pair.guide.encoder.modules() if isinstance(layer, nn.Linear)]
    hidden = tuple(layer.out_features for layer in layers[:-1])
    net = handwritten.Net(layers[0].in_features, hidden, pair.model.latent_dim, min_scale=pair.guide.min_scale)
    copy(pair.guide.encoder, net.encoder)
    copy(pair.model.decoder, net.decoder)
    return net


@torch.no_grad()
def copy(source: nn.Module, target: nn.Module) -> None:
    """Writes the parameters of one module into another one of the same structure."""
    for new, old in zip(target.parameters(), source.parameters(), strict=True):
        new.copy_(old)


def with_weights_of(net: handwritten.Net, pair: Pair) -> Pair:
    """The pair, overwritten with the hand-written net's weights, to be evaluated as ours is."""
    copy(net.encoder, pair.guide.encoder)
    copy(net.decoder, pair.model.decoder)
    return pair


# --- training ------------------------------------------------------------------------------------------------


def train_ours(pair: Pair, data: Dataset, plan: Plan) -> handwritten.Trained:
    """Trains the pair by `probgen.SVI`."""
    objective = IWAE(num_particles=plan.num_particles) if plan.num_particles > 1 else ELBO()
    optim = functools.partial(torch.optim.Adam, lr=LEARNING_RATE, fused=True)
    svi = probgen.SVI(
        pair.model, pair.guide, optim, objective, schedule=warmup_cosine(), accelerator="cpu", capture=plan.capture
    )
    start = time.perf_counter()
    result = svi.run(
        data,
        batch_size=BATCH_SIZE,
        num_steps=plan.num_steps,
        seed=plan.seed,
        progress="probgen" if plan.progress else False,
    )
    return handwritten.Trained(result.losses, time.perf_counter() - start)


def train_by_hand(net: handwritten.Net, data: Dataset, plan: Plan) -> handwritten.Trained:
    """Trains the hand-written net; the global generator is put back, as `probgen.SVI` does."""
    with seeded(plan.seed):
        return handwritten.fit(
            net,
            data.x,
            num_particles=plan.num_particles,
            num_steps=plan.num_steps,
            batch_size=BATCH_SIZE,
            lr=LEARNING_RATE,
            seed=plan.seed,
            progress=plan.progress,
        )


def pairing_error(data: Dataset, plan: Plan, pair: Pair) -> float:
    """Largest relative difference between the first losses of both, from the pair's weights."""
    by_hand = train_by_hand(make_net(pair), data, plan).losses
    losses = train_ours(pair, data, plan).losses
    return float(((losses - by_hand).abs() / by_hand.abs()).max())


def check_pairing(data: Dataset, plan: Plan, pair: Pair) -> record.Figure:
    """Trains both for the steps of the plan, and returns how far their losses part.

    Raises:
        SystemExit: further than the rounding of float32 explains, so that the runs would not be paired.
    """
    error = pairing_error(data, plan, pair)
    name = f"largest relative difference of the first {plan.num_steps} losses"
    print(f"{name}: {error:.1e}", file=sys.stderr, flush=True)
    if not error <= TOLERANCE:
        raise SystemExit(f"mnist_iwae.py: the {name} is {error:.1e}, above {TOLERANCE}: the runs are not paired")
    return record.figure(name, error, "ratio", goal=f"<= {TOLERANCE:.4f}")


# --- evaluation ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evaluated:
    """log p(x) of the test images by both, from the same noise, ``[N]``; and seconds for both together."""

    ours: probgen.Evidence
    by_hand: probgen.Evidence
    seconds: float


def evaluate_both(pair: Pair, net: handwritten.Net, spare: Pair, x: Tensor, options: argparse.Namespace) -> Evaluated:
    """Evaluates both sets of weights by `probgen.evaluate`; ``spare`` takes the hand-written ones."""
    evaluate = functools.partial(
        probgen.evaluate,
        data=x,
        num_particles=options.eval_particles,
        batch_size=BATCH_SIZE,
        seed=options.eval_seed,
        max_particles_at_once=options.at_once,
        progress=True,
    )
    start = time.perf_counter()
    ours = evaluate(pair.model, pair.guide)
    other = with_weights_of(net, spare)
    return Evaluated(ours, evaluate(other.model, other.guide), time.perf_counter() - start)


def evaluator_figure(net: handwritten.Net, x: Tensor, both: Evaluated, options: argparse.Namespace) -> record.Figure:
    """The same weights on some images by the hand-written evaluator.

    Both draw the same noise in the same order, so that they differ by rounding alone. (On noise of their own they
    would differ by more than the delta method's standard error says wherever weights have heavy tails.)
    """
    count = min(-(-options.cross_check // BATCH_SIZE) * BATCH_SIZE, len(x))  # whole batches, as the other evaluator has
    with seeded(options.eval_seed):
        by_hand = handwritten.evaluate(
            net,
            x[:count],
            num_particles=options.eval_particles,
            batch_size=BATCH_SIZE,
            at_once=options.at_once,
            seed=options.eval_seed,
        )
    name = "hand-written evaluator minus probgen.evaluate, same weights"
    difference = float((by_hand - both.by_hand.log_prob[:count]).mean())
    return record.figure(name, difference, "nats per datum", goal=EVALUATORS_GOAL, images=count)


# --- the result ----------------------------------------------------------------------------------------------


def nats_figure(name: str, log_prob: Tensor, monte_carlo_error: float) -> record.Figure:
    """-log p(x) with its standard error over the images."""
    value, error = -float(log_prob.mean()), record.standard_error(log_prob.tolist())
    return record.figure(
        name, value, "nats per datum", standard_error=error, monte_carlo_error=monte_carlo_error, images=len(log_prob)
    )


def likelihood_figures(both: Evaluated) -> Iterator[record.Figure]:
    """Both means, both on the first images, and the paired difference."""
    for name, evidence in (("probgen", both.ours), ("hand-written", both.by_hand)):
        yield nats_figure(f"{name}: -log p(x)", evidence.log_prob, evidence.mean_monte_carlo_error)
        if len(evidence.log_prob) > FIRST_IMAGES:
            first = evidence.monte_carlo_error[:FIRST_IMAGES]
            noise = float((first**2).sum().sqrt()) / FIRST_IMAGES
            yield nats_figure(f"{name}: -log p(x), first {FIRST_IMAGES}", evidence.log_prob[:FIRST_IMAGES], noise)
    difference = both.by_hand.log_prob - both.ours.log_prob
    yield record.figure(
        "difference of -log p(x), probgen minus hand-written",
        float(difference.mean()),
        "nats per datum",
        standard_error=record.standard_error(difference.tolist()),
        goal=GOAL,
        images=len(difference),
    )


def time_figures(ours: handwritten.Trained, by_hand: handwritten.Trained, both: Evaluated) -> Iterator[record.Figure]:
    """Seconds of training of both, one after the other, and of the evaluation."""
    for name, trained in (("probgen", ours), ("hand-written", by_hand)):
        steps = len(trained.losses)
        yield record.figure(
            f"{name}: training", trained.seconds, "s", steps=steps, ms_per_step=1e3 * trained.seconds / steps
        )
    yield record.figure("training time, probgen / hand-written", ours.seconds / by_hand.seconds, "ratio")
    yield record.figure("evaluation of both", both.seconds, "s")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    number = record.whole_number
    parser.add_argument("--epochs", type=number, default=40, help="passes over the training images")
    parser.add_argument("--threads", type=number, default=2, help="threads of torch")
    parser.add_argument("--particles", type=number, default=5, metavar="K", help="particles of the training bound")
    parser.add_argument("--train-size", type=number, default=50_000, help="first training images")
    parser.add_argument("--test-size", type=number, default=10_000, help="first test images")
    parser.add_argument("--eval-particles", type=number, default=5000, help="importance samples an image")
    parser.add_argument("--at-once", type=number, default=40, help="importance samples of 100 images at once")
    parser.add_argument("--cross-check", type=number, default=500, help="images for the hand-written evaluator")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order, bits and noise")
    parser.add_argument("--eval-seed", type=int, default=1, help="of the evaluation's noise")
    parser.add_argument("--test-seed", type=int, default=0, help="of the test images' fixed bits")
    parser.add_argument("--no-capture", dest="capture", action="store_false", help="probgen without captured steps")
    record.add_output(parser, "mnist_iwae")
    return parser.parse_args(arguments)


def load_images(options: argparse.Namespace) -> tuple[Dataset, Tensor]:
    """Training images as probabilities, and test images as fixed bits.

    Raises:
        SystemExit: MNIST is not there; says where it is looked for.
    """
    try:
        train = load("mnist", split="train", binarize="dynamic")
        test = load("mnist", split="test", binarize="fixed", seed=options.test_seed)
    except DataFileError as error:
        raise SystemExit(f"mnist_iwae.py: {error}") from None
    return Dataset(train.x[: options.train_size], name="mnist", binarize="dynamic"), test.x[: options.test_size]


def compare(data: Dataset, x: Tensor, options: argparse.Namespace) -> list[record.Figure]:
    """Trains both, evaluates both."""
    mean = data.mean
    with seeded(options.seed):
        pair = make_pair(mean)
        spare = make_pair(mean)
    net = make_net(pair)
    steps = options.epochs * -(-len(data) // BATCH_SIZE)
    plan = Plan(options.particles, steps, options.seed, options.capture, progress=True)
    pairing = check_pairing(data, replace(plan, num_steps=min(FIRST_STEPS, steps), progress=False), spare)
    ours = train_ours(pair, data, plan)
    by_hand = train_by_hand(net, data, plan)
    both = evaluate_both(pair, net, spare, x, options)
    return [
        pairing,
        *likelihood_figures(both),
        *time_figures(ours, by_hand, both),
        evaluator_figure(net, x, both, options),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints, writes."""
    options = parse(arguments)
    data, x = load_images(options)
    torch.set_num_threads(options.threads)
    figures = compare(data, x, options)
    for entry in figures:
        error = "" if entry["standard_error"] is None else f" +- {entry['standard_error']:.3f}"
        goal = "" if entry["goal"] is None else f"   {entry['goal']}"
        print(f"{entry['name']:<62}{entry['value']:>10.3f}{error} {entry['unit']}{goal}")
    for name, value in REFERENCES.items():
        print(f"for comparison: {name}: {value}")
    settings = {
        "net": [*data.event_shape, *HIDDEN, LATENT_DIM],
        "activation": "tanh",
        "data": "mnist: dynamic binarization to train, one fixed Bernoulli draw to test",
        "train_size": len(data),
        "test_size": len(x),
        "epochs": options.epochs,
        "batch_size": BATCH_SIZE,
        "num_particles": options.particles,
        "optimizer": "fused torch.optim.Adam",
        "learning_rate": LEARNING_RATE,
        "schedule": "cosine to 0",
        "eval_particles": options.eval_particles,
        "max_particles_at_once": options.at_once,
        "threads": options.threads,
        "capture": options.capture,
        "references": REFERENCES,
    }
    seeds = {"training": options.seed, "evaluation": options.eval_seed, "test bits": options.test_seed}
    result = record.document("mnist_iwae", settings, seeds, figures)
    print(f"\n{record.shown(record.write(result, options.out))}")


if __name__ == "__main__":
    main()
