"""Training that meets a number which is not finite stops at once, says where it came from, and leaves the step out."""

import functools
import math
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

from probgen import SVI
from probgen.errors import DivergedError
from probgen.objectives import ELBO, Loss, MaximumLikelihood, Player
from probgen.svi import loop
from probgen.svi.fetch import Fetched


class Model(PyroModule):
    """x ~ N(loc, scale) with what a test makes of the parameters."""

    def __init__(self, scale=lambda model, x: model.log_scale.exp(), loc=lambda model, x: model.loc):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(3))
        self.log_scale = nn.Parameter(torch.zeros(3))
        self.functions = loc, scale
        self.norm = nn.BatchNorm1d(3, affine=False)

    def forward(self, x):
        self.norm(x)
        loc, scale = (function(self, x) for function in self.functions)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, scale).to_event(1), obs=x)


def sgd(lr):
    return functools.partial(torch.optim.SGD, lr=lr)


def steps_before(svi, x, **options):
    """Runs, expects divergence, and returns the message and the number of the last step that was taken."""
    with pytest.raises(DivergedError) as caught:
        svi.run(x, seed=0, progress=False, **{"num_steps": 500} | options)
    finite = all(torch.isfinite(parameter).all() for parameter in svi.parameters.values())
    kept = f"The parameters are those after step {svi.state.step}" if finite else "The parameters are not finite."
    assert kept in str(caught.value)
    return str(caught.value), svi.state.step


@pytest.mark.parametrize("capture", [False, True])
def test_a_rate_that_explodes(x, capture):
    svi = SVI(Model(), None, sgd(50.0), MaximumLikelihood(), capture=capture)
    message, steps = steps_before(svi, x)
    assert f" at step {steps + 1}: " in message
    assert "`max_grad_norm=`" in message


@pytest.mark.parametrize("optim", [sgd(math.inf), sgd(1e300), functools.partial(torch.optim.Adam, lr=math.inf)])
def test_a_step_that_leaves_infinite_parameters_is_seen_by_the_next(x, optim):
    message, steps = steps_before(SVI(Model(), None, optim, MaximumLikelihood(), ema_decay=0.9), x)
    assert "parameter 'model.loc' is " in message or "site 'x'" in message
    assert steps < 3


def test_the_last_step_is_looked_at_too(x):
    model = Model()
    message, steps = steps_before(SVI(model, None, sgd(math.inf), MaximumLikelihood()), x, num_steps=1)
    assert "step 1 left parameters that are not finite: parameter 'model.loc' is" in message
    assert "The parameters are not finite." in message
    assert steps == 1


def test_a_gradient_that_is_nan_names_the_parameter(x):
    """The square root of 0 has a finite value and an infinite slope, times 0."""
    model = Model(scale=lambda m, x: 1.0 + (m.log_scale * 0.0).abs().sqrt())
    message, steps = steps_before(SVI(model, None, sgd(1e-3), MaximumLikelihood()), x)
    assert (
        "the gradient of parameter 'model.log_scale' is nan at index (0,), step 1; the loss itself is finite" in message
    )
    assert steps == 0
    assert torch.equal(model.log_scale, torch.zeros(3))


def test_a_scale_below_zero_names_the_site(x):
    """The likelihood of equal data has no maximum: the scale falls for ever."""
    model = Model(scale=lambda m, x: 1.0 + m.log_scale)
    svi = SVI(model, None, functools.partial(torch.optim.Adam, lr=0.3), MaximumLikelihood())
    message, steps = steps_before(svi, torch.zeros_like(x))
    assert steps == 4  # about 0.7, 0.4, 0.1, -0.2
    assert "the loss is nan at step 5: site 'x' has log p nan at index (0, 0)" in message


def test_a_scale_that_underflows(x):
    model = Model(scale=lambda m, x: (m.log_scale * 20.0).exp()).float()
    svi = SVI(model, None, functools.partial(torch.optim.Adam, lr=0.1), MaximumLikelihood())
    message, steps = steps_before(svi, torch.zeros_like(x).float())
    assert "the gradient of parameter 'model.loc' is nan" in message  # 1 / scale^2 overflows, the loss does not
    assert steps > 10


def test_data_that_a_model_finds_impossible(x):
    """Only one late datum does."""
    bad = torch.cat([x, torch.full((1, 3), 9.0)])
    model = Model(loc=lambda m, x: m.loc + (1.0 - (x > 8.0).double()).log())
    svi = SVI(model, None, sgd(1e-3), MaximumLikelihood())
    message, steps = steps_before(svi, [bad[:10], bad[10:]])
    assert steps == 1
    assert "the loss is inf at step 2: site 'x' has log p -inf at index (0, 10)" in message


def test_a_guide_that_samples_nan(x, linear):
    model, guide = linear()
    forward = guide.net.forward
    guide.net.forward = lambda x: forward(x) + (guide.log_width - 3e-2).sqrt() * 0.0
    with torch.no_grad():
        guide.log_width.fill_(0.1)
    svi = SVI(model, guide, functools.partial(torch.optim.Adam, lr=0.05), ELBO(gradient="stl"))
    message, _ = steps_before(svi, x)
    assert "site 'z' has value nan at index (0, 0)" in message


@pytest.fixture
def late(monkeypatch):
    """Numbers that are read a step late, as from a device that must not stop."""

    class Late(Fetched):
        def __init__(self, *args):
            super().__init__(*args)
            self._numbers = self._numbers.clone()
            self.here = False
            self._arrived = SimpleNamespace(synchronize=lambda: None)

    monkeypatch.setattr(loop, "Fetched", Late)


def test_numbers_that_are_read_late_are_the_same(make_svi, x, late, monkeypatch):
    options = {"batch_size": 8, "num_epochs": 3, "seed": 0, "eval_data": x, "progress": False}
    first = make_svi().run(x, **options)
    monkeypatch.undo()
    second = make_svi().run(x, **options)
    assert torch.equal(first.losses, second.losses)
    assert first.state.best_bound == second.state.best_bound


def test_divergence_that_is_seen_late_says_that_the_parameters_are_lost(likelihood_model, x, late):
    bad = torch.cat([x[:5], torch.full((1, 3), 1e200)])  # whose square overflows
    for batches, steps in (([x, bad, x, x], 3), ([x, bad], 2)):
        svi = SVI(likelihood_model(), None, sgd(1e-3), MaximumLikelihood())
        message = (
            rf"the loss is inf at step 2\. The parameters are those of a later step \({steps}\) and not to be used"
        )
        with pytest.raises(DivergedError, match=message):
            svi.run(batches, num_epochs=1, seed=0, progress=False)


def test_a_gradient_that_is_seen_late_names_the_parameter(x, late):
    model = Model(scale=lambda m, x: 1.0 + (m.log_scale * 0.0).abs().sqrt())
    message = "the gradient of parameter 'model.log_scale' is not finite at step 1; the loss itself is finite"
    with pytest.raises(DivergedError, match=message):
        SVI(model, None, sgd(1e-3), MaximumLikelihood()).run(x, num_steps=5, progress=False)


def test_steps_look_before_the_optimizer_moves_on_every_device(likelihood_model, x, late):
    svi = SVI(likelihood_model(), None, sgd(1e-3), MaximumLikelihood())
    svi.step(x)
    before = svi.model.loc.detach().clone()
    with pytest.raises(DivergedError, match="the loss is inf at step 2: site 'x' has log p -inf"):
        svi.step(torch.full_like(x, 1e200))
    assert torch.equal(svi.model.loc, before)


@pytest.mark.parametrize("capture", [False, True])
@pytest.mark.parametrize("max_grad_norm", [None, 1.0])
def test_a_gradient_that_is_nan_reaches_nothing(x, capture, max_grad_norm, adam, tensors_of, assert_same):
    """Neither parameters nor averages nor the optimizer's moments, so that good data train on."""

    def make():
        model = Model(scale=lambda m, x: m.log_scale.exp() + ((x.mean(0) - 9.0) * m.loc).abs().sqrt() * 0.0)
        with torch.no_grad():
            model.loc.fill_(1.0)
        del model.norm
        model.norm = lambda x: None
        options = {"capture": capture, "max_grad_norm": max_grad_norm, "ema_decay": 0.9}
        return SVI(model, None, adam, MaximumLikelihood(), **options)

    svi, good = make(), make()
    bad = torch.full_like(x, 9.0)  # the slope of the root is infinite there
    for batch in (x, x, bad, x, x):
        if batch is not bad:
            assert svi.step(batch) == good.step(batch)
            continue
        with pytest.raises(DivergedError, match=r"the gradient of parameter 'model.loc' is nan .*those after step 2\."):
            svi.step(batch)
        assert all(parameter.grad is None for parameter in svi.parameters.values())
    assert svi.state.step == good.state.step == 4
    assert_same(tensors_of(svi), tensors_of(good))
    assert_same(svi.state.averaged, good.state.averaged)
    moments = [list(s.seats[0].optimizer.state.values()) for s in (svi, good)]
    for first, second in zip(*moments, strict=True):
        assert_same(first, second)


def test_a_norm_that_overflows(x):
    """Every entry is finite, and its square is not."""

    class Steep(MaximumLikelihood):
        def players(self, pair, parameters):
            def loss(x):
                return Loss(total := (pair.model.loc * 1e200).sum(), {"loss": total.detach()})

            return [Player("pair", loss, {"loc": pair.model.loc})]

    message, steps = steps_before(SVI(Model(), None, sgd(1e-3), Steep()), x)
    assert "the norm of the gradient overflows at step 1; the loss itself is finite" in message
    assert steps == 0


def test_step_as_well_as_run(x):
    model = Model(scale=lambda m, x: 1.0 + (m.log_scale * 0.0).abs().sqrt())
    svi = SVI(model, None, sgd(1e-3), MaximumLikelihood())
    with pytest.raises(DivergedError, match=r"the gradient of parameter 'model.log_scale' is nan"):
        svi.step(x)
    assert torch.equal(model.log_scale, torch.zeros(3))
    assert svi.state.step == 0


def test_the_second_player_fails_when_the_first_has_moved(x):
    class Game(MaximumLikelihood):
        def players(self, pair, parameters):
            def first(x):
                return Loss(total := (pair.model.loc - 1.0).pow(2).sum(), {"loss": total.detach()})

            def second(x):
                return Loss(total := (pair.model.log_scale - pair.model.loc).log().sum(), {"loss": total.detach()})

            return [
                Player("first", first, {"loc": pair.model.loc}),
                Player("second", second, {"log_scale": pair.model.log_scale}),
            ]

    model = Model()
    svi = SVI(model, None, sgd(0.1), Game())
    message, steps = steps_before(svi, x)
    assert steps == 0
    assert "the loss is nan at step 1" in message
    assert "those after step 0, but for the earlier turns of this step" in message
    assert torch.equal(model.log_scale, torch.zeros(3))
    assert not torch.equal(model.loc, torch.zeros(3))


def test_infinite_held_out_bounds_are_worse_than_any_other(x):
    model = Model(loc=lambda m, x: m.loc if m.training else m.loc - (m.loc[0] > -1).double().log())
    reports = []
    svi = SVI(model, None, sgd(1e-3), MaximumLikelihood())
    with torch.no_grad():
        model.loc.fill_(-5.0)
    svi.run(x, num_epochs=3, eval_data=x, patience=2, callbacks=[reports.append], progress=False, seed=0)
    assert reports[0].eval_bound == -math.inf
    assert svi.state.stopped == "patience"
