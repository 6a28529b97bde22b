"""Objectives side by side: the same weights, data, steps and evaluation."""

import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

from probgen import __version__
from probgen.arguments import positive_float, positive_int
from probgen.comparison.result import Comparison, Run
from probgen.comparison.spec import RunSpec
from probgen.comparison.timing import steps_within
from probgen.config import describe
from probgen.data import Dataset
from probgen.data.batches import as_call, open_batches
from probgen.errors import ArgumentError, ArgumentTypeError, ProbgenError
from probgen.evidence import evaluate
from probgen.plots.comparison_figure import as_png, plot_comparison
from probgen.plots.folder import RunFolder
from probgen.plots.table import to_csv
from probgen.programs.run import check_num_particles
from probgen.svi import EpochReport
from probgen.svi.parameters import trained_parameters
from probgen.svi.preflight import first_batch, preflight

EVAL_SEED = 0  # of the draw of dynamic data and of the particles: the same for every run


def compare(
    runs: Mapping[str, RunSpec],
    data: Any,
    *,
    eval_data: Any,
    seeds: Sequence[int] = (0,),
    num_epochs: int | None = None,
    num_steps: int | None = None,
    num_seconds: float | None = None,
    batch_size: int = 100,
    num_particles: int = 1000,
    accelerator: str = "auto",
    run_dir: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: bool = True,
    config: Mapping[str, Any] | None = None,
) -> Comparison:
    """Trains every run for every seed and evaluates all of them alike.

    At one seed all runs start from the same weights if their factories do the same, and see the same minibatches; all
    are evaluated on the same data with the same seed. Everything that can be refused is refused before the first step.

    With ``num_seconds`` each run takes as many steps as fit into that time of training. The steps are timed beforehand
    on pairs that are thrown away, and their number is the same for all seeds and stands in the result; all else is as
    with that ``num_steps``, schedules included.

    Args:
        runs: specs by label; see :func:`grid`.
        data: training data, as for :meth:`probgen.SVI.run`.
        eval_data: held-out data, as for :func:`probgen.evaluate`; of dynamically binarized data one fixed draw.
        seeds: of weights and training.
        num_epochs: passes over the data; one of this, ``num_steps`` and ``num_seconds``.
        num_steps: optimizer steps.
        num_seconds: of training for each run, without evaluation.
        batch_size: data per step, and per minibatch of the evaluation.
        num_particles: of the evaluation, per datum.
        accelerator: ``"auto"`` or a device; see :class:`probgen.SVI`.
        run_dir: a folder for ``config.json``, ``metrics.jsonl`` (a line per run and epoch), ``comparison.csv`` and
            ``comparison.png``.
        overwrite: whether ``run_dir`` may exist and hold files; those of an earlier comparison are then replaced, and
            others are left alone.
        progress: show training and evaluation on standard error.
        config: further entries of ``config.json``, JSON values.

    Returns:
        A :class:`Comparison`.

    Raises:
        ArgumentError: no runs, no or repeated seeds, two runs that share weights, a folder in use, or as for
            :meth:`probgen.SVI.run`.
        ProbgenError: whatever :meth:`probgen.SVI.run` and :func:`probgen.evaluate` refuse.

    Example:
        >>> import functools
        >>> from probgen.comparison import grid
        >>> from probgen.guides import AmortizedNormal
        >>> from probgen.models import PPCA
        >>> from probgen.objectives import ELBO, IWAE
        >>> specs = grid(
        ...     functools.partial(PPCA, 3, 1),
        ...     functools.partial(AmortizedNormal, (3,), 1, (4,)),
        ...     {"elbo": ELBO(), "iwae": IWAE(num_particles=5)},
        ...     functools.partial(torch.optim.Adam, lr=1e-2),
        ... )
        >>> x = torch.randn(50, 3)
        >>> compare(specs, x, eval_data=x[:20], num_epochs=1, num_particles=50, progress=False).labels
        ('elbo', 'iwae')
    """
    seeds = _check(runs, seeds, num_epochs, num_steps, num_seconds)
    check_num_particles(num_particles)
    folder = None if run_dir is None else RunFolder(Path(run_dir), overwrite=overwrite)
    if isinstance(eval_data, Dataset) and eval_data.binarize == "dynamic":
        eval_data = eval_data.fixed(EVAL_SEED)
    _rehearse(runs, data, eval_data, seeds[0], batch_size, accelerator)
    length: dict[str, Any] = {"num_epochs": num_epochs, "num_steps": num_steps, "batch_size": batch_size}
    steps: dict[str, int] = {}
    if num_seconds is not None:
        steps = steps_within(runs, data, num_seconds, seeds[0], batch_size, accelerator)
    recorded = length | ({} if num_seconds is None else {"num_seconds": num_seconds, "num_steps": steps})
    settings = _settings(runs, data, eval_data, recorded, seeds, num_particles, accelerator) | dict(config or {})
    if folder is not None:
        folder.open(settings)
    done: list[Run] = []
    for seed in seeds:
        for label, spec in runs.items():
            callbacks = [] if folder is None else [_logger(folder, label, seed)]
            shown = (f"{label}, seed {seed}" if len(seeds) > 1 else label) if progress else False
            options = {**length, "seed": seed, "callbacks": callbacks, "progress": shown}
            if label in steps:
                options["num_steps"] = steps[label]
            if folder is not None:  # the held-out bound of every epoch is for its metrics alone
                options["eval_data"] = eval_data
            with _named(label, seed):
                done.append(_run(label, spec, seed, data, eval_data, options, accelerator, num_particles))
            if folder is not None:
                rows = Comparison(tuple(done), eval_data, settings).rows
                folder.write("comparison.csv", to_csv(rows).encode())  # also of a comparison that is cut short
    comparison = Comparison(tuple(done), eval_data, settings)
    if folder is not None:
        folder.write("comparison.png", as_png(plot_comparison(comparison)))
    return comparison


def _logger(folder: RunFolder, label: str, seed: int) -> Callable[[EpochReport], None]:
    return lambda report: folder.log({"label": label, "seed": seed} | asdict(report))


def _check(
    runs: Mapping[str, RunSpec],
    seeds: Sequence[int],
    num_epochs: int | None,
    num_steps: int | None,
    num_seconds: float | None,
) -> tuple[int, ...]:
    if not isinstance(runs, Mapping) or not all(isinstance(spec, RunSpec) for spec in runs.values()):
        raise ArgumentTypeError("`runs` must be a dictionary from labels to `RunSpec`; see `probgen.comparison.grid`")
    if not runs:
        raise ArgumentError("`runs` is empty: at least one run is required")
    if isinstance(seeds, int) or not seeds or not all(isinstance(s, int) and 0 <= s < 2**32 for s in seeds):
        raise ArgumentError(f"`seeds` must be a sequence of whole numbers below 2**32 such as (0, 1), got {seeds!r}")
    if len(set(seeds)) < len(seeds):
        raise ArgumentError(f"`seeds` must differ, got {seeds!r}")
    if sum(value is not None for value in (num_epochs, num_steps, num_seconds)) != 1:
        raise ArgumentError("pass one of `num_epochs`, `num_steps` and `num_seconds`")
    for name, value in (("num_epochs", num_epochs), ("num_steps", num_steps)):
        if value is not None:
            positive_int(name, value)
    if num_seconds is not None:
        positive_float("num_seconds", num_seconds)
    return tuple(seeds)


@contextmanager
def _named(label: str, seed: int) -> Iterator[None]:
    """Puts the run's label in front of an error's message."""
    try:
        yield
    except ProbgenError as error:
        raise type(error)(f"run '{label}', seed {seed}: {error}") from error


def _rehearse(
    runs: Mapping[str, RunSpec], data: Any, eval_data: Any, seed: int, batch_size: int, accelerator: str
) -> None:
    """Builds every pair, runs objective and evaluation once, and sees to it that no two runs share weights."""
    seen: dict[int, tuple[str, Tensor]] = {}
    first = next(iter(runs))
    for label, spec in [*runs.items(), (first, runs[first])]:  # twice the first: seeds must not share weights either
        with _named(label, seed), pyro.get_param_store().scope():
            svi = spec.build(seed, accelerator)
            args, kwargs = as_call(first_batch(open_batches(data, batch_size, svi.device)))
            preflight(svi.pair, args, kwargs)
            for name, value in trained_parameters(svi.model, svi.guide, args, kwargs).items():
                if id(value) in seen:
                    raise ArgumentError(
                        f"shares the parameter '{name}' with another run of '{seen[id(value)][0]}'; `model` and "
                        "`guide` of a RunSpec must build fresh ones at every call: `functools.partial(VAE, (64,))`, "
                        "not `lambda: vae`"
                    )
                seen[id(value)] = label, value
            evaluate(svi.model, svi.guide, eval_data, num_particles=2, batch_size=batch_size)


def _run(
    label: str,
    spec: RunSpec,
    seed: int,
    data: Any,
    eval_data: Any,
    options: Mapping[str, Any],
    accelerator: str,
    num_particles: int,
) -> Run:
    """Trains and evaluates in a scope of Pyro's store."""
    with pyro.get_param_store().scope() as store:
        svi = spec.build(seed, accelerator)
        result = svi.run(data, **options)
        with torch.no_grad():
            for name, value in result.state.averaged.items():
                svi.parameters[name].copy_(value)
        evidence = evaluate(
            svi.model,
            svi.guide,
            eval_data,
            num_particles=num_particles,
            batch_size=options["batch_size"],
            seed=EVAL_SEED,
            progress=bool(options["progress"]) and sys.stderr.isatty(),
        )
    return Run(label, seed, svi.model, svi.guide, evidence, result.losses, result.state.ms_per_step, store)  # type: ignore[arg-type]


def _settings(
    runs: Mapping[str, RunSpec],
    data: Any,
    eval_data: Any,
    length: Mapping[str, Any],
    seeds: Sequence[int],
    num_particles: int,
    accelerator: str,
) -> dict[str, Any]:
    versions = {"probgen": __version__, "python": platform.python_version()}
    versions |= {"torch": torch.__version__, "pyro": pyro.__version__}
    return {
        "runs": {
            label: {f.name: describe(getattr(spec, f.name)) for f in fields(RunSpec)} for label, spec in runs.items()
        },
        "data": describe(data),
        "eval_data": describe(eval_data),
        **length,
        "seeds": list(seeds),
        "eval_seed": EVAL_SEED,
        "num_particles": num_particles,
        "accelerator": accelerator,
        "versions": versions,
        "machine": platform.machine(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
