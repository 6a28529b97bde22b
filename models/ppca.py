"""Probabilistic principal component analysis: the linear-Gaussian model, whose evidence is exact."""

import math

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule
from torch import Tensor, nn

from probgen.arguments import positive_int
from probgen.likelihoods import NormalFixed
from probgen.models._inputs import observed_batch, standard_normal
from probgen.programs.nonfinite import require_finite_evidence, require_finite_parameters


class PPCA(PyroModule):
    r"""Probabilistic PCA.

    .. math::
        z \sim N(0, I_L), \quad x \mid z \sim N(W z + \mu, \sigma^2 I_D), \qquad
        x \sim N(\mu, W W^T + \sigma^2 I_D)

    Sites: ``z`` of event shape ``[latent_dim]``, ``x`` of event shape ``[data_dim]``; plate ``data``.

    Args:
        data_dim: D, the size of a datum.
        latent_dim: L, the number of latent dimensions.

    Attributes:
        loadings: W, ``[D, L]``; starts at independent normals, as 0 is a saddle point of the likelihood.
        mean: :math:`\mu`, ``[D]``.
        log_scale: :math:`\log \sigma`, a scalar.

    Raises:
        ArgumentError: a dimension below 1.

    Source:
        Tipping, Bishop (1999), Probabilistic principal component analysis, J. R. Statist. Soc. B 61(3).

    Example:
        >>> model = PPCA(data_dim=5, latent_dim=2)
        >>> tuple(model.log_evidence(torch.zeros(3, 5)).shape)
        (3,)
    """

    def __init__(self, data_dim: int, latent_dim: int) -> None:
        super().__init__()
        self.data_dim = positive_int("data_dim", data_dim)
        self.latent_dim = positive_int("latent_dim", latent_dim)
        self.event_shape = (self.data_dim,)
        self.loadings = nn.Parameter(torch.randn(self.data_dim, self.latent_dim) / math.sqrt(self.latent_dim))
        self.mean = nn.Parameter(torch.zeros(self.data_dim))
        self.log_scale = nn.Parameter(torch.zeros(()))

    def decode(self, z: Tensor) -> TorchDistribution:
        """p(x | z).

        Args:
            z: ``[*batch, latent_dim]``.

        Returns:
            A normal distribution of batch shape ``batch`` and event shape ``[data_dim]``.
        """
        return dist.Normal(z @ self.loadings.mT + self.mean, self.log_scale.exp()).to_event(1)

    def forward(self, x: Tensor | None = None, *, num_samples: int = 1) -> Tensor:
        """Runs the program.

        Args:
            x: ``[B, data_dim]``, or None to generate.
            num_samples: how many to generate without data.

        Returns:
            The value of site ``x``, ``[B, data_dim]``.

        Raises:
            DataError: the data do not fit.
            DivergedError: a parameter is not finite.
        """
        parameter = next(self.parameters())
        require_finite_parameters(self)
        x, batch = observed_batch(NormalFixed(self.event_shape), x, num_samples, parameter)
        with pyro.plate("data", batch, dim=-1):
            z = pyro.sample("z", standard_normal(self.latent_dim, parameter))
            return pyro.sample("x", self.decode(z), obs=x)

    def log_evidence(self, x: Tensor) -> Tensor:
        r"""Exact log p(x), by the L x L matrix :math:`M = W^T W + \sigma^2 I`.

        With :math:`r = x - \mu` and the posterior mean :math:`m = M^{-1} W^T r`,

        .. math::
            \log p(x) = -\tfrac12 \big( D \log 2\pi + (D - L) \log\sigma^2 + \log|M|
            + |r - W m|^2 / \sigma^2 + |m|^2 \big),

        where the quadratic form is a sum of squares, so that nothing cancels when the noise is small.

        Args:
            x: ``[B, data_dim]``.

        Returns:
            ``[B]``, in nats; differentiable.

        Raises:
            DataError: the data do not fit.
            DivergedError: a parameter is not finite.
        """
        require_finite_parameters(self)
        x = NormalFixed(self.event_shape).cast(x, self.mean.dtype, device=self.mean.device)
        factor, loc = self._posterior_factor(x)  # [L, L], [B, L]
        residual = x - self.mean - loc @ self.loadings.mT
        quadratic = (residual**2).sum(-1) * (-2 * self.log_scale).exp() + (loc**2).sum(-1)
        log_det = 2 * (self.data_dim - self.latent_dim) * self.log_scale + 2 * factor.diagonal().log().sum()
        log_prob = -0.5 * (self.data_dim * math.log(2 * math.pi) + log_det + quadratic)
        require_finite_evidence(self, x, log_prob)
        return log_prob

    def posterior(self, x: Tensor) -> dist.MultivariateNormal:
        r"""Exact p(z | x) = :math:`N(M^{-1} W^T (x - \mu), \sigma^2 M^{-1})`.

        Args:
            x: ``[B, data_dim]``.

        Returns:
            A normal distribution of batch shape ``[B]`` and event shape ``[latent_dim]``.

        Raises:
            DataError: the data do not fit.
            DivergedError: a parameter is not finite.
        """
        require_finite_parameters(self)
        x = NormalFixed(self.event_shape).cast(x, self.mean.dtype, device=self.mean.device)
        factor, loc = self._posterior_factor(x)
        precision = factor @ factor.mT * (-2 * self.log_scale).exp()
        return dist.MultivariateNormal(loc, precision_matrix=precision.expand(len(x), -1, -1))

    def _posterior_factor(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The Cholesky factor of M, ``[L, L]``, and the posterior means, ``[B, L]``."""
        identity = torch.eye(self.latent_dim, dtype=self.mean.dtype, device=self.mean.device)
        gram = self.loadings.mT @ self.loadings + (2 * self.log_scale).exp() * identity
        factor = torch.linalg.cholesky(gram)
        projected = (x - self.mean) @ self.loadings  # [B, L]
        return factor, torch.cholesky_solve(projected.mT, factor).mT
