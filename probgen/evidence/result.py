"""What an evaluation returns: estimates of log p(x) per datum, what kind they are, and how far to trust them."""

import math
from dataclasses import dataclass, field

from torch import Tensor

from probgen.core.weights import khat_threshold

ACTIVE = 0.01  # variance over the data of the posterior mean (Burda et al. 2016, section 5.2)


@dataclass(frozen=True, eq=False, repr=False)
class Evidence:
    r"""Estimates of log p(x), per datum and in nats; tensors are float64 on the CPU.

    Two errors stand apart: :attr:`standard_error` says how the mean would vary with other *data*,
    :attr:`mean_monte_carlo_error` how it would with other *particles*.

    Attributes:
        log_prob: estimate of log p(x), ``[N]``; NaN where ``kind`` is ``"none"``.
        elbo: evidence lower bound from the same particles, ``[N]``; for a point guide log p(x, z) at the point.
        kl: estimate of KL(q(z | x) || p(z)), ``[N]``.
        ess: effective sample size, between 1 and ``num_particles``, ``[N]``.
        khat: Pareto k-hat of the weights, ``[N]``; -inf for a perfect guide, NaN for fewer than 21 particles.
        monte_carlo_error: standard error of ``log_prob`` by the delta method, ``[N]``; NaN for one particle.
        kind: ``"exact"``; ``"lower"`` (in expectation at most log p(x)); or ``"none"``: no estimate of log p(x), see
            ``note``.
        num_particles: K; 1 where the evidence is exact.
        unit_variances: variance over the data of each latent dimension's posterior mean, by site; without the sites
            that have none: discrete or global ones, all of them for one particle or one datum.
        dims: entries of a datum where all of them are discrete and none is masked; otherwise None.
        joint: whether the one entry is log p of all data together, because a latent site is shared by them.
        note: why ``kind`` is ``"none"``.

    Example:
        >>> import torch
        >>> ones = torch.ones(2, dtype=torch.float64)
        >>> evidence = Evidence(-3 * ones, -5 * ones, ones, 40 * ones, 0.2 * ones, 0.1 * ones, "lower", 100)
        >>> evidence
        Evidence(log p(x) = -3.000 +- 0.000 over 2 data +- 0.071 Monte Carlo nats, lower, 100 particles)
        >>> evidence.gap
        2.0
    """

    log_prob: Tensor
    elbo: Tensor
    kl: Tensor
    ess: Tensor
    khat: Tensor
    monte_carlo_error: Tensor
    kind: str
    num_particles: int
    unit_variances: dict[str, Tensor] = field(default_factory=dict)
    dims: int | None = None
    joint: bool = False
    note: str = ""

    @property
    def mean(self) -> float:
        """Mean of ``log_prob`` over the data, in nats per datum."""
        return float(self.log_prob.mean())

    @property
    def standard_error(self) -> float:
        """Standard error of :attr:`mean` over the data, ``std / sqrt(N)``; NaN for one datum."""
        return standard_error(self.log_prob)

    @property
    def mean_monte_carlo_error(self) -> float:
        """Standard error of :attr:`mean` over the particles, ``sqrt(sum_i se_i^2) / N``."""
        return float((self.monte_carlo_error**2).sum().sqrt()) / len(self.monte_carlo_error)

    @property
    def gap(self) -> float:
        """Mean of ``log_prob - elbo``: an estimate of KL(q(z | x) || p(z | x)), in nats per datum."""
        return float((self.log_prob - self.elbo).mean())

    @property
    def khat_threshold(self) -> float:
        """The largest k-hat at which the weights can be trusted, ``min(1 - 1 / log10 K, 0.7)``."""
        return khat_threshold(self.num_particles)

    @property
    def khat_share(self) -> float:
        """Share of the data whose k-hat is over the threshold; NaN where k-hat is not known."""
        if bool(self.khat.isnan().any()):
            return math.nan
        if self.kind == "exact":
            return 0.0
        return float((self.khat > self.khat_threshold).double().mean())

    @property
    def active_units(self) -> int | None:
        """Number of latent dimensions whose posterior mean varies by more than 0.01 over the data; None if unknown.

        Source:
            Burda, Grosse, Salakhutdinov (2016), Importance weighted autoencoders, arXiv 1509.00519, section 5.2.
        """
        if not self.unit_variances:
            return None
        return sum(int((variance > ACTIVE).sum()) for variance in self.unit_variances.values())

    @property
    def bits_per_dim(self) -> float | None:
        """``-mean / (D ln 2)``, or None where the data are not discrete."""
        return None if self.dims is None else -self.mean / (self.dims * math.log(2))

    def __repr__(self) -> str:
        if self.kind == "none":
            return f"Evidence(none: {self.note})"
        subject = "log p(all data)" if self.joint else "log p(x)"
        over = "" if self.joint else f" +- {self.standard_error:.3f} over {len(self.log_prob)} data"
        particles = "" if self.kind == "exact" else f", {self.num_particles} particles"
        return (
            f"Evidence({subject} = {self.mean:.3f}{over} +- {self.mean_monte_carlo_error:.3f} Monte Carlo nats, "
            f"{self.kind}{particles})"
        )


def standard_error(values: Tensor) -> float:
    """Standard error of the mean of ``[N]`` values; NaN for one.

    Example:
        >>> import torch
        >>> round(standard_error(torch.tensor([1.0, 3.0])), 5)
        1.0
    """
    return math.nan if len(values) < 2 else float(values.std()) / math.sqrt(len(values))
