"""The variational auto-encoder's model: a standard normal latent and a neural decoder."""

from collections.abc import Sequence
from typing import Any

import pyro
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule
from torch import Tensor

from probgen.arguments import positive_int
from probgen.likelihoods import Likelihood, make_likelihood
from probgen.models._inputs import observed_batch, standard_normal
from probgen.nets import make_decoder
from probgen.programs.nonfinite import require_finite_parameters


class VAE(PyroModule):
    r"""A deep latent-variable model.

    .. math:: p(x, z) = N(z; 0, I) \; p(x \mid \mathrm{decoder}(z))

    Sites: ``z`` of event shape ``[latent_dim]``, ``x`` of event shape ``event_shape``; plate ``data``.

    Args:
        event_shape: the shape of one datum.
        latent_dim: the number of latent dimensions.
        hidden: widths of the decoder's layers (mlp) or channels of its convolutions (conv), nearest the data first;
            the same tuple makes a guide its mirror image.
        likelihood: p(x | .): a name, a spec such as ``"normal:min_scale=0.01"``, or a
            :class:`probgen.likelihoods.Likelihood`.
        network: ``"mlp"`` or ``"conv"``, which needs events (C, H, W).
        activation: of the hidden layers; a name in :data:`probgen.nets.ACTIVATIONS`.
        data_mean: the mean of the training data, ``[*event_shape]`` or a number; the decoder's output then starts
            there. See :meth:`probgen.likelihoods.Likelihood.output_bias`.

    Raises:
        ArgumentError: a size below 1, an unknown name, or a mean that does not fit.

    Source:
        Kingma, Welling (2014), Auto-encoding variational Bayes, arXiv 1312.6114; Rezende, Mohamed, Wierstra (2014),
        arXiv 1401.4082. The defaults are the one-layer net of Burda, Grosse, Salakhutdinov (2016), arXiv 1509.00519.

    Example:
        >>> model = VAE(event_shape=(784,), latent_dim=50, hidden=(200, 200), likelihood="bernoulli")
        >>> tuple(model(num_samples=3).shape)
        (3, 784)
    """

    def __init__(
        self,
        event_shape: Sequence[int] = (784,),
        latent_dim: int = 50,
        hidden: Sequence[int] = (200, 200),
        likelihood: str | Likelihood = "bernoulli",
        *,
        network: str = "mlp",
        activation: str = "tanh",
        data_mean: Any = None,
    ) -> None:
        super().__init__()
        self.likelihood = make_likelihood(likelihood, event_shape)
        self.event_shape = self.likelihood.event_shape
        self.latent_dim = positive_int("latent_dim", latent_dim)
        self.decoder = make_decoder(
            self.latent_dim,
            hidden,
            self.event_shape,
            self.likelihood.outputs_per_dim,
            network=network,
            activation=activation,
        )
        if data_mean is not None:
            self.decoder.set_output_bias(self.likelihood.output_bias(data_mean))

    def decode(self, z: Tensor) -> TorchDistribution:
        """p(x | z).

        Args:
            z: ``[*batch, latent_dim]``.

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
            z = pyro.sample("z", standard_normal(self.latent_dim, parameter))
            return pyro.sample("x", self.decode(z), obs=x)
