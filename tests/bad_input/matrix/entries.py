"""The ways into the library, each a function of a case that returns tensors."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor

import probgen
from matrix import pairs
from matrix.kinds import Kind
from matrix.pairs import Pair
from probgen.comparison import grid
from probgen.models import PPCA
from probgen.objectives import (
    CIWAE,
    CUBO,
    ELBO,
    EUBO,
    IWAE,
    MIWAE,
    PIWAE,
    RWS,
    TVO,
    MaximumLikelihood,
    Objective,
    Renyi,
)

ADAM = functools.partial(torch.optim.Adam, lr=1e-2)
Result = dict[str, Tensor]


@dataclass
class Case:
    """What a cell is about, made afresh for each call.

    Attributes:
        good: good data.
        data: bad ones, or what they must be equal to.
        pair: model and guide.
        particles: K.
        folder: an empty one.
        make: makes further pairs like this one.
        kind: what is bad.
    """

    good: Tensor
    data: Any
    pair: Pair
    particles: int
    folder: Path
    make: Callable[[], Pair]
    kind: Kind

    @property
    def programs(self) -> list[Any]:
        return [program for program in self.pair if program is not None]


@dataclass(frozen=True, eq=False)
class Entry:
    """One way into the library.

    Attributes:
        name: what it is called in the table.
        call: what it does.
        latent: whether its pair has a latent site.
        takes: which kinds make sense, by what they are about.
        because: why the others make no sense.
        functions: whether it takes programs that are functions.
        makes_pair: whether it makes a pair of its own, and takes that of the case for nothing.
        takes_too: kinds that others refuse, and what it makes of them.
        without: kinds that make no sense, and why.
        refuses: kinds that others take, and patterns of what it says.
    """

    name: str
    call: Callable[[Case], Result]
    latent: bool = True
    takes: tuple[str, ...] = ("data", "tensors", "programs", "parameters", "numbers")
    because: str = ""
    functions: bool = True
    makes_pair: bool = False
    takes_too: Mapping[str, str] = field(default_factory=dict)
    without: Mapping[str, str] = field(default_factory=dict)
    refuses: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def senseless(self, kind: Kind) -> str | None:
        """Why a kind makes no sense here, or None."""
        return self.without.get(kind.name, None if kind.about in self.takes else self.because)

    def says(self, kind: Kind) -> tuple[str, ...]:
        """Patterns that the message must match where it refuses a kind; none where it must not."""
        return self.refuses.get(kind.name, kind.says)

    def works(self, kind: Kind) -> str:
        """What it makes of a kind; empty where it must refuse it."""
        return self.takes_too.get(kind.name, kind.works)


# --- training ---------------------------------------------------------------------------------------------------------


def _svi(case: Case) -> probgen.SVI:
    return probgen.SVI(*case.pair, ADAM, IWAE(num_particles=case.particles), accelerator="cpu")


def _trained(svi: probgen.SVI, data: Any, **options: Any) -> Result:
    result = svi.run(data, **{"batch_size": 2, "num_epochs": 1, "progress": False} | options)
    return {"loss": result.losses, **result.params}


def run(case: Case) -> Result:
    return _trained(_svi(case), case.data)


def run_stream(case: Case) -> Result:
    return _trained(_svi(case), [case.data])


def run_eval(case: Case) -> Result:
    reports: list[Any] = []
    done = _trained(_svi(case), case.good, eval_data=case.data, callbacks=[reports.append])
    del done["loss"]
    return {"eval_bound": torch.tensor(reports[-1].eval_bound), **done}


def step(case: Case) -> Result:
    svi = _svi(case)
    return {"loss": torch.tensor(svi.step(case.data)), **svi.parameters}


def compare(case: Case) -> Result:
    def specs() -> dict[str, Any]:
        made: list[Pair] = []

        def model() -> Any:
            made.append(case.make())
            return made[-1][0]

        return grid(model, lambda: made[-1][1], {"iwae": IWAE(num_particles=case.particles)}, ADAM)

    options = {"num_epochs": 1, "batch_size": 2, "num_particles": 4, "progress": False, "accelerator": "cpu"}
    done = probgen.compare(specs(), case.data, eval_data=case.data, **options)
    return {"loss": done.runs[0].losses, "log_prob": done.runs[0].evidence.log_prob}


# --- objectives -------------------------------------------------------------------------------------------------------

OBJECTIVES: dict[str, Callable[[int], Objective]] = {
    "CIWAE": lambda k: CIWAE(num_particles=k),
    "CUBO": lambda k: CUBO(num_particles=k),
    "ELBO": lambda k: ELBO(num_particles=k),
    "EUBO": lambda k: EUBO(num_particles=k),
    "IWAE": lambda k: IWAE(num_particles=k),
    "MIWAE": lambda k: MIWAE(num_particles=(2, k)),
    "PIWAE": lambda k: PIWAE(num_particles=(2, k)),
    "RWS": lambda k: RWS(num_particles=k),
    "Renyi": lambda k: Renyi(alpha=0.5, num_particles=k),
    "TVO": lambda k: TVO(num_particles=k),
    "MaximumLikelihood": lambda k: MaximumLikelihood(),
}


def in_pyro(make: Callable[[int], Objective], case: Case) -> Result:
    objective = make(case.particles)
    svi = pyro.infer.SVI(*case.pair, pyro.optim.Adam({"lr": 1e-2}), objective)
    loss = svi.step(case.data)
    if isinstance(objective, CUBO | EUBO):  # upper bounds, minimised as they are
        loss = -loss
    return {"loss": torch.tensor(loss), **_parameters(case)}


def in_torch(case: Case) -> Result:
    loss = IWAE(num_particles=case.particles)(*case.pair)
    value = loss(case.data)
    value.backward()
    if parameters := list(loss.parameters()):
        ADAM(parameters).step()
    return {"loss": value.detach(), **_parameters(case)}


def bound(case: Case) -> Result:
    return {"log_p": IWAE(num_particles=case.particles).bound(*case.pair, case.data)}


def _parameters(case: Case) -> Result:
    owned = {name: v for p in case.programs if isinstance(p, torch.nn.Module) for name, v in p.named_parameters()}
    return {name: v.detach().clone() for name, v in (owned | dict(pyro.get_param_store().items())).items()}


# --- evidence ---------------------------------------------------------------------------------------------------------


def evaluate(case: Case) -> Result:
    evidence = probgen.evaluate(*case.pair, case.data, num_particles=4 * case.particles, batch_size=2)
    return {"log_p": evidence.log_prob, "elbo": evidence.elbo}


def log_weights(case: Case) -> Result:
    return {"log_p": probgen.log_weights(*case.pair, case.data, num_particles=case.particles).detach()}


# --- programs by themselves -------------------------------------------------------------------------------------------


def sampling(case: Case) -> Result:
    model = case.pair[0]
    if case.kind.about == "numbers":
        return {"samples": model(num_samples=case.particles)}
    return {"x": model(case.data), "samples": model(num_samples=case.particles)}


def posterior(case: Case) -> Result:
    guide = case.pair[1]
    q = guide.posterior(case.data)  # type: ignore[union-attr]
    return {"mean": q.mean.detach(), "stddev": q.stddev.detach()}


def ppca_log_evidence(case: Case) -> Result:
    return {"log_p": _ppca(case).log_evidence(case.data).detach()}


def ppca_posterior(case: Case) -> Result:
    return {"mean": _ppca(case).posterior(case.data).mean.detach()}


def _ppca(case: Case) -> PPCA:
    """A PPCA, with a parameter that is not finite where the case's pair has one."""
    if isinstance(case.pair[0], PPCA):
        return case.pair[0]
    with torch.random.fork_rng():
        model = PPCA(pairs.DIM, pairs.LATENT)
    if not all(bool(torch.isfinite(p).all()) for p in case.pair[0].parameters()):  # type: ignore[attr-defined]
        pairs.not_finite_start((model, None))
    return model


# --- files ------------------------------------------------------------------------------------------------------------


def load_npy(case: Case) -> Result:
    np.save(case.folder / "x.npy", np.asarray(case.data))
    return {"x": probgen.data.load(case.folder / "x.npy", split="all").x}


def load_npz(case: Case) -> Result:
    np.savez(case.folder / "x.npz", **dict.fromkeys(("train", "valid", "test"), np.asarray(case.data)))
    return {"x": probgen.data.load(case.folder / "x.npz", split="train").x}


NO_PAIR, NO_NUMBER = "takes no pair", "takes no number of particles"
FILE = "a file holds numbers alone, and its own shape"
ALL_NUMBERS = {"out of support": "the support is all numbers"}

ENTRIES = (
    Entry("`SVI.run(data)`", run),
    Entry("`SVI.run(stream)`", run_stream),
    Entry("`SVI.run(eval_data=)`", run_eval),
    Entry("`SVI.step`", step),
    Entry("`evaluate`", evaluate),
    Entry("`log_weights`", log_weights),
    Entry("`compare`", compare),
    *(
        Entry(
            f"`{name}` in `pyro.infer.SVI`",
            functools.partial(in_pyro, make),
            latent=name != "MaximumLikelihood",
            without={"K = 0": NO_NUMBER} if name == "MaximumLikelihood" else {},
        )
        for name, make in OBJECTIVES.items()
    ),
    Entry("`objective(model, guide)` in `torch.optim`", in_torch),
    Entry("`objective.bound`", bound),
    Entry(
        "`model(x)`, `model(num_samples=)`",
        sampling,
        takes=("data", "tensors", "parameters", "numbers"),
        because="takes no guide",
        functions=False,
        takes_too={"1e30": "as it is"},
    ),
    Entry(
        "`guide.posterior`",
        posterior,
        takes=("data", "tensors", "parameters"),
        because=NO_PAIR,
        functions=False,
        takes_too={"1e30": "finite all the same", "out of support": "as any numbers"},
    ),
    Entry(
        "`PPCA.log_evidence`",
        ppca_log_evidence,
        takes=("data", "tensors", "parameters"),
        because=NO_PAIR,
        functions=False,
        without=ALL_NUMBERS,
    ),
    Entry(
        "`PPCA.posterior`",
        ppca_posterior,
        takes=("data", "tensors", "parameters"),
        because=NO_PAIR,
        functions=False,
        without=ALL_NUMBERS,
        takes_too={"1e30": "finite all the same"},
    ),
    *(
        Entry(
            f"`data.load({suffix})`",
            call,
            takes=("data",),
            because=FILE,
            functions=False,
            without={"wrong features": FILE},
            takes_too={"1e30": "as it is", "out of support": "as it is", "rank": "flattened to `(3,)`"},
            refuses={"batch of one": ("1 rows are too few",)} if suffix == ".npy" else {},
        )
        for suffix, call in ((".npy", load_npy), (".npz", load_npz))
    ),
)
