"""What a run of :class:`probgen.numpyro.SVI` says of itself after each pass over the data."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from probgen.errors import ArgumentError, DivergedError, ProgramError
from probgen.numpyro.base import Objective
from probgen.numpyro.batches import Batch, as_call, size_of, take
from probgen.numpyro.run import Params, Program


@dataclass(frozen=True)
class EpochReport:
    """What callbacks see after each pass over the data; numbers are in nats per datum.

    Attributes:
        step: optimizer steps of this run so far.
        epoch: passes over the data so far; the last one may be cut short by ``num_steps``.
        loss: what is minimised, its mean over the epoch's steps.
        bound: the plain bound on log p(x), likewise; None where the objective minimises something else.
        eval_bound: the bound on held-out data; None without them.
        seconds: since the run began, compilation included.
        params: constrained parameters by name, of use until the callback returns.
    """

    step: int
    epoch: int
    loss: float
    bound: float | None
    eval_bound: float | None
    seconds: float
    params: dict[str, Any] = field(repr=False)


class HeldOut:
    """Measures the bound on held-out data, always on the same noise.

    Args:
        model: a NumPyro program.
        guide: likewise.
        loss: the objective.
        arrays: the data.
        size: of a minibatch.
    """

    def __init__(self, model: Program, guide: Program, loss: Objective, arrays: Batch, size: int) -> None:
        self._arrays, self._size, self._total = arrays, size, size_of(arrays)

        def bounds(params: Params, batch: Batch, key: Array) -> Array:
            args, kwargs = as_call(batch)
            return loss.bound(model, guide, *args, rng_key=key, params=params, **kwargs)

        self._bounds: Callable[[Params, Batch, Array], Array] = jax.jit(bounds)

    def bound(self, params: Params) -> float:
        """The mean over all data, in nats per datum.

        Raises:
            DivergedError: it is NaN or infinite.
            ProgramError: the weights of several minibatches are joint.
        """
        found = 0.0
        for start in range(0, self._total, self._size):
            batch = take(self._arrays, slice(start, start + self._size))
            key = jax.random.fold_in(jax.random.key(0), start)
            bounds = np.asarray(self._bounds(params, batch, key))
            if bounds.ndim == 0 and self._size < self._total:
                raise ProgramError(
                    "the data have one joint weight, so that bounds on several minibatches of held-out data do not add "
                    f"up; take them in one: `batch_size={self._total}`"
                )
            found += float(bounds.astype(np.float64).mean()) * size_of(batch)
        if not np.isfinite(found):
            raise DivergedError(f"the bound on `eval_data` is {found}; try a smaller learning rate")
        return found / self._total


def require_objective(loss: Any) -> Objective:
    """The objective, seen to be one that has a bound.

    Raises:
        ArgumentError: it is NumPyro's own.
    """
    if not isinstance(loss, Objective):
        raise ArgumentError(
            f"`eval_data` and `callbacks` need an objective of `probgen.numpyro`, got {type(loss).__name__}"
        )
    return loss


def bound_sign(loss: Objective, model: Program, guide: Program | None, batch: Batch, params: Params) -> float | None:
    """By what a loss is to be multiplied to give the plain bound; None where the two are different things."""
    args, kwargs = as_call(batch)
    found = loss.estimate(loss.run_of(jax.random.key(0), params, model, guide, args, kwargs))
    same = bool(jnp.array_equal(found.bound, found.value)) and bool(jnp.all(found.scale == 1.0))
    return found.sign if same else None
