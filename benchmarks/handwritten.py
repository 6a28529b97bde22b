"""The competitor: an importance-weighted auto-encoder written by hand in plain, eager torch.

It imports neither probgen nor Pyro, and does nothing that the arithmetic does not ask for: log-densities in closed
form with their constants cancelled, one encoder pass for all particles, one fused optimizer.
"""

import itertools
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Likelihood = Callable[[Tensor, Tensor], Tensor]


def cross_entropy(logits: Tensor, x: Tensor) -> Tensor:
    """log p(x | logits), summed over the last dimension, as most people write it."""
    return -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)


def log_sigmoid(logits: Tensor, x: Tensor) -> Tensor:
    """The same for bits, in fewer passes over memory: log p(x) = log sigmoid((2 x - 1) logits)."""
    return F.logsigmoid((2 * x - 1) * logits).sum(-1)


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers of the given widths with tanh between them; Glorot's weights, biases of 0."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        linear = nn.Linear(before, after)
        nn.init.xavier_uniform_(linear.weight)
        nn.init.zeros_(linear.bias)
        layers += [linear, nn.Tanh()]
    return nn.Sequential(*layers[:-1])


class Net(nn.Module):
    """Encoder and decoder of the one-layer net of Burda et al. (2016), 784-200-200-50 by default.

    Args:
        data_dim: bits of a datum.
        hidden: widths of the encoder's hidden layers; the decoder is its mirror image.
        latent_dim: latent dimensions.
        likelihood: log p(x | logits), ``[K, B, data_dim]`` and ``[B, data_dim]`` to ``[K, B]``.
        min_scale: lower bound of the posterior's standard deviations.
    """

    def __init__(
        self,
        data_dim: int = 784,
        hidden: tuple[int, ...] = (200, 200),
        latent_dim: int = 50,
        likelihood: Likelihood = cross_entropy,
        min_scale: float = 1e-4,
    ) -> None:
        super().__init__()
        self.encoder = mlp(data_dim, *hidden, 2 * latent_dim)
        self.decoder = mlp(latent_dim, *hidden[::-1], data_dim)
        self.latent_dim, self.likelihood, self.min_scale = latent_dim, likelihood, min_scale

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Location and scale of q(z | x), each ``[B, latent_dim]``."""
        loc, raw_scale = self.encoder(x).chunk(2, dim=-1)
        return loc, F.softplus(raw_scale) + self.min_scale

    def log_weights(self, x: Tensor, num_particles: int) -> Tensor:
        """log p(x, z) - log q(z | x), ``[K, B]``, for K samples of z a datum."""
        return self.weigh(x, *self.encode(x), num_particles)

    def weigh(self, x: Tensor, loc: Tensor, scale: Tensor, num_particles: int) -> Tensor:
        """The same from the encoder's outputs; the normals' constants cancel."""
        noise = torch.randn(num_particles, *loc.shape)
        z = loc + scale * noise
        log_ratio = 0.5 * (noise**2 - z**2).sum(-1) + scale.log().sum(-1)  # log p(z) - log q(z | x)
        return self.likelihood(self.decoder(z), x) + log_ratio

    def loss(self, x: Tensor, num_particles: int) -> Tensor:
        """Minus the importance-weighted bound, summed over the batch; the ELBO's at K = 1."""
        return math.log(num_particles) * len(x) - self.log_weights(x, num_particles).logsumexp(0).sum()


def make_optimizer(net: nn.Module, lr: float = 1e-3) -> torch.optim.Optimizer:
    """Adam as one fused kernel for all parameters."""
    return torch.optim.Adam(net.parameters(), lr=lr, fused=True)


def train_step(net: Net, optimizer: torch.optim.Optimizer, x: Tensor, num_particles: int) -> float:
    """One step on one minibatch; returns the loss."""
    optimizer.zero_grad(set_to_none=True)
    loss = net.loss(x, num_particles)
    loss.backward()
    optimizer.step()
    return loss.item()


@dataclass(frozen=True)
class Trained:
    """What a training run leaves: the loss per datum of each step, and how long it took."""

    losses: Tensor
    seconds: float


def minibatches(probs: Tensor, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """One pass in a fresh order; every batch is binarized afresh."""
    order = torch.randperm(len(probs), generator=generator)
    for start in range(0, len(probs), batch_size):
        yield torch.bernoulli(probs[order[start : start + batch_size]], generator=generator)


def fit(
    net: Net,
    probs: Tensor,
    *,
    num_particles: int,
    num_steps: int,
    batch_size: int = 100,
    lr: float = 1e-3,
    seed: int = 0,
    progress: bool = False,
) -> Trained:
    """Trains on dynamically binarized data in memory, the learning rate falling to 0 by half a cosine.

    Args:
        net: trained in place.
        probs: probabilities of the bits, ``[N, data_dim]``.
        num_particles: K.
        num_steps: optimizer steps.
        batch_size: data a step.
        lr: the first learning rate.
        seed: of the posterior's noise, and of a generator for order and bits.
        progress: print a line every 5 % of the steps.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(int(torch.randint(2**62, ()).item()))
    optimizer = make_optimizer(net, lr)
    losses: list[float] = []
    start = time.perf_counter()
    while len(losses) < num_steps:
        for x in minibatches(probs, batch_size, generator):
            optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * len(losses) / num_steps))
            losses.append(train_step(net, optimizer, x, num_particles) / len(x))
            if progress and len(losses) % max(1, num_steps // 20) == 0:
                print(f"hand-written {len(losses)}/{num_steps} loss {losses[-1]:.2f}", file=sys.stderr, flush=True)
            if len(losses) == num_steps:
                break
    return Trained(torch.tensor(losses, dtype=torch.float64), time.perf_counter() - start)


@torch.no_grad()
def evaluate(
    net: Net, x: Tensor, *, num_particles: int = 5000, batch_size: int = 100, at_once: int = 40, seed: int = 0
) -> Tensor:
    """The importance-weighted estimate of log p(x) of every datum, ``[N]``.

    Args:
        net: a trained net.
        x: bits, ``[N, data_dim]``.
        num_particles: samples of q(z | x) a datum.
        batch_size: data at once.
        at_once: particles at once: enough for large matrices, few enough for the cache.
        seed: of the noise.
    """
    torch.manual_seed(seed)
    return torch.cat([_log_mean_weight(net, part, num_particles, at_once) for part in x.split(batch_size)])


def _log_mean_weight(net: Net, x: Tensor, num_particles: int, at_once: int) -> Tensor:
    loc, scale = net.encode(x)
    total = torch.full((len(x),), -math.inf)
    for first in range(0, num_particles, at_once):
        weights = net.weigh(x, loc, scale, min(at_once, num_particles - first))
        total = torch.logaddexp(total, weights.logsumexp(0))
    return total - math.log(num_particles)
