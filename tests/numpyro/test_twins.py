"""Models and guides on both backends: the same weights give the same densities."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import pytest
import torch
from pyro import poutine

from probgen import guides, models
from probgen.errors import ArgumentError, DataError, UnsupportedObjective
from probgen.guides import numpyro as guide_twins
from probgen.models import numpyro as model_twins
from probgen.numpyro import params_from_torch, params_to_torch
from probgen.numpyro.run import Draws, Pair, run_particles

PAIRS = {
    "vae": ("VAE", ((6,), 2, (5, 4)), "AmortizedNormal", ((6,), 2, (5, 4)), {}),
    "vae-normal": ("VAE", ((2, 3), 2, (5,), "normal:min_scale=0.1"), "AmortizedNormal", ((2, 3), 2, (5,)), {}),
    "vae-relu": ("VAE", ((6,), 2, (5,), "normal-fixed"), "AmortizedNormal", ((6,), 2, ()), {}),
    "categorical": ("VAE", ((6,), 2, (5,), "categorical:num_categories=3"), "AmortizedNormal", ((6,), 2, (5,)), {}),
    "bottom-up": ("HierarchicalVAE", ((6,), (3, 2), (5,)), "AmortizedHierarchical", ((6,), (3, 2), (5,)), {}),
    "top-down": (
        "HierarchicalVAE",
        ((6,), (4, 3, 2), ((5,), (4,), (3,))),
        "AmortizedHierarchical",
        ((6,), (4, 3, 2), ((5,), (4,), (3,))),
        {"direction": "top-down", "num_features": 7},
    ),
    "ppca": ("PPCA", (6, 2), "AmortizedNormal", ((6,), 2, (5,)), {}),
}


@pytest.mark.parametrize("name", PAIRS)
def test_equal_weights_give_equal_densities(name):
    model_name, model_args, guide_name, guide_args, options = PAIRS[name]
    model = getattr(models, model_name)(*model_args).double()
    guide = getattr(guides, guide_name)(*guide_args, **options).double()
    programs = (
        getattr(model_twins, model_name)(*model_args),
        getattr(guide_twins, guide_name)(*guide_args, **options),
    )
    params = params_from_torch(model, programs[0]) | params_from_torch(guide, programs[1])
    x = np.random.default_rng(0).integers(0, 2, size=(3, *model.event_shape))
    terms = run_particles(Pair(*programs, (jnp.asarray(x),), {}), params, Draws.of(jax.random.key(0), 1))
    data = torch.as_tensor(x) if name == "categorical" else torch.as_tensor(x).double()
    values = {key: torch.tensor(np.array(value[0])) for key, value in terms.values().items()}
    for side, program in (("log_q", guide), ("log_p", model)):
        trace = poutine.trace(poutine.condition(program, data=values)).get_trace(data)
        trace.compute_log_prob()
        for site in terms.sites:
            if getattr(site, side) is not None:
                expected = trace.nodes[site.name]["log_prob"].detach()
                np.testing.assert_allclose(getattr(site, side)[0], expected, rtol=1e-9, atol=1e-9)


def test_weights_come_back_as_they_were():
    twin, module = guide_twins.AmortizedNormal((6,), 2, (5,)), guides.AmortizedNormal((6,), 2, (5,)).double()
    params = params_from_torch(module, twin)
    fresh = guides.AmortizedNormal((6,), 2, (5,)).double()
    params_to_torch(params, twin, fresh)
    for (name, value), other in zip(module.named_parameters(), fresh.parameters(), strict=True):
        assert torch.equal(value, other), name


def test_refusals():
    twin = guide_twins.AmortizedNormal((6,), 2, (5,))
    with pytest.raises(ArgumentError, match="build both with the same arguments"):
        params_from_torch(guides.AmortizedNormal((6,), 2, (4,)), twin)
    with pytest.raises(ArgumentError, match="has no 'encoder\\$params'"):
        params_to_torch({}, twin, guides.AmortizedNormal((6,), 2, (5,)))
    with pytest.raises(UnsupportedObjective, match="there for Pyro alone"):
        model_twins.VAE((1, 8, 8), network="conv")
    with pytest.raises(ArgumentError, match="did you mean 'bernoulli'"):
        model_twins.VAE((6,), likelihood="bernouli")
    with numpyro.handlers.seed(rng_seed=0), pytest.raises(DataError, match=r"shape \[batch, 6\], got \[3, 5\]"):
        twin(jnp.zeros((3, 5)))


def test_data_mean_starts_the_decoder_there():
    mean = np.full(6, 0.2)
    model = model_twins.VAE((6,), 2, (5,), data_mean=mean)
    np.testing.assert_allclose(jax.nn.sigmoid(model.networks["decoder"].layers[-1].bias), mean, rtol=1e-6)
