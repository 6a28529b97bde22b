"""Small pairs whose evidence is known in closed form, for the checks of objectives."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from probgen.data.batches import Call
from probgen.errors import UnsupportedObjective
from probgen.programs.param_scope import Program
from probgen.seeding import preserved_rng
from probgen.svi.parameters import trained_parameters

LOADINGS, SCALE = (0.8, -0.5, 0.3), 0.9


def double(*values: float) -> Tensor:
    """A vector in double precision."""
    return torch.tensor(values, dtype=torch.float64)


@dataclass(frozen=True)
class Pair:
    """A pair with its data.

    Attributes:
        model: the model; ``model.evidence(x)`` is log p(x), ``[batch]``.
        guide: the guide, or None.
        x: the data.
    """

    model: Any
    guide: Any
    x: Tensor


class LinearGaussian(PyroModule):
    r"""z ~ N(0, 1), x ~ N(w z, s^2 I) in three dimensions; the posterior is normal.

    Args:
        subsample: size of the minibatch that the plate draws, or None.
    """

    def __init__(self, subsample: int | None = None) -> None:
        super().__init__()
        self.loadings = nn.Parameter(double(*LOADINGS))
        self.log_scale = nn.Parameter(double(SCALE).log())
        self.subsample = subsample

    def forward(self, x: Tensor) -> None:
        """Runs the program."""
        with pyro.plate("data", len(x), subsample_size=self.subsample) as index:
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), x.new_ones(())))
            mean = z[..., None] * self.loadings
            pyro.sample("x", dist.Normal(mean, self.log_scale.exp()).to_event(1), obs=_taken(x, index, self.subsample))

    def evidence(self, x: Tensor) -> Tensor:
        """The log of p(x)."""
        covariance = self.loadings.outer(self.loadings) + (2 * self.log_scale).exp() * torch.eye(3).to(x)
        return dist.MultivariateNormal(x.new_zeros(3), covariance).log_prob(x)


class GaussianGuide(PyroModule):
    """The posterior of :class:`LinearGaussian`, moved and widened.

    Args:
        shift: what is added to its mean.
        factor: what multiplies its standard deviation.
        subsample: as the model's.
        noise: standard normal draws to take in place of fresh ones, ``[K, batch]``.
    """

    def __init__(
        self, shift: float = 0.3, factor: float = 1.3, subsample: int | None = None, noise: Tensor | None = None
    ) -> None:
        super().__init__()
        loadings = double(*LOADINGS)
        precision = 1 + (loadings**2).sum() / SCALE**2
        self.gain = nn.Parameter(loadings / SCALE**2 / precision)
        self.shift = nn.Parameter(double(shift))
        self.log_deviation = nn.Parameter((factor * precision**-0.5).log().reshape(1))
        self.subsample = subsample
        self.noise = None if noise is None else Noise(noise)

    def forward(self, x: Tensor) -> Tensor:
        """Runs the program."""
        with pyro.plate("data", len(x), subsample_size=self.subsample) as index:
            loc, scale = x[index] @ self.gain + self.shift, self.log_deviation.exp()
            if self.noise is None:
                return pyro.sample("z", dist.Normal(loc, scale))
            given = GivenNormal(loc, scale.expand_as(loc))
            given.noise = self.noise
            return pyro.sample("z", given)


class Noise:
    """Draws from a table: all particles at once where that is asked for, else one particle after the other."""

    def __init__(self, table: Tensor) -> None:
        self.table = table
        self.turns = {True: 0, False: 0}  # a trial run, without gradients, takes none of the draws of a loss

    def of(self, shape: torch.Size) -> Tensor:
        """Draws of a shape."""
        if shape == self.table.shape:
            return self.table
        turn = self.turns[torch.is_grad_enabled()]
        self.turns[torch.is_grad_enabled()] += 1
        return self.table[turn % len(self.table)]


class GivenNormal(dist.Normal):
    """A normal distribution whose draws are given."""

    noise: Noise

    def expand(self, batch_shape: Any, _instance: Any = None) -> "GivenNormal":
        """As a distribution of another batch shape."""
        new = super().expand(batch_shape, _instance)
        new.noise = self.noise
        return new

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008  # as in torch
        """The given draws."""
        shape = self._extended_shape(sample_shape)
        return self.loc + self.scale * self.noise.of(shape).expand(shape)


class Mixture(PyroModule):
    """A component of three, x ~ N(its mean, 1); the latent is discrete."""

    def __init__(self, subsample: int | None = None) -> None:
        super().__init__()
        self.prior = nn.Parameter(double(0.0, 0.5, -0.5))
        self.means = nn.Parameter(double(-1.0, 0.5, 2.0))
        self.subsample = subsample

    def forward(self, x: Tensor) -> None:
        """Runs the program."""
        with pyro.plate("data", len(x), subsample_size=self.subsample) as index:
            z = pyro.sample("z", dist.Categorical(logits=self.prior))
            pyro.sample("x", dist.Normal(self.means[z], x.new_ones(())), obs=_taken(x, index, self.subsample))

    def evidence(self, x: Tensor) -> Tensor:
        """The log of p(x)."""
        joint = self.prior.log_softmax(0) + dist.Normal(self.means, 1.0).log_prob(x[:, None])
        return joint.logsumexp(-1)


class MixtureGuide(PyroModule):
    """Components whose logits are linear in the datum; exact for :class:`Mixture` but for ``shift``."""

    def __init__(self, shift: float = 0.4, subsample: int | None = None) -> None:
        super().__init__()
        means, prior = double(-1.0, 0.5, 2.0), double(0.0, 0.5, -0.5)
        self.slope = nn.Parameter(means.clone())
        self.offset = nn.Parameter(prior - 0.5 * means**2 + shift * double(1.0, 0.0, -1.0))
        self.subsample = subsample

    def forward(self, x: Tensor) -> None:
        """Runs the program."""
        with pyro.plate("data", len(x), subsample_size=self.subsample) as index:
            pyro.sample("z", dist.Categorical(logits=self.slope * x[index, None] + self.offset))


class Gaussian(PyroModule):
    """x ~ N(m, s^2), without a latent."""

    def __init__(self, subsample: int | None = None) -> None:
        super().__init__()
        self.loc, self.log_scale = nn.Parameter(double(0.3)), nn.Parameter(double(0.1))
        self.subsample = subsample

    def forward(self, x: Tensor) -> None:
        """Runs the program."""
        with pyro.plate("data", len(x), subsample_size=self.subsample) as index:
            pyro.sample(
                "x", dist.Normal(self.loc, self.log_scale.exp()).to_event(0), obs=_taken(x, index, self.subsample)
            )

    def evidence(self, x: Tensor) -> Tensor:
        """The log of p(x)."""
        return dist.Normal(self.loc, self.log_scale.exp()).log_prob(x)


def _taken(x: Tensor, index: Any, subsample: int | None) -> Tensor:
    """The minibatch; the data themselves where there is none, since only then is it seen that they are."""
    return x if subsample is None else x[index]


def _vectors(size: int) -> Tensor:
    return 1.5 * torch.randn(size, 3, dtype=torch.float64)


def continuous(size: int = 6, subsample: int | None = None, *, exact: bool = False) -> Pair:
    """The linear-Gaussian pair; with ``exact`` the guide is the posterior."""
    guide = GaussianGuide(0.0, 1.0, subsample) if exact else GaussianGuide(subsample=subsample)
    return Pair(LinearGaussian(subsample), guide, _vectors(size))


def discrete(size: int = 6, subsample: int | None = None, *, exact: bool = False) -> Pair:
    """The pair with a discrete latent."""
    return Pair(Mixture(subsample), MixtureGuide(0.0 if exact else 0.4, subsample), _vectors(size)[:, 0])


def without_latent(size: int = 6, subsample: int | None = None, *, exact: bool = False) -> Pair:
    """The model without a latent, of which every guide is exact."""
    return Pair(Gaussian(subsample), None, _vectors(size)[:, 0])


def pair_for(objective: Any) -> Callable[..., Pair]:
    """Makes a pair that an objective takes: with a continuous latent if it can be, or without, or a discrete one."""
    for make in (continuous, without_latent, discrete):
        pair = make()
        try:
            objective.bound(pair.model, pair.guide, pair.x)
            trial_loss(objective, pair)
        except UnsupportedObjective:
            continue
        return make
    return continuous


def call_of(x: Tensor) -> Call:
    """Data as the arguments of programs."""
    return (x,), {}


def trial_loss(objective: Any, pair: Pair) -> None:
    """Runs every player's loss once."""
    losses(objective, pair.model, pair.guide, call_of(pair.x))


def players(objective: Any, model: Program, guide: Program | None, call: Any) -> Any:
    """The players of an objective on a pair, with all its parameters."""
    parameters = trained_parameters(model, guide, *call)
    pair = objective(model, guide)
    with preserved_rng():
        pair.estimate(*call[0], **call[1])  # whose parameters are whose is seen in a run
    return objective.players(pair, parameters)


def losses(objective: Any, model: Program, guide: Program | None, call: Any, seed: int = 5) -> dict[str, Any]:
    """What every player minimises on one batch, each on the same noise, by its name."""
    found = {}
    for player in players(objective, model, guide, call):
        pyro.set_rng_seed(seed)
        found[player.name] = (player, player.loss(*call[0], **call[1]))
    return found


def gradients(objective: Any, model: Program, guide: Program | None, call: Any, seed: int = 5) -> dict[str, Tensor]:
    """The gradient of every parameter in its player's loss."""
    found: dict[str, Tensor] = {}
    for player, loss in losses(objective, model, guide, call, seed).values():
        names, leaves = list(player.parameters), list(player.parameters.values())
        values = torch.autograd.grad(loss.total, leaves, allow_unused=True, materialize_grads=True)
        found |= dict(zip(names, values, strict=True))
    return found
