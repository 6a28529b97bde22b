"""A variational auto-encoder's model that is told the class of each datum."""

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule
from torch import Tensor

from probgen.arguments import positive_int
from probgen.errors import ArgumentError
from probgen.likelihoods import Likelihood, make_likelihood
from probgen.models._inputs import observed_batch, standard_normal
from probgen.nets import concatenate, make_decoder
from probgen.nets.inputs import cast_labels, one_hot
from probgen.programs.nonfinite import require_finite_parameters
from probgen.validation import validates


class ConditionalVAE(PyroModule):
    r"""A deep latent-variable model of data given labels.

    .. math:: p(x, z \mid y) = N(z; 0, I) \; p(x \mid \mathrm{decoder}(z, y))

    Sites: ``z`` of event shape ``[latent_dim]``, ``x`` of event shape ``event_shape``; plate ``data``. Where neither
    data nor labels are given, labels are drawn uniformly at a site ``y``.

    Args:
        event_shape: the shape of one datum.
        latent_dim: the number of latent dimensions.
        hidden: widths or channels of the decoder, nearest the data first; see :class:`probgen.models.VAE`.
        likelihood: p(x | .): a name, a spec, or a :class:`probgen.likelihoods.Likelihood`.
        num_classes: labels are in ``{0, ..., num_classes - 1}``.
        network: ``"mlp"`` or ``"conv"``.
        activation: of the hidden layers.
        data_mean: the mean of the training data, ``[*event_shape]`` or a number, or None.

    Raises:
        ArgumentError: a size below 1, an unknown name, or a mean that does not fit.

    Source:
        Kingma, Rezende, Mohamed, Welling (2014), Semi-supervised learning with deep generative models (model M2
        with labels observed), arXiv 1406.5298.

    Example:
        >>> import torch
        >>> model = ConditionalVAE((16,), latent_dim=2, hidden=(8,), num_classes=10)
        >>> tuple(model(y=torch.tensor([3, 7])).shape)
        (2, 16)
    """

    def __init__(
        self,
        event_shape: Sequence[int] = (784,),
        latent_dim: int = 50,
        hidden: Sequence[int] = (200, 200),
        likelihood: str | Likelihood = "bernoulli",
        *,
        num_classes: int,
        network: str = "mlp",
        activation: str = "tanh",
        data_mean: Any = None,
    ) -> None:
        super().__init__()
        self.likelihood = make_likelihood(likelihood, event_shape)
        self.event_shape = self.likelihood.event_shape
        self.latent_dim = positive_int("latent_dim", latent_dim)
        self.num_classes = positive_int("num_classes", num_classes)
        self.decoder = make_decoder(
            self.latent_dim + self.num_classes,
            hidden,
            self.event_shape,
            self.likelihood.outputs_per_dim,
            network=network,
            activation=activation,
        )
        if data_mean is not None:
            self.decoder.set_output_bias(self.likelihood.output_bias(data_mean))

    def decode(self, z: Tensor, y: Tensor) -> TorchDistribution:
        """p(x | z, y).

        Args:
            z: ``[*batch, latent_dim]``.
            y: labels, broadcastable to ``batch``.

        Returns:
            A distribution of batch shape ``batch`` and event shape ``event_shape``.
        """
        return self.likelihood.distribution(self.decoder(concatenate(z, one_hot(y, self.num_classes, z.dtype))))

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, *, num_samples: int = 1) -> Tensor:
        """Runs the program.

        Args:
            x: ``[B, *event_shape]``, or None to generate.
            y: ``[B]`` labels; required with data. Without data they decide how many are generated.
            num_samples: how many to generate without data and labels.

        Returns:
            The value of site ``x``, ``[B, *event_shape]``.

        Raises:
            ArgumentError: ``num_samples`` is given beside labels of another number.
            DataError: the data do not fit ``event_shape`` or the likelihood, or labels are missing or do not fit.
            DivergedError: a parameter is not finite.
        """
        parameter = next(self.parameters())
        require_finite_parameters(self)
        x, batch = observed_batch(self.likelihood, x, num_samples, parameter)
        if x is not None or y is not None:
            y = cast_labels(y, self.num_classes, None if x is None else batch, validate=validates())
            if x is None and num_samples not in (1, len(y)):
                raise ArgumentError(f"`num_samples` is {num_samples}, but `y` has {len(y)} labels; give one of them")
            batch = len(y)
        with pyro.plate("data", batch, dim=-1):
            if y is None:
                y = pyro.sample("y", dist.Categorical(logits=parameter.new_zeros(self.num_classes)))
            z = pyro.sample("z", standard_normal(self.latent_dim, parameter))
            return pyro.sample("x", self.decode(z, y), obs=x)
