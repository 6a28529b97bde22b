"""``evaluate``: log p(x) per datum, by importance weights that are streamed over particles."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax import Array

from probgen.arguments import positive_int
from probgen.errors import ProgramError
from probgen.evidence.result import Evidence
from probgen.evidence.streams import WeightStatistics, WeightStream
from probgen.numpyro.batches import Batch, as_arrays, as_call, checked_batch_size, size_of, take
from probgen.numpyro.nonfinite import not_finite
from probgen.numpyro.run import Draws, Pair, Params, Program, as_key, completed, execute, no_guide, run_particles
from probgen.numpyro.terms import PairTerms

ROWS_AT_ONCE = 1 << 12  # data x particles of one run, by default


def evaluate(
    model: Program,
    guide: Program | None,
    data: Any,
    *,
    params: Params | None = None,
    num_particles: int = 5000,
    batch_size: int = 100,
    seed: Array | int = 0,
    max_particles_at_once: int | None = None,
    batch_plate: str | None = None,
) -> Evidence:
    r"""Estimates log p(x) of every datum by importance weighting.

    .. math::
        \log p(x) \approx \log \frac1K \sum_{k=1}^K \frac{p(x, z_k)}{q(z_k \mid x)}, \quad z_k \sim q(\cdot \mid x)

    In expectation this is a lower bound that rises to log p(x) with K. Particles come in chunks and data in
    minibatches; of the log-weights only running sums and the tail that k-hat needs are kept. A ``handlers.scale``
    and the N/B of whole data are left out.

    Args:
        model: a NumPyro program.
        guide: a NumPyro program that takes the same arguments, or None for a model without latent sites, whose
            likelihood is exact.
        data: an array ``[N, ...]``, or a tuple or dict of them.
        params: values of ``numpyro.param`` statements by name, as ``SVIResult.params`` has them.
        num_particles: K samples of the guide per datum.
        batch_size: data per minibatch.
        seed: an integer or a key of ``jax.random``.
        max_particles_at_once: particles per run of the pair, which bounds memory.
        batch_plate: name of the plate over data, where more than one encloses every site.

    Returns:
        A ``probgen.evidence.Evidence``, in the order of the data; its tensors are torch's.

    Raises:
        ArgumentError: a number below 1.
        DataError: no data, or values outside the support of their site.
        DivergedError: a log-weight is NaN or +inf.
        ProgramError: the pair does not fit, draws a minibatch of its own, or has joint weights for several minibatches.
        UnsupportedObjective: the weights are no importance weights.

    Source:
        Burda, Grosse, Salakhutdinov (2016), Importance weighted autoencoders, arXiv 1509.00519.

    Example:
        >>> from probgen.guides.numpyro import AmortizedNormal
        >>> from probgen.models.numpyro import PPCA
        >>> evidence = evaluate(PPCA(3, 2), AmortizedNormal((3,), 2, (4,)), np.zeros((10, 3)), num_particles=50)
        >>> evidence.kind, tuple(evidence.log_prob.shape)
        ('lower', (10,))
    """
    count = positive_int("num_particles", num_particles)
    arrays = as_arrays(data)
    total = size_of(arrays)
    size = checked_batch_size(batch_size, total)
    chunk = max(1, ROWS_AT_ONCE // size)
    if max_particles_at_once is not None:
        chunk = positive_int("max_particles_at_once", max_particles_at_once)
    key = as_key(seed)
    estimator = _Estimator(model, guide or no_guide, batch_plate, count, chunk)
    given = completed(estimator.pair(take(arrays, slice(0, size))), params or {}, key)
    parts = []
    for start in range(0, total, size):
        key, own = jax.random.split(key)
        parts.append(estimator.statistics(given, take(arrays, slice(start, start + size)), own, total))
    joined: dict[str, Any] = {
        f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(WeightStatistics)
    }
    kind, used = ("exact", 1) if estimator.exact else ("lower", count)
    return Evidence(
        **joined, kind=estimator.kind or kind, num_particles=used, joint=estimator.joint, note=estimator.note
    )


class _Estimator:
    """Runs a pair on minibatches, in chunks of particles, each compiled once for its shape."""

    def __init__(self, model: Program, guide: Program, batch_plate: str | None, count: int, chunk: int) -> None:
        self.model, self.guide, self.batch_plate = model, guide, batch_plate
        self.count, self.chunk = count, min(chunk, count)
        self.exact, self.joint, self.kind, self.note = False, False, "", ""
        self._weights: dict[int, Callable[..., Any]] = {}

    def pair(self, batch: Batch) -> Pair:
        """The pair on a minibatch."""
        return Pair(self.model, self.guide, *as_call(batch), batch_plate=self.batch_plate)

    def statistics(self, params: Params, batch: Batch, key: Array, total: int) -> WeightStatistics:
        """What a minibatch's log-weights amount to."""
        terms = execute(self.pair(batch), params, params, key, key).plain
        self._look(terms, size_of(batch), total)
        if self.kind == "none":
            return _point(terms)
        count = 1 if self.exact else self.count
        stream = WeightStream(count)
        for first in range(0, count, self.chunk):
            own = jax.random.fold_in(key, first)
            weights, kl = self._run(params, batch, own, min(self.chunk, count - first))
            wrong = np.isnan(weights) | (weights == np.inf)
            if wrong.any():
                raise not_finite(f"a log-weight is {weights[wrong][0]}", params, terms)
            stream.update(torch.as_tensor(weights), torch.as_tensor(kl))
        return _exact(stream.statistics()) if self.exact else stream.statistics()

    def _run(self, params: Params, batch: Batch, key: Array, count: int) -> tuple[np.ndarray, np.ndarray]:
        if count not in self._weights:

            def weights(params: Params, batch: Batch, key: Array) -> tuple[Array, Array]:
                terms = run_particles(self.pair(batch), params, Draws.of(key, count)).plain
                found = terms.log_weights
                return found, jnp.broadcast_to(jnp.asarray(terms.kl, found.dtype), found.shape)

            self._weights[count] = jax.jit(weights)
        found, kl = self._weights[count](params, batch, key)
        return np.array(found).reshape(count, -1), np.array(kl).reshape(count, -1)

    def _look(self, terms: PairTerms, size: int, total: int) -> None:
        """What kind of estimate a pair has.

        Raises:
            ProgramError: nothing is observed, the plate over the data is ambiguous or of another size, or the pair has
                joint weights for several minibatches.
        """
        if not any(site.observed for site in terms.sites):
            raise ProgramError("the model observes nothing, so there is no log p(x); pass the data to a site by `obs=`")
        if terms.batch_shape not in ((), (size,)):
            raise ProgramError(
                f"the plates around every site have sizes {terms.batch_shape} for a minibatch of {size} data, so that "
                "the estimates are not one per datum; give one plate the minibatch's size, or name it: `batch_plate=`"
            )
        self.joint = terms.batch_shape == ()
        if self.joint and size != total:
            raise ProgramError(
                "a site lies outside the plate over the data (or there is no such plate), so that all data share it "
                f"and have one joint weight; evaluate them in one minibatch: `batch_size={total}`"
            )
        point = next((site.name for site in terms.latents if site.point), None)
        if point is not None:
            self.kind = "none"
            self.note = (
                f"the guide is a point mass at site '{point}' (AutoDelta), so there are no importance weights; use a "
                "guide with a density. `elbo` is log p(x, z) at the point"
            )
            return
        self.exact = not terms.latents
        _require_whole(terms)
        terms.require_importance_weights(self.count)


def _require_whole(terms: PairTerms) -> None:
    if terms.subsampled or terms.subsampled_inside is not None:
        raise ProgramError(
            "a plate draws a minibatch of its own, so the evidence would cover only some of the data; give it the size "
            "of the minibatch, or leave out `subsample_size=`"
        )


def _point(terms: PairTerms) -> WeightStatistics:
    log_joint = torch.as_tensor(np.array(terms.log_weights, dtype=np.float64).reshape(-1))
    unknown = torch.full_like(log_joint, torch.nan)
    return WeightStatistics(unknown, log_joint, unknown, unknown, unknown, unknown)


def _exact(found: WeightStatistics) -> WeightStatistics:
    zeros = torch.zeros_like(found.log_prob)
    return WeightStatistics(found.log_prob, found.log_prob, zeros, zeros + 1, zeros - torch.inf, zeros)
