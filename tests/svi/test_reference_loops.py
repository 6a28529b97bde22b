"""The loop gives the numbers of loops written by hand."""

import copy
import functools

import pyro
import pyro.distributions as dist
import pytest
import torch

from probgen import SVI
from probgen.errors import ArgumentError
from probgen.objectives import ELBO, IWAE, Loss, MaximumLikelihood, Player

STEPS = 20


def batches_of(x, size=5):
    """A list of 20 batches, which is a stream that has its own order."""
    return [x[torch.arange(i, i + size) % len(x)] for i in range(STEPS)]


def negative_elbo(model, guide, x):
    """The pathwise ELBO of the linear pair, summed over the batch; torch alone."""
    noise = torch.randn(len(x), 1)
    loc, scale = torch.nn.functional.linear(x, guide.net.weight, guide.net.bias), guide.log_width.exp()
    z = loc + noise * scale
    normal = torch.distributions.Normal
    log_p = normal(0.0, 1.0).log_prob(z).sum(-1)
    log_x = normal(z * model.weight + model.bias, model.log_scale.exp()).log_prob(x).sum(-1)
    log_q = normal(loc, scale).log_prob(z).sum(-1)
    return -(log_x + log_p - log_q).sum()


@pytest.mark.parametrize("fused", [False, True])
def test_one_player_equals_torch(linear, x, fused):
    optim = functools.partial(torch.optim.Adam, lr=0.05, fused=fused)
    model, guide = linear()
    parameters = [model.weight, model.bias, model.log_scale, guide.net.weight, guide.net.bias, guide.log_width]
    optimizer = optim(parameters)
    torch.manual_seed(3)
    by_hand = []
    for batch in batches_of(x):
        optimizer.zero_grad()
        loss = negative_elbo(model, guide, batch)
        loss.backward()
        optimizer.step()
        by_hand.append(loss.item())

    ours = linear()
    svi = SVI(*ours, optim, ELBO())
    torch.manual_seed(3)
    losses = [svi.step(batch) for batch in batches_of(x)]
    torch.testing.assert_close(losses, by_hand, rtol=1e-12, atol=0)
    for a, b in zip((model, guide), ours, strict=True):
        torch.testing.assert_close(b.state_dict(), a.state_dict(), rtol=1e-10, atol=1e-12)


def test_a_run_equals_torch_bit_for_bit(likelihood_model, x, adam):
    by_hand = likelihood_model()
    optimizer = adam(by_hand.parameters())
    for batch in batches_of(x):
        optimizer.zero_grad()
        normal = torch.distributions.Normal(by_hand.loc, by_hand.log_scale.exp()).expand(batch.shape)  # as a plate does
        log_prob = normal.log_prob(batch).sum(-1)
        (-log_prob.sum()).backward()
        optimizer.step()

    model = likelihood_model()
    result = SVI(model, None, adam, MaximumLikelihood()).run(batches_of(x), num_epochs=1, progress=False)
    assert torch.equal(model.loc, by_hand.loc)
    assert torch.equal(model.log_scale, by_hand.log_scale)
    assert torch.equal(result.params["model.loc"], by_hand.loc)


@pytest.mark.parametrize("objective", [ELBO(num_particles=2), IWAE(num_particles=3, gradient="dreg")], ids=str)
def test_step_equals_pyro(linear, x, objective):
    """Same pair, objective, optimizer and seed under Pyro's own SVI."""
    model, guide = linear()
    pyros = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.05}), copy.deepcopy(objective))
    pyro.set_rng_seed(5)
    expected = [pyros.step(batch) for batch in batches_of(x)[:6]]

    pyro.clear_param_store()
    ours = linear()
    svi = SVI(*ours, functools.partial(torch.optim.Adam, lr=0.05), objective)
    pyro.set_rng_seed(5)
    losses = [svi.step(batch) for batch in batches_of(x)[:6]]
    torch.testing.assert_close(losses, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(ours[0].state_dict(), model.state_dict(), rtol=1e-10, atol=1e-12)


def test_step_is_the_sum_over_the_batch_and_run_the_mean(likelihood_model, x, adam):
    first, second = (SVI(likelihood_model(), None, adam, MaximumLikelihood()) for _ in range(2))
    loss = first.step(x)
    assert loss == pytest.approx(len(x) * second.run(x, num_steps=1, progress=False).losses.item(), rel=1e-12)
    assert loss == pytest.approx(-dist.Normal(0.0, 1.0).log_prob(x).sum().item(), rel=1e-12)


# --- what happens between gradient and step --------------------------------------------------------------------------


class _Numbers(torch.nn.Module):
    """Parameters whose loss is a function given by the test; the likelihood is only there to be a pair."""

    def __init__(self, **values):
        super().__init__()
        for name, value in values.items():
            self.register_parameter(name, torch.nn.Parameter(value))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0).expand([x.shape[-1]]).to_event(1), obs=x)


class _Game(MaximumLikelihood):
    """An objective with any players: (name, loss of model and batch, names of parameters, steps)."""

    def __init__(self, *sides):
        super().__init__()
        self.sides = sides

    def players(self, pair, parameters):
        def loss(function):
            return lambda x: Loss(total := function(pair.model, x), {"loss": total.detach() / len(x)})

        return [
            Player(name, loss(function), {n: parameters[f"model.{n}"] for n in names}, steps=steps)
            for name, function, names, steps in self.sides
        ]


def _numbers():
    generator = torch.Generator().manual_seed(2)
    return _Numbers(a=torch.randn(4, 3, generator=generator), b=torch.randn(4, 3, generator=generator))


def _run_by_hand(model, sides, optimizers, batches, max_grad_norm=None):
    for batch in batches:
        for name, function, names, steps in sides:
            for _ in range(steps):
                optimizers[name].zero_grad()
                function(model, batch).backward(inputs=[getattr(model, n) for n in names])
                if max_grad_norm is not None:
                    torch.nn.utils.clip_grad_norm_([getattr(model, n) for n in names], max_grad_norm)
                optimizers[name].step()


SIDES = (
    ("critic", lambda m, x: ((m.a - x.mean()) ** 2).sum() - (m.a * m.b).sum(), ("a",), 2),
    ("generator", lambda m, x: (m.a * m.b).sum() + 0.1 * (m.b**2).sum() * x.std(), ("b",), 1),
)


@pytest.mark.parametrize("capture", [False, True])
def test_two_players_equal_an_alternating_loop(x, capture):
    optim = {
        "critic": functools.partial(torch.optim.SGD, lr=0.03, momentum=0.9),
        "generator": functools.partial(torch.optim.Adam, lr=0.02),
    }
    by_hand = _numbers()
    optimizers = {"critic": optim["critic"]([by_hand.a]), "generator": optim["generator"]([by_hand.b])}
    _run_by_hand(by_hand, SIDES, optimizers, batches_of(x))

    model = _numbers()
    svi = SVI(model, None, optim, _Game(*SIDES), capture=capture)
    losses = svi.run(batches_of(x), num_epochs=1, progress=False).losses
    assert torch.equal(model.a, by_hand.a)
    assert torch.equal(model.b, by_hand.b)
    assert len(losses) == STEPS == svi.state.step  # one a turn, the last player's


def test_one_optim_serves_every_player(x, adam):
    by_hand, model = _numbers(), _numbers()
    _run_by_hand(by_hand, SIDES, {"critic": adam([by_hand.a]), "generator": adam([by_hand.b])}, batches_of(x))
    SVI(model, None, adam, _Game(*SIDES)).run(batches_of(x), num_epochs=1, progress=False)
    assert torch.equal(model.b, by_hand.b)


@pytest.mark.parametrize(
    ("optim", "message"),
    [
        ({"critic": torch.optim.SGD}, "no optimizer for the player 'generator'"),
        ({"critic": torch.optim.SGD, "generatr": torch.optim.SGD}, "player 'generatr'.*did you mean 'generator'"),
        ({}, "no optimizer for the player 'critic'"),
    ],
)
def test_optimizers_must_be_the_players(x, optim, message):
    with pytest.raises(ArgumentError, match=message):
        SVI(_numbers(), None, optim, _Game(*SIDES)).step(x)


@pytest.mark.parametrize(
    ("side", "message"),
    [
        (("critic", SIDES[0][1], (), 1), "'critic' has no parameters"),
        (("critic", SIDES[0][1], ("a",), 0), "'critic' must take at least 1 step"),
        (("generator", SIDES[0][1], ("a",), 1), "two players are called 'generator'"),
    ],
)
def test_players_that_cannot_play(x, adam, side, message):
    with pytest.raises(ArgumentError, match=message):
        SVI(_numbers(), None, adam, _Game(side, SIDES[1])).step(x)


# `autograd.grad` gives one expanded number for the first and one tensor for both parameters of the second; fused
# optimizers, which read memory, and clipping in place need more.
SHARED_GRADIENTS = {
    "expanded": lambda m, x: (m.a + m.b).sum(),
    "shared": lambda m, x: ((m.a + m.b - x.mean()) ** 2).sum(),
    "transposed": lambda m, x: (m.a.T @ m.b).pow(2).sum(),
}


@pytest.mark.parametrize("function", SHARED_GRADIENTS.values(), ids=SHARED_GRADIENTS)
@pytest.mark.parametrize("max_grad_norm", [None, 0.5, 1e6])
@pytest.mark.parametrize("fused", [False, True])
def test_clipped_steps_equal_torch(x, function, max_grad_norm, fused):
    optim = functools.partial(torch.optim.Adam, lr=0.05, fused=fused)
    sides = [("all", function, ("a", "b"), 1)]
    by_hand, model = _numbers(), _numbers()
    _run_by_hand(by_hand, sides, {"all": optim(by_hand.parameters())}, batches_of(x), max_grad_norm)
    svi = SVI(model, None, optim, _Game(*sides), max_grad_norm=max_grad_norm)
    svi.run(batches_of(x), num_epochs=1, progress=False)
    assert torch.equal(model.a, by_hand.a)
    assert torch.equal(model.b, by_hand.b)


def test_gradients_are_not_left_behind(make_svi, x):
    svi = make_svi()
    svi.step(x)
    assert all(parameter.grad is None for parameter in svi.parameters.values())


# --- the moving average ----------------------------------------------------------------------------------------------


def test_average_follows_its_recursion(make_svi, x):
    svi = make_svi(ema_decay=0.8)
    averages = None
    for i in range(STEPS):
        if i == 1:  # from the second step on, as the first one finds the parameters
            averages = {name: value.clone() for name, value in svi.state.averaged.items()}
        svi.step(x)
        if averages is not None:
            averages = {name: 0.8 * value + 0.2 * svi.parameters[name].detach() for name, value in averages.items()}
    assert averages is not None
    torch.testing.assert_close(svi.state.averaged, averages, rtol=1e-12, atol=1e-14)


def test_average_starts_at_the_initial_values(linear, x, adam):
    model, guide = linear()
    start = model.weight.detach().clone()
    svi = SVI(model, guide, adam, ELBO(), ema_decay=0.75)
    svi.step(x)
    torch.testing.assert_close(svi.state.averaged["model.weight"], 0.75 * start + 0.25 * model.weight.detach())


def test_averaged_parameters_are_swapped_in_and_out(make_svi, x, tensors_of, assert_same):
    svi = make_svi(ema_decay=0.9)
    result = svi.run(x, num_steps=5, seed=0, progress=False)
    before = tensors_of(svi)
    inside = {}

    def look():
        with svi.averaged_parameters():
            inside.update({name: value.detach().clone() for name, value in svi.parameters.items()})
            raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):  # they come back after an error as well
        look()
    assert_same(inside, result.state.averaged)
    assert_same(tensors_of(svi), before)
    assert not torch.equal(inside["model.weight"], before["model.weight"])


def test_held_out_bounds_are_those_of_the_average(make_svi, x):
    reports = []
    svi = make_svi(ema_decay=0.9)
    svi.run(x, num_epochs=1, seed=0, eval_data=x, callbacks=[reports.append], progress=False)
    raw = svi.pair
    with svi.averaged_parameters():
        pyro.set_rng_seed(0)
        expected = raw.bound(x).mean().item()
    assert reports[0].eval_bound == pytest.approx(expected, rel=1e-12)
    pyro.set_rng_seed(0)
    assert raw.bound(x).mean().item() != pytest.approx(expected, rel=1e-6)


def test_without_an_average_the_parameters_stay(make_svi, x, tensors_of, assert_same):
    svi = make_svi()
    svi.step(x)
    before = tensors_of(svi)
    with svi.averaged_parameters():
        assert_same(tensors_of(svi), before)
    assert svi.state.averaged == {}
