"""The pairs that meet bad input: the library's own modules, and functions in plain Pyro."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger
from torch import Tensor

from probgen.guides import AmortizedNormal
from probgen.models import PPCA, VAE, GaussianMixture

SIZE, DIM, LATENT = 6, 3, 2

Program = Callable[..., Any]
Pair = tuple[Program, Program | None]


def good_data() -> Tensor:
    """Bits, which every likelihood here takes: ``[6, 3]``."""
    return torch.tensor([[0, 1, 1], [1, 0, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 0]], dtype=torch.float32)


@dataclass(frozen=True)
class Pairs:
    """Makes fresh pairs, of weights that the seed alone decides.

    Attributes:
        latent: with a latent site ``z``; ``real`` data or bits.
        plain: without latent sites; ``real`` data or bits.
    """

    name: str
    latent: Callable[[bool], Pair]
    plain: Callable[[bool], Pair]


# --- the library's own ------------------------------------------------------------------------------------------------


def modules(real: bool) -> Pair:
    likelihood = "normal-fixed" if real else "bernoulli"
    model = VAE((DIM,), latent_dim=LATENT, hidden=(4,), likelihood=likelihood)
    return model, AmortizedNormal((DIM,), latent_dim=LATENT, hidden=(4,))


class Bits(PyroModule):
    """Independent bits, by a likelihood of the library."""

    def __init__(self) -> None:
        super().__init__()
        self.vae = VAE((DIM,), latent_dim=1, hidden=())

    def forward(self, x: Tensor) -> None:
        x = self.vae.likelihood.cast(x, torch.float32, device=torch.device("cpu"))
        with pyro.plate("data", len(x)):
            pyro.sample("x", self.vae.decode(torch.zeros(1)), obs=x)


def plain_modules(real: bool) -> Pair:
    return (GaussianMixture(DIM, 2) if real else Bits()), None


class ExactGuide(PyroModule):
    """The exact posterior of a PPCA, so that every log-weight is log p(x)."""

    def __init__(self, model: PPCA) -> None:
        super().__init__()
        self.posterior = model.posterior

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", self.posterior(x))


def exact_modules(real: bool) -> Pair:
    model = PPCA(DIM, LATENT)
    return model, ExactGuide(model)


# --- functions --------------------------------------------------------------------------------------------------------


def functions(real: bool) -> Pair:
    weight, slope = torch.randn(LATENT, DIM), torch.randn(DIM, LATENT)

    def model(x: Tensor) -> None:
        w = pyro.param("weight", weight)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([LATENT]).to_event(1))
            p = dist.Normal(z @ w, 1.0) if real else dist.Bernoulli(logits=z @ w)
            pyro.sample("x", p.to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        v = pyro.param("slope", slope)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ v, 1.0).to_event(1))

    return model, guide


def plain_functions(real: bool) -> Pair:
    start = torch.randn(DIM)

    def model(x: Tensor) -> None:
        loc = pyro.param("loc", start)
        with pyro.plate("data", len(x)):
            p = dist.Normal(loc, 1.0) if real else dist.Bernoulli(logits=loc)
            pyro.sample("x", p.to_event(1), obs=x)

    return model, None


MODULES = Pairs("modules", modules, plain_modules)
FUNCTIONS = Pairs("functions", functions, plain_functions)
EXACT = Pairs("exact", exact_modules, plain_modules)


# --- programs that do not fit -----------------------------------------------------------------------------------------


class _AlsoSamples(Messenger):
    """Samples another site beside one of a program, in the same plates."""

    def __init__(self, beside: str, name: str, event: tuple[int, ...]) -> None:
        super().__init__()
        self.beside, self.name, self.event = beside, name, event
        self.done = False

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] == self.beside and not self.done:
            self.done = True
            pyro.sample(self.name, dist.Normal(0.0, 1.0).expand(self.event).to_event(len(self.event)))


def also(program: Program | None, beside: str, name: str, event: tuple[int, ...] = ()) -> Program:
    def extended(x: Tensor) -> None:
        with _AlsoSamples(beside, name, event):
            program(x)  # type: ignore[misc]

    return extended


def duplicate(pair: Pair) -> Pair:
    """The model samples a second ``x``."""
    return also(pair[0], "x", "x"), pair[1]


def missing(pair: Pair) -> Pair:
    """The model samples ``z`` and the guide does not; a pair without latent sites gets one."""
    return (pair[0] if pair[1] is not None else also(pair[0], "x", "z")), None


def alone(x: Tensor) -> None:
    """A guide whose ``z`` has one dimension too many."""
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.0, 1.0).expand([LATENT + 1]).to_event(1))


def extra(pair: Pair) -> Pair:
    """The guide samples ``w`` too; a pair without latent sites gets a guide that samples it."""
    return pair[0], (also(pair[1], "z", "w") if pair[1] is not None else _samples_w)


def _samples_w(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("w", dist.Normal(0.0, 1.0))


def wrong_event(pair: Pair) -> Pair:
    """The guide's ``z`` has one dimension too many; a pair without latent sites gets one in the model."""
    return (pair[0] if pair[1] is not None else also(pair[0], "x", "z", (LATENT,))), alone


def not_finite_start(pair: Pair) -> Pair:
    """The first parameter of each program starts at NaN: a module's, or one that a function declares."""
    for program in pair:
        if isinstance(program, torch.nn.Module):
            with torch.no_grad():
                next(program.parameters()).view(-1)[0] = torch.nan
        elif program is not None:
            cells = zip(program.__code__.co_freevars, program.__closure__ or (), strict=True)
            next(cell.cell_contents for name, cell in cells if name != "real").view(-1)[0] = torch.nan
    return pair
