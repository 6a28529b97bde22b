"""Every model of the registry trains on every objective that fits it, in Pyro's loop, in torch's and in ours.

What holds for an objective on any pair is in tests/testing/test_checks_registry.py.
"""

import functools
import math

import pyro
import pytest
import torch

import probgen
from probgen import registry
from probgen.errors import UnsupportedObjective

SHAPE = "event_shape=(4,)"
GUIDES = {
    "conditional-vae": f"amortized-normal:{SHAPE},latent_dim=2,hidden=(8,),num_classes=3",
    "gaussian-mixture": None,
    "hierarchical-vae": f"amortized-hierarchical:{SHAPE},latent_dims=(3,2),hidden=(8,)",
    "ppca": f"amortized-multivariate-normal:{SHAPE},latent_dim=2,hidden=(8,)",
    "vae": f"amortized-normal:{SHAPE},latent_dim=2,hidden=(8,)",
}
MODELS = {
    "conditional-vae": f"conditional-vae:{SHAPE},latent_dim=2,hidden=(8,),num_classes=3",
    "gaussian-mixture": "gaussian-mixture:data_dim=4,num_components=3",
    "hierarchical-vae": f"hierarchical-vae:{SHAPE},latent_dims=(3,2),hidden=(8,)",
    "ppca": "ppca:data_dim=4,latent_dim=2",
    "vae": f"vae:{SHAPE},latent_dim=2,hidden=(8,)",
}
EXACT = "maximum-likelihood"


def fits(model: str, objective: str) -> bool:
    return (GUIDES[model] is None) == (objective == EXACT)


CELLS = [(m, o) for m in registry.names("model") for o in registry.names("objective")]
TRAINED = [cell for cell in CELLS if fits(*cell)]


@pytest.fixture
def build():
    def make(name):
        guide = GUIDES[name]
        return registry.parse("model", MODELS[name]), None if guide is None else registry.parse("guide", guide)

    return make


@pytest.fixture
def data():
    x = (torch.rand(30, 4, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    labels = torch.arange(30) % 3
    return lambda name: (x, labels) if name == "conditional-vae" else (x,)


def objective_of(name):
    return registry.parse("objective", registry.entry("objective", name).example)


def weights(*programs):
    return [p.detach().clone() for program in programs if program is not None for p in program.parameters()]


def assert_trained(before, after):
    assert all(torch.isfinite(p).all() for p in after)
    assert all(not torch.equal(b, a) for b, a in zip(before, after, strict=True))


def no_guide(*args):
    pass


@pytest.mark.parametrize(("model_name", "objective_name"), TRAINED)
def test_trains_in_pyros_loop(build, data, model_name, objective_name):
    model, guide = build(model_name)
    before = weights(model, guide)
    optim = pyro.optim.Adam({"lr": 1e-2})
    svi = pyro.infer.SVI(model, guide or no_guide, optim, objective_of(objective_name))
    losses = [svi.step(*data(model_name)) for _ in range(3)]
    assert all(math.isfinite(loss) for loss in losses)
    assert_trained(before, weights(model, guide))


@pytest.mark.parametrize(("model_name", "objective_name"), TRAINED)
def test_trains_in_a_torch_loop(build, data, model_name, objective_name):
    model, guide = build(model_name)
    before = weights(model, guide)
    pair = objective_of(objective_name)(model, guide)
    optimizer = torch.optim.Adam(pair.parameters(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        pair(*data(model_name)).backward()
        optimizer.step()
    assert_trained(before, weights(model, guide))


@pytest.mark.parametrize("capture", [False, True])
@pytest.mark.parametrize(("model_name", "objective_name"), TRAINED)
def test_training_in_our_loop_raises_the_bound(build, data, model_name, objective_name, capture):
    model, guide = build(model_name)
    objective = objective_of(objective_name)
    adam = functools.partial(torch.optim.Adam, lr=3e-2)
    svi = probgen.SVI(model, guide, adam, objective, capture=capture)
    args = data(model_name)
    before = bounds(objective, model, guide, args)
    result = svi.run(args, num_steps=40, seed=0, progress=False)
    assert torch.isfinite(result.losses).all()
    rise = bounds(objective, model, guide, args) - before  # in pairs: the same data and noise
    assert rise.mean() > 2 * rise.std() / len(rise) ** 0.5


def bounds(objective, model, guide, args):
    """The bound of each datum, averaged over a few runs on the same noise."""
    pyro.set_rng_seed(1)
    return torch.stack([objective.bound(model, guide, *args) for _ in range(10)]).mean(0)


@pytest.mark.parametrize(("model_name", "objective_name"), [cell for cell in CELLS if not fits(*cell)])
def test_what_does_not_fit_is_refused_or_exact(build, data, model_name, objective_name):
    """A model without latents makes every bound exact, but for weights that do not exist; the reverse is refused."""
    model, guide = build(model_name)
    objective = objective_of(objective_name)
    if objective_name == EXACT:
        with pytest.raises(UnsupportedObjective, match="is latent"):
            objective.bound(model, guide, *data(model_name))
        return
    bound = objective.bound(model, guide, *data(model_name))
    assert torch.allclose(bound, model.log_evidence(*data(model_name)), atol=1e-5)
