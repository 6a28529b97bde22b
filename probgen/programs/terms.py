"""What one run of a pair leaves behind: a log-density per site, and how they add up to log-weights."""

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from probgen.errors import UnsupportedObjective


@dataclass(frozen=True)
class Layout:
    """Where a site's batch dimensions lie, and how its log-density becomes ``[K, batch]``.

    Attributes:
        depth: number of log-density dimensions, the particle dimension (the leftmost) included.
        batch_dims: negative dims of the batch plates, from the left.
        batch_shape: their sizes.
        num_particles: K of this run.
        mask: the site's mask, or None.
        inner_scale: what multiplies the site inside the log-weight.
    """

    depth: int
    batch_dims: tuple[int, ...]
    batch_shape: tuple[int, ...]
    num_particles: int
    mask: Tensor | bool | None = None
    inner_scale: Tensor | float = 1.0

    def collapse(self, density: Tensor) -> Tensor:
        """Masks, scales and sums a tensor laid out as the site's log-density to ``[K, batch]``."""
        density = self.arrange(density)
        inner = [dim for dim in range(1 - self.depth, 0) if dim not in self.batch_dims]
        if inner:
            density = density.sum(inner)
        return density.expand(self.num_particles, *self.batch_shape)

    def arrange(self, density: Tensor) -> Tensor:
        """Masks and scales a tensor laid out as the site's log-density, ``[K or 1, *plates]``."""
        density = scale_and_mask(density, self.inner_scale, self.mask)
        return density.reshape((1,) * (self.depth - density.dim()) + density.shape)

    def place(self, weights: Tensor, event_dim: int) -> Tensor:
        """Lays ``[K or 1, batch]`` out as ``[K or 1, *plates, *event]`` with 1 wherever there is no batch plate."""
        shape = [weights.shape[0]] + [1] * (self.depth - 1)
        for dim, size in zip(self.batch_dims, self.batch_shape, strict=True):
            shape[dim] = size
        return weights.reshape(shape + [1] * event_dim)

    def spread(self, weights: Tensor, value: Tensor, event_dim: int) -> Tensor:
        """Lays weights ``[K, batch]`` out so that they multiply a site's value ``[K, *plates, *event]``."""
        weights = self.place(weights, event_dim)
        while weights.dim() > value.dim():  # a run of one particle has no particle dimension
            weights = weights.squeeze(0)
        return weights


@dataclass(frozen=True)
class SiteTerm:
    """One site of a pair.

    Attributes:
        name: the site's name.
        value: its value; where the guide was frozen, an alias of the guide's sample.
        log_p: log-density under the model, ``[K, batch]``; None for a guide's auxiliary site.
        log_q: log-density under the guide, ``[K, batch]``; None for an observed site.
        score: ``log_q`` without scale and mask, for score-function gradients; None for an observed site.
        observed: whether the value is data.
        local: whether the site lies inside a plate over data.
        reparameterized: whether the guide samples it by ``rsample``.
        point: whether the guide is a point mass here (AutoDelta).
        mode: how the guide's site was sampled if not as its distribution says; see ``probgen.programs.sampling``.
        p: the model's distribution, or None.
        q: the guide's distribution, or None.
        layout: how its log-density under the guide (for an observed site, the model) becomes ``[K, batch]``.
        model_layout: the same for the model; None for an auxiliary site.
        density_p: the model's log-density as it was recorded; None if there is none, or particles ran one by one.
        density_q: likewise the guide's.
        frames: (name, dim) of the plates around it.
        parts: the same site of each particle, where these ran one by one.
    """

    name: str
    value: Tensor
    log_p: Tensor | None
    log_q: Tensor | None
    score: Tensor | None
    observed: bool
    local: bool
    reparameterized: bool
    point: bool
    p: Any
    q: Any
    layout: Layout
    model_layout: Layout | None
    mode: str | None = None
    density_p: Tensor | None = None
    density_q: Tensor | None = None
    frames: tuple[tuple[str, int], ...] = ()
    parts: tuple["SiteTerm", ...] = ()

    @property
    def plated_p(self) -> Tensor | None:
        """``log_p`` before inner plates are summed, ``[K or 1, *plates]``; None if unknown."""
        return None if self.density_p is None else self.model_layout.arrange(self.density_p)  # type: ignore[union-attr]

    @property
    def plated_q(self) -> Tensor | None:
        """The same of ``log_q``."""
        return None if self.density_q is None else self.layout.arrange(self.density_q)

    def scale_gradient(self, weights: Tensor) -> None:
        """Multiplies the gradient that reaches the guide through this sample by ``weights``, ``[K, batch]``.

        The hook sits on the alias that model and frozen guide saw: on the sample itself it would count once
        more for every later site that depends on it.
        """
        if self.value.requires_grad:
            factor = self.layout.spread(weights, self.value, self.q.event_dim)
            self.value.register_hook(lambda gradient: gradient * factor)


@dataclass(frozen=True)
class PairTerms:
    """All sites of one run of a pair.

    Attributes:
        sites: latent sites in the guide's order, then observed ones in the model's.
        model_order: names of the latent sites in the model's order.
        scale: what multiplies each datum's bound: N/B of the batch plates times a scale shared by all sites.
        batch_shape: sizes of the batch plates; ``()`` where the weights are joint.
        subsampled_inside: name of a subsampled plate whose N/B sits inside the log-weight, or None.
        tempered: name of a latent site with a scale of its own, which only an ELBO may have, or None.
        unscaled: where sites have scales of their own, the same terms without them; otherwise None.
    """

    sites: tuple[SiteTerm, ...]
    model_order: tuple[str, ...]
    scale: Tensor | float
    batch_shape: tuple[int, ...]
    subsampled_inside: str | None
    tempered: str | None = None
    unscaled: "PairTerms | None" = None

    @property
    def plain(self) -> "PairTerms":
        """The terms of the declared model: a scale on some sites belongs to the objective, not to the model."""
        return self if self.unscaled is None else self.unscaled

    @property
    def latents(self) -> tuple[SiteTerm, ...]:
        """The guide's sites, auxiliary ones included."""
        return tuple(site for site in self.sites if not site.observed)

    @property
    def log_likelihood(self) -> Tensor | float:
        """``log p(x | z)``, ``[K, batch]``; 0 where nothing is observed."""
        return _sum(site.log_p for site in self.sites if site.observed)

    @property
    def log_prior(self) -> Tensor | float:
        """``log p(z)``, ``[K, batch]``; 0 where nothing is latent."""
        return _sum(site.log_p for site in self.latents)

    @property
    def log_guide(self) -> Tensor | float:
        """``log q(z | x)``, ``[K, batch]``; 0 where nothing is latent."""
        return _sum(site.log_q for site in self.latents)

    @property
    def log_weights(self) -> Tensor:
        """``log p(x, z) - log q(z | x)``, ``[K, batch]``."""
        return self.log_likelihood + self.log_prior - self.log_guide  # type: ignore[return-value]

    @property
    def kl(self) -> Tensor | float:
        """``log q(z | x) - log p(z)``, ``[K, batch]``, whose mean over particles is KL(q || p); 0 without latents."""
        return self.log_guide - self.log_prior

    def require_importance_weights(self) -> None:
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
                f"the latent site '{self.tempered}' has a `poutine.scale` that the observed sites lack; a tempered "
                "prior is right for an ELBO only: use `ELBO`, or scale all sites alike"
            )
        if self.subsampled_inside is not None and self.log_weights.shape[0] > 1:
            raise UnsupportedObjective(
                f"the plate '{self.subsampled_inside}' is subsampled inside the log-weight, whose factor N/B would sit "
                "inside a logsumexp and bias the bound; use `ELBO`, one particle, or the whole plate"
            )


def _sum(terms: Iterable[Tensor | None]) -> Any:
    total: Any = 0.0
    for term in terms:
        if term is not None:
            total = total + term
    return total


def stack(runs: list[PairTerms]) -> PairTerms:
    """The terms of several one-particle runs on one minibatch as those of one run of K particles."""
    first = runs[0]
    sites = tuple(_stack_site([run.sites[i] for run in runs]) for i in range(len(first.sites)))
    unscaled = None if first.unscaled is None else stack([run.plain for run in runs])
    return replace(first, sites=sites, unscaled=unscaled)


def _stack_site(sites: list[SiteTerm]) -> SiteTerm:
    shared = {field.name: getattr(sites[0], field.name) for field in fields(SiteTerm) if field.name != "parts"}
    joined = {name: _concatenate([getattr(site, name) for site in sites]) for name in ("log_p", "log_q", "score")}
    shared |= {"density_p": None, "density_q": None}
    value = torch.stack([site.value for site in sites])
    return _StackedSite(**(shared | joined | {"value": value}), parts=tuple(sites))


@dataclass(frozen=True)
class _StackedSite(SiteTerm):
    def scale_gradient(self, weights: Tensor) -> None:
        for part, weight in zip(self.parts, weights.split(1), strict=True):
            part.scale_gradient(weight)


def _concatenate(terms: list[Tensor | None]) -> Tensor | None:
    present = [term for term in terms if term is not None]
    return torch.cat(present) if present else None
