"""The grid of certificates: every objective and gradient, on every problem, structure and backend."""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from probgen.errors import UnsupportedObjective
from probgen.testing import references
from probgen.testing.certificate import Certificate
from probgen.testing.certification import certify
from probgen.testing.problems import BACKENDS, PROBLEMS, STRUCTURES, Problem
from probgen.testing.reference import Reference
from probgen.testing.replicates import run_once

MODULES = {"torch": "probgen.objectives", "numpyro": "probgen.numpyro"}
TEMPERATURES = (0.0, 0.1, 0.4, 1.0)

Options = Callable[[Problem], dict[str, Any]]
Condition = Callable[[Problem], bool]


@dataclass(frozen=True)
class Row:
    """An objective with its gradient.

    Attributes:
        name: unlike every other row's.
        objective: name of the class.
        options: the class's arguments for a problem.
        supports: whether it is right there; elsewhere it must refuse.
        expected: arguments for the reference where they differ from ``options``.
        backends: where it exists.
    """

    name: str
    objective: str
    options: Options
    supports: Condition
    expected: dict[str, Any] = field(default_factory=dict)
    backends: tuple[str, ...] = BACKENDS

    def build(self, problem: Problem) -> Any:
        """The objective.

        Raises:
            UnsupportedObjective: the arguments would be wrong for any problem.
        """
        cls = getattr(importlib.import_module(MODULES[problem.backend]), self.objective)
        return cls(**self.options(problem))

    def reference(self, problem: Problem) -> Reference:
        """What it minimises; from the row alone, so that an objective cannot talk itself out of its arguments."""
        return references.build(self.objective, **(self.options(problem) | self.expected))


@dataclass(frozen=True)
class Cell:
    """A row on one problem."""

    row: Row
    problem: type[Problem]
    structure: str
    backend: str

    @property
    def name(self) -> str:
        """Unlike every other cell's."""
        return f"{self.backend} / {self.problem.name} / {self.structure} / {self.row.name}"

    def instance(self) -> Problem:
        """The problem with its structure."""
        return self.problem(self.structure, self.backend)

    @property
    def supported(self) -> bool:
        """Whether the objective should be certified here; otherwise it should refuse."""
        return self.row.supports(self.instance())

    @property
    def numbers(self) -> int:
        """How many numbers are tested."""
        return sum(value.numel() for value in self.instance().parameters().values())


@dataclass(frozen=True)
class Outcome:
    """What became of a cell.

    Attributes:
        cell: its name.
        status: ``"certified"``, ``"biased"``, ``"inconclusive"``, ``"refused"``, ``"accepted"`` (should have refused)
            or ``"unsupported"`` (should not have).
        message: of the refusal, or what is wrong.
        certificate: of one that ran.
    """

    cell: str
    status: str
    message: str = ""
    certificate: Certificate | None = None

    @property
    def right(self) -> bool:
        """Whether it is what the grid says."""
        return self.status in ("certified", "refused")


def certify_cell(cell: Cell, *, seed: int = 0, max_replicates: int = 50_000_000) -> Outcome:
    """Runs one cell; see :func:`probgen.testing.certify`."""
    problem = cell.instance()
    try:
        objective = cell.row.build(problem)
        reference = cell.row.reference(problem) if cell.supported else None
        if reference is None:
            run_once(objective, problem)
            return Outcome(cell.name, "accepted", "runs where it should be refused")
        found = certify(objective, problem, reference=reference, seed=seed, max_replicates=max_replicates)
    except UnsupportedObjective as error:
        return Outcome(cell.name, "unsupported" if cell.supported else "refused", str(error))
    return Outcome(cell.name, found.verdict, "" if found.passed else found.worst(), found)


# --- conditions ------------------------------------------------------------------------------------------------------


def _always(problem: Problem) -> bool:
    return True


def _paths(problem: Problem) -> bool:
    return problem.continuous


def _own_paths(problem: Problem) -> bool:
    return problem.continuous


def _enumerable(problem: Problem) -> bool:
    return problem.discrete


def _bits(problem: Problem) -> bool:
    return set(problem.sites.values()) == {"bernoulli"}


def _bits_or_paths(problem: Problem) -> bool:
    return "categorical" not in problem.sites.values()


def _independent_bits(problem: Problem) -> bool:
    return _bits(problem) and set(problem.roots) == set(problem.sites)


def _antithetic(problem: Problem) -> bool:
    bits = [name for name, kind in problem.sites.items() if kind == "bernoulli"]
    return not bits or bits[0] in problem.roots


def _analytic(problem: Problem) -> bool:
    known = problem.backend == "torch" or problem.continuous  # NumPyro lacks the divergences of discrete families
    return problem.ordered and known


def _dreams(problem: Problem) -> bool:
    return problem.structure.subsample is None and problem.observes_argument


def _dreams_of_paths(problem: Problem) -> bool:
    return _dreams(problem) and _paths(problem)


# --- rows ---------------------------------------------------------------------------------------------------------


def _given(**options: Any) -> Options:
    return lambda problem: options


def _with_particles(**options: Any) -> Options:
    """``num_particles`` as many as the problem's exact expectations can have."""
    return lambda problem: {"num_particles": problem.particles} | options


def _by_kind(**gradients: str) -> Options:
    """A dictionary from site to gradient, by the kind of site; the second entry is for all but the first of a kind."""

    def options(problem: Problem) -> dict[str, Any]:
        seen: set[str] = set()
        chosen = {}
        for name, kind in problem.sites.items():
            chosen[name] = gradients.get(f"other_{kind}" if kind in seen else kind, gradients[kind])
            seen.add(kind)
        return {"num_particles": 2, "gradient": chosen}

    return options


def _elbo_rows() -> Iterator[Row]:
    def row(name: str, supports: Condition, **options: Any) -> Row:
        return Row(f"ELBO {name}", "ELBO", _given(**options), supports)

    yield row("auto, 1 particle", _always)
    yield row("auto", _always, num_particles=2)
    yield row("pathwise", _paths, num_particles=2, gradient="pathwise")
    yield row("stl", _paths, num_particles=2, gradient="stl")
    yield row("stl, beta", _paths, gradient="stl", beta=0.4)
    yield row("score", _always, num_particles=2, gradient="score")
    yield row("rloo", _always, num_particles=3, gradient="rloo")
    yield row("rloo, beta", _always, num_particles=2, gradient="rloo", beta=2.0)
    yield row("disarm", _independent_bits, num_particles=2, gradient="disarm")
    yield row("disarm, 4 particles", _independent_bits, num_particles=4, gradient="disarm")
    yield row("enumerate", _enumerable, gradient="enumerate")
    yield row("enumerate, beta", _enumerable, num_particles=2, gradient="enumerate", beta=0.4)
    yield row("relaxed", _bits, gradient="relaxed", temperature=0.7)
    yield row("relaxed, beta", _bits, num_particles=2, gradient="relaxed", beta=0.4, temperature=0.6)
    yield row("straight-through", _bits, num_particles=2, gradient="straight-through")
    yield row("auto, beta", _always, num_particles=2, beta=0.4)
    yield row("auto, analytic", _analytic, num_particles=2, kl="analytic")
    yield row("pathwise, analytic", _paths, kl="analytic", gradient="pathwise")
    yield row("rloo, analytic, beta", _analytic, num_particles=2, kl="analytic", beta=2.0, gradient="rloo")
    for per in ("dimension", "site"):
        yield row(f"free bits per {per}", _analytic, num_particles=2, kl="analytic", free_bits=0.3, free_bits_per=per)
    yield row("auto, one by one", _always, num_particles=2, vectorize_particles=False)
    yield row("stl, one by one", _paths, num_particles=2, gradient="stl", vectorize_particles=False)
    named = {"normal": "pathwise", "bernoulli": "disarm", "other_bernoulli": "rloo", "categorical": "rloo"}
    yield Row("ELBO by site, disarm", "ELBO", _by_kind(**named, other_categorical="score"), _antithetic)
    named = {"normal": "auto", "bernoulli": "enumerate", "categorical": "enumerate"}
    named |= {"other_bernoulli": "rloo", "other_categorical": "rloo"}
    yield Row("ELBO by site, enumerate", "ELBO", _by_kind(**named), _always)
    named = {"normal": "pathwise", "bernoulli": "relaxed", "categorical": "relaxed"}
    yield Row("ELBO by site, relaxed", "ELBO", _by_kind(**named), _bits_or_paths)
    named = {"normal": "pathwise", "bernoulli": "straight-through", "categorical": "straight-through"}
    yield Row("ELBO by site, straight-through", "ELBO", _by_kind(**named), _bits_or_paths)
    named = {"normal": "score", "bernoulli": "score", "categorical": "score"}
    yield Row("ELBO by site, score", "ELBO", _by_kind(**named, other_normal="rloo"), _always)


def _bound_rows() -> Iterator[Row]:
    def row(label: str, name: str, gradient: str, supports: Condition, **options: Any) -> Row:
        grouped = "num_particles" in options
        chosen = (_given if grouped else _with_particles)(gradient=gradient, **options)
        return Row(f"{label} {gradient}", name, chosen, supports)

    for gradient in ("auto", "score", "vimco", "rloo"):
        yield row("IWAE", "IWAE", gradient, _always)
    for gradient in ("pathwise", "dreg", "resampled", "resampled-dreg"):
        yield row("IWAE", "IWAE", gradient, _paths)
    yield row("IWAE", "IWAE", "gdreg", _own_paths)
    yield row("IWAE one by one,", "IWAE", "auto", _always, num_particles=2, vectorize_particles=False)
    yield row("IWAE one by one,", "IWAE", "dreg", _paths, num_particles=2, vectorize_particles=False)
    grouped = (("MIWAE", (3, 2)), ("PIWAE", (2, 1)), ("PIWAE", (1, 2)))
    for name, particles in grouped:
        for gradient, supports in (("auto", _always), ("pathwise", _paths), ("dreg", _paths)):
            yield row(f"{name} {particles[0]} x {particles[1]}", name, gradient, supports, num_particles=particles)
    for gradient, supports in (("auto", _always), ("pathwise", _paths), ("dreg", _paths)):
        yield row("CIWAE", "CIWAE", gradient, supports, beta=0.3)
    for alpha, gradients in ((0.5, ("auto", "pathwise", "dreg", "score")), (-0.5, ("auto", "dreg", "score"))):
        for gradient in gradients:
            supports = _always if gradient in ("auto", "score") else _paths
            yield row(f"Rényi {alpha:g}", "Renyi", gradient, supports, alpha=alpha)
    for gradient, supports in (("auto", _always), ("dreg", _paths)):
        yield row("Rényi 2", "Renyi", gradient, supports, alpha=2.0)


def _weighted_rows() -> Iterator[Row]:
    def row(label: str, name: str, gradient: str, **options: Any) -> Row:
        supports = _paths if gradient in ("dreg", "reparameterized") else _always
        return Row(f"{label} {gradient}", name, _with_particles(gradient=gradient, **options), supports)

    for gradient in ("auto", "self-normalized", "dreg"):
        yield row("CUBO 2", "CUBO", gradient, n=2.0)
        yield row("EUBO", "EUBO", gradient)
        yield row("RWS wake", "RWS", gradient, guide_update="wake")
    yield row("CUBO 1.5", "CUBO", "dreg", n=1.5)
    yield Row("RWS sleep auto", "RWS", _with_particles(guide_update="sleep"), _dreams)
    yield Row("RWS wake-sleep auto", "RWS", _with_particles(guide_update="wake-sleep"), _dreams)
    dreg = _with_particles(guide_update="wake-sleep", gradient="dreg")
    yield Row("RWS wake-sleep dreg", "RWS", dreg, _dreams_of_paths)
    for side in ("left", "right"):
        for gradient in ("auto", "covariance", "reparameterized"):
            yield row(f"TVO {side}", "TVO", gradient, side=side, temperatures=TEMPERATURES)
    uniform = _with_particles(side="left", temperatures=4, grid="uniform")
    yield Row("TVO left, uniform grid", "TVO", uniform, _always, {"temperatures": (0.0, 0.25, 0.5, 0.75, 1.0)})
    logarithmic = _with_particles(side="right", temperatures=3, grid="log-uniform")
    points = (0.0, 0.025, 0.025**0.5, 1.0)
    yield Row("TVO right, log-uniform grid", "TVO", logarithmic, _always, {"temperatures": points})


@lru_cache
def rows() -> tuple[Row, ...]:
    """All rows."""
    return (*_elbo_rows(), *_bound_rows(), *_weighted_rows())


def cells() -> Iterator[Cell]:
    """All cells, those of one problem together."""
    for backend in BACKENDS:
        for problem in PROBLEMS:
            for structure in STRUCTURES:
                yield from (Cell(row, problem, structure, backend) for row in rows() if backend in row.backends)
