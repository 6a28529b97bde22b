"""A normalizing-flow guide: a conditional neural spline flow on top of a diagonal normal."""

import importlib
import sys
from collections.abc import Sequence
from typing import Any

import torch
from pyro.contrib.zuko import ZukoToPyro
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor

from probgen.arguments import positive_int, sizes
from probgen.errors import MissingExtra
from probgen.guides._amortized import Amortized
from probgen.nets import loc_and_scale


def import_zuko() -> Any:
    """The package zuko, imported without its process-wide side effect.

    zuko switches off the validation of all torch distributions when it is imported; here that is put back.

    Raises:
        MissingExtra: zuko is not installed.
    """
    if sys.modules.get("zuko") is not None:
        return sys.modules["zuko"]
    distribution = torch.distributions.Distribution
    validates = distribution._validate_args
    try:
        zuko = importlib.import_module("zuko")
    except ImportError as error:
        raise MissingExtra('AmortizedFlow needs zuko: pip install "probgen[flows]"') from error
    finally:
        distribution.set_default_validate_args(validates)
    return zuko


class _Standardize(torch.distributions.Transform):
    """``(z - loc) / scale`` over the last dimension.

    torch's own AffineTransform counts the batch dimensions of its parameters as dimensions of the event.
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector
    bijective = True

    def __init__(self, loc: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.loc, self.scale = loc, scale

    def _call(self, x: Tensor) -> Tensor:
        return (x - self.loc) / self.scale

    def _inverse(self, y: Tensor) -> Tensor:
        return self.loc + self.scale * y

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Minus the sum of the log-scales, ``[*batch]``."""
        return -self.scale.log().sum(-1).expand(x.shape[:-1])


class AmortizedFlow(Amortized):
    r"""A conditional coupling flow.

    .. math::
        z = \mu(x) + \sigma(x) \odot T_1^{-1}(\cdots T_n^{-1}(\epsilon; h(x)) \cdots; h(x)), \quad \epsilon \sim N(0, I)

    The encoder gives :math:`\mu`, :math:`\sigma` and the context h. Each :math:`T_i` transforms one half of the
    dimensions by monotonic rational-quadratic splines that depend on the other half and on h (the halves alternate),
    so that neither sampling nor the density of an arbitrary value needs a loop over dimensions. With
    ``latent_dim=1`` there are no halves: each :math:`T_i` is one spline that depends on h alone.

    Splines act on [-5, 5] in units of the posterior and are the identity outside; slopes are bounded, so densities
    stay finite.

    Site: ``z`` of event shape ``[latent_dim]``, reparameterized; plate ``data``.

    Args:
        event_shape: the shape of one datum.
        latent_dim: the number of latent dimensions.
        hidden: widths or channels of the encoder, nearest the data first; see :class:`AmortizedNormal`.
        num_classes: with it the guide takes labels too, q(z | x, y).
        network: ``"mlp"`` or ``"conv"``.
        activation: of the encoder's hidden layers.
        min_scale: lower bound of :math:`\sigma`.
        num_transforms: n, at least 2 for every dimension to be transformed given the others.
        bins: of each spline.
        context_dim: size of h.
        flow_hidden: widths of the hidden layers (ReLU) of the networks inside the flow.

    Raises:
        ArgumentError: a size below 1, an unknown name, or ``min_scale`` not above 0.
        MissingExtra: zuko is not installed.

    Source:
        Durkan, Bekasov, Murray, Papamakarios (2019), Neural spline flows, arXiv 1906.04032; Rezende, Mohamed (2015),
        Variational inference with normalizing flows, arXiv 1505.05770.

    Example:
        >>> guide = AmortizedFlow((16,), latent_dim=3, hidden=(8,))
        >>> q = guide.posterior(torch.zeros(5, 16))
        >>> tuple(q.log_prob(torch.ones(5, 3)).shape)
        (5,)
    """

    def __init__(
        self,
        event_shape: Sequence[int] = (784,),
        latent_dim: int = 50,
        hidden: Sequence[int] = (200, 200),
        *,
        num_classes: int | None = None,
        network: str = "mlp",
        activation: str = "tanh",
        min_scale: float = 1e-4,
        num_transforms: int = 3,
        bins: int = 8,
        context_dim: int = 64,
        flow_hidden: Sequence[int] = (64, 64),
    ) -> None:
        zuko = import_zuko()
        latent_dim = positive_int("latent_dim", latent_dim)
        context_dim = positive_int("context_dim", context_dim)
        super().__init__(
            event_shape,
            latent_dim,
            hidden,
            2 * latent_dim + context_dim,
            num_classes=num_classes,
            network=network,
            activation=activation,
            min_scale=min_scale,
        )
        self.posterior_flow = zuko.flows.NSF(
            features=latent_dim,
            context=context_dim,
            bins=positive_int("bins", bins, at_least=2),
            transforms=positive_int("num_transforms", num_transforms),
            passes=2,  # coupling
            hidden_features=sizes("flow_hidden", flow_hidden),
        )

    def _from_outputs(self, outputs: Tensor) -> TorchDistribution:
        zuko = import_zuko()
        loc, scale = loc_and_scale(outputs[..., : 2 * self.latent_dim], self.min_scale)
        context = outputs[..., 2 * self.latent_dim :].to(loc.dtype)
        flow = self.posterior_flow(context)
        # zuko's transforms run from the data to the base.
        transform = zuko.transforms.ComposedTransform(_Standardize(loc, scale), flow.transform)
        return ZukoToPyro(zuko.distributions.NormalizingFlow(transform, flow.base))
