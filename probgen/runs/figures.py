"""The figures of a run: every one that its pair can give."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from probgen import plots
from probgen.data import Dataset
from probgen.data.batches import as_call, open_batches
from probgen.errors import ProbgenError
from probgen.plots import Drawing
from probgen.programs.param_scope import Program
from probgen.runs.metrics import read_metrics
from probgen.svi.preflight import first_batch

FIGURES = "figures"
OF_PAIRS = ("samples", "reconstructions", "latents", "traversal", "interpolation", "kl_per_latent")


@dataclass(frozen=True)
class Drawn:
    """What was drawn.

    Attributes:
        written: names of the figures.
        skipped: a line for each figure that the pair cannot give.
    """

    written: list[str]
    skipped: list[str]


def figure_names(*, pair: bool) -> tuple[str, ...]:
    """The names of what :func:`draw_run` may write.

    Example:
        >>> figure_names(pair=False)
        ('training',)
    """
    return ("training", *OF_PAIRS) if pair else ("training",)


def draw_run(
    model: Program | None,
    guide: Program | None,
    data: Dataset | None,
    run_dir: Path,
    folder: Path | None = None,
    *,
    seed: int = 0,
) -> Drawn:
    """Writes ``<name>.png`` and ``.csv`` of a run's figures.

    Args:
        model: trained; None draws the training curves alone.
        guide: likewise, or None.
        data: that are shown.
        run_dir: the run's folder, with its metrics.
        folder: for the figures; None for ``figures/`` in the run's.
        seed: of the draws.
    """
    jobs: dict[str, Callable[[], Drawing]] = {"training": lambda: plots.training(named_runs([run_dir]))}
    if model is not None and data is not None:
        jobs |= _of_pair(model, guide, data, seed)
    drawn = Drawn([], [])
    if model is not None and guide is None:
        drawn.skipped.append("no figures of latents or reconstructions: the pair has no guide, and no latent sites")
    for name, draw in jobs.items():
        try:
            draw().save(run_dir / FIGURES if folder is None else folder, name)
        except ProbgenError as error:
            drawn.skipped.append(f"no figure '{name}': {error}")
        else:
            drawn.written.append(name)
    return drawn


def _of_pair(model: Program, guide: Program | None, data: Dataset, seed: int) -> dict[str, Callable[[], Drawing]]:
    jobs: dict[str, Callable[[], Drawing]] = {
        "samples": lambda: plots.samples(model, *generating_arguments(model, data), seed=seed)
    }
    if guide is None:
        return jobs
    return jobs | {
        "reconstructions": lambda: plots.reconstructions(model, guide, data, seed=seed),
        "latents": lambda: plots.latents(model, guide, data, seed=seed),
        "traversal": lambda: plots.traversal(model, guide, data, seed=seed),
        "interpolation": lambda: plots.interpolation(model, guide, data, seed=seed),
        "kl_per_latent": lambda: plots.kl_per_latent(model, guide, data, seed=seed),
    }


def generating_arguments(model: Program, data: Any) -> tuple[Any, ...]:
    """What a model takes to generate: nothing where it has ``num_samples``, else data whose observed values it ignores.

    Example:
        >>> from probgen.models import PPCA
        >>> generating_arguments(PPCA(3, 1), None)
        ()
    """
    if "num_samples" in inspect.signature(getattr(model, "forward", model)).parameters:
        return ()
    return as_call(first_batch(open_batches(data, 64, torch.device("cpu"), shuffle=False)))[0]


def named_runs(run_dirs: list[Path]) -> dict[str, Any]:
    """The metrics of runs by a short name: that of the folder, or its path where names are the same.

    Raises:
        ArgumentError: a folder without metrics.
        DataFileError: they are damaged.
    """
    names = [run_dir.resolve().name for run_dir in run_dirs]
    runs = {}
    for run_dir, name in zip(run_dirs, names, strict=True):
        shown = name if names.count(name) == 1 else str(run_dir)
        for label, rows in read_metrics(run_dir).items():
            runs[label if len(run_dirs) == 1 and label else f"{shown}: {label}" if label else shown] = rows
    return runs
