"""Upper bounds on log p(x), minimised over the guide: CUBO and EUBO."""

import math
from typing import Any, ClassVar

from torch import Tensor

from probgen.core import bounds
from probgen.core.estimators import Coefficients, cubo_coefficients, wake_coefficients
from probgen.errors import ArgumentError
from probgen.objectives.iwae import IWAE
from probgen.objectives.two_sided import GuideSide, TwoSided
from probgen.programs import PairTerms

PATHWISE_REFUSED = {
    "pathwise": (
        "the gradient of the K-sample estimate is that of no upper bound (with one particle it would lower the ELBO); "
        'use `gradient="self-normalized"` or "dreg"'
    )
}


class CUBO(TwoSided):
    r"""The chi upper bound, minimised over the guide; the model follows the importance-weighted bound.

    .. math:: \phi: \mathrm{CUBO}_n = \frac1n \log E_q\Big[\Big(\frac{p(x, z)}{q(z \mid x)}\Big)^n\Big] \ge \log p(x),
              \qquad \theta: \mathcal{L}_K

    The exact expectation is an upper bound; the K-sample estimate, which is what this loss and ``pyro.infer.SVI`` show
    (``probgen.SVI`` shows the model's bound), is biased downwards and bounds nothing. The guide's gradient is
    self-normalised, ``(1 - n)/n sum_k v_k grad log q(z_k)`` with ``v = softmax(n l)``: its bias is O(1/K), and with
    one particle it vanishes. Two players, ``"guide"`` and ``"model"``; :meth:`bound` is the model's lower bound.

    Args:
        n: the order, above 1.
        num_particles: K samples per datum.
        gradient: ``"self-normalized"`` (``"auto"`` is that), or ``"dreg"``, the same mean by the path of each sample
            with weights ``(n - 1) (v_k - v_k^2)``.
        vectorize_particles: run all particles at once; see :class:`Objective`.
        max_plate_nesting: how deep the programs' plates nest; guessed by a trial run where infinite.

    Raises:
        ArgumentError: ``n`` of 1 or less, an unknown gradient, fewer than one particle.
        UnsupportedObjective: as for IWAE; model and guide share a parameter.

    Source:
        Dieng, Tran, Ranganath, Paisley, Blei (2017), Variational inference via chi upper bound minimization, arXiv
        1611.00328.

    Example:
        >>> CUBO(n=2.0, num_particles=20)
        CUBO(n=2, num_particles=20, gradient='auto')
    """

    gradients: ClassVar[tuple[str, ...]] = ("auto", "self-normalized", "dreg")
    refused: ClassVar[dict[str, str]] = PATHWISE_REFUSED

    def __init__(
        self,
        *,
        n: float = 2.0,
        num_particles: int = 5,
        gradient: str = "auto",
        vectorize_particles: bool = True,
        max_plate_nesting: float = math.inf,
    ) -> None:
        self._check_gradient(gradient)
        if isinstance(n, bool) or not isinstance(n, int | float) or not 1 < n < math.inf:
            raise ArgumentError(f"`n`, the order of CUBO, must be a finite number above 1, got {n!r}")
        self.n = float(n)
        run: dict[str, Any] = {"vectorize_particles": vectorize_particles, "max_plate_nesting": max_plate_nesting}
        chosen = "dreg" if gradient == "dreg" else "self-normalized"
        super().__init__(
            IWAE(num_particles=num_particles, **run),
            _Chi(n=self.n, num_particles=num_particles, gradient=chosen, **run),
            loss_of="guide",
            num_particles=num_particles,
            gradient=gradient,
            **run,
        )

    def __repr__(self) -> str:
        return f"CUBO(n={self.n:g}, num_particles={self.num_particles}, gradient={self.gradient!r})"


class EUBO(TwoSided):
    r"""The evidence upper bound, minimised over the guide; the model follows the importance-weighted bound.

    .. math:: \phi: \mathrm{EUBO} = E_{p(z|x)}\Big[\log \frac{p(x, z)}{q(z \mid x)}\Big]
              = \log p(x) + KL(p(z \mid x) \| q(z \mid x)), \qquad \theta: \mathcal{L}_K

    The expectation is taken with self-normalised weights of K particles of the guide, which is what this loss and
    ``pyro.infer.SVI`` show (``probgen.SVI`` shows the model's bound): it is biased downwards by O(1/K) and bounds
    nothing. The guide's gradient is that of wake-phi in :class:`RWS`. Two players, ``"guide"`` and ``"model"``;
    :meth:`bound` is the model's lower bound.

    Args:
        num_particles: K samples per datum.
        gradient: ``"self-normalized"`` (``"auto"`` is that), ``-sum_k w_k grad log q(z_k)``, or ``"dreg"``, the same
            mean by the path of each sample with weights ``w_k - w_k^2``.
        vectorize_particles: run all particles at once; see :class:`Objective`.
        max_plate_nesting: how deep the programs' plates nest; guessed by a trial run where infinite.

    Raises:
        ArgumentError: an unknown gradient, fewer than one particle.
        UnsupportedObjective: as for IWAE; model and guide share a parameter.

    Source:
        Ji, Shen (2019), Stochastic variational inference via upper bound, arXiv 1912.00650.

    Example:
        >>> EUBO(num_particles=20)
        EUBO(num_particles=20, gradient='auto')
    """

    gradients: ClassVar[tuple[str, ...]] = ("auto", "self-normalized", "dreg")
    refused: ClassVar[dict[str, str]] = PATHWISE_REFUSED

    def __init__(
        self,
        *,
        num_particles: int = 5,
        gradient: str = "auto",
        vectorize_particles: bool = True,
        max_plate_nesting: float = math.inf,
    ) -> None:
        self._check_gradient(gradient)
        run: dict[str, Any] = {"vectorize_particles": vectorize_particles, "max_plate_nesting": max_plate_nesting}
        chosen = "dreg" if gradient == "dreg" else "self-normalized"
        super().__init__(
            IWAE(num_particles=num_particles, **run),
            _Posterior(num_particles=num_particles, gradient=chosen, **run),
            loss_of="guide",
            num_particles=num_particles,
            gradient=gradient,
            **run,
        )


class _Chi(GuideSide):
    """The guide's side of CUBO."""

    def __init__(self, *, n: float, **options: object) -> None:
        super().__init__(**options)  # type: ignore[arg-type]
        self.n = n

    def coefficients(self, integrand: Tensor) -> Coefficients:
        """Of the descent on CUBO."""
        return cubo_coefficients(integrand, self.n, reparameterized=self.freezes_guide)

    def optimised(self, terms: PairTerms, log_weights: Tensor) -> Tensor:
        """Minus CUBO."""
        return -bounds.cubo(log_weights, self.n)


class _Posterior(GuideSide):
    """The guide's side of EUBO."""

    def coefficients(self, integrand: Tensor) -> Coefficients:
        """Of the descent on EUBO, which is the ascent of wake-phi."""
        return wake_coefficients(integrand, reparameterized=self.freezes_guide)

    def optimised(self, terms: PairTerms, log_weights: Tensor) -> Tensor:
        """Minus EUBO."""
        return -bounds.eubo(log_weights)
