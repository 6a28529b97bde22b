"""A variational auto-encoder's model with several stochastic layers."""

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule
from torch import Tensor, nn

from probgen.arguments import positive_float, sizes
from probgen.likelihoods import Likelihood, make_likelihood
from probgen.models._inputs import observed_batch, standard_normal
from probgen.nets import MLP, loc_and_scale, make_decoder
from probgen.nets.layers import Hidden, hidden_per_layer
from probgen.programs.nonfinite import require_finite_parameters


class HierarchicalVAE(PyroModule):
    r"""A deep latent-variable model with L stochastic layers.

    .. math::
        p(x, z_1, \dots, z_L) = N(z_L; 0, I)
        \prod_{l=1}^{L-1} N(z_l; \mu_l(z_{l+1}), \mathrm{diag}\,\sigma_l^2(z_{l+1})) \; p(x \mid \mathrm{decoder}(z_1))

    Sites: ``z_1`` (nearest the data) to ``z_L`` (top), ``x``; plate ``data``.

    Args:
        event_shape: the shape of one datum.
        latent_dims: dimensions of ``z_1``, ..., ``z_L``, from the data upwards.
        hidden: hidden widths of every network, nearest the data first; or one tuple for each stochastic layer,
            from the data upwards: ``((200, 200), (100, 100))`` is the two-layer net of Burda et al.
        likelihood: p(x | .): a name, a spec, or a :class:`probgen.likelihoods.Likelihood`.
        network: of the decoder of ``z_1``: ``"mlp"`` or ``"conv"``; the other layers are MLPs.
        activation: of the hidden layers.
        data_mean: the mean of the training data, ``[*event_shape]`` or a number, or None.
        min_scale: lower bound of the layers' standard deviations.

    Raises:
        ArgumentError: a size below 1, an unknown name, or a mean that does not fit.

    Source:
        Rezende, Mohamed, Wierstra (2014), arXiv 1401.4082; Burda, Grosse, Salakhutdinov (2016), arXiv 1509.00519.

    Example:
        >>> model = HierarchicalVAE((784,), latent_dims=(100, 50), hidden=((200, 200), (100, 100)))
        >>> tuple(model(num_samples=3).shape)
        (3, 784)
    """

    def __init__(
        self,
        event_shape: Sequence[int] = (784,),
        latent_dims: Sequence[int] = (100, 50),
        hidden: Hidden = (200, 200),
        likelihood: str | Likelihood = "bernoulli",
        *,
        network: str = "mlp",
        activation: str = "tanh",
        data_mean: Any = None,
        min_scale: float = 1e-3,
    ) -> None:
        super().__init__()
        self.likelihood = make_likelihood(likelihood, event_shape)
        self.event_shape = self.likelihood.event_shape
        self.latent_dims = sizes("latent_dims", latent_dims, at_least=1)
        self.min_scale = positive_float("min_scale", min_scale)
        widths = hidden_per_layer(hidden, len(self.latent_dims))
        self.decoder = make_decoder(
            self.latent_dims[0],
            widths[0],
            self.event_shape,
            self.likelihood.outputs_per_dim,
            network=network,
            activation=activation,
        )
        if data_mean is not None:
            self.decoder.set_output_bias(self.likelihood.output_bias(data_mean))
        self.priors = nn.ModuleList(  # priors[l - 1] gives z_l from z_{l+1}
            MLP(above, widths[layer + 1][::-1], 2 * below, activation=activation)
            for layer, (below, above) in enumerate(zip(self.latent_dims, self.latent_dims[1:], strict=False))
        )

    def decode(self, z: Tensor) -> TorchDistribution:
        """p(x | z_1).

        Args:
            z: values of ``z_1``, ``[*batch, latent_dims[0]]``.

        Returns:
            A distribution of batch shape ``batch`` and event shape ``event_shape``.
        """
        return self.likelihood.distribution(self.decoder(z))

    def forward(self, x: Tensor | None = None, *, num_samples: int = 1) -> Tensor:
        """Runs the program.

        Args:
            x: ``[B, *event_shape]``, or None to generate.
            num_samples: how many to generate without data.

        Returns:
            The value of site ``x``, ``[B, *event_shape]``.

        Raises:
            DataError: the data do not fit ``event_shape`` or the likelihood.
            DivergedError: a parameter is not finite.
        """
        parameter = next(self.parameters())
        require_finite_parameters(self)
        x, batch = observed_batch(self.likelihood, x, num_samples, parameter)
        with pyro.plate("data", batch, dim=-1):
            layer = len(self.latent_dims)
            z = pyro.sample(f"z_{layer}", standard_normal(self.latent_dims[-1], parameter))
            for network in reversed(self.priors):
                layer -= 1
                z = pyro.sample(f"z_{layer}", dist.Normal(*loc_and_scale(network(z), self.min_scale)).to_event(1))
            return pyro.sample("x", self.decode(z), obs=x)
