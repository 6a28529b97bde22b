"""Missing entries of data, filled in by a trained pair."""

from dataclasses import dataclass
from typing import Any

import torch
from pyro import distributions as dist
from torch import Tensor

from probgen.arguments import positive_int
from probgen.errors import DataError, ProgramError
from probgen.programs import SiteTerm, run_pair
from probgen.programs.modules import mode, modules_of
from probgen.programs.param_scope import Program
from probgen.seeding import seeded


@dataclass(frozen=True)
class Imputation:
    """Data with their missing entries filled in; entries that were given are as they were.

    Attributes:
        mean: estimate of E[x_missing | x_given], ``[B, *event_shape]``.
        std: of p(x_missing | x_given), estimated likewise; 0 where entries were given.
        sample: the last state of the chain: one draw of the missing entries, jointly.
    """

    mean: Tensor
    std: Tensor
    sample: Tensor


def impute(
    model: Program,
    guide: Program,
    x: Tensor,
    mask: Tensor,
    *args: Any,
    num_steps: int = 200,
    burn_in: int = 50,
    seed: int | None = 0,
    **kwargs: Any,
) -> Imputation:
    r"""Fills in missing entries by pseudo-Gibbs sampling.

    .. math::
        z^{(t)} \sim q(z \mid x_{\text{given}}, x_{\text{missing}}^{(t-1)}), \qquad
        x_{\text{missing}}^{(t)} \sim p(x_{\text{missing}} \mid z^{(t)})

    With the exact posterior as guide this is Gibbs sampling, and the chain draws from p(x_missing | x_given) in the
    long run; with another guide the result is biased by as much as the guide is wrong. The mean and the standard
    deviation are means over the chain of those of p(x | z), which vary less than the draws do. The entries of x must
    be independent given z.

    Args:
        model: a Pyro program whose first argument is x and whose likelihood has independent entries.
        guide: a Pyro program that takes the same arguments.
        x: ``[B, *event_shape]``; what stands at missing entries is not looked at, and may be NaN.
        mask: booleans of the shape of ``x``: True where the entry is given.
        *args: further arguments of the programs, such as labels.
        num_steps: steps of the chain that are averaged.
        burn_in: steps before those.
        seed: of the chain; None draws from the global generators.
        **kwargs: likewise.

    Returns:
        An :class:`Imputation`, in the dtype of the model.

    Raises:
        ArgumentError: a number of steps below 1.
        DataError: a mask of another shape or dtype, or a given entry that is not finite.
        ProgramError: the pair has no latent site, observes nothing of the shape of ``x``, or its entries of x are not
            independent given the latent sites.

    Source:
        Rezende, Mohamed, Wierstra (2014), Stochastic backpropagation and approximate inference in deep generative
        models, arXiv 1401.4082, appendix F. Mattei, Frellsen (2018), arXiv 1802.04826, on its bias.

    Example:
        >>> from probgen.guides import AmortizedNormal
        >>> from probgen.models import PPCA
        >>> x = torch.tensor([[0.5, float("nan"), 1.0]])
        >>> filled = impute(PPCA(3, 1), AmortizedNormal((3,), 1, (4,)), x, ~x.isnan(), num_steps=10)
        >>> bool(filled.mean.isfinite().all()), filled.mean[0, 0].item()
        (True, 0.5)
    """
    positive_int("num_steps", num_steps)
    positive_int("burn_in", burn_in, at_least=0)
    if guide is None:
        raise ProgramError(
            "without a guide there is nothing to alternate with: imputation needs a pair with latent sites"
        )
    _check(x, mask)
    given = torch.where(mask, x, torch.zeros_like(x))
    total = torch.zeros(2, *x.shape, dtype=torch.float64, device=x.device)  # first and second moments
    with seeded(seed), torch.no_grad(), mode(modules_of(model, guide), training=False):
        state = _first(model, guide, given, mask, args, kwargs)
        for step in range(burn_in + num_steps):
            p = _likelihood(model, guide, state, args, kwargs).p
            state = torch.where(mask, given.to(state.dtype), p.sample().reshape(state.shape))
            if step >= burn_in:
                total += torch.stack(_moments(p, state))
    mean, square = total / num_steps
    std = (square - mean**2).clamp_min(0.0).sqrt()
    dtype = state.dtype if state.is_floating_point() else torch.get_default_dtype()
    return Imputation(torch.where(mask, given, mean).to(dtype), torch.where(mask, 0.0, std).to(dtype), state)


def _check(x: Any, mask: Any) -> None:
    if not isinstance(x, Tensor) or not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != x.shape:
        what = f"{tuple(mask.shape)} {mask.dtype}" if isinstance(mask, Tensor) else type(mask).__name__
        raise DataError(f"`x` and `mask` must be tensors of one shape, the mask of booleans, got {what}")
    if not bool(torch.isfinite(x[mask]).all()):
        index = tuple(int(i) for i in (mask & ~torch.isfinite(x)).nonzero()[0])
        raise DataError(f"`x` holds {x[index].item()} at index {index}, which `mask` says is given; mark it as missing")


def _first(model: Program, guide: Program, x: Tensor, mask: Tensor, args: Any, kwargs: Any) -> Tensor:
    """Where the chain begins: given values of the same entry in other data, which every likelihood takes.

    Where no datum has the entry, it is the first value that is given at all; without any, 0.
    """
    flat, given = x.reshape(len(x), -1), mask.reshape(len(x), -1)
    anywhere = flat[given][0] if bool(given.any()) else flat.new_zeros(())
    columns = flat.gather(0, given.int().argmax(0, keepdim=True))  # the first datum that has the entry
    values = torch.where(given.any(0, keepdim=True), columns, anywhere).expand_as(flat).reshape(x.shape)
    start = torch.where(mask, x, values)
    site = _likelihood(model, guide, start, args, kwargs)
    return torch.where(mask, x.to(site.value.dtype), site.p.sample().reshape(x.shape))


def _likelihood(model: Program, guide: Program, x: Tensor, args: Any, kwargs: Any) -> SiteTerm:
    """The observed site of x, in a run with fresh latents.

    Raises:
        ProgramError: there is none, or its entries are not independent.
    """
    terms = run_pair(model, guide, x, *args, **kwargs)
    if not terms.latents:
        raise ProgramError("the pair has no latent site, so the missing entries cannot be drawn given one")
    site = next((site for site in terms.sites if site.observed and site.value.shape == x.shape), None)
    if site is None:
        raise ProgramError(f"the model observes no site of the shape of `x`, {tuple(x.shape)}")
    base = site.p
    while isinstance(base, torch.distributions.Independent | dist.MaskedDistribution):
        base = base.base_dist
    if base.event_dim:
        raise ProgramError(
            f"the entries of site '{site.name}' are not independent given the latent sites ({type(base).__name__}), so "
            "that the missing ones cannot be drawn without the given ones"
        )
    return site


def _moments(p: Any, state: Tensor) -> tuple[Tensor, Tensor]:
    """First and second moment of p(x | z); where the distribution does not say them, those of the draw."""
    mean, square = state.to(torch.get_default_dtype()) if not state.is_floating_point() else state, state**2
    try:
        mean = torch.where(torch.isnan(p.mean), mean, p.mean).reshape(state.shape)  # NaN: of a categorical distribution
        known = p.variance.reshape(state.shape) + mean**2
    except NotImplementedError:
        return mean, square
    return mean, torch.where(torch.isnan(known), square, known)
