"""The parameters of a finished or interrupted run, written into a pair."""

import os
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from probgen.arguments import choice
from probgen.checkpoints import Checkpoints, Saved
from probgen.data.batches import Call
from probgen.errors import ArgumentError, ProbgenError
from probgen.programs.modules import modules_of, write
from probgen.programs.param_scope import Program
from probgen.svi.parameters import module_parameters, owned_tensors, trained_parameters
from probgen.svi.preflight import rehearsal
from probgen.svi.snapshot import damage_named, fitting

Which = Literal["result", "last", "best"]


def load_weights(
    model: Program,
    guide: Program | None,
    run_dir: str | os.PathLike[str],
    *args: Any,
    which: Which = "result",
    **kwargs: Any,
) -> None:
    """Writes the parameters and buffers that a run has left in its folder into a pair.

    Args:
        model: as it was trained, with whatever weights.
        guide: likewise, or None.
        run_dir: the run's folder.
        *args: a batch as the programs take it; needed only by programs that make parameters when they run.
        which: ``"result"`` is what the run gave back: the best held-out bound where it had ``patience``, else the
            last; ``"last"`` is the last checkpoint; ``"best"`` the best held-out bound. Where the run kept a moving
            average, it is the average.
        **kwargs: likewise.

    Raises:
        ArgumentError: no run, a run of another pair, or one without a held-out bound for ``"best"``.
        CheckpointError: the checkpoint is damaged.

    Example:
        >>> import functools, tempfile, torch
        >>> from probgen.guides import AmortizedNormal
        >>> from probgen.models import PPCA
        >>> from probgen.objectives import ELBO
        >>> from probgen.svi import SVI
        >>> pair, fresh = ((PPCA(3, 1), AmortizedNormal((3,), 1, (4,))) for _ in range(2))
        >>> with tempfile.TemporaryDirectory() as run_dir:
        ...     svi = SVI(*pair, functools.partial(torch.optim.Adam, lr=1e-2), ELBO())
        ...     _ = svi.run(torch.randn(20, 3), num_epochs=1, progress=False, run_dir=run_dir)
        ...     load_weights(*fresh, run_dir)
        >>> all(torch.equal(a, b) for a, b in zip(pair[0].parameters(), fresh[0].parameters()))
        True
    """
    choice("which", which, ("result", "last", "best"))
    saved = Checkpoints(run_dir).latest()
    if saved is None:
        raise ArgumentError(f"'{Path(run_dir)}' holds no checkpoint of a run")
    source = _chosen(saved, which)
    present = _present(model, guide, (args, kwargs), source)
    with damage_named(saved):
        values = [fitting(source, name, value) for name, value in present.items()]
    write(list(present.values()), values)


def _chosen(saved: Saved, which: Which) -> Saved:
    """The tensors that are asked for; what is not trained is in the run's once."""
    plan = saved.state.get("plan")
    patient = isinstance(plan, dict) and plan.get("patience") is not None
    if which == "last" or (which == "result" and not patient):
        return saved
    best = {name.removeprefix("best/"): v for name, v in saved.tensors.items() if name.startswith("best/")}
    if not best and which == "result":  # it has not come to the end of its first epoch
        return saved
    if not best:
        raise ArgumentError(
            f"'{saved.path.parent.parent}' has no best parameters: no held-out bound was measured (`eval_data`)"
        )
    frozen = {name: v for name, v in saved.tensors.items() if name.startswith("frozen/")}
    return Saved(saved.path, best | frozen, saved.state)


def _present(model: Program, guide: Program | None, call: Call, source: Saved) -> dict[str, Tensor]:
    """The tensors of a pair by the names under which the checkpoint has them."""
    parameters = module_parameters(model, guide)
    if any(call) or not parameters:
        parameters = _made_by_running(model, guide, call)
    known = {id(value) for value in parameters.values()}
    frozen = owned_tensors(model, guide, known, "frozen")
    buffers = owned_tensors(model, guide, known | {id(value) for value in frozen.values()}, "buffer")
    weights = parameters | {name.partition("/")[2]: value for name, value in frozen.items()}
    found = {f"{_kind(source, name)}/{name}": value for name, value in weights.items()}
    for name in sorted(source.tensors):
        kind, _, short = name.partition("/")
        if kind in ("parameter", "frozen") and short not in weights:
            raise ArgumentError(
                f"'{source.path}' has a {kind} '{short}' that the pair lacks: it is of another pair, or the programs "
                "make parameters when they run: pass a batch too"
            )
    return found | buffers


def _made_by_running(model: Program, guide: Program | None, call: Call) -> dict[str, Tensor]:
    try:
        with rehearsal(modules_of(model, guide)):
            return trained_parameters(model, guide, *call)
    except ProbgenError:
        raise
    except Exception as error:
        raise ArgumentError(
            f"the programs make their parameters when they run, and fail on {_batch(call)}: pass a batch too, as they "
            f"were trained on ({error})"
        ) from error


def _batch(call: Call) -> str:
    return "what was passed" if any(call) else "no arguments"


def _kind(source: Saved, name: str) -> str:
    """As what the checkpoint has a weight: averaged, trained, or wanting no gradient."""
    kinds = (kind for kind in ("average", "parameter", "frozen") if f"{kind}/{name}" in source.tensors)
    return next(kinds, "parameter")
