"""A mixture of Gaussians with diagonal covariances, its component summed out or kept as a discrete site."""

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.nn import PyroModule
from torch import Tensor, nn

from probgen.arguments import positive_float, positive_int
from probgen.likelihoods import NormalFixed
from probgen.models._inputs import observed_batch
from probgen.programs.nonfinite import require_finite_evidence, require_finite_parameters


class GaussianMixture(PyroModule):
    r"""A mixture of C Gaussians with diagonal covariances.

    .. math:: p(x) = \sum_{c=1}^C \pi_c \prod_{d=1}^D N(x_d; \mu_{cd}, \sigma_{cd}^2)

    Sites: ``x`` of event shape ``[data_dim]`` and, if it is not summed out, the discrete ``z``, marked for parallel
    enumeration; plate ``data``.

    Args:
        data_dim: D, the size of a datum.
        num_components: C, the number of Gaussians.
        summed_out: whether the component is summed out, so that the model has no latent site.
        min_scale: lower bound of the standard deviations; without one the likelihood has no maximum, since a
            component can shrink onto a datum.

    Attributes:
        mixture_logits: log-weights up to a constant, ``[C]``.
        locs: means, ``[C, D]``; start at independent standard normals.
        raw_scales: ``scales = softplus(raw_scales) + min_scale``, ``[C, D]``; start at scales near 1.

    Raises:
        ArgumentError: a size below 1 or ``min_scale`` not above 0.

    Source:
        McLachlan, Peel (2000), Finite Mixture Models, Wiley, chapter 3.

    Example:
        >>> model = GaussianMixture(data_dim=2, num_components=3)
        >>> tuple(model.log_evidence(torch.zeros(4, 2)).shape), model.posterior(torch.zeros(4, 2)).probs.shape[-1]
        ((4,), 3)
    """

    def __init__(self, data_dim: int, num_components: int, *, summed_out: bool = True, min_scale: float = 1e-3) -> None:
        super().__init__()
        self.data_dim = positive_int("data_dim", data_dim)
        self.num_components = positive_int("num_components", num_components)
        self.summed_out = bool(summed_out)
        self.min_scale = positive_float("min_scale", min_scale)
        self.event_shape = (self.data_dim,)
        self.mixture_logits = nn.Parameter(torch.zeros(self.num_components))
        self.locs = nn.Parameter(torch.randn(self.num_components, self.data_dim))
        near_one = torch.tensor(1.0).expm1().log()  # softplus of it is 1
        self.raw_scales = nn.Parameter(near_one.repeat(self.num_components, self.data_dim))

    @property
    def scales(self) -> Tensor:
        """The standard deviations, ``[C, D]``."""
        return F.softplus(self.raw_scales) + self.min_scale

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
        require_finite_parameters(self)
        x, batch = observed_batch(NormalFixed(self.event_shape), x, num_samples, self.locs)
        components = dist.Categorical(logits=self.mixture_logits)
        locs, scales = self.locs, self.scales
        with pyro.plate("data", batch, dim=-1):
            if self.summed_out:
                mixture = dist.MixtureSameFamily(components, dist.Normal(locs, scales).to_event(1))
                return pyro.sample("x", mixture, obs=x)
            z = pyro.sample("z", components, infer={"enumerate": "parallel"})
            return pyro.sample("x", dist.Normal(locs[z], scales[z]).to_event(1), obs=x)

    def log_evidence(self, x: Tensor) -> Tensor:
        """Exact log p(x).

        Args:
            x: ``[B, data_dim]``.

        Returns:
            ``[B]``, in nats; differentiable.

        Raises:
            DataError: the data do not fit.
            DivergedError: a parameter is not finite.
        """
        log_prob = self._log_joint(x).logsumexp(-1)
        require_finite_evidence(self, x, log_prob)
        return log_prob

    def posterior(self, x: Tensor) -> dist.Categorical:
        """Exact p(z | x), the responsibilities.

        Args:
            x: ``[B, data_dim]``.

        Returns:
            A distribution of batch shape ``[B]`` over the components.

        Raises:
            DataError: the data do not fit.
            DivergedError: a parameter is not finite.
        """
        log_joint = self._log_joint(x)
        require_finite_evidence(self, x, log_joint.logsumexp(-1))
        return dist.Categorical(logits=log_joint)

    def _log_joint(self, x: Tensor) -> Tensor:
        """The joint log p(x, z = c), ``[B, C]``."""
        require_finite_parameters(self)
        x = NormalFixed(self.event_shape).cast(x, self.locs.dtype, device=self.locs.device)
        log_prob = dist.Normal(self.locs, self.scales).to_event(1).log_prob(x[:, None])
        return log_prob + self.mixture_logits.log_softmax(-1)
