"""``probgen train --backend numpyro``: trains NumPyro's twins of a pair, and saves the weights for the torch pair."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import torch
from torch import Tensor

import probgen.guides.numpyro
import probgen.models.numpyro
import probgen.numpyro
from probgen import registry
from probgen.arguments import positive_float, positive_int
from probgen.config import build, parameters, parse_spec
from probgen.data import Dataset
from probgen.errors import ArgumentError, UnsupportedObjective
from probgen.numpyro import params_from_torch, params_to_torch
from probgen.programs.param_scope import Program
from probgen.runs.building import guide_defaults, guide_spec, is_registered, schedule_of
from probgen.runs.settings import TrainSettings
from probgen.svi import EpochReport, SVIResult, SVIState
from probgen.svi.keeping import Keeper
from probgen.svi.parameters import module_parameters, owned_tensors
from probgen.svi.snapshot import Position

PYRO_ALONE = (  # options that this backend has nothing for
    *("accelerator", "capture", "checkpoint_every", "ema_decay", "keep_checkpoints", "max_grad_norm", "patience"),
    *("precision", "tensorboard"),
)
PROGRAMS = {"model": probgen.models.numpyro, "guide": probgen.guides.numpyro}
Callbacks = Sequence[Callable[[EpochReport], bool | None]]


def check(settings: TrainSettings) -> None:
    """Refuses what there is for Pyro alone, before data are read.

    Raises:
        ArgumentError: an option, a program from a file, or binarization anew in every batch.
        UnsupportedObjective: a model, guide, network or gradient without a twin.
    """
    defaults = TrainSettings()
    for name in PYRO_ALONE:
        if getattr(settings, name) != getattr(defaults, name):
            option = name.replace("_", "-")
            raise ArgumentError(f"`--backend numpyro` has no `--{option}`; leave it out, or train with Pyro")
    if settings.binarize == "dynamic":
        raise ArgumentError(
            "`--backend numpyro` keeps the data on the device as they are, and draws no new bits for a batch; use "
            "`--binarize fixed`, or train with Pyro"
        )
    for kind, spec in (("model", settings.model), ("guide", guide_spec(settings))):
        _check_program(kind, spec)
    objective_of(settings.objective)


def _check_program(kind: str, spec: str) -> None:
    known = [n for n in registry.names(kind) if _class_name(kind, n) in dir(PROGRAMS[kind])]
    if not is_registered(spec) or spec == "none":
        what = f"`--backend numpyro` has no {kind} '{spec}'"
        raise ArgumentError(f"{what}; there are {', '.join(known)}; or train with Pyro, or by `probgen.numpyro.SVI`")
    name, arguments = parse_spec(spec)
    if _class_name(kind, name) not in dir(PROGRAMS[kind]):
        raise UnsupportedObjective(
            f"the {kind} '{name}' is there for Pyro alone; with `--backend numpyro` there are {', '.join(known)}"
        )
    if arguments.get("network", "mlp") != "mlp":
        raise UnsupportedObjective(
            f"`network={arguments['network']!r}` is there for Pyro alone; use `network=mlp`, or train with Pyro"
        )


def _class_name(kind: str, name: str) -> str:
    return registry.entry(kind, name).path.partition(":")[2]


def objective_of(spec: str) -> Any:
    """NumPyro's objective of a spec.

    Raises:
        ArgumentError: an unknown name or argument.
        UnsupportedObjective: a gradient that is there for Pyro alone.
    """
    name, arguments = parse_spec(spec)
    return build(getattr(probgen.numpyro, _class_name("objective", name)), arguments, name=name)


def _twin(kind: str, spec: str, defaults: Mapping[str, Any]) -> Any:
    name, arguments = parse_spec(spec)
    cls = getattr(PROGRAMS[kind], _class_name(kind, name))
    known = parameters(cls) or {}
    return build(cls, {key: value for key, value in defaults.items() if key in known} | arguments, name=name)


@dataclass
class Pair:
    """A torch pair and its twins.

    Attributes:
        programs: model and guide, in torch.
        twins: the same for NumPyro.
    """

    programs: tuple[Any, Any]
    twins: tuple[Any, Any]

    @classmethod
    def of(cls, settings: TrainSettings, programs: tuple[Program, Program | None], shape: Any) -> "Pair":
        """The twins of a torch pair that is built by the settings."""
        spec = guide_spec(settings)
        guide = _twin("guide", spec, guide_defaults(settings, shape))
        return cls(programs, (_twin("model", settings.model, shape.arguments), guide))

    def parameters(self) -> dict[str, Any]:
        """The torch pair's weights as parameters of the twins."""
        model, guide = (params_from_torch(*sides) for sides in zip(self.programs, self.twins, strict=True))
        return model | guide

    def tensors(self, params: Mapping[str, Any]) -> dict[str, Tensor]:
        """Writes parameters into the torch pair; what a checkpoint holds of it."""
        for program, twin in zip(self.programs, self.twins, strict=True):
            params_to_torch(params, twin, program)
        owned = module_parameters(*self.programs)
        found = {f"parameter/{name}": value for name, value in owned.items()}
        known = {id(value) for value in owned.values()}
        frozen = owned_tensors(*self.programs, known, "frozen")
        known |= {id(value) for value in frozen.values()}
        found |= frozen | owned_tensors(*self.programs, known, "buffer")
        return {name: value.detach().clone() for name, value in found.items()}


class Recorder:
    """Writes each epoch to the metrics, and keeps the parameters of the best held-out bound.

    Attributes:
        state: as :class:`probgen.SVI` has it.
        best: NumPyro's parameters; empty without held-out data.
        rows: lines of the metrics.
        seconds: of training.
    """

    def __init__(self, keeper: Keeper, callbacks: Callbacks, progress: str) -> None:
        self.state, self.best, self.rows, self.seconds = SVIState(), dict[str, Any](), 0, 0.0
        self._keeper, self._callbacks, self._progress = keeper, callbacks, progress

    def __call__(self, report: Any) -> bool:
        """What NumPyro's loop calls after an epoch."""
        shared = {f.name: getattr(report, f.name) for f in fields(EpochReport)}
        self.rows, self.seconds = self._keeper.log(shared), report.seconds
        self.state.step, self.state.epoch = report.step, report.epoch
        best = self.state.best_bound
        if report.eval_bound is not None and (best is None or report.eval_bound > best):
            self.state.best_bound, self.state.best_step = report.eval_bound, report.step
            self.best = _copies(report.params)
        if True in [callback(EpochReport(**shared)) for callback in self._callbacks]:
            self.state.stopped = "callback"
            return True
        return False


def _copies(params: Mapping[str, Any]) -> dict[str, Any]:
    copies: dict[str, Any] = jax.tree.map(np.array, dict(params))  # the loop's own are overwritten
    return copies


def run(
    settings: TrainSettings,
    pair: Pair,
    data: Dataset,
    held_out: Dataset | None,
    run_dir: Path,
    callbacks: Callbacks = (),
) -> SVIResult:
    """Trains the twins, and leaves metrics and one checkpoint, with the weights of the torch pair.

    Raises:
        ProbgenError: whatever is wrong with the data or the pair, or a loss that is not finite.
    """
    keeper = Keeper(run_dir, resume=False)
    keeper.open(0)
    recorder = Recorder(keeper, callbacks, settings.objective)
    try:
        svi = probgen.numpyro.SVI(*pair.twins, _adam(settings, len(data)), objective_of(settings.objective))
        found = svi.run(
            data.x.cpu().numpy(),
            batch_size=settings.batch_size,
            num_epochs=settings.num_epochs,
            seed=settings.seed,
            init_params=pair.parameters(),
            eval_data=None if held_out is None else held_out.x.cpu().numpy(),
            callbacks=(recorder,),
        )
        losses = torch.as_tensor(np.array(found.losses, dtype=np.float64))
        recorder.state.ms_per_step = 1e3 * recorder.seconds / len(losses)
        best = {f"best/{name}": value for name, value in pair.tensors(recorder.best).items()} if recorder.best else {}
        tensors = pair.tensors(found.params)
        keeper.save(recorder.state.step, lambda: (tensors | best | {"losses": losses}, _state(settings, recorder)))
    finally:
        keeper.close()
    values = {name.removeprefix("parameter/"): v for name, v in tensors.items() if name.startswith("parameter/")}
    return SVIResult(values, recorder.state, losses)


def _adam(settings: TrainSettings, total: int) -> Any:
    """Adam with the schedule of the settings, whose value at each step is a table."""
    rate = positive_float("--learning-rate", settings.learning_rate)
    schedule = schedule_of(settings.schedule, settings.warmup_steps)
    if schedule is None:
        return numpyro.optim.Adam(rate)
    size = min(positive_int("batch_size", settings.batch_size), total)
    steps = positive_int("num_epochs", settings.num_epochs) * math.ceil(total / size)
    table = jnp.asarray([rate * schedule(step, steps) for step in range(steps)])
    return numpyro.optim.Adam(lambda step: table[step])


def _state(settings: TrainSettings, recorder: Recorder) -> dict[str, Any]:
    """What the checkpoint says beside the tensors; it has nothing that a run could go on with."""
    state = recorder.state
    return {
        "settings": {"backend": settings.backend},
        "step": state.step,
        "epoch": state.epoch,
        "best_bound": None if state.best_bound is None else repr(state.best_bound),
        "best_step": state.best_step,
        "stopped": state.stopped,
        "plan": {"num_epochs": settings.num_epochs, "num_steps": None, "patience": None},
        "position": asdict(
            Position(steps=state.step, epochs=state.epoch, rows=recorder.rows, elapsed=float(recorder.seconds))
        ),
    }
