"""Both backends on the same parameters and the same noise give the same numbers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn

import probgen
import probgen.numpyro
from probgen import objectives
from probgen.numpyro.run import Draws, Pair, run_particles

KEY = 3


class FixedNoise(dist.Normal):
    """A normal distribution whose samples are made of given noise."""

    def __init__(self, loc: Tensor, scale: Tensor, noise: Tensor) -> None:
        self.noise = noise
        super().__init__(loc.expand(noise.shape), scale.expand(noise.shape))

    def expand(self, batch_shape: torch.Size, _instance: Any = None) -> "FixedNoise":
        return FixedNoise(self.loc, self.scale, self.noise.expand(batch_shape))

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        return self.loc + self.scale * self.noise


class ChainModel(nn.Module):
    def __init__(self, params: dict[str, Any]) -> None:
        super().__init__()
        self.a, self.c = (nn.Parameter(torch.tensor(float(params[name]), dtype=torch.float64)) for name in "ac")

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z2 = pyro.sample("z2", dist.Normal(torch.zeros((), dtype=x.dtype), 1.0))
            z1 = pyro.sample("z1", dist.Normal(self.a * z2, 1.0))
            pyro.sample("x", dist.Normal(z1 + self.c, 1.0), obs=x)


class ChainGuide(nn.Module):
    def __init__(self, params: dict[str, Any], noise: dict[str, Tensor]) -> None:
        super().__init__()
        self.noise = noise
        for name in "wbus":
            setattr(self, name, nn.Parameter(torch.tensor(float(params[name]), dtype=torch.float64)))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z1 = pyro.sample("z1", FixedNoise(self.w * x + self.b, self.s, self.noise["z1"]))
            pyro.sample("z2", FixedNoise(self.u * z1, self.s, self.noise["z2"]))


def twins(kit: Any, num_particles: int) -> tuple[ChainModel, ChainGuide]:
    """The torch pair that draws what the NumPyro pair draws on the key."""
    params = kit.initial(kit.chain)
    draws = Draws.of(jax.random.key(KEY), num_particles)
    values = run_particles(Pair(*kit.chain, (jnp.asarray(kit.data),), {}), params, draws).values()
    z1, z2 = (np.asarray(values[name]) for name in ("z1", "z2"))
    noise = {
        "z1": (z1 - params["w"] * kit.data - params["b"]) / params["s"],
        "z2": (z2 - params["u"] * z1) / params["s"],
    }
    tensors = {name: torch.tensor(np.array(value)) for name, value in noise.items()}
    return ChainModel(params), ChainGuide(params, tensors)


def test_log_weights_are_those_of_torch(kit: Any) -> None:
    model, guide = twins(kit, 4)
    options = probgen.programs.RunOptions(num_particles=4, max_plate_nesting=1)
    terms = probgen.programs.trace_pair(model, guide, (torch.tensor(kit.data),), {}, options)
    arguments = {"num_particles": 4, "rng_key": KEY, "params": kit.initial(kit.chain)}
    ours = probgen.numpyro.log_weights(*kit.chain, jnp.asarray(kit.data), **arguments)
    np.testing.assert_allclose(ours, terms.log_weights.detach(), rtol=1e-12)


ROWS: list[tuple[str, dict[str, Any]]] = [
    *(("ELBO", {"num_particles": 3, "gradient": g}) for g in ("auto", "pathwise", "stl", "score", "rloo")),
    ("ELBO", {"num_particles": 3, "beta": 0.3}),
    *(("IWAE", {"num_particles": 3, "gradient": g}) for g in ("auto", "dreg", "gdreg", "score", "rloo", "vimco")),
    *(("MIWAE", {"num_particles": (2, 3), "gradient": g}) for g in ("auto", "dreg")),
    *(("PIWAE", {"num_particles": (2, 3), "gradient": g}) for g in ("auto", "dreg")),
    *(("CIWAE", {"num_particles": 3, "beta": 0.3, "gradient": g}) for g in ("auto", "dreg")),
    *(("Renyi", {"alpha": a, "num_particles": 3, "gradient": "dreg"}) for a in (0.5, -1.0, 2.0)),
    ("Renyi", {"alpha": 0.5, "num_particles": 3, "gradient": "score"}),
    *(("CUBO", {"num_particles": 3, "gradient": g}) for g in ("auto", "dreg")),
    *(("EUBO", {"num_particles": 3, "gradient": g}) for g in ("auto", "dreg")),
    *(("RWS", {"num_particles": 3, "gradient": g}) for g in ("auto", "dreg")),
    *(
        ("TVO", {"num_particles": 3, "side": side, "temperatures": 2, "grid": grid, "gradient": g})
        for side, grid in (("left", "moments"), ("right", "uniform"))
        for g in ("auto", "reparameterized")
    ),
]


@pytest.fixture(scope="module")
def ours(kit: Any) -> list[Any]:
    """Loss and gradient of every row, compiled as one function: most of the time is compilation."""

    def every(values: Any) -> list[Any]:
        x = jnp.asarray(kit.data)
        objectives = [getattr(probgen.numpyro, name)(**arguments) for name, arguments in ROWS]
        losses = [lambda v, o=o: o.loss(jax.random.key(KEY), v, *kit.chain, x) for o in objectives]
        return [jax.value_and_grad(loss)(values) for loss in losses]

    with jax.enable_x64(True):
        fast = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
        params = kit.initial(kit.chain)
        found = jax.jit(every).lower(params).compile(compiler_options=fast)(params)
        return jax.tree.map(np.asarray, found)


@pytest.mark.parametrize("row", range(len(ROWS)), ids=[f"{n}-{'-'.join(map(str, a.values()))}" for n, a in ROWS])
def test_losses_and_gradients_are_those_of_torch(kit: Any, ours: list[Any], row: int) -> None:
    name, arguments = ROWS[row]
    loss, gradient = ours[row]
    objective = getattr(objectives, name)(**arguments, max_plate_nesting=1)
    model, guide = twins(kit, objective.num_particles)
    theirs = objective(model, guide)(torch.tensor(kit.data))
    theirs.backward()
    np.testing.assert_allclose(loss, theirs.item(), rtol=1e-9)
    found = {key: value.grad for key, value in [*model.named_parameters(), *guide.named_parameters()]}
    for key, value in gradient.items():
        np.testing.assert_allclose(value, found[key], rtol=1e-9, atol=1e-9, err_msg=key)
