"""Problems with a discrete and a continuous latent, in both orders."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from probgen.testing.problems.base import Problem, States, Values
from probgen.testing.problems.densities import (
    bernoulli,
    bernoulli_kl,
    binary,
    logistic_nodes,
    nodes_for,
    normal,
    normal_kl,
    normal_nodes,
    switch,
    switch_log_prob,
)

FINE = 200_001  # nodes for an integrand with kinks
NODES = {1: 120, 2: 64, 3: 40}


def _noise(gradient: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Noise of a bit (logistic, or the bit itself) and of a normal variable, with the log-weights of each."""
    points, weight = normal_nodes(100)
    if gradient == "relaxed":
        t, other = logistic_nodes(60)
    else:
        t, other = binary(1)[:, 0], torch.zeros(2, dtype=torch.float64)
    grids = [torch.meshgrid(a, b, indexing="ij") for a, b in ((t, points), (other, weight))]
    return (*(grid.flatten() for grid in grids[0]), *(grid.flatten() for grid in grids[1]))  # type: ignore[return-value]


def _halves(value: Tensor) -> tuple[Tensor, Tensor]:
    """Bits and repeated nodes: the product of {0, 1} with a quadrature."""
    return binary(1)[:, 0].repeat_interleave(len(value)), value.repeat(2)


class DiscreteFirst(Problem):
    """``b ~ Bernoulli``, ``z ~ N(shift b, 1)``, ``x ~ Bernoulli(slope z + offset)``."""

    name = "discrete, then continuous"
    model_values: ClassVar[dict[str, Any]] = {"prior": -0.6, "shift": 1.4, "slope": 1.3, "offset": 0.3}
    guide_values: ClassVar[dict[str, Any]] = {
        "logit": 0.3,
        "tilt": -0.5,
        "loc": -0.6,
        "change": -0.4,
        "log_scale": 0.1,
    }
    data: ClassVar[Any] = (1.0, 0.0, 1.0)
    sites: ClassVar[dict[str, str]] = {"b": "bernoulli", "z": "normal"}
    roots = ("b",)

    def model(self, lib: Any, p: Any, x: Any) -> Any:
        b = lib.sample("b", lib.Bernoulli(logits=p.prior))
        z = lib.sample("z", lib.Normal(p.shift * b, lib.number(1.0)))
        return lib.sample("x", lib.Bernoulli(logits=p.slope * z + p.offset), obs=x)

    def guide(self, lib: Any, p: Any, x: Any) -> None:
        b = lib.sample("b", lib.Bernoulli(logits=p.logit + p.tilt * x))
        lib.sample("z", lib.Normal(p.loc + p.change * b, lib.exp(p.log_scale)))

    def states(self, p: Any, x: Tensor, particles: int) -> States:
        noise, weight = normal_nodes(nodes_for(NODES, particles))
        b, noise = _halves(noise)
        values = {"b": b, "z": p.loc + p.change * b + p.log_scale.exp() * noise}
        return States(bernoulli(b, p.logit + p.tilt * x) + weight.repeat(2), values)

    def log_prior(self, p: Any, z: Values) -> Tensor:
        return bernoulli(z["b"], p.prior) + normal(z["z"], p.shift * z["b"], 1.0)

    def log_likelihood(self, p: Any, z: Values, x: Tensor) -> Tensor:
        return bernoulli(x, p.slope * z["z"] + p.offset)

    def log_guide(self, p: Any, z: Values, x: Tensor) -> Tensor:
        discrete = bernoulli(z["b"], p.logit + p.tilt * x)
        return discrete + normal(z["z"], p.loc + p.change * z["b"], p.log_scale.exp())

    def kl_dimensions(self, p: Any, z: Values, x: Tensor) -> list[Tensor]:
        loc = p.loc + p.change * z["b"]
        first = bernoulli_kl(p.logit + p.tilt * x, p.prior)
        return [first, normal_kl(loc, p.log_scale.exp(), p.shift * z["b"], 1.0)]

    def generated(self, p: Any) -> States:
        noise, weight = normal_nodes(100)
        bits, noise = binary(2).repeat_interleave(len(noise), 0), noise.repeat(4)
        b, x = bits[:, 0], bits[:, 1]
        z = p.shift * b + noise
        total = weight.repeat(4) + bernoulli(b, p.prior) + bernoulli(x, p.slope * z + p.offset)
        return States(total, {"b": b, "z": z}, x)

    def relaxed(self, p: Any, x: Tensor, gradient: str, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        how = gradient, temperature
        t, noise, log_t, weight = _noise(gradient)
        logits = p.logit + p.tilt * x
        b, at = switch(logits, t, *how)
        loc, scale = p.loc + p.change * b, p.log_scale.exp()
        z = loc + scale * noise
        log_b = switch_log_prob(at, logits, *how)
        log_p = switch_log_prob(at, p.prior, *how) + normal(z, p.shift * b, 1.0)
        log_prob = weight + (log_t if gradient == "relaxed" else log_b.detach())
        return log_prob, bernoulli(x, p.slope * z + p.offset), log_b + normal(z, loc, scale) - log_p


class ContinuousFirst(Problem):
    """``z ~ N(prior_loc, 1)``, ``b ~ Bernoulli(gate z)``, ``x ~ N(slope z + step b, 0.9)``."""

    name = "continuous, then discrete"
    model_values: ClassVar[dict[str, Any]] = {"prior_loc": 0.5, "gate": 1.1, "slope": 0.7, "step": 0.9}
    guide_values: ClassVar[dict[str, Any]] = {
        "loc": -0.4,
        "tilt": -0.2,
        "log_scale": 0.05,
        "logit": -0.3,
        "change": -0.6,
    }
    data: ClassVar[Any] = (1.2, -0.6, 0.8)
    sites: ClassVar[dict[str, str]] = {"z": "normal", "b": "bernoulli"}
    roots = ("z",)

    def model(self, lib: Any, p: Any, x: Any) -> Any:
        z = lib.sample("z", lib.Normal(p.prior_loc, lib.number(1.0)))
        b = lib.sample("b", lib.Bernoulli(logits=p.gate * z))
        return lib.sample("x", lib.Normal(p.slope * z + p.step * b, lib.number(0.9)), obs=x)

    def guide(self, lib: Any, p: Any, x: Any) -> None:
        z = lib.sample("z", lib.Normal(p.loc + p.tilt * x, lib.exp(p.log_scale)))
        lib.sample("b", lib.Bernoulli(logits=p.logit + p.change * z))

    def states(self, p: Any, x: Tensor, particles: int) -> States:
        noise, weight = normal_nodes(nodes_for(NODES, particles))
        b, noise = _halves(noise)
        z = p.loc + p.tilt * x + p.log_scale.exp() * noise
        return States(bernoulli(b, p.logit + p.change * z) + weight.repeat(2), {"z": z, "b": b})

    def log_prior(self, p: Any, z: Values) -> Tensor:
        return normal(z["z"], p.prior_loc, 1.0) + bernoulli(z["b"], p.gate * z["z"])

    def log_likelihood(self, p: Any, z: Values, x: Tensor) -> Tensor:
        return normal(x, p.slope * z["z"] + p.step * z["b"], 0.9)

    def log_guide(self, p: Any, z: Values, x: Tensor) -> Tensor:
        continuous = normal(z["z"], p.loc + p.tilt * x, p.log_scale.exp())
        return continuous + bernoulli(z["b"], p.logit + p.change * z["z"])

    def kl_dimensions(self, p: Any, z: Values, x: Tensor) -> list[Tensor]:
        first = normal_kl(p.loc + p.tilt * x, p.log_scale.exp(), p.prior_loc, 1.0)
        return [first, bernoulli_kl(p.logit + p.change * z["z"], p.gate * z["z"])]

    def kl_states(self, p: Any, x: Tensor) -> States:
        noise, log_prob = normal_nodes(FINE)
        return States(log_prob, {"z": p.loc + p.tilt * x + p.log_scale.exp() * noise})

    def generated(self, p: Any) -> States:
        noise, weight = normal_nodes(40)
        u, v = (grid.flatten() for grid in torch.meshgrid(noise, noise, indexing="ij"))
        b, z = _halves(p.prior_loc + u)
        x = p.slope * z + p.step * b + 0.9 * v.repeat(2)
        total = (weight[:, None] + weight).flatten().repeat(2) + bernoulli(b, p.gate * z)
        return States(total, {"z": z, "b": b}, x)

    def relaxed(self, p: Any, x: Tensor, gradient: str, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        how = gradient, temperature
        t, noise, log_t, weight = _noise(gradient)
        loc, scale = p.loc + p.tilt * x, p.log_scale.exp()
        z = loc + scale * noise
        logits = p.logit + p.change * z
        b, at = switch(logits, t, *how)
        log_b = switch_log_prob(at, logits, *how)
        log_p = normal(z, p.prior_loc, 1.0) + switch_log_prob(at, p.gate * z, *how)
        log_prob = weight + (log_t if gradient == "relaxed" else log_b.detach())
        return log_prob, normal(x, p.slope * z + p.step * b, 0.9), normal(z, loc, scale) + log_b - log_p
