"""What ``probgen sample``, ``reconstruct`` and ``interpolate`` do."""

import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from probgen import plots
from probgen.checkpoints.disk import replace_synced
from probgen.cli.evaluating import load_for
from probgen.cli.run_commands import Interpolate, Reconstruct, Sample
from probgen.cli.store import in_own_store
from probgen.errors import ArgumentError, ProbgenError, ProgramError
from probgen.plots import Drawing
from probgen.programs.param_scope import Program
from probgen.runs import generation
from probgen.runs.figures import generating_arguments
from probgen.runs.generation import Arrays, grouped
from probgen.runs.saved import SavedRun
from probgen.runs.selecting import data_for

MOST_DRAWN = 100  # samples or data in a figure


@in_own_store
def sample(options: Sample) -> None:
    """Draws from a run's model."""
    run, model, _ = load_for(options)
    args, kwargs = (), _labels(options, run)
    if not kwargs:
        args = generating_arguments(model, data_for(run, None, run.settings.split, None)) if _own(run) else ()
    arrays = generation.generate(model, options.num_samples, *args, seed=options.seed, **kwargs)
    arrays |= {name: labels.numpy() for name, labels in kwargs.items()}
    count = min(options.num_samples, MOST_DRAWN)
    _write(options.output, arrays, lambda: plots.samples(model, *args, count=count, seed=options.seed, **kwargs))


def _own(run: SavedRun) -> bool:
    return run.record.model_file is not None


def _labels(options: Sample, run: SavedRun) -> dict[str, torch.Tensor]:
    """Labels for a conditional model of the registry: the one that is asked for, or every class in turn."""
    classes = run.record.num_classes
    if classes is None:
        if options.label is not None:
            raise ArgumentError(f"`--label {options.label}`: the model of '{run.path}' takes no labels; leave it out")
        return {}
    if options.label is not None and not 0 <= options.label < classes:
        raise ArgumentError(f"`--label` must be a class from 0 to {classes - 1}, got {options.label}")
    if options.label is None:
        return {"y": torch.arange(options.num_samples) % classes}
    return {"y": torch.full((options.num_samples,), options.label)}


@in_own_store
def reconstruct(options: Reconstruct) -> None:
    """Encodes and decodes data with a run's pair."""
    run, model, guide = load_for(options)
    data = data_for(run, options.data, options.split, options.binarize)
    arrays = generation.reconstruct(model, _required(guide, run), data, options.num_data, seed=options.seed)
    count = min(options.num_data, MOST_DRAWN)
    _write(options.output, arrays, lambda: plots.reconstructions(model, guide, data, count=count, seed=options.seed))


@in_own_store
def interpolate(options: Interpolate) -> None:
    """Draws ways between data with a run's pair."""
    run, model, guide = load_for(options)
    data = data_for(run, options.data, options.split, options.binarize)
    drawing = plots.interpolation(
        model, _required(guide, run), data, steps=options.steps, pairs=options.pairs, seed=options.seed
    )
    _write(options.output, grouped(drawing.columns), lambda: drawing)


def _required(guide: Program | None, run: SavedRun) -> Program:
    if guide is None:
        raise ProgramError(f"'{run.path}' has no guide, so there is no latent space to encode data into")
    return guide


def _write(output: str, arrays: Arrays, draw: Callable[[], Drawing]) -> None:
    """The arrays, and the figure beside them where there is one."""
    path = Path(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]  # names of sites, none of which is `file`
    written = [path]
    replace_synced(path, content.getvalue())
    try:
        image = draw().to_png()
    except ProbgenError as error:
        print(f"probgen: no figure: {error}", file=sys.stderr)
    else:
        written.append(path.with_suffix(".png"))
        replace_synced(written[-1], image)
    shapes = ", ".join(f"{name} {list(values.shape)}" for name, values in arrays.items())
    print(f"probgen: {path} holds {shapes}", file=sys.stderr)
    print(*written, sep="\n", flush=True)
