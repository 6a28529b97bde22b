"""Problems with normal latents: every site has ``rsample``, and expectations are sums over nodes of a quadrature."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from probgen.testing.problems.base import Problem, States, Values
from probgen.testing.problems.densities import (
    bernoulli,
    binary,
    nodes_for,
    normal,
    normal_kl,
    normal_nodes,
    normal_nodes_plane,
)

LINE = {1: 200, 2: 100, 3: 60}  # nodes of a line that keep tuples of K small
PLANE = {1: 80, 2: 44}
FINE = 200_001  # nodes for an integrand with kinks


def line(particles: int) -> tuple[Tensor, Tensor]:
    """Nodes and log-weights for K-tuples."""
    return normal_nodes(nodes_for(LINE, particles))


class LinearGaussian(Problem):
    """One layer: ``z ~ N(0, 1)``, ``x ~ N(loadings z + offset, noise)`` in two dimensions."""

    name = "linear-Gaussian"
    model_values: ClassVar[dict[str, Any]] = {"loadings": [0.9, -0.5], "offset": [0.3, 0.4], "log_noise": 0.2}
    guide_values: ClassVar[dict[str, Any]] = {"slope": [-0.3, 0.4], "loc": 0.8, "log_scale": 0.15}
    data: ClassVar[Any] = ((-0.6, 1.2), (1.4, -0.9), (0.9, 0.3))
    sites: ClassVar[dict[str, str]] = {"z": "normal"}

    def model(self, lib: Any, p: Any, x: Any) -> Any:
        z = lib.sample("z", lib.Normal(lib.number(0.0), lib.number(1.0)))
        loc = p.loadings * z[..., None] + p.offset
        return lib.sample("x", lib.Normal(loc, lib.exp(p.log_noise)).to_event(1), obs=x)

    def guide(self, lib: Any, p: Any, x: Any) -> None:
        lib.sample("z", lib.Normal((p.slope * x).sum(-1) + p.loc, lib.exp(p.log_scale)))

    def states(self, p: Any, x: Tensor, particles: int) -> States:
        noise, log_prob = line(particles)
        return States(log_prob, {"z": (p.slope * x).sum() + p.loc + p.log_scale.exp() * noise})

    def log_prior(self, p: Any, z: Values) -> Tensor:
        return normal(z["z"], 0.0, 1.0)

    def log_likelihood(self, p: Any, z: Values, x: Tensor) -> Tensor:
        return normal(x, z["z"][:, None] * p.loadings + p.offset, p.log_noise.exp()).sum(-1)

    def log_guide(self, p: Any, z: Values, x: Tensor) -> Tensor:
        return normal(z["z"], (x * p.slope).sum(-1) + p.loc, p.log_scale.exp())

    def kl_dimensions(self, p: Any, z: Values, x: Tensor) -> list[Tensor]:
        return [normal_kl((x * p.slope).sum() + p.loc, p.log_scale.exp(), 0.0, 1.0)]

    def generated(self, p: Any) -> States:
        noise, log_prob = normal_nodes(24)
        z, u, v = (grid.flatten() for grid in torch.meshgrid(noise, noise, noise, indexing="ij"))
        x = z[:, None] * p.loadings + p.offset + p.log_noise.exp() * torch.stack([u, v], -1)
        total = log_prob[:, None, None] + log_prob[:, None] + log_prob
        return States(total.flatten(), {"z": z}, x)


class TwoLayers(Problem):
    """Two layers: ``z_2 ~ N(0, 1)``, ``z_1 ~ N(link z_2, spread)``, ``x ~ N(loading z_1 + offset, 0.8)``."""

    name = "two-layer Gaussian"
    model_values: ClassVar[dict[str, Any]] = {"link": 0.8, "log_spread": -0.1, "loading": 0.9, "offset": -0.5}
    guide_values: ClassVar[dict[str, Any]] = {
        "top_loc": 0.6,
        "top_slope": -0.2,
        "top_log_scale": 0.1,
        "loc": -0.5,
        "slope": 0.1,
        "mix": 0.4,
        "log_scale": 0.05,
    }
    data: ClassVar[Any] = (1.3, -0.8, 0.7)
    sites: ClassVar[dict[str, str]] = {"z_2": "normal", "z_1": "normal"}
    particles = 2

    def model(self, lib: Any, p: Any, x: Any) -> Any:
        z_2 = lib.sample("z_2", lib.Normal(lib.number(0.0), lib.number(1.0)))
        z_1 = lib.sample("z_1", lib.Normal(p.link * z_2, lib.exp(p.log_spread)))
        return lib.sample("x", lib.Normal(p.loading * z_1 + p.offset, lib.number(0.8)), obs=x)

    def guide(self, lib: Any, p: Any, x: Any) -> None:
        z_2 = lib.sample("z_2", lib.Normal(p.top_loc + p.top_slope * x, lib.exp(p.top_log_scale)))
        lib.sample("z_1", lib.Normal(p.loc + p.slope * x + p.mix * z_2, lib.exp(p.log_scale)))

    def states(self, p: Any, x: Tensor, particles: int) -> States:
        a, b, log_prob = normal_nodes_plane(nodes_for(PLANE, particles))
        z_2 = p.top_loc + p.top_slope * x + p.top_log_scale.exp() * a
        z_1 = p.loc + p.slope * x + p.mix * z_2 + p.log_scale.exp() * b
        return States(log_prob, {"z_2": z_2, "z_1": z_1})

    def log_prior(self, p: Any, z: Values) -> Tensor:
        return normal(z["z_2"], 0.0, 1.0) + normal(z["z_1"], p.link * z["z_2"], p.log_spread.exp())

    def log_likelihood(self, p: Any, z: Values, x: Tensor) -> Tensor:
        return normal(x, p.loading * z["z_1"] + p.offset, 0.8)

    def log_guide(self, p: Any, z: Values, x: Tensor) -> Tensor:
        top = normal(z["z_2"], p.top_loc + p.top_slope * x, p.top_log_scale.exp())
        return top + normal(z["z_1"], p.loc + p.slope * x + p.mix * z["z_2"], p.log_scale.exp())

    def kl_dimensions(self, p: Any, z: Values, x: Tensor) -> list[Tensor]:
        top = normal_kl(p.top_loc + p.top_slope * x, p.top_log_scale.exp(), 0.0, 1.0)
        loc = p.loc + p.slope * x + p.mix * z["z_2"]
        return [top, normal_kl(loc, p.log_scale.exp(), p.link * z["z_2"], p.log_spread.exp())]

    def kl_states(self, p: Any, x: Tensor) -> States:
        noise, log_prob = normal_nodes(FINE)
        return States(log_prob, {"z_2": p.top_loc + p.top_slope * x + p.top_log_scale.exp() * noise})

    def generated(self, p: Any) -> States:
        noise, log_prob = normal_nodes(24)
        a, b, c = (grid.flatten() for grid in torch.meshgrid(noise, noise, noise, indexing="ij"))
        z_1 = p.link * a + p.log_spread.exp() * b
        total = log_prob[:, None, None] + log_prob[:, None] + log_prob
        return States(total.flatten(), {"z_2": a, "z_1": z_1}, p.loading * z_1 + p.offset + 0.8 * c)


class Logistic(Problem):
    """One dimension, not conjugate: ``z ~ N(prior_loc, 1)``, ``x ~ Bernoulli(slope z + offset)``."""

    name = "logistic"
    model_values: ClassVar[dict[str, Any]] = {"prior_loc": 0.3, "slope": 1.8, "offset": -0.5}
    guide_values: ClassVar[dict[str, Any]] = {"loc": -0.7, "shift": -0.4, "log_scale": 0.1}
    data: ClassVar[Any] = (1.0, 0.0, 1.0)
    sites: ClassVar[dict[str, str]] = {"z": "normal"}

    def model(self, lib: Any, p: Any, x: Any) -> Any:
        z = lib.sample("z", lib.Normal(p.prior_loc, lib.number(1.0)))
        return lib.sample("x", lib.Bernoulli(logits=p.slope * z + p.offset), obs=x)

    def guide(self, lib: Any, p: Any, x: Any) -> None:
        lib.sample("z", lib.Normal(p.loc + p.shift * x, lib.exp(p.log_scale)))

    def states(self, p: Any, x: Tensor, particles: int) -> States:
        noise, log_prob = line(particles)
        return States(log_prob, {"z": p.loc + p.shift * x + p.log_scale.exp() * noise})

    def log_prior(self, p: Any, z: Values) -> Tensor:
        return normal(z["z"], p.prior_loc, 1.0)

    def log_likelihood(self, p: Any, z: Values, x: Tensor) -> Tensor:
        return bernoulli(x, p.slope * z["z"] + p.offset)

    def log_guide(self, p: Any, z: Values, x: Tensor) -> Tensor:
        return normal(z["z"], p.loc + p.shift * x, p.log_scale.exp())

    def kl_dimensions(self, p: Any, z: Values, x: Tensor) -> list[Tensor]:
        return [normal_kl(p.loc + p.shift * x, p.log_scale.exp(), p.prior_loc, 1.0)]

    def generated(self, p: Any) -> States:
        noise, log_prob = normal_nodes(160)
        z = (p.prior_loc + noise).repeat(2)
        x = binary(1)[:, 0].repeat_interleave(len(noise))
        return States(log_prob.repeat(2) + bernoulli(x, p.slope * z + p.offset), {"z": z}, x)


class LogisticPlane(Problem):
    """Two dimensions, not conjugate: ``z ~ N(0, I)``, two pixels ``x ~ Bernoulli(loadings z + offset)``."""

    name = "logistic plane"
    model_values: ClassVar[dict[str, Any]] = {"loadings": [[1.6, -0.4], [0.5, 1.2]], "offset": [-0.6, 0.7]}
    guide_values: ClassVar[dict[str, Any]] = {"loc": [-0.6, 0.5], "slope": [-0.3, -0.4], "log_scale": [0.1, 0.05]}
    data: ClassVar[Any] = ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0))
    sites: ClassVar[dict[str, str]] = {"z": "normal"}
    dimensions = (2,)
    particles = 2

    def model(self, lib: Any, p: Any, x: Any) -> Any:
        z = lib.sample("z", lib.Normal(0.0 * p.offset, lib.number([1.0, 1.0])).to_event(1))
        logits = (p.loadings * z[..., None, :]).sum(-1) + p.offset
        return lib.sample("x", lib.Bernoulli(logits=logits).to_event(1), obs=x)

    def guide(self, lib: Any, p: Any, x: Any) -> None:
        lib.sample("z", lib.Normal(p.loc + p.slope * x, lib.exp(p.log_scale)).to_event(1))

    def states(self, p: Any, x: Tensor, particles: int) -> States:
        a, b, log_prob = normal_nodes_plane(nodes_for(PLANE, particles))
        noise = torch.stack([a, b], -1)
        return States(log_prob, {"z": p.loc + p.slope * x + p.log_scale.exp() * noise})

    def log_prior(self, p: Any, z: Values) -> Tensor:
        return normal(z["z"], 0.0, 1.0).sum(-1)

    def log_likelihood(self, p: Any, z: Values, x: Tensor) -> Tensor:
        return bernoulli(x, z["z"] @ p.loadings.T + p.offset).sum(-1)

    def log_guide(self, p: Any, z: Values, x: Tensor) -> Tensor:
        return normal(z["z"], p.loc + p.slope * x, p.log_scale.exp()).sum(-1)

    def kl_dimensions(self, p: Any, z: Values, x: Tensor) -> list[Tensor]:
        return list(normal_kl(p.loc + p.slope * x, p.log_scale.exp(), 0.0, 1.0))

    def generated(self, p: Any) -> States:
        a, b, log_prob = normal_nodes_plane(60)
        z, x = torch.stack([a, b], -1).repeat(4, 1), binary(2).repeat_interleave(len(a), 0)
        likelihood = bernoulli(x, z @ p.loadings.T + p.offset).sum(-1)
        return States(log_prob.repeat(4) + likelihood, {"z": z}, x)


class LearnedPrior(Problem):
    """A learned prior under a bent likelihood: ``z ~ N(prior_loc, prior_scale)``, ``x ~ N(gain tanh z, noise)``."""

    name = "learned prior"
    model_values: ClassVar[dict[str, Any]] = {
        "prior_loc": -0.6,
        "prior_log_scale": -0.1,
        "gain": 1.2,
        "log_noise": -0.1,
    }
    guide_values: ClassVar[dict[str, Any]] = {"loc": 0.6, "slope": 0.2, "log_scale": 0.0}
    data: ClassVar[Any] = (-0.5, 0.9, 0.4)
    sites: ClassVar[dict[str, str]] = {"z": "normal"}

    def model(self, lib: Any, p: Any, x: Any) -> Any:
        z = lib.sample("z", lib.Normal(p.prior_loc, lib.exp(p.prior_log_scale)))
        return lib.sample("x", lib.Normal(p.gain * lib.tanh(z), lib.exp(p.log_noise)), obs=x)

    def guide(self, lib: Any, p: Any, x: Any) -> None:
        lib.sample("z", lib.Normal(p.loc + p.slope * x, lib.exp(p.log_scale)))

    def states(self, p: Any, x: Tensor, particles: int) -> States:
        noise, log_prob = line(particles)
        return States(log_prob, {"z": p.loc + p.slope * x + p.log_scale.exp() * noise})

    def log_prior(self, p: Any, z: Values) -> Tensor:
        return normal(z["z"], p.prior_loc, p.prior_log_scale.exp())

    def log_likelihood(self, p: Any, z: Values, x: Tensor) -> Tensor:
        return normal(x, p.gain * z["z"].tanh(), p.log_noise.exp())

    def log_guide(self, p: Any, z: Values, x: Tensor) -> Tensor:
        return normal(z["z"], p.loc + p.slope * x, p.log_scale.exp())

    def kl_dimensions(self, p: Any, z: Values, x: Tensor) -> list[Tensor]:
        return [normal_kl(p.loc + p.slope * x, p.log_scale.exp(), p.prior_loc, p.prior_log_scale.exp())]

    def generated(self, p: Any) -> States:
        a, b, log_prob = normal_nodes_plane(60)
        z = p.prior_loc + p.prior_log_scale.exp() * a
        return States(log_prob, {"z": z}, p.gain * z.tanh() + p.log_noise.exp() * b)
