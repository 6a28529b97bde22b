"""What the amortized guides share: the checks of the data, the encoder, the plate."""

from collections.abc import Sequence
from typing import Any, final

import pyro
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule
from torch import Tensor, nn

from probgen.arguments import event_shape as checked_event_shape
from probgen.arguments import positive_float, positive_int
from probgen.errors import DataError
from probgen.nets import make_encoder
from probgen.nets.inputs import cast_event, cast_labels, check_finite, one_hot
from probgen.programs.nonfinite import require_finite_parameters
from probgen.validation import validates


def conditioning_batch(x: Any, event_shape: tuple[int, ...], guide: nn.Module) -> Tensor:
    """The data that a guide is conditioned on, in the dtype of its parameters.

    Values are looked at as :func:`probgen.validation.validates` says.

    Raises:
        DataError: missing, of another shape, dtype or device, empty, or not finite.
        DivergedError: a parameter of the guide is not finite.
    """
    if x is None:
        raise DataError("`x` is required: this guide is a distribution over latents given data; it generates none")
    require_finite_parameters(guide)
    parameter = next(guide.parameters())
    x = cast_event(x, event_shape, parameter.dtype, device=parameter.device)
    if validates():
        check_finite(x)
    return x


class Amortized(PyroModule):
    """q(z | x) with one latent site ``z``, whose parameters an encoder computes from the data: the interface.

    A subclass says how many numbers it needs (``num_outputs`` of ``__init__``) and what distribution they make
    (``_from_outputs``).
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        latent_dim: int,
        hidden: Sequence[int],
        num_outputs: int,
        *,
        num_classes: int | None,
        network: str,
        activation: str,
        min_scale: float,
    ) -> None:
        super().__init__()
        self.event_shape = checked_event_shape(event_shape)
        self.latent_dim = positive_int("latent_dim", latent_dim)
        self.num_classes = None if num_classes is None else positive_int("num_classes", num_classes)
        self.min_scale = positive_float("min_scale", min_scale)
        self.encoder = make_encoder(
            self.event_shape,
            hidden,
            num_outputs,
            network=network,
            activation=activation,
            context_features=self.num_classes or 0,
        )

    def _from_outputs(self, outputs: Tensor) -> TorchDistribution:
        """The distribution of z from the encoder's outputs, ``[B, num_outputs]``."""
        raise NotImplementedError

    @final
    def posterior(self, x: Tensor, y: Tensor | None = None) -> TorchDistribution:
        """q(z | x), or q(z | x, y).

        Args:
            x: ``[B, *event_shape]``.
            y: ``[B]`` labels, with ``num_classes``.

        Returns:
            A distribution of batch shape ``[B]`` and event shape ``[latent_dim]``.

        Raises:
            DataError: the data or labels do not fit.
        """
        x = conditioning_batch(x, self.event_shape, self)
        return self._from_outputs(self.encoder(x, self._context(x, y)))

    def _context(self, x: Tensor, y: Tensor | None) -> Tensor | None:
        if self.num_classes is None:
            if y is not None:
                raise DataError("`y` was given, but the guide was built without `num_classes`")
            return None
        y = cast_labels(y, self.num_classes, len(x), validate=validates())
        return one_hot(y, self.num_classes, x.dtype)

    def forward(self, x: Tensor | None = None, y: Tensor | None = None, *, num_samples: int = 1) -> Tensor:
        """Runs the program.

        Args:
            x: ``[B, *event_shape]``; required.
            y: ``[B]`` labels; required with ``num_classes``.
            num_samples: taken because the model takes it; data decide the batch.

        Returns:
            The value of site ``z``, ``[B, latent_dim]``.

        Raises:
            DataError: the data or labels are missing or do not fit.
        """
        q = self.posterior(x, y)  # type: ignore[arg-type]  # None is refused there
        with pyro.plate("data", q.batch_shape[0], dim=-1):
            z: Tensor = pyro.sample("z", q)
            return z
