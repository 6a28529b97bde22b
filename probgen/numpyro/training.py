"""Training: whole epochs in one ``jax.lax.scan``, with the data on the device."""

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.infer
from jax import Array
from numpyro.infer.svi import SVIState

from probgen.arguments import positive_int
from probgen.errors import ArgumentError, DataError
from probgen.numpyro.batches import Batch, as_arrays, as_call, checked_batch_size, size_of, take
from probgen.numpyro.epochs import EpochReport, HeldOut, bound_sign, require_objective
from probgen.numpyro.nonfinite import not_finite
from probgen.numpyro.run import Pair, Program, as_key, execute, no_guide

Callback = Callable[[EpochReport], bool | None]


class SVIResult(NamedTuple):
    """What :meth:`SVI.run` returns, in NumPyro's order.

    Attributes:
        params: constrained parameters by name.
        state: NumPyro's ``SVIState`` at the end, to go on with as ``init_state=``.
        losses: ``[num_steps]``, in nats per datum of the minibatch.
    """

    params: dict[str, Any]
    state: SVIState
    losses: Array


class SVI(numpyro.infer.SVI):
    """NumPyro's SVI, whose :meth:`run` takes data and minibatches.

    ``init``, ``update``, ``evaluate`` and ``get_params`` are NumPyro's.

    Args:
        model: a NumPyro program.
        guide: a NumPyro program that takes the same arguments, or None for a model without latent sites.
        optim: an optimizer of ``numpyro.optim`` or of optax.
        loss: an objective of :mod:`probgen.numpyro`, or any ``numpyro.infer.ELBO``.

    Example:
        >>> import numpyro
        >>> from probgen.guides.numpyro import AmortizedNormal
        >>> from probgen.models.numpyro import PPCA
        >>> from probgen.numpyro import ELBO
        >>> x = np.random.default_rng(0).normal(size=(40, 3))
        >>> svi = SVI(PPCA(3, 2), AmortizedNormal((3,), 2, (8,)), numpyro.optim.Adam(1e-2), ELBO())
        >>> result = svi.run(x, batch_size=10, num_epochs=5)
        >>> result.losses.shape, bool(result.losses[-4:].mean() < result.losses[:4].mean())
        ((20,), True)
    """

    def __init__(self, model: Program, guide: Program | None, optim: Any, loss: Any) -> None:
        super().__init__(model, guide or no_guide, optim, loss)

    def run(
        self,
        data: Any,
        *,
        batch_size: int = 100,
        num_epochs: int | None = None,
        num_steps: int | None = None,
        seed: Array | int = 0,
        init_state: SVIState | None = None,
        init_params: dict[str, Any] | None = None,
        eval_data: Any = None,
        callbacks: Sequence[Callback] = (),
        progress: bool = False,
    ) -> SVIResult:
        """Trains on minibatches, shuffled anew in each epoch; the last one of an epoch may be smaller.

        Data are looked at before the first step. Arrays of the state are donated from epoch to epoch.

        Args:
            data: an array ``[N, ...]``, or a tuple or dict of them, passed on as ``model(b)``, ``model(*b)`` or
                ``model(**b)``.
            batch_size: data of a step.
            num_epochs: passes over the data; or
            num_steps: optimizer steps.
            seed: an integer or a key of ``jax.random``.
            init_state: the state of an earlier run, to go on with.
            init_params: constrained values of parameters to start from, instead of the programs' own.
            eval_data: held-out data, whose bound is measured after each epoch; in one batch where weights are joint.
            callbacks: called with an :class:`probgen.numpyro.EpochReport` after each epoch; one that returns True ends
                the run.
            progress: print a line for each epoch.

        Returns:
            Parameters, state and losses.

        Raises:
            ArgumentError: neither or both of ``num_epochs`` and ``num_steps``.
            DataError: no data, or values outside the support of their site.
            DivergedError: a loss is not finite; names the step, and the first bad parameter.
            ProgramError, UnsupportedObjective: the pair does not fit together, or the objective would be wrong for it.
        """
        arrays = as_arrays(data)
        total = size_of(arrays)
        size = checked_batch_size(batch_size, total)
        steps = _steps(num_epochs, num_steps, -(-total // size))
        start_key, order_key = jax.random.split(as_key(seed))
        state = self._start(start_key, take(arrays, slice(0, size)), init_state, init_params)
        self._check_data(state, arrays, size)
        reporter = _Reporter(self, state, arrays, eval_data, size, callbacks)
        done, losses = 0, []
        while done < steps:
            order_key, key = jax.random.split(order_key)
            count = min(steps - done, -(-total // size))
            state, found = self._epoch(state, arrays, key, size, done, count)
            self._require_finite(found, state, done)
            losses.append(found)
            done += count
            if progress:
                print(f"step {done}/{steps}  loss {found.mean():.4f} nats per datum")
            if reporter.after_epoch(done, found, state):
                break
        return SVIResult(self.get_params(state), state, jnp.asarray(np.concatenate(losses)))

    def _start(self, key: Array, batch: Batch, init_state: SVIState | None, init_params: Any) -> SVIState:
        args, kwargs = as_call(batch)
        state = self.init(key, *args, init_params=init_params, **kwargs)  # also sets how parameters are constrained
        return jax.tree.map(jnp.array, state if init_state is None else init_state)  # copies: ours are donated

    def _check_data(self, state: SVIState, arrays: Batch, size: int) -> None:
        """Runs the pair on each minibatch for the supports alone, and as it is where one does not hold."""
        params = {**self.get_params(state), **(state.mutable_state or {})}
        key = jax.random.key(0)

        def pair(batch: Batch) -> Pair:
            return Pair(self.model, self.guide, *as_call(batch), batch_plate=getattr(self.loss, "batch_plate", None))

        @jax.jit
        def supported(batch: Batch) -> Array:
            flags: list[Array] = []
            execute(pair(batch), params, params, key, key, supported=flags)
            return jnp.all(jnp.stack([jnp.asarray(True), *flags]))

        for start in range(0, size_of(arrays), size):
            batch = take(arrays, slice(start, start + size))
            if not bool(supported(batch)):
                try:
                    execute(pair(batch), params, params, key, key)
                except DataError as error:
                    raise DataError(f"in the data from {start} on: {error}") from error

    def _epoch(
        self, state: SVIState, arrays: Batch, key: Array, size: int, done: int, count: int
    ) -> tuple[SVIState, np.ndarray]:
        """So many steps, at most one pass: full minibatches in a scan, and a smaller last one."""
        total = size_of(arrays)
        order = jax.random.permutation(key, total)
        full = min(count, total // size)
        weights = self._weights(done, count)
        losses = []
        if full:
            state, found = self._scan(state, arrays, order[: full * size].reshape(full, size), weights[:full])
            losses.append(np.asarray(found) / size)
        if count > full:
            state, last = self._scan(state, arrays, order[None, full * size :], weights[full:])
            losses.append(np.asarray(last) / (total - full * size))
        return state, np.concatenate(losses)

    def _weights(self, done: int, count: int) -> Array:
        """The value of a scheduled hyper-parameter at each step; nothing where there is no schedule."""
        schedule = getattr(self.loss, "schedule", None)
        values = None if schedule is None else schedule(range(done, done + count))
        return jnp.zeros((count, 0)) if values is None else jnp.asarray(values)

    def _scan(self, state: SVIState, arrays: Batch, order: Array, weights: Array) -> tuple[SVIState, Array]:
        if not hasattr(self, "_compiled"):
            self._compiled = jax.jit(self._steps_of, donate_argnums=(0,))
        return self._compiled(state, arrays, order, weights)

    def _steps_of(self, state: SVIState, arrays: Batch, order: Array, weights: Array) -> tuple[SVIState, Array]:
        def step(state: SVIState, inputs: tuple[Array, Array]) -> tuple[SVIState, Array]:
            index, weight = inputs
            args, kwargs = as_call(take(arrays, index))
            return _at(self, weight).update(state, *args, **kwargs)

        return jax.lax.scan(step, state, (order, weights))

    def _require_finite(self, losses: np.ndarray, state: SVIState, done: int) -> None:
        bad = ~np.isfinite(losses)
        if bad.any():
            step = int(np.argmax(bad))
            raise not_finite(f"the loss is {losses[step]} at step {done + step}", self.get_params(state))


class _Reporter:
    """Measures held-out bounds and calls callbacks, where there are such."""

    def __init__(
        self, svi: SVI, state: SVIState, arrays: Batch, eval_data: Any, size: int, callbacks: Sequence[Callback]
    ) -> None:
        self._svi, self._callbacks, self._began, self._epochs = svi, callbacks, time.perf_counter(), 0
        self._held_out: HeldOut | None = None
        if eval_data is not None and not callbacks:
            raise ArgumentError("the bounds on `eval_data` are told to callbacks; pass `callbacks` too")
        if not callbacks:
            return
        loss = require_objective(svi.loss)
        scheduled = _at(svi, svi._weights(0, 1)[0]).loss
        params = {**svi.get_params(state), **(state.mutable_state or {})}
        plain = loss is scheduled
        first = take(arrays, slice(0, size))
        self._sign = bound_sign(loss, svi.model, svi.guide, first, params) if plain else None
        if eval_data is not None:
            held_out = as_arrays(eval_data)
            size = min(size, size_of(held_out))
            svi._check_data(state, held_out, size)
            self._held_out = HeldOut(svi.model, svi.guide, scheduled, held_out, size)

    def after_epoch(self, step: int, losses: np.ndarray, state: SVIState) -> bool:
        """Whether the run is to end."""
        self._epochs += 1
        if not self._callbacks:
            return False
        params = {**self._svi.get_params(state), **(state.mutable_state or {})}
        loss = float(losses.astype(np.float64).mean())
        report = EpochReport(
            step=step,
            epoch=self._epochs,
            loss=loss,
            bound=None if self._sign is None else self._sign * loss,
            eval_bound=None if self._held_out is None else self._held_out.bound(params),
            seconds=time.perf_counter() - self._began,
            params=params,
        )
        return True in [callback(report) for callback in self._callbacks]


def _at(svi: SVI, weight: Array) -> SVI:
    """The same loop with an objective at its hyper-parameter of a step."""
    if weight.ndim:
        return svi
    other = copy.copy(svi)
    other.loss = svi.loss.at(weight)
    return other


def _steps(num_epochs: int | None, num_steps: int | None, per_epoch: int) -> int:
    if (num_epochs is None) == (num_steps is None):
        raise ArgumentError("give either `num_epochs` or `num_steps`")
    if num_steps is not None:
        return positive_int("num_steps", num_steps)
    return positive_int("num_epochs", num_epochs) * per_epoch
