r"""Scalars whose gradient is that of an estimator: JAX has no hooks, so each term is built from constants and paths.

With the coefficients of :mod:`probgen.core.estimators` and sg = stop gradient, per datum,

.. math::
    S = \sum_k \mathrm{sg}(m_k) \log p_\theta(x, \mathrm{sg} z_k) - \mathrm{sg}(g_k) \log q_\phi(\mathrm{sg} z_k)
      + \mathrm{sg}(s_k) \log q_\phi(z_k) + \mathrm{sg}(p_k \, \partial l_k / \partial z_k) \, z_k(\phi).

Where model, guide and path have one coefficient, this is ``sum sg(m) l``; without a path the samples are constants.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from probgen.core.estimators import Coefficients
from probgen.errors import UnsupportedObjective
from probgen.numpyro.run import (
    Draws,
    Pair,
    Params,
    Vectorize,
    draw_particles,
    replay_particles,
    run_particles,
)
from probgen.numpyro.sampling import ALL_DETACHED, Sampling
from probgen.numpyro.terms import PairTerms

AUTO = 'gradient="auto", which uses the score function there'
Rule = Callable[[PairTerms], Coefficients]  # from terms without gradient


@dataclass(frozen=True)
class Run:
    """A pair, its parameters and the keys of one estimate.

    Attributes:
        pair: what is run.
        params: constrained parameters, which are differentiated.
        draws: the keys.
        vectorize: how particles are run, or None for ``jax.vmap``.
    """

    pair: Pair
    params: Params
    draws: Draws
    vectorize: Vectorize | None = None

    def live(self, model_params: Params | None = None) -> PairTerms:
        """The terms, differentiable through the samples; the model may have parameters of its own."""
        return run_particles(self.pair, self.params, self.draws, self.vectorize, model_params=model_params)

    def sampled(self, sampling: Sampling) -> "Run":
        """The same run with sites sampled otherwise."""
        return replace(self, pair=replace(self.pair, sampling=sampling))

    def samples(self) -> dict[str, Array]:
        """What the guide draws, ``[K, *plates, *event]``; differentiable."""
        return draw_particles(self.pair, self.params, self.draws, self.vectorize)

    def at(self, latents: Mapping[str, Array], model_params: Params, guide_params: Params) -> PairTerms:
        """The terms at given samples, each side with its own parameters."""
        try:
            return replay_particles(self.pair, model_params, guide_params, latents, self.draws, self.vectorize)
        except (NotImplementedError, KeyError) as error:
            raise UnsupportedObjective(
                "a transform of the guide has no inverse (a planar flow?), so its log-density cannot be computed at "
                'given samples; use `gradient="pathwise"`'
            ) from error

    @property
    def constants(self) -> Params:
        """The parameters without gradient."""
        return stop_gradient(dict(self.params))


def weighted(coefficients: Array | None, terms: Any) -> Any:
    """``sum sg(c) t``, where a coefficient of 0 or a term that is not finite gives neither value nor gradient."""
    if coefficients is None or isinstance(terms, float):
        return 0.0
    fixed = stop_gradient(coefficients)
    counts = (fixed != 0.0) & jnp.isfinite(stop_gradient(terms)) & jnp.isfinite(fixed)
    return jnp.sum(jnp.where(counts, fixed * jnp.where(counts, terms, 0.0), 0.0))


def scaled(coefficients: Coefficients, scale: Array) -> Coefficients:
    """Coefficients times what multiplies each datum, ``[batch]``."""
    return Coefficients(*(None if c is None else c * scale for c in coefficients))


def total(run: Run, rule: Rule) -> tuple[PairTerms, Any]:
    """One coefficient for model, guide and path, and the score function at sites without a path."""
    terms = run.live()
    c = scaled(rule(stop_gradient(terms)), terms.scale)
    return terms, weighted(c.model, terms.log_weights) + weighted(c.score, terms.score)


def detached(run: Run, rule: Rule) -> tuple[PairTerms, Any]:
    """No path: every sample is a constant, and ``score`` counts at every site."""
    terms = run.sampled(ALL_DETACHED).live()
    c = scaled(rule(stop_gradient(terms)), terms.scale)
    scores = sum(site.score for site in terms.latents if site.score is not None)
    surrogate = weighted(c.model, terms.log_joint) - weighted(c.guide, terms.log_guide) + weighted(c.score, scores)
    return terms, surrogate


def two_players(run: Run, rule: Rule) -> tuple[PairTerms, Any]:
    """A pathwise gradient for the guide, with one of the model that has coefficients of its own."""
    terms = run.live(run.constants)
    c = scaled(rule(stop_gradient(terms)), terms.scale)
    theta = replace(run, params=run.constants).sampled(ALL_DETACHED).live(run.params)
    phi = weighted(c.guide, terms.log_weights) + weighted(c.score, terms.score)
    return terms, weighted(c.model, theta.log_joint) + phi


def frozen(run: Run, rule: Rule, gradient: str, *, instead: str = AUTO, apart: bool = False) -> tuple[PairTerms, Any]:
    """A path of its own, with the guide's parameters constant inside the log-weight.

    One backward pass gives both ``grad log p`` and ``dl/dz`` where the coefficients of the path are bounded multiples
    of the model's. Those that are not (``apart``) need two.
    """
    samples = run.samples()
    floats, others = partition(dict(run.params))
    moving = {name: value for name, value in samples.items() if jnp.issubdtype(value.dtype, jnp.floating)}

    def weights(theta: Any, z: dict[str, Array]) -> tuple[Array, PairTerms]:
        terms = run.at({**stop_gradient(samples), **z}, merge(theta, others), run.constants)
        return terms.log_weights, terms

    _, pull, terms = jax.vjp(weights, stop_gradient(floats), stop_gradient(moving), has_aux=True)
    require_reparameterized(terms, gradient, instead)
    c = scaled(rule(stop_gradient(terms)), terms.scale)
    d_theta, d_z = pull(finite(c.model))
    if not apart:
        ratio = jnp.where(c.model == 0.0, 0.0, finite(c.path) / jnp.where(c.model == 0.0, 1.0, c.model))
        d_z = {name: _spread(terms, name, ratio, slope) for name, slope in d_z.items()}
    else:
        _, d_z = pull(finite(c.path))
    surrogate = inner(d_theta, floats) + inner(d_z, moving)
    if c.guide is not None:
        own = run.at(stop_gradient(samples), run.constants, run.params)
        surrogate = surrogate - weighted(c.guide, own.log_guide)
    return terms, surrogate


def resampled(run: Run, rule: Rule, rng_key: Array, gradient: str) -> tuple[PairTerms, Any]:
    """Backward through one particle J ~ w of each datum: ``grad l_J``, whose mean is ``sum_k w_k grad l_k``.

    With "resampled-dreg" the path is multiplied by ``w_J`` and the guide's parameters are constant in the log-weight.
    """
    samples = run.samples()
    fixed = run.at(stop_gradient(samples), run.constants, run.constants)
    require_reparameterized(fixed, gradient)
    w = rule(fixed).model  # [K, batch]
    chosen = jax.random.categorical(rng_key, jnp.log(jnp.where(w > 0, w, 0.0)), axis=0)  # [batch]
    hot = jax.nn.one_hot(chosen, w.shape[0], axis=0, dtype=w.dtype)  # [K, batch]
    picked = {name: _pick(fixed, name, hot, value) for name, value in samples.items()}
    guide_params = run.params
    if gradient == "resampled-dreg":
        share = (hot * w).sum(0, keepdims=True)  # [1, batch]
        picked = {name: _attenuated(fixed, name, share, value) for name, value in picked.items()}
        guide_params = run.constants
    one = replace(run, draws=Draws(run.draws.minibatch, run.draws.particles[:1]))
    terms = one.at(picked, run.params, guide_params)
    alive = (w.sum(0, keepdims=True) > 0) * terms.scale
    return fixed, weighted(alive, terms.log_weights)


def _pick(terms: PairTerms, name: str, hot: Array, value: Array) -> Array:
    """The chosen particle's value for each datum, ``[1, *plates, *event]``."""
    site = terms.site(name)
    share = site.layout.spread(hot, value, site.event_dim)
    return jnp.where(share > 0, value, 0).sum(0, keepdims=True).astype(value.dtype)


def _attenuated(terms: PairTerms, name: str, share: Array, value: Array) -> Array:
    """The value itself, with its gradient times a constant."""
    site = terms.site(name)
    fixed = stop_gradient(value)
    return fixed + site.layout.spread(stop_gradient(share), value, site.event_dim) * (value - fixed)


def _spread(terms: PairTerms, name: str, ratio: Array, slope: Array) -> Array:
    site = terms.site(name)
    return slope * site.layout.spread(ratio, slope, site.event_dim)


def require_reparameterized(terms: PairTerms, gradient: str, instead: str = AUTO) -> None:
    """Refuses a guide with a site that has no path.

    Raises:
        UnsupportedObjective: naming the first such site.
    """
    for site in terms.latents:
        if not site.reparameterized:
            raise UnsupportedObjective(
                f"`gradient=\"{gradient}\"` needs `rsample` at every latent site, but the guide's site '{site.name}' "
                f"({site.family}) has none; use {instead}"
            )


def finite(array: Any) -> Array:
    """With 0 for what is not finite."""
    return jnp.where(jnp.isfinite(array), array, 0.0)


def inner(constants: Any, values: Any) -> Any:
    """``sum sg(c) v`` over the leaves."""
    pairs = zip(jax.tree.leaves(constants), jax.tree.leaves(values), strict=True)
    return sum((jnp.sum(stop_gradient(finite(c)) * v) for c, v in pairs), start=jnp.zeros(()))


def partition(params: Mapping[str, Any]) -> tuple[Any, Any]:
    """(the leaves that can be differentiated, the others), each with None in place of the rest."""
    is_float = lambda leaf: jnp.issubdtype(jnp.result_type(leaf), jnp.floating)  # noqa: E731
    floats = jax.tree.map(lambda leaf: leaf if is_float(leaf) else None, dict(params))
    others = jax.tree.map(lambda leaf: None if is_float(leaf) else leaf, dict(params))
    return floats, others


def merge(floats: Any, others: Any) -> Any:
    """What :func:`partition` took apart."""
    is_none = lambda leaf: leaf is None  # noqa: E731
    return jax.tree.map(lambda a, b: b if a is None else a, floats, others, is_leaf=is_none)
