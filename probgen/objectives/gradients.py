"""From coefficients to a surrogate: a tensor whose *gradient* is the estimator that they describe."""

import torch
from torch import Tensor

from probgen.core.estimators import Coefficients
from probgen.errors import UnsupportedObjective
from probgen.programs import PairTerms


def weighted(terms: PairTerms, integrand: Tensor, coefficients: Coefficients) -> Tensor:
    """The surrogate of an estimator; see :mod:`probgen.core.estimators` for what the coefficients multiply.

    Where the guide was run again with frozen parameters the integrand has no gradient but the model's and that of the
    samples' path; a hook then turns the particle's weight in the former into that of the latter.

    Args:
        terms: of one run.
        integrand: the log-weights of that run, ``[K, batch]``, or what stands for them.
        coefficients: ``[K, batch]`` each.

    Returns:
        ``[batch]``; its value means nothing.
    """
    model, guide, score, path = coefficients
    if guide is None and path is not None:
        _scale_paths(terms, _ratio(path, model))
    if guide is None or guide is model:
        total = model * _live(integrand)
    else:
        log_p = terms.log_likelihood + terms.log_prior
        total = model * _live(log_p) - guide * _live(terms.log_guide)
    scores = [site.score for site in terms.latents if not site.reparameterized and site.score is not None]
    if score is not None and scores:
        total = total + score * torch.stack(scores).sum(0)
    return total.sum(0)


def _scale_paths(terms: PairTerms, weights: Tensor) -> None:
    for site in terms.latents:
        site.scale_gradient(weights)


def _ratio(path: Tensor, model: Tensor) -> Tensor:
    """What a weight of the model must be multiplied by to be that of the path."""
    return torch.where(model == 0.0, 0.0, path / torch.where(model == 0.0, 1.0, model))


def _live(term: Tensor | float) -> Tensor | float:
    """A term without what is not finite: a weight of 0 would make NaN of it."""
    return term if isinstance(term, float) else torch.where(torch.isfinite(term), term, 0.0)


def require_reparameterized(terms: PairTerms, gradient: str, instead: str) -> None:
    """Refuses a guide with a site that has no ``rsample``.

    Raises:
        UnsupportedObjective: naming the first such site.
    """
    for site in terms.latents:
        if not site.reparameterized:
            raise UnsupportedObjective(
                f"`gradient=\"{gradient}\"` needs `rsample` at every latent site, but the guide's site '{site.name}' "
                f"({type(site.q).__name__}) has none; use {instead}"
            )
