"""Everything that a run is at one moment, as tensors and JSON values, and back again."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from probgen.checkpoints import Checkpoints, Saved
from probgen.checkpoints.strict_json import shown
from probgen.data.batches import Batches, Stream, as_call
from probgen.data.memory import named
from probgen.errors import ArgumentError, CheckpointError
from probgen.programs.modules import write
from probgen.svi import optimizers
from probgen.svi.divergence import first_nonfinite

if TYPE_CHECKING:
    from probgen.svi.training import Training

CURVES = ("losses", "bounds", "seconds")
FINGERPRINT_ROWS = 1000
LENGTHS = ("num_epochs", "num_steps", "patience")
STOPPED = ("finished", "patience", "callback")
_ORDER = re.compile(r"order/\d{1,6}/(now|began)/(torch|cuda\.\d{1,4}|own\.\d{1,4}|(python|numpy)(\.gauss)?)", re.ASCII)


@dataclass
class Position:
    """Where a run stands.

    Attributes:
        first_step: the step at which it began.
        steps: since then.
        epochs: likewise, complete.
        cursor: batches of the epoch under way that have been seen.
        worse: epochs since the best held-out bound.
        rows: lines of ``metrics.jsonl``.
        elapsed: seconds of training.
    """

    first_step: int = 0
    steps: int = 0
    epochs: int = 0
    cursor: int = 0
    worse: int = 0
    rows: int = 0
    elapsed: float = 0.0

    @classmethod
    def read(cls, saved: Saved) -> Position:
        """That of a checkpoint.

        Raises:
            CheckpointError: a number that is missing or none.
        """
        with damage_named(saved):
            values = _member(saved.state, "position", dict)
            kinds = {field.name: int if field.name != "elapsed" else float for field in fields(cls)}
            return cls(**{name: _member(values, name, kind) for name, kind in kinds.items()})


def take(training: Training) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the state of a run, between two steps."""
    svi, position = training.svi, training.position
    tensors = dict(svi.held()) | {f"best/{k}": v for k, v in training.best.copies.items()}
    packed = {seat.player.name: optimizers.pack(seat.optimizer) for seat in svi.seats}
    for name, (states, _) in packed.items():
        tensors |= {f"optimizer/{name}/{key}": value for key, value in states.items()}
    tensors |= {f"order/{key}": value for key, value in svi.group.gathered(training.order.tensors()).items()}
    tensors |= {name: torch.tensor(getattr(training, name), dtype=torch.float64) for name in CURVES}
    state = {
        "settings": training.settings,
        "step": svi.state.step,
        "epoch": svi.state.epoch,
        "best_bound": None if svi.state.best_bound is None else repr(svi.state.best_bound),  # may be -inf
        "best_step": svi.state.best_step,
        "stopped": svi.state.stopped,
        "plan": _plan(training),
        "position": asdict(position),
        "optimizers": {name: values for name, (_, values) in packed.items()},
        "begun": {seat.player.name: optimizers.options_of(seat.begun) for seat in svi.seats},
    }
    return tensors, state


def _plan(training: Training) -> dict[str, Any]:
    numbers = {name: getattr(training.plan, name) for name in LENGTHS}
    return {name: None if number is None else int(number) for name, number in numbers.items()}


def is_over(saved: Saved, training: Training) -> bool:
    """Whether a run has lost its patience, or a callback has ended it and it is asked for no more than before."""
    stopped, patience = saved.state.get("stopped"), training.plan.patience
    if stopped == "patience" and patience is not None and training.position.worse >= patience:
        return True
    return stopped == "callback" and saved.state.get("plan") == _plan(training)


def restorer(saved: Saved, training: Training) -> Callable[[], None]:
    """Sees to it that a checkpoint fits a run, and returns what puts the run there; nothing is moved before.

    Raises:
        ArgumentError: the run is another one: its settings, parameters or optimizers are not those of the checkpoint.
        CheckpointError: the checkpoint is damaged, or holds parameters that are not finite.
    """
    with damage_named(saved):
        return _restorer(saved, training)


@contextmanager
def damage_named(saved: Saved) -> Iterator[None]:
    """Names the checkpoint in what its body finds wrong with it, and others that there are.

    Raises:
        CheckpointError: with more words than that of the body.
    """
    try:
        yield
    except CheckpointError as error:
        others = Checkpoints(saved.path.parents[1]).others_than(saved.path.name)
        raise CheckpointError(f"'{saved.path}' is damaged: {error}{others}") from error


def _restorer(saved: Saved, training: Training) -> Callable[[], None]:
    svi, best = training.svi, training.best
    _check_settings(saved, training.settings)
    present = svi.held()
    tensors = {name: fitting(saved, name, value) for name, value in present.items()}
    states = _optimizer_states(saved, training)
    curves = {name: _curve(saved, name) for name in CURVES}
    state = _state(saved)
    position = training.position
    _check_position(training, position, state, curves)
    copies = _best_copies(saved, {name: present[name] for name in svi.moved()}, state)
    _refuse_others(saved, training, present)
    training.order.restore(_below(saved.tensors, f"order/{svi.group.rank}/"), position.cursor)

    def restore() -> None:
        write(list(present.values()), list(tensors.values()))
        for seat in svi.seats:
            optimizers.load(seat.optimizer, states[seat.player.name])
        for name, values in curves.items():
            setattr(training, name, values)
        for name, value in state.items():
            setattr(svi.state, name, value)
        best.worse, best.copies = position.worse, {k: v.to(present[k].device) for k, v in copies.items()}

    return restore


def _check_settings(saved: Saved, settings: Mapping[str, Any]) -> None:
    before = _member(saved.state, "settings", dict)
    for name, value in settings.items():
        if name not in before or before[name] != value:
            raise ArgumentError(
                f"`resume`: {_difference(name, value, before.get(name), saved.path.parents[1])}; pass the same, or "
                "begin another run in another `run_dir`"
            )


def _difference(name: str, now: Any, before: Any, run_dir: Path) -> str:
    """What of a setting is another one than when the run was started."""
    if isinstance(now, dict) and isinstance(before, dict):
        key = next((key for key in now if before.get(key) != now[key]), None)
        if key == "sha256":
            return f"the values of `{name}` are others than those that the run in '{run_dir}' was started with"
        if key is not None:
            return _difference(f"{name}, {key}", now[key], before.get(key), run_dir)
    return f"{name} is {shown(now, 300)}, but the run in '{run_dir}' was started with {shown(before, 300)}"


def _optimizer_states(saved: Saved, training: Training) -> dict[str, Any]:
    """The state dictionary of each player's optimizer."""
    seats = {seat.player.name: seat for seat in training.svi.seats}
    begun, packed = (_member(saved.state, name, dict) for name in ("begun", "optimizers"))
    if begun.keys() != seats.keys():
        raise ArgumentError(
            f"`resume`: the players are {sorted(seats)}, but the run in '{saved.path.parents[1]}' was started with "
            f"{shown(sorted(begun))}"
        )
    return {
        name: optimizers.check(
            name,
            seat.optimizer,
            _below(saved.tensors, f"optimizer/{name}/"),
            packed.get(name),
            begun[name],
            seat.begun,
        )
        for name, seat in seats.items()
    }


def _state(saved: Saved) -> dict[str, Any]:
    """The numbers of the loop's state."""
    values = {name: _member(saved.state, name, int) for name in ("step", "epoch")}
    values["stopped"] = _member(saved.state, "stopped", str)
    plan = _member(saved.state, "plan", dict)
    numbers = all(value is None or (type(value) is int and value > 0) for value in plan.values())
    if plan.keys() != set(LENGTHS) or not numbers:
        raise CheckpointError(f"`plan` is {shown(plan)}")
    if values["stopped"] not in STOPPED:
        raise CheckpointError(f"`stopped` is {shown(values['stopped'])}")
    text, step = (saved.state.get(name) for name in ("best_bound", "best_step"))
    if text is None and step is None:
        return values | {"best_bound": None, "best_step": None}
    bound = _number(text)
    if bound is None or type(step) is not int or not 0 <= step <= values["step"]:
        raise CheckpointError(f"the best held-out bound is {shown((text, step))}")
    return values | {"best_bound": bound, "best_step": step}


def _number(text: Any) -> float | None:
    """The number below infinity that a short text is, or None."""
    try:
        value = float(text) if isinstance(text, str) and len(text) < 32 else math.nan
    except ValueError:
        return None
    return value if value < math.inf else None


def _check_position(
    training: Training, position: Position, state: Mapping[str, Any], curves: Mapping[str, list[float]]
) -> None:
    """Refuses numbers that contradict one another."""
    right = {
        "step": state["step"] == position.first_step + position.steps,
        "epoch": state["epoch"] >= position.epochs,
        "epochs": position.epochs <= position.steps,
        "cursor": position.cursor <= position.steps,
        "worse": position.worse <= position.steps,
        **{name: len(values) == position.steps for name, values in curves.items()},
    }
    if isinstance(training.batches, Batches):
        right["cursor"] = position.steps == position.epochs * len(training.batches) + position.cursor
    if wrong := [name for name, is_right in right.items() if not is_right]:
        raise CheckpointError(f"`{wrong[0]}` contradicts the other numbers of the run")


def _refuse_others(saved: Saved, training: Training, present: Mapping[str, Tensor]) -> None:
    """Refuses tensors that a run of this pair does not save."""
    known = {*present, *CURVES, *(f"best/{name}" for name in present)}
    players = tuple(f"optimizer/{seat.player.name}/" for seat in training.svi.seats)
    for name in sorted(saved.tensors):
        if name not in known and not name.startswith(players) and not _ORDER.fullmatch(name):
            kind, _, short = name.removeprefix("best/").partition("/")
            raise ArgumentError(
                f"'{saved.path}' has a {shown(kind)} {shown(short)} that the pair lacks: it is of another pair"
            )


def fitting(saved: Saved, name: str, present: Tensor) -> Tensor:
    """The saved tensor for one that is there.

    Raises:
        ArgumentError: the checkpoint has none of this name, or of another shape or dtype.
        CheckpointError: a parameter that is not finite.
    """
    kind, _, short = name.removeprefix("best/").partition("/")
    if name not in saved.tensors:
        raise ArgumentError(f"'{saved.path}' has no {kind} '{short}': it is of another pair{_elsewhere(saved, name)}")
    value = saved.tensors[name]
    if value.shape != present.shape or value.dtype != present.dtype:
        raise ArgumentError(
            f"{kind} '{short}' is {tuple(present.shape)} {present.dtype}, but '{saved.path}' has "
            f"{tuple(value.shape)} {value.dtype}: it is of another pair"
        )
    if kind in ("parameter", "average") and (index := first_nonfinite(value)) is not None:
        raise CheckpointError(f"{kind} '{short}' is {value[index].item()} at index {index}")
    return value


def _elsewhere(saved: Saved, name: str) -> str:
    """Where a tensor that is missing stands instead."""
    kind, _, short = name.partition("/")
    other = {"parameter": "frozen", "frozen": "parameter"}.get(kind)
    if f"{other}/{short}" not in saved.tensors:
        return ""
    return f", in which it {'is trained' if other == 'parameter' else 'wants no gradient'}"


def _best_copies(saved: Saved, moved: Mapping[str, Tensor], state: Mapping[str, Any]) -> dict[str, Tensor]:
    if state["best_bound"] is None:
        return {}
    return {name: fitting(saved, f"best/{name}", value) for name, value in moved.items()}


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _curve(saved: Saved, name: str) -> list[float]:
    values = saved.tensors.get(name)
    if values is None or values.dim() != 1 or values.dtype != torch.float64:
        raise CheckpointError(f"the {name} are missing or none")
    return values.tolist()


def _member(values: Mapping[str, Any], name: str, kind: type) -> Any:
    value = values.get(name)
    if type(value) is not kind or (isinstance(value, int | float) and value < 0):
        raise CheckpointError(f"`{name}` is {shown(value)}")
    return value


def fingerprint(source: Batches | Stream | None) -> Any:
    """What tells data from others, without reading all of them: shapes, and a sum over some rows."""
    if source is None:
        return None
    if isinstance(source, Stream):
        try:
            return {"batches": len(source)}
        except TypeError:
            return {"batches": None}
    count = len(source.data)
    stride = max(1, count // FINGERPRINT_ROWS)
    rows = torch.arange(0, count, stride, device=source.device)
    args, kwargs = as_call(source.data.batch(rows, torch.Generator(source.device).manual_seed(0)))
    digest = hashlib.sha256()
    kinds = []
    for value in named(kwargs or args).values():
        kinds.append(f"{list(value.shape[1:])} {value.dtype}")
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return {"length": count, "kinds": kinds, "sha256": digest.hexdigest()}
