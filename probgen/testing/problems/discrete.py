"""Problems with discrete latents, whose expectations are sums over all states."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from probgen.testing.problems.base import Problem, States, Values
from probgen.testing.problems.densities import (
    bernoulli,
    bernoulli_kl,
    binary,
    categorical,
    categorical_kl,
    indices,
    logistic_nodes,
    normal,
    normal_nodes,
    switch,
    switch_log_prob,
)

RELAXED_NODES = 22  # of each logistic variable


class BeliefNet(Problem):
    """A sigmoid belief net: two top units, two hidden units, three pixels; the guide goes from the data upwards."""

    name = "belief net"
    model_values: ClassVar[dict[str, Any]] = {
        "top_bias": [0.4, -0.6],
        "weights": [[0.9, -0.7], [-0.5, 0.8]],
        "bias": [0.2, -0.3],
        "pixel_weights": [[1.4, -0.9], [-0.8, 1.2], [0.9, 0.6]],
        "pixel_bias": [-0.5, 0.3, 0.2],
    }
    guide_values: ClassVar[dict[str, Any]] = {
        "up": [[-0.8, 0.6, 0.2], [0.5, -0.9, 0.3]],
        "up_bias": [-0.4, 0.5],
        "top": [[-0.7, 0.5], [0.8, -0.4]],
        "top_guide_bias": [-0.6, 0.7],
    }
    data: ClassVar[Any] = ((1.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 1.0, 0.0))
    sites: ClassVar[dict[str, str]] = {"z_1": "bernoulli", "z_2": "bernoulli"}
    roots = ("z_1",)
    ordered = False

    def model(self, lib: Any, p: Any, x: Any) -> Any:
        z_2 = lib.sample("z_2", lib.Bernoulli(logits=p.top_bias).to_event(1))
        z_1 = lib.sample("z_1", lib.Bernoulli(logits=_affine(p.weights, z_2, p.bias)).to_event(1))
        logits = _affine(p.pixel_weights, z_1, p.pixel_bias)
        return lib.sample("x", lib.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, lib: Any, p: Any, x: Any) -> None:
        z_1 = lib.sample("z_1", lib.Bernoulli(logits=_affine(p.up, x, p.up_bias)).to_event(1))
        lib.sample("z_2", lib.Bernoulli(logits=_affine(p.top, z_1, p.top_guide_bias)).to_event(1))

    def states(self, p: Any, x: Tensor, particles: int) -> States:
        bits = binary(4)
        values = {"z_1": bits[:, :2], "z_2": bits[:, 2:]}
        return States(self.log_guide(p, values, x), values)

    def log_prior(self, p: Any, z: Values) -> Tensor:
        top = bernoulli(z["z_2"], p.top_bias).sum(-1)
        return top + bernoulli(z["z_1"], z["z_2"] @ p.weights.T + p.bias).sum(-1)

    def log_likelihood(self, p: Any, z: Values, x: Tensor) -> Tensor:
        return bernoulli(x, z["z_1"] @ p.pixel_weights.T + p.pixel_bias).sum(-1)

    def log_guide(self, p: Any, z: Values, x: Tensor) -> Tensor:
        hidden = bernoulli(z["z_1"], x @ p.up.T + p.up_bias).sum(-1)
        return hidden + bernoulli(z["z_2"], z["z_1"] @ p.top.T + p.top_guide_bias).sum(-1)

    def generated(self, p: Any) -> States:
        bits = binary(7)
        z, x = {"z_1": bits[:, :2], "z_2": bits[:, 2:4]}, bits[:, 4:]
        return States(self.log_prior(p, z) + self.log_likelihood(p, z, x), z, x)

    def relaxed(self, p: Any, x: Tensor, gradient: str, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        how = gradient, temperature
        noise, log_prob = _logistic_grid(4, RELAXED_NODES) if gradient == "relaxed" else (binary(4), None)
        up = x @ p.up.T + p.up_bias
        z_1, at_1 = switch(up, noise[:, :2], *how)
        top = z_1 @ p.top.T + p.top_guide_bias
        z_2, at_2 = switch(top, noise[:, 2:], *how)
        log_q = (switch_log_prob(at_1, up, *how) + switch_log_prob(at_2, top, *how)).sum(-1)
        log_p = switch_log_prob(at_2, p.top_bias, *how).sum(-1)
        log_p = log_p + switch_log_prob(at_1, z_2 @ p.weights.T + p.bias, *how).sum(-1)
        kept = bernoulli(x, z_1 @ p.pixel_weights.T + p.pixel_bias).sum(-1)
        return (log_q.detach() if log_prob is None else log_prob), kept, log_q - log_p


class Switches(Problem):
    """Two switches that the guide throws independently, and their joint effect: ``x ~ N(effect(z), 0.8)``."""

    name = "switches"
    model_values: ClassVar[dict[str, Any]] = {"prior_logits": [0.6, -0.7], "effects": [1.3, -0.9], "joint": 0.7}
    guide_values: ClassVar[dict[str, Any]] = {"logits": [-0.4, 0.6], "tilt": [-0.3, 0.2]}
    data: ClassVar[Any] = (1.2, -0.7, 0.9)
    sites: ClassVar[dict[str, str]] = {"z": "bernoulli"}
    dimensions = (2,)
    roots = ("z",)

    def model(self, lib: Any, p: Any, x: Any) -> Any:
        z = lib.sample("z", lib.Bernoulli(logits=p.prior_logits).to_event(1))
        return lib.sample("x", lib.Normal(self._effect(p, z), lib.number(0.8)), obs=x)

    def guide(self, lib: Any, p: Any, x: Any) -> None:
        lib.sample("z", lib.Bernoulli(logits=p.logits + p.tilt * x[..., None]).to_event(1))

    def _effect(self, p: Any, z: Any) -> Any:
        return (p.effects * z).sum(-1) + p.joint * z[..., 0] * z[..., 1]

    def states(self, p: Any, x: Tensor, particles: int) -> States:
        values = {"z": binary(2)}
        return States(self.log_guide(p, values, x), values)

    def log_prior(self, p: Any, z: Values) -> Tensor:
        return bernoulli(z["z"], p.prior_logits).sum(-1)

    def log_likelihood(self, p: Any, z: Values, x: Tensor) -> Tensor:
        return normal(x, self._effect(p, z["z"]), 0.8)

    def log_guide(self, p: Any, z: Values, x: Tensor) -> Tensor:
        return bernoulli(z["z"], p.logits + p.tilt * x[..., None]).sum(-1)

    def kl_dimensions(self, p: Any, z: Values, x: Tensor) -> list[Tensor]:
        return list(bernoulli_kl(p.logits + p.tilt * x, p.prior_logits))

    def generated(self, p: Any) -> States:
        noise, weight = normal_nodes(40)
        z = {"z": binary(2).repeat_interleave(len(noise), 0)}
        return States(self.log_prior(p, z) + weight.repeat(4), z, self._effect(p, z["z"]) + 0.8 * noise.repeat(4))

    def relaxed(self, p: Any, x: Tensor, gradient: str, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        how = gradient, temperature
        noise, log_prob = _logistic_grid(2, 60) if gradient == "relaxed" else (binary(2), None)
        logits = p.logits + p.tilt * x
        z, at = switch(logits, noise, *how)
        log_q = switch_log_prob(at, logits, *how).sum(-1)
        log_p = switch_log_prob(at, p.prior_logits, *how).sum(-1)
        kept = normal(x, self._effect(p, z), 0.8)
        return (log_q.detach() if log_prob is None else log_prob), kept, log_q - log_p


class Parts(Problem):
    """A datum with a plate inside: a level, and for each part a switch and ``x ~ N(effect z + shift level, 0.8)``."""

    name = "parts"
    model_values: ClassVar[dict[str, Any]] = {
        "level_logit": 0.5,
        "gate": 1.2,
        "bias": -0.6,
        "effect": 1.4,
        "shift": 0.6,
    }
    guide_values: ClassVar[dict[str, Any]] = {
        "slope": -0.4,
        "level_bias": -0.3,
        "up": -0.3,
        "mix": -0.5,
        "part_bias": 0.4,
    }
    data: ClassVar[Any] = ((1.3, -0.4), (-0.6, 0.9), (1.1, 1.5))
    sites: ClassVar[dict[str, str]] = {"level": "bernoulli", "z": "bernoulli"}
    dimensions = (1, 2)
    observes_argument = False
    roots = ("level",)

    def model(self, lib: Any, p: Any, x: Any) -> Any:
        level = lib.sample("level", lib.Bernoulli(logits=p.level_logit))
        with lib.plate("parts", 2):
            z = lib.sample("z", lib.Bernoulli(logits=p.gate * level + p.bias))
            loc = p.effect * z + p.shift * level
            return lib.sample("x", lib.Normal(loc, lib.number(0.8)), obs=None if x is None else lib.first(x))

    def guide(self, lib: Any, p: Any, x: Any) -> None:
        level = lib.sample("level", lib.Bernoulli(logits=p.slope * x.sum(-1) + p.level_bias))
        with lib.plate("parts", 2):
            lib.sample("z", lib.Bernoulli(logits=p.up * lib.first(x) + p.mix * level + p.part_bias))

    def states(self, p: Any, x: Tensor, particles: int) -> States:
        bits = binary(3)
        values = {"level": bits[:, 0], "z": bits[:, 1:]}
        return States(self.log_guide(p, values, x), values)

    def log_prior(self, p: Any, z: Values) -> Tensor:
        level = z["level"]
        return bernoulli(level, p.level_logit) + bernoulli(z["z"], p.gate * level[:, None] + p.bias).sum(-1)

    def log_likelihood(self, p: Any, z: Values, x: Tensor) -> Tensor:
        return normal(x, p.effect * z["z"] + p.shift * z["level"][:, None], 0.8).sum(-1)

    def log_guide(self, p: Any, z: Values, x: Tensor) -> Tensor:
        level = bernoulli(z["level"], p.slope * x.sum(-1) + p.level_bias)
        return level + bernoulli(z["z"], p.up * x + p.mix * z["level"][:, None] + p.part_bias).sum(-1)

    def kl_dimensions(self, p: Any, z: Values, x: Tensor) -> list[Tensor]:
        level = z["level"][:, None]
        parts = bernoulli_kl(p.up * x + p.mix * level + p.part_bias, p.gate * level + p.bias)  # [S, 2]
        return [bernoulli_kl(p.slope * x.sum(-1) + p.level_bias, p.level_logit), *parts.T]

    def generated(self, p: Any) -> States:
        noise, weight = normal_nodes(24)
        u, v = (grid.flatten() for grid in torch.meshgrid(noise, noise, indexing="ij"))
        total = (weight[:, None] + weight).flatten()
        bits = binary(3).repeat_interleave(len(total), 0)
        z = {"level": bits[:, 0], "z": bits[:, 1:]}
        loc = p.effect * z["z"] + p.shift * z["level"][:, None]
        return States(self.log_prior(p, z) + total.repeat(8), z, loc + 0.8 * torch.stack([u, v], -1).repeat(8, 1))

    def relaxed(self, p: Any, x: Tensor, gradient: str, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
        how = gradient, temperature
        noise, log_prob = _logistic_grid(3, 34) if gradient == "relaxed" else (binary(3), None)
        above = p.slope * x.sum(-1) + p.level_bias
        level, at_level = switch(above, noise[:, 0], *how)
        below = p.up * x + p.mix * level[:, None] + p.part_bias
        z, at_z = switch(below, noise[:, 1:], *how)
        log_q = switch_log_prob(at_level, above, *how) + switch_log_prob(at_z, below, *how).sum(-1)
        log_p = switch_log_prob(at_level, p.level_logit, *how)
        log_p = log_p + switch_log_prob(at_z, p.gate * level[:, None] + p.bias, *how).sum(-1)
        kept = normal(x, p.effect * z + p.shift * level[:, None], 0.8).sum(-1)
        return (log_q.detach() if log_prob is None else log_prob), kept, log_q - log_p


class HiddenMarkov(Problem):
    """A hidden Markov model with two states, three steps and normal emissions."""

    name = "hidden Markov"
    model_values: ClassVar[dict[str, Any]] = {
        "initial": [0.3, -0.4],
        "transition": [[0.7, -0.5], [-0.2, 0.6]],
        "means": [-0.8, 1.0],
    }
    guide_values: ClassVar[dict[str, Any]] = {
        "first": [0.5, -0.6],
        "next": [[0.6, -0.3], [-0.5, 0.4]],
        "tilt": [0.2, -0.4],
    }
    data: ClassVar[Any] = ((0.9, 1.1, 0.4), (-0.7, 0.6, 1.3), (0.8, -0.9, 0.7))
    sites: ClassVar[dict[str, str]] = {"z_1": "categorical", "z_2": "categorical", "z_3": "categorical"}
    roots = ("z_1",)

    def model(self, lib: Any, p: Any, x: Any) -> Any:
        logits, locs = p.initial, []
        for step in range(3):
            z = lib.sample(f"z_{step + 1}", lib.Categorical(logits=logits))
            locs.append(lib.take(p.means, z))
            logits = lib.take(p.transition, z)
        return lib.sample("x", lib.Normal(lib.stack(locs, -1), lib.number(1.0)).to_event(1), obs=x)

    def guide(self, lib: Any, p: Any, x: Any) -> None:
        logits = p.first
        for step in range(3):
            z = lib.sample(f"z_{step + 1}", lib.Categorical(logits=logits + p.tilt * x[..., step, None]))
            logits = lib.take(p.next, z)

    def states(self, p: Any, x: Tensor, particles: int) -> States:
        values = _path(indices(2, 3))
        return States(self.log_guide(p, values, x), values)

    def log_prior(self, p: Any, z: Values) -> Tensor:
        first = categorical(z["z_1"], p.initial) + categorical(z["z_2"], p.transition[z["z_1"]])
        return first + categorical(z["z_3"], p.transition[z["z_2"]])

    def log_likelihood(self, p: Any, z: Values, x: Tensor) -> Tensor:
        means = p.means[torch.stack(list(z.values()), -1)]
        return normal(x, means, 1.0).sum(-1)

    def log_guide(self, p: Any, z: Values, x: Tensor) -> Tensor:
        total = categorical(z["z_1"], p.first + p.tilt * x[..., 0, None])
        total = total + categorical(z["z_2"], p.next[z["z_1"]] + p.tilt * x[..., 1, None])
        return total + categorical(z["z_3"], p.next[z["z_2"]] + p.tilt * x[..., 2, None])

    def kl_dimensions(self, p: Any, z: Values, x: Tensor) -> list[Tensor]:
        found, logits, prior = [], p.first, p.initial
        for step, value in enumerate(z.values()):
            found.append(categorical_kl(logits + p.tilt * x[step], prior))
            logits, prior = p.next[value], p.transition[value]
        return found

    def generated(self, p: Any) -> States:
        noise, weight = normal_nodes(16)
        u, v, w = (grid.flatten() for grid in torch.meshgrid(noise, noise, noise, indexing="ij"))
        total = (weight[:, None, None] + weight[:, None] + weight).flatten()
        path = indices(2, 3).repeat_interleave(len(total), 0)
        z = _path(path)
        return States(
            self.log_prior(p, z) + total.repeat(8), z, p.means[path] + torch.stack([u, v, w], -1).repeat(8, 1)
        )


def _logistic_grid(count: int, nodes: int) -> tuple[Tensor, Tensor]:
    """Tuples of standard logistic noise ``[nodes^count, count]`` and their log-weights."""
    points, weights = logistic_nodes(nodes)
    tuples = indices(nodes, count)
    total = weights[tuples].sum(-1)
    kept = total > total.max() - 16.0  # what is left out has a share of about 1e-5
    return points[tuples[kept]], total[kept] - total[kept].logsumexp(0)


def _path(path: Tensor) -> Values:
    """The values of three sites from sequences ``[S, 3]``."""
    return {f"z_{step + 1}": path[:, step] for step in range(3)}


def _affine(weights: Any, value: Any, bias: Any) -> Any:
    """``weights value + bias`` in either library."""
    return (weights * value[..., None, :]).sum(-1) + bias
