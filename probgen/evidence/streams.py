"""Running statistics over particles and over data: what is kept does not grow with the number of particles."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from probgen.core.weights import pareto_khat_from_tail, tail_length


def widest(tensor: Tensor) -> Tensor:
    """The tensor in float64, or in float32 on devices that have no more."""
    return tensor.to(torch.float32 if tensor.device.type == "mps" else torch.float64)


@dataclass(frozen=True)
class WeightStatistics:
    """What one minibatch's log-weights amount to; every field is ``[batch]``, in nats but for ``ess`` and ``khat``.

    Attributes:
        log_prob: ``log mean_k w_k``.
        elbo: ``mean_k log w_k``.
        kl: ``mean_k (log q - log p)(z_k)``.
        ess: ``(sum_k w_k)^2 / sum_k w_k^2``.
        khat: Pareto k-hat.
        monte_carlo_error: standard error of ``log_prob``.
    """

    log_prob: Tensor
    elbo: Tensor
    kl: Tensor
    ess: Tensor
    khat: Tensor
    monte_carlo_error: Tensor


class WeightStream:
    r"""Log-weights ``[k, batch]`` of one minibatch, chunk by chunk.

    Sums are kept in float64 in log space, :math:`\log\sum_k w_k` and :math:`\log\sum_k w_k^2`, and of the weights
    themselves only the largest, which k-hat needs: ``tail_length(num_particles) + 1`` per datum, in their own dtype,
    whose rounding decides what counts as a flat tail.

    Args:
        num_particles: K, the number of particles of all chunks together.

    Example:
        >>> stream = WeightStream(4)
        >>> for chunk in (torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0], [7.0]])):
        ...     stream.update(chunk.log(), torch.zeros(2, 1))
        >>> round(float(stream.statistics().log_prob.exp()), 5)
        4.0
    """

    def __init__(self, num_particles: int) -> None:
        self.num_particles = num_particles
        self._kept = min(tail_length(num_particles) + 1, num_particles)
        self._log_sum: Tensor | None = None
        self._log_sum_squares: Tensor | None = None
        self._sum: Tensor | float = 0.0
        self._kl_sum: Tensor | float = 0.0
        self._tail: Tensor | None = None

    def update(self, log_weights: Tensor, kl: Tensor) -> None:
        """Adds a chunk: log-weights and ``log q - log p``, both ``[k, batch]``."""
        wide = widest(log_weights)
        self._log_sum = _logaddexp(self._log_sum, wide.logsumexp(0))
        self._log_sum_squares = _logaddexp(self._log_sum_squares, (2 * wide).logsumexp(0))
        self._sum = self._sum + wide.sum(0)
        self._kl_sum = self._kl_sum + widest(kl).sum(0)
        self._tail = _largest(self._tail, log_weights, self._kept)

    def statistics(self) -> WeightStatistics:
        """The statistics of all chunks so far, which must hold ``num_particles`` particles."""
        if self._log_sum is None or self._log_sum_squares is None or self._tail is None:
            raise RuntimeError("statistics of no particles")
        count = self.num_particles
        inverse_ess = torch.exp(self._log_sum_squares - 2 * self._log_sum).clamp_min(1 / count)
        inverse_ess = torch.where(self._log_sum == -math.inf, math.inf, inverse_ess)
        return WeightStatistics(
            log_prob=self._log_sum - math.log(count),
            elbo=self._sum / count,  # type: ignore[arg-type]
            kl=self._kl_sum / count,  # type: ignore[arg-type]
            ess=1 / inverse_ess,
            khat=widest(pareto_khat_from_tail(self._tail, count)),
            monte_carlo_error=log_mean_error(inverse_ess, count),
        )


def log_mean_error(inverse_ess: Tensor, num_particles: int) -> Tensor:
    r"""Standard error of ``log mean_k w_k`` by the delta method.

    .. math:: se^2 = \frac{Var(w)}{K E[w]^2} \approx \frac{\sum_k w_k^2}{(\sum_k w_k)^2} - \frac1K

    Args:
        inverse_ess: ``sum w^2 / (sum w)^2``, ``[batch]``; at least 1/K.
        num_particles: K, of all chunks together.

    Returns:
        ``[batch]``, in nats; NaN for one particle, which says nothing about its own error. Too small where the
        weights have heavy tails (k-hat above 1/2: their variance is infinite).

    Example:
        >>> log_mean_error(torch.tensor([0.01, 0.05]), 100)
        tensor([0.0000, 0.2000])
    """
    if num_particles == 1:
        return torch.full_like(inverse_ess, math.nan)
    return (inverse_ess - 1 / num_particles).clamp_min(0.0).sqrt()


def _logaddexp(total: Tensor | None, term: Tensor) -> Tensor:
    return term if total is None else torch.logaddexp(total, term)


def _largest(tail: Tensor | None, log_weights: Tensor, count: int) -> Tensor:
    """The largest ``count`` entries along axis 0 of the tail and a new chunk."""
    joined = log_weights if tail is None else torch.cat((tail, log_weights))
    return joined if len(joined) <= count else joined.topk(count, dim=0, sorted=False).values


class UnitStream:
    r"""How much each latent dimension tells about the data: the variance over data of its posterior mean.

    .. math:: A_d = Var_x\big(E_{q(z|x)}[z_d]\big)

    The mean over K particles has a noise of its own, ``Var_q(z_d) / K``, which would pass for activity when K is
    small; its estimate is subtracted, so that the result is unbiased and may be slightly negative.

    Source:
        Burda, Grosse, Salakhutdinov (2016), Importance weighted autoencoders, arXiv 1509.00519, section 5.2.
    """

    def __init__(self) -> None:
        self._sites: dict[str, _UnitMoments] = {}
        self._lost: set[str] = set()

    def update(self, sums: Iterable[tuple[str, Tensor, Tensor]], num_particles: int) -> None:
        """Adds a minibatch.

        Args:
            sums: name, sum over particles and sum of squares over particles of each site, ``[batch, *units]``.
            num_particles: K, at least 2.
        """
        for name, total, squares in sums:
            mean = total / num_particles
            noise = (squares / num_particles - mean**2).clamp_min(0.0) / (num_particles - 1)  # Var / K, unbiased
            moments = self._sites.setdefault(name, _UnitMoments())
            if not moments.add(mean, noise):
                self._lost.add(name)

    def variances(self) -> dict[str, Tensor]:
        """``A_d`` by site, on the CPU; without the sites whose shape differs from minibatch to minibatch."""
        return {name: m.variance().cpu() for name, m in self._sites.items() if name not in self._lost and m.count > 1}


class _UnitMoments:
    """Mean and squared deviations of the posterior means, merged batch by batch (Chan, Golub, LeVeque 1979)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor | None = None
        self.deviations: Tensor | float = 0.0
        self.noise: Tensor | float = 0.0

    def add(self, means: Tensor, noise: Tensor) -> bool:
        """Adds ``[batch, *units]``; False where the units are not those of the earlier batches."""
        mean, size = means.mean(0), len(means)
        if self.mean is None:
            self.mean = torch.zeros_like(mean)
        if self.mean.shape != mean.shape:
            return False
        delta, total = mean - self.mean, self.count + size
        self.deviations = self.deviations + ((means - mean) ** 2).sum(0) + delta**2 * (self.count * size / total)
        self.mean = self.mean + delta * (size / total)
        self.noise = self.noise + noise.sum(0)
        self.count = total
        return True

    def variance(self) -> Tensor:
        return self.deviations / (self.count - 1) - self.noise / self.count  # type: ignore[return-value]
