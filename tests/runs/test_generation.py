"""Arrays of generated and reconstructed data, with the centre of p(x | z) called what it is."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from probgen.errors import ProgramError
from probgen.runs.generation import generate, reconstruct

LOGITS = torch.tensor([[0.0, 2.0, 1.0], [3.0, 0.0, 1.0]])


def latent(num: int) -> Tensor:
    return pyro.sample("z", dist.Normal(torch.zeros(num, 1), 1.0).to_event(1))


def logit_normal(x: Tensor | None = None, num_samples: int = 1) -> None:
    num = num_samples if x is None else len(x)
    with pyro.plate("data", num):
        p = dist.TransformedDistribution(
            dist.Normal(latent(num).expand(num, 2), 1.0), [dist.transforms.SigmoidTransform()]
        )
        pyro.sample("x", p.to_event(1), obs=x)


def categorical(x: Tensor | None = None, num_samples: int = 1) -> None:
    num = num_samples if x is None else len(x)
    with pyro.plate("data", num):
        pyro.sample("x", dist.Categorical(logits=latent(num)[..., None] * 0 + LOGITS).to_event(1), obs=x)


def hierarchical_mean(x: Tensor | None = None, num_samples: int = 1) -> None:
    num = num_samples if x is None else len(x)
    with pyro.plate("data", num):
        mean = pyro.sample("mean", dist.Normal(torch.zeros(num, 2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(3.0 * mean, 1.0).to_event(1), obs=x)


def guide(x: Tensor) -> None:
    with pyro.plate("data", len(x)):
        latent(len(x))


def test_a_likelihood_without_mean_is_drawn_from() -> None:
    arrays = generate(logit_normal, 700)
    assert {name: values.shape for name, values in arrays.items()} == {"z": (700, 1), "x": (700, 2)}
    # logit x ~ N(0, 2), the sum of both variances: 1400 draws of which pairs share z, 5 standard errors of the mean
    assert abs(np.log(arrays["x"] / (1 - arrays["x"])).mean()) < 5 * (1.5 / 700) ** 0.5
    with pytest.raises(ProgramError, match="mean is not known"):
        reconstruct(logit_normal, guide, torch.full((4, 2), 0.5), 4)


def test_of_categories_it_is_the_mode() -> None:
    for arrays in (generate(categorical, 5), reconstruct(categorical, guide, torch.zeros(5, 2).long(), 5)):
        assert set(arrays) == {"z", "x", "mode"}
        np.testing.assert_array_equal(arrays["mode"], LOGITS.argmax(-1).expand(5, 2))


def test_a_site_called_mean_stays() -> None:
    arrays = generate(hierarchical_mean, 5)
    assert set(arrays) == {"mean", "x", "mean_"}
    assert (arrays["mean"] != 0).all()
    np.testing.assert_allclose(arrays["mean_"], 3.0 * arrays["mean"], rtol=1e-6)
