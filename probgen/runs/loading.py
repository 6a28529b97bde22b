"""A trained pair from its run's folder."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from probgen.arguments import choice
from probgen.data import Dataset
from probgen.data.batches import as_call, open_batches
from probgen.errors import ArgumentError, CheckpointError, ProbgenError
from probgen.programs.modules import modules_of
from probgen.programs.param_scope import Program
from probgen.runs.building import Shape, guide_factory, is_registered, load_split, model_factory
from probgen.runs.program_files import ProgramFiles, parse_file_spec
from probgen.runs.saved import SavedRun, read_run
from probgen.runs.settings import FROM_FILE, TrainSettings
from probgen.seeding import preserved_rng, seeded
from probgen.svi import load_weights
from probgen.svi.preflight import first_batch

WHICH = ("result", "last", "best")
AT_FIRST = 100  # data of the batch on which programs create their parameters


def load(
    run_folder: str | os.PathLike[str],
    which: str = "result",
    *,
    model: str | Program | None = None,
    guide: str | Program | None = None,
    allow_changed: bool = False,
) -> tuple[Program, Program | None]:
    """Builds the pair of a run anew and fills it with what was trained.

    Args:
        run_folder: what ``probgen train --run-dir`` wrote.
        which: ``"result"`` is what the run gave back: the best held-out bound where it had ``patience``, else the
            last step; ``"last"`` is the last step; ``"best"`` the best held-out bound. Where the run kept a moving
            average, it is the average.
        model: for a run whose model is a program of your own: ``"path.py:Name"``, which is then run, or the program
            itself, which is filled in place. A folder never says by itself what code to run.
        guide: likewise.
        allow_changed: take files whose content is not that of the run's.

    Returns:
        ``(model, guide)``, on the CPU and in eval mode; the guide is None for a model without latent sites.

    Raises:
        ArgumentError: the folder is no run, or a program's file has changed, is missing, or was not asked for.
        CheckpointError: there are no weights yet, or they are damaged.
        DataFileError: the run's settings are damaged.

    Example:
        >>> load("runs/none")
        Traceback (most recent call last):
        probgen.errors.ArgumentError: 'runs/none' is no run: it does not exist
    """
    run = read_run(run_folder)
    return load_run(run, which, programs_of(run, model, guide, allow_changed=allow_changed))


def load_run(run: SavedRun, which: str, pair: tuple[Program, Program | None]) -> tuple[Program, Program | None]:
    """Fills a fresh pair of a run, and puts it into eval mode."""
    own = run.record.model_file is not None or run.record.guide_file is not None
    shaped = replace(run.settings, event_shape=run.record.event_shape)
    fill(*pair, run.path, load_split(shaped, shaped.split) if own else None, which)
    for module in modules_of(*pair):
        module.eval()
    return pair


def fill(model: Program, guide: Program | None, run_dir: Path, data: Dataset | None, which: str = "result") -> None:
    """Writes a run's weights into a pair; ``data`` are for programs that create their parameters on first use."""
    call: tuple[Any, ...] = ()
    if data is not None:
        call = as_call(first_batch(open_batches(data, AT_FIRST, torch.device("cpu"), shuffle=False)))[0]
    choice("which", which, WHICH)
    load_weights(model, guide, run_dir, *call, which=which)  # type: ignore[arg-type]  # checked above


def programs_of(
    run: SavedRun, model: str | Program | None, guide: str | Program | None, *, allow_changed: bool = False
) -> tuple[Program, Program | None]:
    """A fresh pair of a run, with untrained weights.

    Raises:
        ArgumentError: a program's file has changed, is missing, or was not asked for.
    """
    settings, files = settings_of(run, model, guide, allow_changed=allow_changed)
    shape = Shape(run.record.event_shape, run.record.num_classes)
    try:
        _check_size(run, settings, shape)
        with seeded(run.settings.seed):
            built = model if callable(model) else model_factory(settings, shape, None, files)()
            if callable(guide):
                return built, guide
            factory = guide_factory(settings, shape, files)
            return built, None if factory is None else factory()
    except ProbgenError:
        raise
    except (TypeError, ValueError, OverflowError, MemoryError, RuntimeError) as error:  # sizes that torch cannot take
        reason = str(error).partition("\n")[0]  # torch adds where in its own code it was
        raise CheckpointError(f"'{run.path}': the pair of its settings cannot be built: {reason}") from error


def _check_size(run: SavedRun, settings: TrainSettings, shape: Shape) -> None:
    """Refuses settings of a pair that is larger than what the run has saved, before memory is taken for it.

    Raises:
        CheckpointError: they are not those of the checkpoint.
    """
    saved = [path.stat().st_size for path in run.path.glob("checkpoints/*/tensors.safetensors") if path.is_file()]
    factories: list[Callable[[], Program] | None] = []
    if is_registered(settings.model):
        factories.append(model_factory(settings, shape, None, ProgramFiles()))
    if is_registered(settings.guide):
        factories.append(guide_factory(settings, shape, ProgramFiles()))
    for needed in (_bytes_needed(factory) for factory in factories if factory is not None):
        if saved and needed > max(saved):
            raise CheckpointError(
                f"'{run.path}': its settings are of a pair with {needed} bytes of parameters, more than its "
                "checkpoints hold; config.toml has been changed, or is of another run"
            )


def _bytes_needed(factory: Callable[[], Program]) -> int:
    """Of a program's parameters, for which no memory is taken; 0 where that cannot be found out."""
    with preserved_rng(), torch.device("meta"):
        try:
            program = factory()
        except ProbgenError:
            raise
        except (NotImplementedError, RuntimeError):
            return 0  # such as flows, which compute with tensors while they are built
    return sum(p.numel() * p.itemsize for module in modules_of(program) for p in module.parameters())


def settings_of(
    run: SavedRun, model: str | Program | None, guide: str | Program | None, *, allow_changed: bool = False
) -> tuple[TrainSettings, ProgramFiles]:
    """The settings of a run with its programs from files, which are given again, and those files.

    Raises:
        ArgumentError: a program's file has changed, is missing, or was not asked for.
    """
    files = ProgramFiles()
    model_spec = _spec_of(run, "model", model, files, allow_changed=allow_changed)
    guide_spec = _spec_of(run, "guide", guide, files, allow_changed=allow_changed)
    return replace(run.settings, model=model_spec, guide=guide_spec), files


def _spec_of(run: SavedRun, kind: str, given: str | Program | None, files: ProgramFiles, *, allow_changed: bool) -> str:
    recorded = run.record.file_of(kind)
    own = run.settings.model if kind == "model" else run.record.guide
    if callable(given):
        return FROM_FILE
    if recorded is None:
        if given is not None and given != own:
            raise ArgumentError(
                f"the {kind} of '{run.path}' is '{own}', and no other can take its weights; leave `--{kind}` out"
            )
        return own
    spec, digest = recorded
    if given is None:
        raise ArgumentError(
            f"the {kind} of '{run.path}' comes from a file, '{spec}', and no folder says by itself what code to run; "
            f"give again `{run.record.file_options}`, or in Python `{kind}='{spec}'`"
        )
    named, before = parse_file_spec(given), parse_file_spec(spec)
    _require_same(run, kind, (named.name, named.arguments) == (before.name, before.arguments), given, spec)
    found = files.open(named.path).sha256
    if found != digest and not allow_changed:
        raise ArgumentError(
            f"'{named.path}' is not the file that '{run.path}' was trained with: its sha256 is {found}, that of the "
            f"run's {digest}; restore it, or pass `--allow-changed` (`allow_changed=True`) if it still means the same"
        )
    return given


def _require_same(run: SavedRun, kind: str, same: bool, given: str, spec: str) -> None:
    if not same:
        raise ArgumentError(f"the {kind} of '{run.path}' is '{spec}', but '{given}' was given; give the same one")
