"""The importance-weighted bound."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from probgen.core import bounds
from probgen.core.estimators import Derivatives, power_mean
from probgen.errors import UnsupportedObjective
from probgen.objectives.base import Estimate, Objective
from probgen.objectives.generalized import generalized_surrogate
from probgen.objectives.gradients import require_reparameterized
from probgen.programs.resample import resample_pair
from probgen.programs.run import trace_leaves

if TYPE_CHECKING:
    from probgen.objectives.pair import PairLoss

STL_REFUSED = {
    "stl": (
        "dropping the score of log q is biased for importance-weighted bounds (its mean adds the wake-phi "
        'gradient, arXiv 1810.04152); use `gradient="dreg"`'
    )
}


class IWAE(Objective):
    r"""The importance-weighted bound: tighter than the ELBO, and tighter with every particle.

    .. math:: \mathcal{L}_K = E\Big[\log \frac1K \sum_{k=1}^K \frac{p(x, z_k)}{q(z_k \mid x)}\Big] \le \log p(x)

    Every gradient below is unbiased for that of the expected K-sample bound; ``w`` are the normalised weights.

    Args:
        num_particles: K samples per datum.
        gradient: what carries it.

            - ``"auto"``: pathwise where a site has ``rsample``, elsewhere as ``"rloo"``;
            - ``"pathwise"``: the path of every sample;
            - ``"dreg"``: doubly reparameterized: the guide's gradient takes squared weights, and its signal-to-noise
              ratio grows with K instead of falling;
            - ``"gdreg"``: the same also for the model's own learned distributions of latents (a learned prior, the
              layers of a hierarchy);
            - ``"score"``, ``"rloo"``, ``"vimco"``: the score function at every site,
              ``(L - b_k - w_k) grad log q(z_k)``, without baseline, with the bound of the other particles, or with
              theirs and their mean in the k-th place;
            - ``"resampled"``: all particles forward, one of them, drawn by weight, backward;
            - ``"resampled-dreg"``: likewise, the guide's gradient as in ``"dreg"``.
        vectorize_particles: run all particles at once; see :class:`Objective`.
        max_plate_nesting: how deep the programs' plates nest; guessed by a trial run where infinite.

    Raises:
        ArgumentError: an unknown gradient, fewer than one particle, or than two where a baseline needs them.
        UnsupportedObjective: weights that are no importance weights, or a site without ``rsample`` under a gradient
            that needs it.

    Source:
        Burda, Grosse, Salakhutdinov (2016), arXiv 1509.00519; Tucker, Lawson, Gu, Maddison (2019), Doubly
        reparameterized gradient estimators for Monte Carlo objectives, arXiv 1810.04152; Bauer, Mnih (2021), arXiv
        2101.11046; Mnih, Rezende (2016), arXiv 1602.06725.

    Example:
        >>> import torch
        >>> from probgen.guides import AmortizedNormal
        >>> from probgen.models import VAE
        >>> model, guide = VAE((4,), latent_dim=2), AmortizedNormal((4,), latent_dim=2)
        >>> loss = IWAE(num_particles=5, gradient="dreg")(model, guide)(torch.ones(3, 4))
        >>> loss.backward()
    """

    gradients: ClassVar[tuple[str, ...]] = (
        "auto",
        "pathwise",
        "dreg",
        "gdreg",
        "score",
        "rloo",
        "vimco",
        "resampled",
        "resampled-dreg",
    )
    refused: ClassVar[dict[str, str]] = STL_REFUSED

    def __init__(
        self,
        *,
        num_particles: int = 5,
        gradient: str = "auto",
        vectorize_particles: bool = True,
        max_plate_nesting: float = math.inf,
    ) -> None:
        super().__init__(
            num_particles=num_particles,
            gradient=gradient,
            vectorize_particles=vectorize_particles,
            max_plate_nesting=max_plate_nesting,
        )
        if not vectorize_particles and gradient in ("gdreg", "resampled", "resampled-dreg"):
            raise UnsupportedObjective(f'`gradient="{gradient}"` needs `vectorize_particles=True`, or use "dreg"')

    def combine(self, integrand: Tensor) -> Tensor:
        """``logsumexp - log K`` over particles."""
        return bounds.iwae(integrand)

    def derivatives(self, integrand: Tensor) -> Derivatives:
        """Of ``logsumexp``: w; the path takes w squared."""
        return power_mean(integrand, 1.0)

    def evaluate(self, pair: "PairLoss", args: tuple[Any, ...], kwargs: dict[str, Any], **options: Any) -> Estimate:
        """As the base; two of the gradients run the pair in ways of their own."""
        if torch.is_grad_enabled():
            if self.gradient == "gdreg":
                return self._generalized(pair, args, kwargs, **options)
            if self.gradient.startswith("resampled") and self.num_particles > 1:
                return self._resampled(pair, args, kwargs, **options)
        return super().evaluate(pair, args, kwargs, **options)

    def _generalized(self, pair: "PairLoss", args: tuple[Any, ...], kwargs: dict[str, Any], **options: Any) -> Estimate:
        run = pair.options_for(args, kwargs, **options)
        terms, samples = trace_leaves(pair.model, pair.guide, args, kwargs, run)
        require_reparameterized(terms, self.gradient, self._instead())
        log_weights = self.integrand(terms)
        value = self.combine(log_weights.detach())
        return self._estimate(terms, value, generalized_surrogate(terms, samples))

    def _resampled(self, pair: "PairLoss", args: tuple[Any, ...], kwargs: dict[str, Any], **options: Any) -> Estimate:
        frozen = self.gradient == "resampled-dreg"
        run = replace(pair.options_for(args, kwargs, **options), freeze_guide=frozen)
        drawn = resample_pair(pair.model, pair.guide, args, kwargs, replace(run, check_frozen=frozen and run.validate))
        require_reparameterized(drawn.terms, self.gradient, self._instead())
        value = self.combine(drawn.terms.log_weights.detach())
        log_p = drawn.chosen.log_likelihood + drawn.chosen.log_prior  # [1, batch]
        if not frozen:
            return self._estimate(drawn.terms, value, (log_p - drawn.log_q)[0])
        for site in drawn.chosen.latents:
            site.scale_gradient(drawn.weight)
        return self._estimate(drawn.terms, value, (log_p - drawn.chosen.log_guide)[0])  # type: ignore[index]

    def _estimate(self, terms: Any, value: Tensor, surrogate: Tensor) -> Estimate:
        bound = value if terms.unscaled is None else self.combine(self.integrand(terms.unscaled))
        return Estimate(bound.detach(), value.detach(), surrogate, terms.scale, terms)

    @property
    def freezes_guide(self) -> bool:
        """Whether the guide is run again with frozen parameters."""
        return self.gradient in ("dreg", "gdreg")

    def _instead(self) -> str:
        return 'gradient="auto", "vimco" or "rloo", which use the score function there'
