"""Trains a critic between two samples: a small network, bounded steps, the best by a validation part."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from probgen.arguments import positive_float, positive_int, sizes
from probgen.core.divergences.critics import dual_terms
from probgen.errors import DataError
from probgen.nets import MLP

LARGEST_LOG_RATIO = 20.0  # of a critic, which is a smooth function of its network's output within
FEWEST = 20  # samples of each distribution
_CHECKS = 20  # how often the validation part is looked at
_VALIDATION = 0.2  # of the training part

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Settings:
    """How a critic is made and trained.

    Attributes:
        hidden: widths of the hidden layers.
        num_steps: of Adam, at most; the critic that is best on a validation part of the training half is kept.
        batch_size: samples of each distribution in a step.
        learning_rate: at the start, falling to 0 as a cosine.
    """

    hidden: tuple[int, ...] = (64, 64)
    num_steps: int = 400
    batch_size: int = 256
    learning_rate: float = 3e-3

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", sizes("hidden", self.hidden, at_least=1))
        positive_int("num_steps", self.num_steps)
        positive_int("batch_size", self.batch_size, at_least=2)
        positive_float("learning_rate", self.learning_rate)


class Critic(nn.Module):
    """A network of standardised data, to one number a datum.

    With ``is_ratio`` the number is a log-density ratio within ±20. Without, it is a 1-Lipschitz function: orthogonal
    layers, the sorting of pairs between them, and one scale for all dimensions.

    Source:
        Anil, Lucas, Grosse (2019), Sorting out Lipschitz function approximation, arXiv 1811.05381.
    """

    loc: Tensor
    scale: Tensor

    def __init__(self, x: Tensor, settings: Settings, *, is_ratio: bool) -> None:
        super().__init__()
        self.is_ratio = is_ratio
        spread = x.std(0) if is_ratio else ((x - x.mean(0)) ** 2).mean().sqrt().expand(x.shape[1])
        self.register_buffer("loc", x.mean(0))
        self.register_buffer("scale", torch.where(spread > 0, spread, torch.ones_like(spread)))
        self.net = _ratio_net(x.shape[1], settings) if is_ratio else _lipschitz_net(x.shape[1], settings)
        self.to(x)

    def forward(self, x: Tensor) -> Tensor:
        """The critic at ``[n, d]``, shape ``[n]``."""
        outputs: Tensor = self.net((x - self.loc) / self.scale)[:, 0]
        return LARGEST_LOG_RATIO * torch.tanh(outputs / LARGEST_LOG_RATIO) if self.is_ratio else outputs * self.scale[0]


def _ratio_net(features: int, settings: Settings) -> nn.Sequential:
    return MLP(features, settings.hidden, 1, activation="silu")


class _SortPairs(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, 2)).sort(-1).values.flatten(-2)


def _lipschitz_net(features: int, settings: Settings) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in settings.hidden:
        layers += [_orthogonal(features, width + width % 2), _SortPairs()]
        features = width + width % 2
    return nn.Sequential(*layers, _orthogonal(features, 1))


def _orthogonal(features: int, width: int) -> nn.Module:
    return parametrizations.orthogonal(nn.Linear(features, width), orthogonal_map="cayley")


def lipschitz_bound(critic: Critic) -> float:
    """The product of the largest singular values of a critic's layers, measured: at least its Lipschitz constant."""
    linear = [layer for layer in critic.net if isinstance(layer, nn.Linear)]
    return math.prod(float(torch.linalg.matrix_norm(layer.weight.detach().double(), ord=2)) for layer in linear)


def train(critic: Critic, x: Tensor, y: Tensor, loss: Loss, settings: Settings) -> None:
    """Minimises ``loss(outputs at x, outputs at y)`` and leaves the critic frozen at its best on a validation part."""
    (x, x_valid), (y, y_valid) = (_split(a, 1.0 - _VALIDATION) for a in (x, y))
    optimizer = torch.optim.Adam(critic.parameters(), lr=settings.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.num_steps)
    best, weights = math.inf, _weights(critic)
    every = max(1, settings.num_steps // _CHECKS)
    with torch.enable_grad():
        for step in range(1, settings.num_steps + 1):
            value = loss(critic(_batch(x, settings.batch_size)), critic(_batch(y, settings.batch_size)))
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            nn.utils.clip_grad_norm_(critic.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if step % every == 0 or step == settings.num_steps:
                with torch.no_grad():
                    found = float(loss(critic(x_valid), critic(y_valid)))
                if found < best:
                    best, weights = found, _weights(critic)
    if best == math.inf:
        raise DataError("the critic's training diverged at its first steps; scale the data, or lower `learning_rate`")
    critic.load_state_dict(weights)
    critic.requires_grad_(False)


def _weights(critic: Critic) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in critic.state_dict().items()}


def _batch(x: Tensor, size: int) -> Tensor:
    return x[torch.randint(len(x), (size,), device=x.device)] if size < len(x) else x


def _split(x: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """At random, at least two on either side."""
    order = torch.randperm(len(x), device=x.device)
    count = min(max(2, round(share * len(x))), len(x) - 2)
    return x[order[:count]], x[order[count:]]


def classifier_loss(s: Tensor, r: Tensor) -> Tensor:
    """Cross-entropy of the two classes, counting alike: its minimum is the log-density ratio."""
    return nn.functional.softplus(-s).mean() + nn.functional.softplus(r).mean()


def bound_loss(kind: str) -> Loss:
    """Minus the dual bound of an f, or of Donsker and Varadhan; for the total variation with a soft step."""
    if kind == "donsker-varadhan":
        return lambda s, r: r.logsumexp(0) - math.log(len(r)) - s.mean()
    if kind == "tv":
        return lambda s, r: 0.5 * (torch.tanh(0.5 * r).mean() - torch.tanh(0.5 * s).mean())
    return lambda s, r: dual_terms(r, kind)[1].mean() - dual_terms(s, kind)[0].mean()


def mean_difference(s: Tensor, r: Tensor) -> Tensor:
    """Minus the bound of Kantorovich and Rubinstein."""
    return r.mean() - s.mean()
