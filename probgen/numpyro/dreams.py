"""What a model dreams: data and latents of its own, on which sleep trains the guide."""

from dataclasses import replace
from typing import Any

import jax
from jax import Array
from jax.lax import stop_gradient
from numpyro import handlers

from probgen.errors import UnsupportedObjective
from probgen.numpyro.checks import sample_sites
from probgen.numpyro.messengers import SharedMinibatch, Values
from probgen.numpyro.run import Pair, Params, execute
from probgen.numpyro.surrogate import Run, weighted


def dream(run: Run) -> Any:
    """A scalar with the gradient of ``sum_b log q(z_b | x_b)``, scaled, for one dream ``(x, z) ~ p`` of the batch.

    Raises:
        UnsupportedObjective: the model observes something computed from its arguments, so that what it draws cannot be
            passed on to the guide.
    """
    key = jax.random.fold_in(run.draws.minibatch, 2)
    latents, pair = _dreamed(run.pair, run.constants, key, run.draws.minibatch)
    terms = execute(pair, run.constants, run.params, key, run.draws.minibatch, latents=latents)
    for site in terms.latents:
        if site.function or site.log_p is None:
            raise UnsupportedObjective(
                f"sleep scores the guide at what the model draws, but the guide's site '{site.name}' is auxiliary or a "
                'function of others; use `guide_update="wake"`'
            )
    return weighted(stop_gradient(terms.scale), terms.log_guide)


def _dreamed(pair: Pair, params: Params, rng_key: Array, minibatch_key: Array) -> tuple[dict[str, Array], Pair]:
    """(what the model drew of its latent sites, the pair on the data that it drew)."""
    with (
        handlers.block(),
        handlers.seed(rng_seed=rng_key),
        handlers.trace() as seen,
        Values(params),
        SharedMinibatch(minibatch_key),
    ):
        pair.model(*pair.args, **pair.kwargs)
    with (
        handlers.block(),
        handlers.seed(rng_seed=rng_key),
        handlers.trace() as trace,
        Values(params),
        SharedMinibatch(minibatch_key),
        handlers.uncondition(),
    ):
        pair.model(*pair.args, **pair.kwargs)
    observed = {site["name"]: site["value"] for site in sample_sites(seen) if site["is_observed"]}
    drawn = {site["name"]: stop_gradient(site["value"]) for site in sample_sites(trace)}
    args, kwargs = pair.args, dict(pair.kwargs)
    for name, value in observed.items():
        args, kwargs = _replaced(name, (args, kwargs), value, drawn[name])
    latents = {name: value for name, value in drawn.items() if name not in observed}
    return latents, replace(pair, args=args, kwargs=kwargs)


def _replaced(name: str, inputs: Any, value: Any, new: Array) -> Any:
    """The arguments with a dream in place of the data."""
    leaves, structure = jax.tree.flatten(inputs)
    if not any(leaf is value for leaf in leaves):
        raise UnsupportedObjective(
            f"sleep passes what the model draws at site '{name}' on to the guide, but its data are no argument as they "
            'are (cast, reshaped or indexed?); observe an argument itself, or use `guide_update="wake"`'
        )
    dreamt = [new.astype(leaf.dtype) if leaf is value else leaf for leaf in leaves]
    return jax.tree.unflatten(structure, dreamt)
