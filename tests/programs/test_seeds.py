"""Seeds, generators, and particles that run one by one."""

import math
import random

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from probgen.programs import RunOptions, log_weights, trace_pair
from probgen.seeding import preserved_rng, seeded


def generators():
    return torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()


def same(a, b):
    return torch.equal(a[0], b[0]) and np.array_equal(a[1], b[1]) and a[2] == b[2]


def test_a_seed_fixes_the_weights_and_leaves_the_generators(amortized):
    pair = amortized.Model(), amortized.Guide(), amortized.x
    before = generators()
    first = log_weights(*pair, num_particles=3, seed=0)
    assert same(generators(), before)
    torch.rand(7)
    assert torch.equal(log_weights(*pair, num_particles=3, seed=0), first)
    assert not torch.equal(log_weights(*pair, num_particles=3, seed=1), first)


def test_without_a_seed_the_global_generator_is_used(amortized):
    pair = amortized.Model(), amortized.Guide(), amortized.x
    pyro.set_rng_seed(5)
    first = log_weights(*pair, num_particles=3)
    assert not torch.equal(log_weights(*pair, num_particles=3), first)
    pyro.set_rng_seed(5)
    assert torch.equal(log_weights(*pair, num_particles=3), first)
    assert torch.equal(log_weights(*pair, num_particles=3, seed=5), first)


def test_a_seed_holds_for_every_generator_and_is_undone_after_an_error():
    def draws():
        return torch.rand(2).tolist(), np.random.rand(2).tolist(), random.random()

    before = generators()
    with seeded(4):
        first = draws()
    again = []

    def failing():
        with seeded(4):
            again.append(draws())
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert again == [first]
    with preserved_rng():
        draws()
    assert same(generators(), before)
    with seeded(None):
        draws()
    assert not same(generators(), before)


def test_particles_one_by_one_have_the_distribution_of_particles_at_once(amortized):
    model, guide, x = amortized.Model(), amortized.Guide(), amortized.x[:2].repeat(100, 1)  # replicates of two data
    runs = []
    for vectorize in (True, False):
        weights = trace_pair(
            model, guide, (x,), {}, RunOptions(num_particles=20, vectorize_particles=vectorize)
        ).log_weights
        runs.append(weights.detach().reshape(2000, 2))
    for moment in (lambda w: w, lambda w: (w - 2.0) ** 2, torch.exp):
        first, second = map(moment, runs)
        error = ((first.var(0) + second.var(0)) / 2000).sqrt()
        assert ((first.mean(0) - second.mean(0)).abs() < 5 * error).all()  # a false alarm once in 1.7 million numbers


def test_particles_are_independent(amortized):
    weights = log_weights(amortized.Model(), amortized.Guide(), amortized.x[:1].repeat(4000, 1), num_particles=2)
    correlation = torch.corrcoef(weights)[0, 1].item()
    assert abs(correlation) * math.sqrt(4000) < 5.0


def test_particles_one_by_one_keep_hierarchies_and_shapes():
    def model(x):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("pixels", 2, dim=-1):
                y = pyro.sample("y", dist.Normal(z, 1.0))
                pyro.sample("x", dist.Normal(y, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("pixels", 2, dim=-1):
                pyro.sample("y", dist.Normal(z, 1.0))

    terms = trace_pair(model, guide, (torch.zeros(3, 2),), {}, RunOptions(num_particles=4, vectorize_particles=False))
    assert terms.log_weights.shape == (4, 3)
    assert [site.log_p.shape for site in terms.sites] == [(4, 3)] * 3
    assert [site.value.shape for site in terms.latents] == [(4, 3, 1), (4, 3, 2)]
