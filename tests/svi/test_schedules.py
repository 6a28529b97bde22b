"""Learning-rate schedules."""

import functools
import math

import pytest
import torch

from probgen import SVI
from probgen.errors import ArgumentError, ArgumentTypeError
from probgen.objectives import MaximumLikelihood
from probgen.svi import warmup_cosine


@pytest.mark.parametrize(("warmup", "final", "total"), [(0, 0.0, 10), (4, 0.1, 10), (3, 1.0, 4), (10, 0.0, 10)])
def test_warmup_and_cosine_equal_the_formula(warmup, final, total):
    schedule = warmup_cosine(warmup, final=final)
    for t in range(total):
        if t < warmup:
            expected = (t + 1) / (warmup + 1)
        else:
            expected = final + (1 - final) / 2 * (1 + math.cos(math.pi * (t - warmup) / (total - warmup)))
        assert schedule(t, total) == pytest.approx(expected, abs=1e-15)


def test_the_end_is_the_final_share():
    assert warmup_cosine(final=0.25)(50, 50) == pytest.approx(0.25)
    assert warmup_cosine(final=0.25)(80, 50) == pytest.approx(0.25)  # never up again


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"warmup_steps": -1}, "`warmup_steps` must be a whole number of at least 0, got -1"),
        ({"warmup_steps": 2.5}, "`warmup_steps`.*2.5"),
        ({"final": -0.1}, r"`final` must be in \[0, 1\], got -0.1"),
        ({"final": math.nan}, "`final`.*nan"),
    ],
)
def test_arguments(arguments, message):
    with pytest.raises(ArgumentError, match=message):
        warmup_cosine(**arguments)


def test_the_rate_of_every_step_is_scheduled(likelihood_model, x):
    """Plain gradient descent, so that each step shows its learning rate."""
    rates = [1.0, 0.5, 0.0, 2.0, 0.25]
    model, by_hand = likelihood_model(), likelihood_model()
    for rate in rates:
        log_prob = torch.distributions.Normal(by_hand.loc, by_hand.log_scale.exp()).log_prob(x).sum(-1)
        optimizer = torch.optim.SGD(by_hand.parameters(), lr=1e-3 * rate)
        optimizer.zero_grad()
        (-log_prob.sum()).backward()
        optimizer.step()
    optim = functools.partial(torch.optim.SGD, lr=1e-3)
    svi = SVI(model, None, optim, MaximumLikelihood(), schedule=lambda step, total: rates[step])
    svi.run([x], num_epochs=5, progress=False)
    torch.testing.assert_close(model.state_dict(), by_hand.state_dict(), rtol=1e-13, atol=0)


def test_every_group_keeps_its_own_rate(likelihood_model, x):
    model, before = likelihood_model(), likelihood_model()

    def optim(parameters):
        loc, log_scale = parameters
        return torch.optim.SGD([{"params": [loc], "lr": 1e-3}, {"params": [log_scale], "lr": 1e-2}])

    svi = SVI(model, None, optim, MaximumLikelihood(), schedule=lambda step, total: 0.5)
    log_prob = torch.distributions.Normal(before.loc, before.log_scale.exp()).log_prob(x).sum()
    log_prob.backward()
    svi.step(x)
    torch.testing.assert_close(model.loc.detach(), 0.5e-3 * before.loc.grad)
    torch.testing.assert_close(model.log_scale.detach(), 0.5e-2 * before.log_scale.grad)


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, "1", None, True])
def test_nonsense_is_named_before_the_first_step(make_svi, x, value, tensors_of, assert_same):
    svi = make_svi(schedule=lambda step, total: value)
    before, state = tensors_of(svi), torch.get_rng_state()
    with pytest.raises(ArgumentError, match=r"`schedule` must return a finite number of at least 0, got .* at step 0"):
        svi.run(x, num_steps=2, progress=False)
    after = tensors_of(svi)
    assert_same({name: after[name] for name in before}, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_schedule_must_be_callable(make_svi):
    with pytest.raises(ArgumentTypeError, match=r"`schedule` must be callable, got float"):
        make_svi(schedule=0.1)


def test_a_cosine_needs_an_end(make_svi, x):
    class Endless:
        def __iter__(self):
            return iter([x, x])

    for train in (
        lambda svi: svi.step(x),
        lambda svi: svi.run(Endless(), num_epochs=2, progress=False),
    ):
        with pytest.raises(ArgumentError, match="needs the number of steps"):
            train(make_svi(schedule=warmup_cosine(warmup_steps=1)))
    make_svi(schedule=warmup_cosine()).run(Endless(), num_steps=2, progress=False)
