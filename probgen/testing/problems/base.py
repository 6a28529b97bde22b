"""What a problem is: programs for both backends, data, and the same densities written once more by hand."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from probgen.errors import ArgumentError, nearest
from probgen.testing.problems.libraries import library

Values = dict[str, Tensor]


@dataclass(frozen=True)
class Structure:
    """What lies around the sites of a datum.

    Attributes:
        name: the structure's name.
        plate: whether the data are in a plate; without one, the first datum alone is the data.
        subsample: size of the minibatch that the plate draws, or None for all.
        scale: of a ``poutine.scale`` around all sites.
        mask: which data count, by a ``poutine.mask`` inside the plate, or None for all.
    """

    name: str
    plate: bool = True
    subsample: int | None = None
    scale: float = 1.0
    mask: tuple[bool, ...] | None = None

    def weights(self, size: int) -> tuple[float, ...]:
        """What multiplies the expected bound of each datum; a minibatch is unbiased for the whole plate."""
        if not self.plate:
            return (self.scale,) + (0.0,) * (size - 1)
        return tuple(self.scale * float(counts) for counts in self.mask or (True,) * size)


STRUCTURES = {
    structure.name: structure
    for structure in (
        Structure("no plate", plate=False),
        Structure("plate"),
        Structure("subsampled", subsample=2),
        Structure("scaled", scale=1.7),
        Structure("masked", mask=(True, False, True)),
    )
}


@dataclass(frozen=True)
class States:
    """Latent states that carry an expectation: all of them, or the nodes of a quadrature.

    Attributes:
        log_prob: ``[S]``, log-probabilities under the guide; their gradient is that of the guide's discrete sites.
        values: by site, ``[S, ...]``; continuous ones are functions of the parameters, as with ``rsample``.
        data: ``[S, ...]``, a datum for each state where the states are those of the model, otherwise None.
    """

    log_prob: Tensor
    values: Values
    data: Tensor | None = None

    @property
    def observed(self) -> Tensor:
        """The data, where there are some."""
        if self.data is None:
            raise ArgumentError("these states are of latents alone")
        return self.data


class Problem(ABC):
    """A pair of programs on which the exact gradient of a bound's expectation is known.

    A subclass writes everything down twice: as programs, and as densities of one datum. The parameters' names differ
    between model and guide; their values are away from every optimum, and the guide is wider than the posterior, so
    that all moments of the weights are finite.

    Args:
        structure: a name of ``STRUCTURES``.
        backend: ``"torch"`` (Pyro) or ``"numpyro"``.

    Raises:
        ArgumentError: an unknown structure or backend.
    """

    name: ClassVar[str]
    model_values: ClassVar[dict[str, Any]]
    guide_values: ClassVar[dict[str, Any]]
    data: ClassVar[Any]  # one entry for each of three data
    sites: ClassVar[dict[str, str]]  # latent site -> "normal", "bernoulli" or "categorical"
    roots: ClassVar[tuple[str, ...]] = ()  # sites that depend on no other one in the guide
    ordered: ClassVar[bool] = True  # whether the guide samples in the model's order
    dimensions: ClassVar[tuple[int, ...]] = ()  # of each site, for its divergences; one each where it is not said
    observes_argument: ClassVar[bool] = True  # whether the model observes its argument as it is
    particles: ClassVar[int] = 3  # the largest K whose K-tuples of states can be summed

    def __init__(self, structure: str = "plate", backend: str = "torch") -> None:
        if structure not in STRUCTURES:
            raise ArgumentError(f"unknown `structure={structure!r}`; {nearest(str(structure), STRUCTURES)}")
        library(backend)
        self.structure = STRUCTURES[structure]
        self._mask: Any = None
        self.backend = backend

    @abstractmethod
    def model(self, lib: Any, p: Any, x: Any) -> Any:
        """The model inside the plate; ``lib`` is Pyro's or NumPyro's :func:`library`. Returns the data."""

    @abstractmethod
    def guide(self, lib: Any, p: Any, x: Any) -> None:
        """The guide inside the plate."""

    @abstractmethod
    def states(self, p: Any, x: Tensor, particles: int) -> States:
        """The guide's states for one datum, fine enough for tuples of ``particles``."""

    @abstractmethod
    def log_prior(self, p: Any, z: Values) -> Tensor:
        """``log p(z)``, ``[S]``."""

    @abstractmethod
    def log_likelihood(self, p: Any, z: Values, x: Tensor) -> Tensor:
        """``log p(x | z)``, ``[S]``; ``x`` is one datum, or one for each state."""

    @abstractmethod
    def log_guide(self, p: Any, z: Values, x: Tensor) -> Tensor:
        """``log q(z | x)``, ``[S]``."""

    @abstractmethod
    def generated(self, p: Any) -> States:
        """The model's states, latents and a datum, for expectations under ``p(x, z)``."""

    def kl_dimensions(self, p: Any, z: Values, x: Tensor) -> list[Tensor]:
        """KL(q || p) of each latent dimension in closed form, given the sites before it; each ``[]`` or ``[S]``."""
        raise ArgumentError(f"{self.name} has no closed form of its divergences")

    def kl_states(self, p: Any, x: Tensor) -> States:
        """The guide's states for expectations of :meth:`kl_dimensions`, fine enough for their kinks under a limit."""
        return self.states(p, x, 1)

    def relaxed(self, p: Any, x: Tensor, gradient: str, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities of states of the relaxed model, ``log p(x | z)`` and ``log q - log p(z)``, each ``[S]``.

        Args:
            p: parameters.
            x: the datum.
            gradient: ``"relaxed"`` (Concrete variables), or ``"straight-through"`` (hard ones with a path through
                their means).
            temperature: of Concrete variables.
        """
        raise ArgumentError(f"{self.name} has no relaxed form")

    # --- what all share ----------------------------------------------------------------------------------------

    @property
    def continuous(self) -> bool:
        """Whether every latent site is reparameterised."""
        return all(kind == "normal" for kind in self.sites.values())

    @property
    def discrete(self) -> bool:
        """Whether no latent site is."""
        return all(kind != "normal" for kind in self.sites.values())

    @property
    def label(self) -> str:
        """Backend, problem and structure."""
        return f"{self.backend} / {self.name} / {self.structure.name}"

    def tensors(self) -> Tensor:
        """The data, ``[N, ...]``, in float64."""
        return torch.tensor(self.data, dtype=torch.float64)

    def parameters(self) -> dict[str, Tensor]:
        """New leaf tensors by full name, ``model.…`` and ``guide.…``, in float64."""
        both = {f"model.{name}": value for name, value in self.model_values.items()}
        both |= {f"guide.{name}": value for name, value in self.guide_values.items()}
        return {name: torch.tensor(v, dtype=torch.float64, requires_grad=True) for name, v in both.items()}

    def pair(self) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """The model and the guide, programs of the problem's backend that take the data."""
        if self.backend == "torch":
            return _Program(self.model, self.model_values, self), _Program(self.guide, self.guide_values, self)
        return _numpyro_program(self, "model"), _numpyro_program(self, "guide")

    def arguments(self) -> tuple[Any, ...]:
        """What both programs are called with."""
        tensors = self.tensors() if self.structure.plate else self.tensors()[0]
        return (library(self.backend).array(tensors),)

    @property
    def mask(self) -> Any:
        """Which data count, one array for both programs; an array of the backend, or None."""
        if self._mask is None and self.structure.mask is not None:
            self._mask = library(self.backend).array(torch.tensor(self.structure.mask))
        return self._mask

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.structure.name!r}, {self.backend!r})"


def namespace(leaves: dict[str, Any]) -> SimpleNamespace:
    """Parameters by their own names, without ``model.`` and ``guide.``."""
    return SimpleNamespace(**{name.split(".")[1]: leaf for name, leaf in leaves.items()})


class _Program(PyroModule):
    """A program of Pyro with ordinary parameters."""

    def __init__(self, body: Callable[..., Any], values: dict[str, Any], problem: Problem) -> None:
        super().__init__()
        for name, value in values.items():
            setattr(self, name, nn.Parameter(torch.tensor(value, dtype=torch.float64)))
        self._names = tuple(values)
        self._run = lambda p, x: _surround(body, library("torch"), problem, p, x)

    def forward(self, x: Tensor | None = None) -> Any:
        return self._run(SimpleNamespace(**{name: getattr(self, name) for name in self._names}), x)


def _numpyro_program(problem: Problem, side: str) -> Callable[..., Any]:
    values = problem.model_values if side == "model" else problem.guide_values

    def program(x: Any = None) -> Any:
        import numpyro

        lib = library("numpyro")
        p = {name: numpyro.param(f"{side}.{name}", lib.number(value)) for name, value in values.items()}
        return _surround(getattr(problem, side), lib, problem, SimpleNamespace(**p), x)

    program.__name__ = f"{type(problem).__name__}_{side}"
    return program


def _surround(body: Callable[..., Any], lib: Any, problem: Problem, p: Any, x: Any) -> Any:
    """Runs a body inside what the structure says."""
    structure, size = problem.structure, len(problem.data)
    if not structure.plate:
        return body(lib, p, x)
    with ExitStack() as contexts:
        if structure.scale != 1.0:
            contexts.enter_context(lib.scale(scale=structure.scale))
        indices = contexts.enter_context(lib.plate("data", size, subsample_size=structure.subsample))
        if structure.mask is not None:
            contexts.enter_context(lib.mask(mask=problem.mask))
        return body(lib, p, x if x is None or structure.subsample is None else x[indices])
