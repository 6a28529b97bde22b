"""Trains what settings say, in a folder."""

import math
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from probgen import __version__, registry
from probgen.arguments import positive_int
from probgen.checkpoints import Checkpoints
from probgen.data import Dataset
from probgen.errors import ArgumentError
from probgen.objectives import Objective
from probgen.programs.param_scope import Program
from probgen.runs.building import (
    EVAL_SEED,
    Recipe,
    Shape,
    adam,
    guide_spec,
    load_data,
    recipe,
    schedule_of,
    shape_of,
)
from probgen.runs.folder import continued_run, new_run, recover, require_free
from probgen.runs.loading import settings_of
from probgen.runs.program_files import ProgramFiles, is_file_spec, parse_file_spec
from probgen.runs.saved import Record, SavedRun, config_text, differing, read_run, require_resumable
from probgen.runs.settings import TrainSettings
from probgen.svi import SVI, EpochReport, SVIResult
from probgen.svi.snapshot import Position

# Settings that a run may be gone on with in another way; the others are what its weights come from.
FREE = (
    *("accelerator", "capture", "checkpoint_every", "keep_checkpoints", "num_epochs", "patience"),
    "tensorboard",
)


@dataclass(frozen=True)
class Trained:
    """What a run leaves, beside its folder.

    Attributes:
        settings: as it was trained.
        model: trained.
        guide: likewise, or None.
        data: that were trained on.
        held_out: held-out data, or None.
        result: of :meth:`probgen.SVI.run`.
    """

    settings: TrainSettings
    model: Program
    guide: Program | None
    data: Dataset
    held_out: Dataset | None
    result: SVIResult


@dataclass(frozen=True)
class Plan:
    """Everything that a run needs, built and seen to be right."""

    settings: TrainSettings
    data: Dataset
    held_out: Dataset | None
    recipe: Recipe
    shape: Shape
    objective: Objective
    files: ProgramFiles

    @property
    def record(self) -> Record:
        """What is kept beside the settings."""
        specs = {"model": self.settings.model, "guide": guide_spec(self.settings)}
        named = {kind: spec for kind, spec in specs.items() if is_file_spec(spec)}
        sums = {kind: self.files.open(parse_file_spec(spec).path).sha256 for kind, spec in named.items()}
        return Record(
            event_shape=self.shape.event_shape,
            num_classes=self.shape.num_classes,
            guide=specs["guide"] if "guide" not in named else "",
            model_file=named.get("model"),
            model_sha256=sums.get("model"),
            guide_file=named.get("guide"),
            guide_sha256=sums.get("guide"),
            probgen=__version__,
            torch=torch.__version__,
            python=platform.python_version(),
        )

    def svi(self) -> SVI:
        """A fresh pair in a loop that has not run yet."""
        settings = self.settings
        model, guide = self.recipe.pair(settings.seed)
        return SVI(
            model,
            guide,
            adam(settings.learning_rate),
            self.objective,
            schedule=schedule_of(settings.schedule, settings.warmup_steps),
            max_grad_norm=settings.max_grad_norm,
            ema_decay=settings.ema_decay,
            accelerator=settings.accelerator,
            capture=settings.capture,
            precision=settings.precision,
        )


def plan(settings: TrainSettings, files: ProgramFiles | None = None) -> Plan:
    """Loads and builds; whatever is wrong with the settings is refused here or at the first step.

    Raises:
        ProbgenError: what is wrong.
    """
    files = ProgramFiles() if files is None else files
    held = settings.eval_split != "none"
    if settings.patience is not None and not held:
        raise ArgumentError("`--patience` counts epochs without a better held-out bound; give `--eval-split` too")
    positive_int("--keep-checkpoints", settings.keep_checkpoints)
    if not 0 <= settings.checkpoint_every < math.inf:
        raise ArgumentError(
            f"`--checkpoint-every` must be a number of seconds from 0 on, got {settings.checkpoint_every}"
        )
    objective = registry.parse("objective", settings.objective)
    data, held_out = load_data(settings, held_out=held)
    if held_out is not None and held_out.binarize == "dynamic":
        held_out = held_out.fixed(EVAL_SEED)
    shape = shape_of(settings, data)
    return Plan(settings, data, held_out, recipe(settings, shape, data.mean, files), shape, objective, files)


def train(
    settings: TrainSettings,
    run_dir: Path,
    *,
    overwrite: bool = False,
    callbacks: Sequence[Callable[[EpochReport], bool | None]] = (),
) -> Trained:
    """Trains a new run.

    Args:
        settings: of the run.
        run_dir: its folder, which must be free.
        overwrite: replace a run that is there; other files stay.
        callbacks: see :meth:`probgen.SVI.run`.

    Raises:
        ProbgenError: whatever is wrong; if nothing has been trained, the folder is as it was.
    """
    require_free(run_dir, overwrite=overwrite)
    if settings.backend == "numpyro":
        return _train_twins(settings, run_dir, overwrite=overwrite, callbacks=callbacks)
    planned = plan(settings)
    svi = planned.svi()
    with new_run(run_dir, config_text(settings, planned.record), overwrite=overwrite):
        return _trained(planned, svi, run_dir, callbacks, resume=False)


def _train_twins(
    settings: TrainSettings,
    run_dir: Path,
    *,
    overwrite: bool,
    callbacks: Sequence[Callable[[EpochReport], bool | None]],
) -> Trained:
    from probgen.runs import numpyro_training as backend  # JAX, only where it is asked for

    backend.check(settings)
    planned = plan(settings)
    model, guide = planned.recipe.pair(settings.seed)
    pair = backend.Pair.of(settings, (model, guide), planned.shape)
    with new_run(run_dir, config_text(settings, planned.record), overwrite=overwrite):
        result = backend.run(settings, pair, planned.data, planned.held_out, run_dir, callbacks)
    return Trained(settings, model, guide, planned.data, planned.held_out, result)


def go_on(
    run: SavedRun,
    settings: TrainSettings,
    files: ProgramFiles,
    *,
    step: int | None = None,
    callbacks: Sequence[Callable[[EpochReport], bool | None]] = (),
) -> Trained:
    """Goes on with a run, with what :func:`same_run` has given, from its last checkpoint or from that of ``step``.

    Raises:
        ProbgenError: whatever is wrong, such as fewer epochs than are done; the run is as it was.
    """
    if step is None:
        _require_no_fewer_epochs(run, settings.num_epochs)
    planned = plan(settings, files)
    svi = planned.svi()
    with continued_run(run, config_text(settings, planned.record)):
        return _trained(planned, svi, run.path, callbacks, resume=True if step is None else step)


def _require_no_fewer_epochs(run: SavedRun, num_epochs: int) -> None:
    positive_int("num_epochs", num_epochs)
    saved = Checkpoints(run.path).latest() if num_epochs < run.settings.num_epochs else None
    if saved is None:
        return
    position = Position.read(saved)
    begun = position.epochs + (position.cursor > 0)
    if num_epochs < begun:
        done = f"has done {begun} already" if position.cursor == 0 else f"is in epoch {begun} already"
        raise ArgumentError(
            f"`num_epochs` is {num_epochs}, but the run in '{run.path}' {done}; ask for {begun} or more"
        )


def same_run(
    run_dir: Path,
    wanted: TrainSettings | None = None,
    *,
    model: str | None = None,
    guide: str | None = None,
    allow_changed: bool = False,
) -> tuple[SavedRun, TrainSettings, ProgramFiles]:
    """The run in a folder, and the settings with which it goes on.

    Args:
        run_dir: the folder.
        wanted: settings that must be those of the run, but for what may change; None takes the run's.
        model: ``path.py:Name``, for a run whose model is from a file.
        guide: likewise.
        allow_changed: take files whose content has changed.

    Raises:
        ArgumentError: no run, settings of another one, or another process is at work there.
    """
    recover(Path(run_dir))
    run = read_run(run_dir)
    require_resumable(run)
    settings, files = settings_of(run, model, guide, allow_changed=allow_changed)
    settings = replace(settings, guide=settings.guide if run.record.guide_file else run.settings.guide)
    if wanted is None:
        return run, settings, files
    for name in differing(settings, wanted, except_for=FREE):
        option = name.replace("_", "-")
        raise ArgumentError(
            f"`--{option}`: the run in '{run_dir}' has {getattr(settings, name)!r}, but {getattr(wanted, name)!r} was "
            f"given; `probgen resume {run_dir}` goes on with its own settings, and another folder takes a new run"
        )
    return run, wanted, files


def _trained(
    planned: Plan,
    svi: SVI,
    run_dir: Path,
    callbacks: Sequence[Callable[[EpochReport], bool | None]],
    *,
    resume: bool | int,
) -> Trained:
    settings = planned.settings
    checkpoints = Checkpoints(run_dir, every=settings.checkpoint_every, keep=settings.keep_checkpoints)
    with _logged(settings, run_dir, callbacks) as listening:
        result = svi.run(
            planned.data,
            batch_size=settings.batch_size,
            num_epochs=settings.num_epochs,
            seed=settings.seed,
            eval_data=planned.held_out,
            patience=settings.patience,
            callbacks=listening,
            progress=settings.objective,
            run_dir=checkpoints,
            resume=resume,
        )
    return Trained(settings, svi.model, svi.guide, planned.data, planned.held_out, result)


@contextmanager
def _logged(
    settings: TrainSettings, run_dir: Path, callbacks: Sequence[Callable[[EpochReport], bool | None]]
) -> Iterator[list[Callable[[EpochReport], bool | None]]]:
    if not settings.tensorboard:
        yield list(callbacks)
        return
    from probgen.svi.tensorboard import TensorBoard

    with TensorBoard(run_dir / "tensorboard") as board:
        yield [*callbacks, board]
