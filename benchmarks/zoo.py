"""Trains every model, guide and likelihood of the registry on named data, and compares it with an exact baseline.

The baseline takes the dimensions of the data as independent: Bernoulli and categorical with one count added to every
category, normal with the likelihood's own lower bound on the standard deviation; per class where the model is told
the class. A row succeeds if its log p(x) on held-out data, or a lower bound of it, is better by more than two standard
errors of the difference, datum by datum.
"""

import argparse
import functools
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import record
import torch
from torch import Tensor

import probgen
from probgen import registry
from probgen.data import load
from probgen.errors import DataFileError
from probgen.seeding import seeded
from probgen.svi import warmup_cosine

GOAL = "> 2 standard errors"
BATCH_SIZE = 100
LEVELS = 17  # of grey in scikit-learn's digits
CLASSES = 10
MIN_SCALE = 1 / 16  # of normal likelihoods on grey digits: one level, below which a density means nothing
FIXED_SCALE = 0.15

Data = Tensor | tuple[Tensor, Tensor]
Baseline = Callable[[Data, Data], Tensor]  # training data, held-out data -> log p(x), [N]


# --- baselines -----------------------------------------------------------------------------------------------


def independent_bernoulli(train: Data, x: Data) -> Tensor:
    """log p(x), ``[N]``, of independent bits with one 0 and one 1 added to the counts."""
    bits, held_out = _flat(train), _flat(x)
    probs = (bits.sum(0) + 1) / (len(bits) + 2)
    return (held_out * probs.log() + (1 - held_out) * (-probs).log1p()).sum(-1)


def independent_normal(train: Data, x: Data, *, min_scale: float) -> Tensor:
    """log p(x), ``[N]``, of independent normals by maximum likelihood, none narrower than ``min_scale``."""
    reals, held_out = _flat(train), _flat(x)
    loc, scale = reals.mean(0), reals.std(0, correction=0).clamp_min(min_scale)
    return (-0.5 * ((held_out - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)


def independent_categorical(train: Data, x: Data) -> Tensor:
    """log p(x), ``[N]``, of independent levels with one added to each count; grey values are rounded to levels."""
    levels, held_out = _levels(_flat(train)), _levels(_flat(x))
    counts = torch.stack([(levels == level).sum(0) for level in range(LEVELS)])  # [levels, D]
    log_probs = ((counts + 1).double() / (len(levels) + LEVELS)).log()
    return log_probs.gather(0, held_out).sum(-1)


def per_class(train: Data, x: Data, *, baseline: Baseline) -> Tensor:
    """log p(x | y), ``[N]``: one baseline for each class."""
    (bits, labels), (held_out, held_out_labels) = train, x
    log_prob = torch.empty(len(held_out), dtype=torch.float64)
    for label in labels.unique():
        here = held_out_labels == label
        log_prob[here] = baseline(bits[labels == label], held_out[here])
    return log_prob


def _flat(data: Data) -> Tensor:
    return (data[0] if isinstance(data, tuple) else data).double().flatten(1)


def _levels(values: Tensor) -> Tensor:
    """Numbers of the levels: grey values in [0, 1] times 16, whole numbers as they are."""
    whole = values if bool((values == values.round()).all()) and bool((values > 1).any()) else values * (LEVELS - 1)
    return whole.round().long()


# --- data ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class View:
    """Data as a row takes them.

    Attributes:
        train: what is trained on.
        test: what is held out.
        defaults: arguments of models and guides that the data decide.
    """

    train: Data
    test: Data
    defaults: dict[str, Any]


def _x(name: str, split: str, shape: tuple[int, ...] | None, binarize: str | None) -> Tensor:
    return load(name, split=split, binarize=binarize, event_shape=shape).x


def digits(shape: tuple[int, ...] | None = None, binarize: str | None = None) -> View:
    """scikit-learn's digits: 1437 to train, 360 held out."""
    train, test = (_x("digits", split, shape, binarize) for split in ("train+valid", "test"))
    return _view(train, test, data_mean=train.mean(0))


def labelled_digits() -> View:
    """Digits as bits, with their classes."""
    train, test = (load("digits", split=split, binarize="fixed") for split in ("train+valid", "test"))
    view = _view(train.x, test.x, data_mean=train.x.mean(0), num_classes=CLASSES)
    return replace(view, train=(train.x, train.y), test=(test.x, test.y))  # type: ignore[arg-type]


def digit_levels() -> View:
    """Digits as whole numbers from 0 to 16."""
    train, test = ((_x("digits", split, None, None) * (LEVELS - 1)).round().long() for split in ("train+valid", "test"))
    frequencies = torch.stack([(train == level).float().mean(0) for level in range(LEVELS)], dim=-1)
    return _view(train, test, data_mean=frequencies)


def mnist() -> View:
    """Larochelle's binarized MNIST: 50,000 to train, every tenth test image held out (the file has them in clumps)."""
    train, test = (_x("mnist_fixed_binarized", split, None, None) for split in ("train", "test"))
    return _view(train, test[::10], data_mean=train.mean(0))


def _view(train: Tensor, test: Tensor, **defaults: Any) -> View:
    shape = tuple(train.shape[1:])
    return View(train, test, {"event_shape": shape, "data_dim": math.prod(shape), **defaults})


VIEWS: dict[str, Callable[[], View]] = {
    "digits, bits": functools.partial(digits, binarize="fixed"),
    "digits, bits, images": functools.partial(digits, (1, 8, 8), "fixed"),
    "digits, bits, labels": labelled_digits,
    "digits, grey": digits,
    "digits, levels": digit_levels,
    "mnist_fixed_binarized": mnist,
}


# --- rows ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One line of the zoo.

    Attributes:
        name: of the row.
        model: a spec; its name is the registry's.
        guide: a spec, or None.
        data: a name of :data:`VIEWS`.
        baseline: of these data.
        likelihood: a spec for the model, or None where the model has its own.
        objective: a spec.
        steps: of the optimizer.
        lr: the first learning rate; half a cosine takes it to 0.
        num_particles: of the evaluation.
        exact: evaluate by the model alone, which knows its evidence.
    """

    name: str
    model: str
    guide: str | None
    data: str
    baseline: Baseline
    likelihood: str | None = "bernoulli"
    objective: str = "iwae:num_particles=5"
    steps: int = 2000
    lr: float = 3e-3
    num_particles: int = 5000
    exact: bool = False


BITS: dict[str, Any] = {"data": "digits, bits", "baseline": independent_bernoulli}
SMALL = "latent_dim=8,hidden=(64,)"
LAYERS = "latent_dims=(16,8),hidden=(64,)"
CONV = "latent_dim=8,hidden=(16,32),network=conv,activation=relu"
NORMAL = functools.partial(independent_normal, min_scale=MIN_SCALE)

ROWS = (
    Row("vae", f"vae:{SMALL}", f"amortized-normal:{SMALL}", **BITS),
    Row("vae-conv", f"vae:{CONV}", f"amortized-normal:{CONV}", "digits, bits, images", independent_bernoulli),
    Row(
        "vae-multivariate",
        f"vae:{SMALL}",
        f"amortized-multivariate-normal:{SMALL}",
        **BITS,
        objective="elbo:gradient=stl",
    ),
    Row(
        "vae-flow",
        f"vae:{SMALL}",
        f"amortized-flow:{SMALL},context_dim=32,flow_hidden=(32,)",
        **BITS,
        objective="elbo",
        num_particles=1000,
    ),
    Row(
        "conditional-vae",
        f"conditional-vae:{SMALL}",
        f"amortized-normal:{SMALL}",
        "digits, bits, labels",
        functools.partial(per_class, baseline=independent_bernoulli),
        objective="iwae:num_particles=5,gradient=dreg",
    ),
    Row(
        "hierarchical-bottom-up",
        f"hierarchical-vae:{LAYERS}",
        f"amortized-hierarchical:{LAYERS},direction=bottom-up",
        **BITS,
        objective="miwae:num_particles=(2,5)",
    ),
    Row(
        "hierarchical-top-down",
        f"hierarchical-vae:{LAYERS}",
        f"amortized-hierarchical:{LAYERS},direction=top-down,num_features=64",
        **BITS,
        objective="elbo:kl=analytic",
    ),
    Row(
        "vae-normal",
        f"vae:{SMALL}",
        f"amortized-normal:{SMALL}",
        "digits, grey",
        NORMAL,
        likelihood=f"normal:min_scale={MIN_SCALE}",
    ),
    Row(
        "vae-normal-fixed",
        f"vae:{SMALL}",
        f"amortized-normal:{SMALL}",
        "digits, grey",
        functools.partial(independent_normal, min_scale=FIXED_SCALE),
        likelihood=f"normal-fixed:scale={FIXED_SCALE}",
        objective="renyi:alpha=0.5,num_particles=5",
    ),
    Row(
        "vae-discretized-logistic",
        f"vae:{SMALL}",
        f"amortized-normal:{SMALL}",
        "digits, grey",
        independent_categorical,
        likelihood=f"discretized-logistic:levels={LEVELS}",
    ),
    Row(
        "vae-categorical",
        f"vae:{SMALL}",
        f"amortized-normal:{SMALL}",
        "digits, levels",
        independent_categorical,
        likelihood=f"categorical:num_categories={LEVELS}",
        num_particles=1000,
    ),
    Row(
        "ppca",
        "ppca:latent_dim=20",
        "amortized-multivariate-normal:latent_dim=20,hidden=()",
        "digits, grey",
        NORMAL,
        likelihood=None,
        objective="elbo",
        lr=1e-2,
        exact=True,
    ),
    Row(
        "gaussian-mixture",
        f"gaussian-mixture:num_components=20,min_scale={MIN_SCALE}",
        None,
        "digits, grey",
        NORMAL,
        likelihood=None,
        objective="maximum-likelihood",
        lr=2e-2,
        exact=True,
    ),
    Row(
        "vae-mnist",
        "vae:latent_dim=50,hidden=(200,200)",
        "amortized-normal:latent_dim=50,hidden=(200,200)",
        "mnist_fixed_binarized",
        independent_bernoulli,
        lr=1e-3,
        num_particles=1000,
    ),
    Row(
        "hierarchical-mnist",
        "hierarchical-vae:latent_dims=(100,50),hidden=((200,200),(100,100))",
        "amortized-hierarchical:latent_dims=(100,50),hidden=((200,200),(100,100))",
        "mnist_fixed_binarized",
        independent_bernoulli,
        lr=1e-3,
        num_particles=1000,
    ),
)


# --- one row -------------------------------------------------------------------------------------------------


def build(row: Row, view: View) -> tuple[Any, Any, Any]:
    """Model, guide and objective of a row."""
    defaults = view.defaults | ({} if row.likelihood is None else {"likelihood": row.likelihood})
    guide = None if row.guide is None else registry.parse("guide", row.guide, **view.defaults)
    return registry.parse("model", row.model, **defaults), guide, registry.parse("objective", row.objective)


def train(row: Row, view: View, seed: int) -> tuple[Any, Any]:
    """A trained pair."""
    with seeded(seed):
        model, guide, objective = build(row, view)
    optim = functools.partial(torch.optim.Adam, lr=row.lr, fused=True)
    svi = probgen.SVI(model, guide, optim, objective, schedule=warmup_cosine(), accelerator="cpu")
    svi.run(view.train, batch_size=BATCH_SIZE, num_steps=row.steps, seed=seed, progress=False)
    return model, guide


def evaluate(row: Row, pair: tuple[Any, Any], view: View, seed: int) -> probgen.Evidence:
    """log p of the held-out data."""
    model, guide = pair
    return probgen.evaluate(
        model,
        None if row.exact else guide,
        view.test,
        num_particles=row.num_particles,
        batch_size=40,
        max_particles_at_once=100,
        seed=seed,
    )


def measure(row: Row, seed: int) -> record.Figure:
    """Trains and evaluates a row, and compares it with its baseline.

    Raises:
        DataFileError: the data are not there.
    """
    view, start = VIEWS[row.data](), time.perf_counter()
    evidence = evaluate(row, train(row, view, seed), view, seed)
    baseline = row.baseline(view.train, view.test)
    difference = evidence.log_prob - baseline
    return record.figure(
        row.name,
        float(difference.mean()),
        "nats per datum",
        standard_error=record.standard_error(difference.tolist()),
        goal=GOAL,
        model=row.model,
        guide=row.guide,
        likelihood=row.likelihood,
        data=row.data,
        objective=row.objective,
        steps=row.steps,
        learning_rate=row.lr,
        kind=evidence.kind,
        num_particles=evidence.num_particles,
        held_out=len(difference),
        log_prob=evidence.mean,
        log_prob_standard_error=evidence.standard_error,
        log_prob_monte_carlo_error=evidence.mean_monte_carlo_error,
        baseline=float(baseline.mean()),
        seconds=round(time.perf_counter() - start, 1),
    )


def quick(row: Row) -> Row:
    """The same row with so few steps and particles that it says nothing but that it runs."""
    return replace(row, steps=3, num_particles=20)


# --- the command line ----------------------------------------------------------------------------------------


def line(entry: record.Figure) -> str:
    """A row of the table."""
    return (
        f"{entry['name']:<26}{entry['log_prob']:>10.2f} +- {entry['log_prob_standard_error']:<6.2f}{entry['kind']:<6}"
        f"{entry['baseline']:>10.2f}{entry['value']:>10.2f} +- {entry['standard_error']:<6.2f}"
        f"{'better' if entry['met'] else 'NOT better':<11}{entry['seconds']:>6.1f} s"
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = [row.name for row in ROWS]
    parser.add_argument(
        "--only", nargs="+", choices=names, metavar="NAME", help=f"these rows, one or more of: {', '.join(names)}"
    )
    parser.add_argument("--quick", action="store_true", help="a few steps and particles: shows that it runs, no more")
    parser.add_argument("--threads", type=record.whole_number, default=2, help="threads of torch (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order, noise and evaluation (default: 0)")
    record.add_output(parser, "zoo")
    options = parser.parse_args(arguments)
    if (options.only or options.quick) and options.out == record.RESULTS:
        options.out = None  # only the whole zoo may replace the committed result
    return options


def chosen(options: argparse.Namespace) -> list[Row]:
    """The rows that are to be run."""
    rows = [row for row in ROWS if not options.only or row.name in options.only]
    return [quick(row) for row in rows] if options.quick else rows


def run(rows: Sequence[Row], seed: int) -> tuple[list[record.Figure], dict[str, str]]:
    """The figures of all rows whose data are there, and why the others were left out."""
    figures, missing = [], {}
    for row in rows:
        try:
            figures.append(measure(row, seed))
        except DataFileError as error:
            missing[row.name] = str(error)
            print(f"zoo.py: {row.name} is left out: {error}", file=sys.stderr, flush=True)
            continue
        print(line(figures[-1]), flush=True)
    return figures, missing


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints, writes."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    print(f"{'row':<26}{'log p(x)':>10}{'':<16}{'baseline':>10}{'difference':>10}")
    figures, missing = run(chosen(options), options.seed)
    if not figures:
        raise SystemExit("zoo.py: no row was run; set PROBGEN_DATA to the folder of the data files")
    if options.out is None:
        print("not written: only a run of all rows replaces the committed result; --out FOLDER writes this one")
        return
    settings = {
        "batch_size": BATCH_SIZE,
        "optimizer": "fused torch.optim.Adam, cosine to 0",
        "threads": options.threads,
        "quick": options.quick,
        "left_out": sorted(missing),
        "value": "log p(x) minus the baseline's, mean over the held-out data",
    }
    result = record.document("zoo", settings, {"weights, order, noise and evaluation": options.seed}, figures)
    print(f"\n{record.shown(record.write(result, options.out))}")


if __name__ == "__main__":
    main()
