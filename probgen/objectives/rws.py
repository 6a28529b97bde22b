"""Reweighted wake-sleep."""

import math
from typing import Any, ClassVar

from torch import Tensor

from probgen.core import bounds
from probgen.core.estimators import Coefficients, wake_coefficients
from probgen.core.weights import normalized_weights
from probgen.errors import ArgumentError, UnsupportedObjective, nearest
from probgen.objectives.base import Estimate, Objective
from probgen.objectives.iwae import IWAE
from probgen.objectives.pair import PairLoss
from probgen.objectives.two_sided import GuideSide, TwoSided
from probgen.programs import PairTerms
from probgen.programs.dream import dream_pair
from probgen.programs.sampling import PLAIN, Sampling

UPDATES = ("wake", "sleep", "wake-sleep")


class RWS(TwoSided):
    r"""Reweighted wake-sleep: the model by importance weights, the guide by them, by dreams, or by both.

    .. math:: \theta: \sum_k w_k \nabla_\theta \log p(x, z_k), \qquad
              \phi_\mathrm{wake}: \sum_k w_k \nabla_\phi \log q(z_k \mid x), \qquad
              \phi_\mathrm{sleep}: \nabla_\phi \log q(z \mid x), \; (x, z) \sim p

    The weights are normalised for each datum. Wake is consistent: its bias is O(1/K); with one particle its mean is 0.
    Sleep is unbiased for ``E_p(x)[KL(p(z|x) || q(z|x))]``, of data that the model draws. Two players, ``"guide"`` and
    ``"model"``; the bound is the importance-weighted one.

    Args:
        num_particles: K samples per datum.
        guide_update: ``"wake"``, ``"sleep"``, or ``"wake-sleep"``, the mean of both.
        gradient: of wake: ``"self-normalized"`` (``"auto"`` is that), or ``"dreg"``, the same mean by the path of each
            sample with weights ``w_k - w_k^2``.
        vectorize_particles: run all particles at once; see :class:`Objective`.
        max_plate_nesting: how deep the programs' plates nest; guessed by a trial run where infinite.

    Raises:
        ArgumentError: an unknown update or gradient, fewer than one particle.
        UnsupportedObjective: as for IWAE; model and guide share a parameter; sleep for a model that observes something
            computed from its arguments.

    Source:
        Bornschein, Bengio (2015), Reweighted wake-sleep, arXiv 1406.2751; Tucker et al. (2019), arXiv 1810.04152.

    Example:
        >>> RWS(num_particles=10, guide_update="wake-sleep")
        RWS(num_particles=10, guide_update='wake-sleep', gradient='auto')
    """

    gradients: ClassVar[tuple[str, ...]] = ("auto", "self-normalized", "dreg")
    refused: ClassVar[dict[str, str]] = {
        "pathwise": (
            "the guide follows `log q` at samples of given weight, which has no path of its own; use "
            '`gradient="self-normalized"` or "dreg"'
        )
    }

    def __init__(
        self,
        *,
        num_particles: int = 5,
        guide_update: str = "wake",
        gradient: str = "auto",
        vectorize_particles: bool = True,
        max_plate_nesting: float = math.inf,
    ) -> None:
        self._check_gradient(gradient)
        if guide_update not in UPDATES:
            raise ArgumentError(f"unknown `guide_update={guide_update!r}`; {nearest(str(guide_update), UPDATES)}")
        if guide_update == "sleep" and gradient == "dreg":
            raise UnsupportedObjective(
                'the guide takes no sample in sleep, so there is no path for "dreg"; use `gradient="auto"`'
            )
        self.guide_update = guide_update
        run: dict[str, Any] = {"vectorize_particles": vectorize_particles, "max_plate_nesting": max_plate_nesting}
        chosen = "dreg" if gradient == "dreg" else "self-normalized"
        super().__init__(
            IWAE(num_particles=num_particles, **run),
            _side(guide_update, num_particles=num_particles, gradient=chosen, **run),
            loss_of="model",
            num_particles=num_particles,
            gradient=gradient,
            **run,
        )

    def __repr__(self) -> str:
        update = f"guide_update={self.guide_update!r}"
        return f"RWS(num_particles={self.num_particles}, {update}, gradient={self.gradient!r})"


def _side(guide_update: str, **options: Any) -> Objective:
    if guide_update == "wake":
        return _Wake(**options)
    sleep = _Sleep(max_plate_nesting=options["max_plate_nesting"])
    return sleep if guide_update == "sleep" else _WakeSleep(_Wake(**options), sleep)


class _Wake(GuideSide):
    """Ascent on ``E_p(z|x)[log q(z | x)]``."""

    def coefficients(self, integrand: Tensor) -> Coefficients:
        """Of wake-phi."""
        return wake_coefficients(integrand, reparameterized=self.freezes_guide)

    def optimised(self, terms: PairTerms, log_weights: Tensor) -> Tensor:
        """``sum_k w_k log q(z_k)``."""
        return (normalized_weights(log_weights) * terms.log_guide).sum(0)


class _Sleep(Objective):
    """Ascent on ``log q(z | x)`` for dreams of the model."""

    @property
    def sampling(self) -> Sampling:
        """As the distributions say."""
        return PLAIN

    def evaluate(self, pair: PairLoss, args: tuple[Any, ...], kwargs: dict[str, Any], **options: Any) -> Estimate:
        """Dreams and scores the guide."""
        options = {key: value for key, value in options.items() if key == "private"}
        run = pair.options_for(args, kwargs, validate=False, **options)
        terms = dream_pair(pair.model, pair.guide, args, kwargs, run)
        log_q = terms.log_guide[0]  # type: ignore[index]  # [batch]
        log_weights = bounds.iwae(terms.log_weights).detach()
        return Estimate(log_weights, log_q.detach(), log_q, terms.scale, terms)


class _WakeSleep(Objective):
    """The mean of both."""

    def __init__(self, wake: _Wake, sleep: _Sleep) -> None:
        super().__init__(num_particles=wake.num_particles)
        self._wake, self._sleep = wake, sleep

    def evaluate(self, pair: PairLoss, args: tuple[Any, ...], kwargs: dict[str, Any], **options: Any) -> Estimate:
        """Both, one after the other."""
        wake, sleep = (
            pair.other(side).objective.evaluate(pair.other(side), args, kwargs, **options)
            for side in (self._wake, self._sleep)
        )
        return Estimate(
            wake.bound, (wake.value + sleep.value) / 2, (wake.surrogate + sleep.surrogate) / 2, wake.scale, wake.terms
        )
