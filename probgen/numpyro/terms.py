"""What one run of a pair leaves behind, as pytrees: a log-density per site, and how they add up to log-weights."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from probgen.errors import UnsupportedObjective


def _static(**options: Any) -> Any:
    """A field that is structure, not an array: part of what a trace depends on."""
    return field(metadata={"static": True}, **options)


@dataclass(frozen=True)
class Layout:
    """Where a site's batch dimensions lie, and how its log-density of one particle becomes ``[batch]``.

    Attributes:
        batch_dims: negative dims of the batch plates, from the left.
        batch_shape: their sizes.
        depth: how deep all plates of the pair nest.
    """

    batch_dims: tuple[int, ...]
    batch_shape: tuple[int, ...]
    depth: int = 0

    def arrange(self, density: Array) -> Array:
        """A log-density of one particle with all plates of the pair, ``[*plates]``; of size 1 where it has none."""
        return density.reshape((1,) * (self.depth - density.ndim) + density.shape)

    def collapse(self, density: Array) -> Array:
        """Sums a tensor laid out as the site's log-density, ``[*plates]``, to ``[batch]``."""
        depth = max([density.ndim, *(-dim for dim in self.batch_dims)])
        density = density.reshape((1,) * (depth - density.ndim) + density.shape)
        inner = [dim for dim in range(-depth, 0) if dim not in self.batch_dims]
        return jnp.broadcast_to(density.sum(tuple(inner)), self.batch_shape)

    def spread(self, weights: Array, value: Array, event_dim: int) -> Array:
        """Lays weights ``[K, batch]`` out so that they multiply values ``[K, *plates, *event]``."""
        depth = value.ndim - 1 - event_dim
        shape = [1] * depth
        for dim, size in zip(self.batch_dims, self.batch_shape, strict=True):
            if -dim <= depth:
                shape[dim] = size
        return weights.reshape([weights.shape[0], *shape, *[1] * event_dim])


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SiteTerm:
    """One site of a pair; arrays are ``[batch]`` in a run of one particle and ``[K, batch]`` in one of many.

    Attributes:
        value: its value, ``[*plates, *event]``; where particles are many, ``[K, *plates, *event]``.
        log_p: log-density under the model; None for a guide's auxiliary site.
        log_q: log-density under the guide; None for an observed site.
        score: ``log_q`` without scale and mask, for score-function gradients; None for an observed site.
        kl: the divergence in closed form, where it was asked for.
        relocated: the value as a function of the parameters of the model's distribution, where it was asked for.
        prior_family: name of the family of the model's distribution; "" where the model has no such site.
        logits: of an antithetic Bernoulli site; otherwise None.
        plated_p: ``log_p`` before plates inside a datum are summed, ``[*plates]``; None where it has other dimensions.
        plated_q: likewise ``log_q``.
        plated_score: likewise ``score``.
        name: the site's name.
        observed: whether the value is data.
        local: whether the site lies inside a plate over data.
        reparameterized: whether the guide's sample has a path to its parameters.
        function: whether the site is a function of others (a Delta), whose value is not drawn.
        point: whether the guide is a point mass here (AutoDelta).
        family: name of the guide's distribution; of the model's, where the site is observed.
        event_dim: number of event dimensions.
        cardinality: values of one entry, of a site that is enumerated; 0 where they are not finitely many.
        entries: how many such entries one datum has.
        enumerated: whether its states are run as particles.
        layout: where its batch dimensions lie.
    """

    value: Array
    log_p: Array | None
    log_q: Array | None
    score: Array | None
    kl: Array | None
    relocated: Array | None
    logits: Array | None
    plated_p: Array | None
    plated_q: Array | None
    plated_score: Array | None
    name: str = _static()
    observed: bool = _static()
    local: bool = _static()
    reparameterized: bool = _static()
    function: bool = _static()
    point: bool = _static()
    family: str = _static()
    prior_family: str = _static()
    event_dim: int = _static()
    cardinality: int = _static()
    entries: int = _static()
    enumerated: bool = _static()
    layout: Layout = _static()  # noqa: RUF009  # a field, like the others

    @property
    def scored(self) -> bool:
        """Whether a gradient needs its ``log q``: neither a path nor a sum over its states."""
        return not self.reparameterized and not self.enumerated

    @property
    def drawn(self) -> bool:
        """Whether the site is drawn by the guide, with a density: neither data nor a function of other sites."""
        return not self.observed and not self.function


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PairTerms:
    """All sites of a run of a pair.

    Attributes:
        sites: latent sites in the guide's order, then observed ones in the model's.
        scale: what multiplies each datum's bound, ``[batch]``: N/B of the batch plates times a scale of all sites.
        mutable: what the programs' ``numpyro.mutable`` statements hold afterwards.
        unscaled: where sites have scales of their own, the same terms without them; otherwise None.
        model_order: names of the latent sites in the model's order.
        batch_shape: sizes of the batch plates; ``()`` where the weights are joint.
        subsampled: whether a batch plate is a part of a larger one.
        subsampled_inside: name of a subsampled plate whose N/B sits inside the log-weight, or None.
        tempered: name of a latent site with a scale of its own, which only an ELBO may have, or None.
        unset: names of ``numpyro.param`` statements that were given no value.
    """

    sites: tuple[SiteTerm, ...]
    scale: Array
    mutable: dict[str, Any]
    unscaled: "PairTerms | None"
    model_order: tuple[str, ...] = _static()
    batch_shape: tuple[int, ...] = _static()
    subsampled: bool = _static()
    subsampled_inside: str | None = _static()
    tempered: str | None = _static()
    unset: tuple[str, ...] = _static()

    @property
    def plain(self) -> "PairTerms":
        """The terms of the declared model: a scale on some sites belongs to the objective, not to the model."""
        return self if self.unscaled is None else self.unscaled

    @property
    def latents(self) -> tuple[SiteTerm, ...]:
        """The guide's sites, auxiliary ones included."""
        return tuple(site for site in self.sites if not site.observed)

    @property
    def log_likelihood(self) -> Any:
        """``log p(x | z)``; 0 where nothing is observed."""
        return _sum(site.log_p for site in self.sites if site.observed)

    @property
    def log_prior(self) -> Any:
        """``log p(z)``; 0 where nothing is latent."""
        return _sum(site.log_p for site in self.latents)

    @property
    def log_joint(self) -> Any:
        """``log p(x, z)``."""
        return self.log_likelihood + self.log_prior

    @property
    def log_guide(self) -> Any:
        """``log q(z | x)``; 0 where nothing is latent."""
        return _sum(site.log_q for site in self.latents)

    @property
    def log_weights(self) -> Array:
        """``log p(x, z) - log q(z | x)``."""
        weights: Array = self.log_joint - self.log_guide
        return weights

    @property
    def kl(self) -> Any:
        """``log q(z | x) - log p(z)``, whose mean over particles is KL(q || p); 0 without latents."""
        return self.log_guide - self.log_prior

    @property
    def score(self) -> Any:
        """``log q`` of the sites without a path, without scale and mask; 0 where there are none."""
        return _sum(site.score for site in self.latents if not site.reparameterized)

    def site(self, name: str) -> SiteTerm:
        """The site of that name."""
        return next(site for site in self.sites if site.name == name)

    def values(self) -> dict[str, Array]:
        """What the guide drew, by name."""
        return {site.name: site.value for site in self.sites if site.drawn}

    def all_terms(self) -> Iterator["PairTerms"]:
        """These terms, and those without scales of their own where they differ."""
        yield self
        if self.unscaled is not None:
            yield self.unscaled

    def require_importance_weights(self, num_particles: int) -> None:
        """Refuses terms whose log-weights are not importance weights.

        Raises:
            UnsupportedObjective: a point guide, a scale on latents alone, or N/B inside the weight at K > 1.
        """
        for site in self.latents:
            if site.point:
                raise UnsupportedObjective(
                    f"the guide is a point mass at site '{site.name}' (AutoDelta), which has no importance weights; "
                    "use `ELBO`, which then gives the MAP estimate, or a guide with a density"
                )
        if self.tempered is not None:
            raise UnsupportedObjective(
                f"the latent site '{self.tempered}' has a `handlers.scale` that the observed sites lack; a tempered "
                "prior is right for an ELBO only: use `ELBO`, or scale all sites alike"
            )
        if self.subsampled_inside is not None and num_particles > 1:
            raise UnsupportedObjective(
                f"the plate '{self.subsampled_inside}' is subsampled inside the log-weight, whose factor N/B would sit "
                "inside a logsumexp and bias the bound; use `ELBO`, one particle, or the whole plate"
            )


def _sum(terms: Iterable[Array | None]) -> Any:
    total: Any = 0.0
    for term in terms:
        if term is not None:
            total = total + term
    return total
