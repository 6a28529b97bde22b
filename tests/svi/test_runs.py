"""What a run does around its steps: data, epochs, held-out bounds, patience, seeds, modes and flags."""

import gc
import math
import random

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import probgen
import probgen.svi
from probgen import SVI
from probgen.data import Dataset
from probgen.errors import ArgumentTypeError, DataError, DivergedError
from probgen.objectives import ELBO, MaximumLikelihood
from probgen.svi import EpochReport, SVIResult, SVIState


@pytest.fixture
def recorder(adam):
    """An SVI whose model records every batch that it sees in training, and its mode."""

    class Recorder(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))
            self.seen = []

        def forward(self, x, y=None):
            if torch.is_grad_enabled():
                self.seen.append(x.clone() if y is None else (x.clone(), y.clone()))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(0.0, self.scale.exp()).expand(x.shape[1:]).to_event(1), obs=x.double())

    def make(**options):
        return SVI(Recorder(), None, adam, MaximumLikelihood(), **options)

    return make


def trained_on(svi, data, **options):
    """The batches that steps saw, after those of trials."""
    losses = svi.run(data, progress=False, **{"seed": 0, "num_epochs": 1} | options).losses
    return svi.model.seen[-len(losses) :]


# --- results ----------------------------------------------------------------------------------------------------------


def test_names():
    assert probgen.SVI is probgen.svi.SVI
    assert probgen.SVIResult is SVIResult
    assert callable(probgen.svi.warmup_cosine)
    assert SVIResult._fields == ("params", "state", "losses")


def test_what_a_run_returns(make_svi, x, linear):
    svi = make_svi(ema_decay=0.5)
    params, state, losses = svi.run(x, batch_size=8, num_epochs=2, seed=0, progress=False)
    assert set(params) == set(svi.parameters) == set(state.averaged)
    for name, value in params.items():
        assert not value.requires_grad
        assert torch.equal(value, svi.parameters[name])
        assert value.data_ptr() != svi.parameters[name].data_ptr()
        assert state.averaged[name].data_ptr() != svi.state.averaged[name].data_ptr()
    assert losses.shape == (6,)
    assert losses.dtype == torch.float64
    assert losses.device.type == "cpu"
    assert torch.isfinite(losses).all()
    assert math.isfinite(state.ms_per_step)
    assert (state.step, state.epoch, state.stopped, state.best_bound) == (6, 2, "finished", None)
    assert isinstance(state, SVIState)


def test_float32_and_single_data(linear, x, adam):
    model, guide = (module.float() for module in linear())
    result = SVI(model, guide, adam, ELBO()).run(x[:1].float(), num_epochs=2, seed=0, progress=False)
    assert result.params["model.weight"].dtype == torch.float32
    assert result.losses.dtype == torch.float64


# --- data -------------------------------------------------------------------------------------------------------------


def test_every_datum_is_seen_once_an_epoch_in_another_order(recorder):
    data = torch.arange(10.0)[:, None].expand(10, 2)
    seen = trained_on(recorder(), data, batch_size=4, num_epochs=2)
    assert [len(batch) for batch in seen] == [4, 4, 2, 4, 4, 2]
    first, second = (torch.cat(seen[i : i + 3])[:, 0].tolist() for i in (0, 3))
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_large_batches_are_the_data(recorder, x):
    seen = trained_on(recorder(), x, batch_size=1000)
    assert [len(batch) for batch in seen] == [20]


@pytest.mark.parametrize(
    "data",
    [
        lambda x, y: (x, y),
        lambda x, y: {"y": y, "x": x},
        lambda x, y: (x.numpy(), y.numpy()),
        lambda x, y: Dataset(x, y).labelled(),
        lambda x, y: DataLoader(TensorDataset(x, y), batch_size=5),  # lists
        lambda x, y: DataLoader([{"x": a, "y": b} for a, b in zip(x, y, strict=True)], batch_size=5),
        lambda x, y: [(x[i : i + 5].numpy(), y[i : i + 5]) for i in range(0, 20, 5)],
    ],
    ids=["tuple", "dict", "numpy", "dataset", "loader", "loader-of-dicts", "list"],
)
def test_containers(recorder, x, data):
    y = torch.arange(20)
    seen = trained_on(recorder(), data(x, y), batch_size=5)
    assert len(seen) == 4
    values, labels = (torch.cat(part) for part in zip(*seen, strict=True))
    assert sorted(labels.tolist()) == y.tolist()
    assert torch.equal(values, x[labels])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int64, torch.float16])
def test_the_dtype_is_the_models_affair(recorder, dtype):
    data = (torch.arange(12).reshape(6, 2) % 2).to(dtype)
    seen = trained_on(recorder(), data, batch_size=3)
    assert [batch.dtype for batch in seen] == [dtype] * 2


def test_numpy_of_every_kind(recorder):
    read_only = np.ones((4, 2))
    read_only.flags.writeable = False
    for array in (read_only, np.ones((4, 2))[::-1], np.ones((4, 2), dtype=">f8")):
        for data in (array, [array]):
            assert torch.equal(trained_on(recorder(), data)[0], torch.ones(4, 2))


def test_streams_of_unknown_length(recorder, x):
    class Unknown:
        def __iter__(self):
            return iter([x[:5], x[5:]])

    svi = recorder()
    assert len(trained_on(svi, Unknown(), num_epochs=3)) == 6
    assert (svi.state.step, svi.state.epoch) == (6, 3)
    assert len(trained_on(svi, Unknown(), num_epochs=None, num_steps=3)) == 3
    assert (svi.state.step, svi.state.epoch) == (9, 4)  # a pass that was broken off is not complete


@pytest.mark.parametrize(("num_steps", "epochs"), [(1, 0), (2, 0), (3, 1), (4, 1), (6, 2)])
def test_steps_end_a_run_inside_an_epoch(recorder, x, num_steps, epochs):
    reports = []
    svi = recorder()
    seen = trained_on(svi, x, batch_size=8, num_epochs=None, num_steps=num_steps, callbacks=[reports.append])
    assert len(seen) == num_steps == svi.state.step
    assert svi.state.epoch == epochs
    assert reports[-1].step == num_steps


def test_one_shot_iterators_are_refused(make_svi, x):
    with pytest.raises(ArgumentTypeError, match="`data` is a one-shot iterator"):
        make_svi().run(iter([x]), num_epochs=1)
    with pytest.raises(ArgumentTypeError, match="`data` is a one-shot iterator"):
        make_svi().run((batch for batch in [x]), num_epochs=1)


def test_streams_without_a_batch_are_refused(make_svi, x):
    class Once:
        def __init__(self):
            self.left = [x]

        def __iter__(self):
            while self.left:
                yield self.left.pop()

    with pytest.raises(DataError, match="`data` gave no batch"):
        make_svi().run([], num_epochs=1)
    with pytest.raises(DataError, match="`data` gave no batch"):
        make_svi().run(Once(), num_epochs=1, progress=False)


def test_dynamic_binarization_draws_afresh_and_reproducibly(recorder):
    data = Dataset(torch.full((6, 40), 0.5), binarize="dynamic")
    runs = [trained_on(recorder(), data, num_epochs=2, seed=seed) for seed in (0, 0, 1)]
    assert set(runs[0][0].unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(runs[0][0].sort(0).values, runs[0][1].sort(0).values)  # epochs differ in more than order
    assert all(torch.equal(a, b) for a, b in zip(runs[0], runs[1], strict=True))
    assert not torch.equal(runs[0][0], runs[2][0])


# --- held-out data ----------------------------------------------------------------------------------------------------


def test_held_out_bounds_weigh_every_datum_alike(likelihood_model, x, adam):
    """Batches of 8, 8 and 4, and the exact likelihood."""
    reports = []
    svi = SVI(likelihood_model(), None, adam, MaximumLikelihood())
    svi.run(x, batch_size=8, num_epochs=2, seed=0, eval_data=x, callbacks=[reports.append], progress=False)
    exact = dist.Normal(svi.model.loc, svi.model.log_scale.exp()).log_prob(x).sum(-1).mean().item()
    assert reports[-1].eval_bound == pytest.approx(exact, rel=1e-12)
    stream = [x[:16], x[16:]]
    assert svi.held_out_bound(probgen.data.batches.open_batches(stream, 1, svi.device)) == pytest.approx(exact)


def test_held_out_bounds_use_the_same_noise_and_draw_none(make_svi, x):
    bounds = []
    svi = make_svi(optim=lambda parameters: torch.optim.SGD(parameters, lr=0.0))
    options = {"num_epochs": 3, "seed": 0, "progress": False}
    with_eval = svi.run(x, eval_data=x[:7], callbacks=[lambda r: bounds.append(r.eval_bound)], **options).losses
    assert bounds[0] == bounds[1] == bounds[2]
    assert torch.equal(make_svi(optim=lambda p: torch.optim.SGD(p, lr=0.0)).run(x, **options).losses, with_eval)


@pytest.fixture
def seesaw():
    """An SVI whose held-out bound is best after its third step: gradient descent that is driven past the optimum."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.loc = nn.Parameter(torch.tensor(-2.5))
            self.norm = nn.BatchNorm1d(1, affine=False)

        def forward(self, x):
            self.norm(x)
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(self.loc, 1.0).expand([1]).to_event(1), obs=x)

    class Walk(torch.optim.Optimizer):
        """Adds 1 to every parameter."""

        def __init__(self, parameters):
            super().__init__(parameters, {"lr": 1.0})

        @torch.no_grad()
        def step(self, closure=None):
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.add_(1.0)

    def make(**options):
        return SVI(Model(), None, Walk, MaximumLikelihood(), **options)

    return make


def test_patience_stops_and_goes_back(seesaw):
    reports = []
    svi = seesaw(ema_decay=0.01)
    data = torch.full((4, 1), 0.4)
    result = svi.run(
        torch.randn(4, 1), num_epochs=50, eval_data=data, patience=2, callbacks=[reports.append], progress=False, seed=0
    )
    bounds = [report.eval_bound for report in reports]
    assert len(reports) == result.state.step == 5  # -1.5, -0.5, 0.5, 1.5, 2.5: two without a better one
    assert result.state.stopped == "patience"
    assert result.state.best_bound == max(bounds) == bounds[2]
    assert result.state.best_step == 3
    assert svi.model.loc.item() == result.params["model.loc"].item() == 0.5
    assert svi.model.norm.num_batches_tracked == 3  # buffers go back too
    assert svi.state.averaged["model.loc"].item() == pytest.approx(0.5, abs=0.02)  # and averages
    assert svi.held_out_bound(probgen.data.batches.open_batches(data, 10, svi.device)) == bounds[2]


def test_patience_goes_back_at_the_end_as_well(seesaw):
    svi = seesaw()
    result = svi.run(torch.zeros(4, 1), num_epochs=4, eval_data=torch.zeros(4, 1), patience=10, progress=False)
    assert result.state.stopped == "finished"
    assert result.state.best_step == 2 or result.state.best_step == 3
    assert abs(svi.model.loc.item()) == 0.5


def test_without_patience_the_last_parameters_stay(seesaw):
    svi = seesaw()
    result = svi.run(torch.zeros(4, 1), num_epochs=5, eval_data=torch.zeros(4, 1), progress=False)
    assert svi.model.loc == 2.5
    assert result.state.best_step == 2


def test_a_new_run_has_a_new_best(seesaw):
    svi = seesaw()
    first = svi.run(torch.zeros(4, 1), num_epochs=3, eval_data=torch.zeros(4, 1), patience=9, progress=False)
    second = svi.run(torch.zeros(4, 1), num_epochs=3, eval_data=torch.full((4, 1), 9.0), patience=9, progress=False)
    assert first.state.best_step == 2
    assert second.state.best_step == 6
    assert second.state.best_bound < first.state.best_bound


def test_a_held_out_bound_that_is_nan(likelihood_model, x, adam):
    model = likelihood_model()
    forward = model.forward
    model.forward = lambda x: forward(x if model.training else x * model.log_scale[0].detach().sub(1e9).sqrt())
    with pytest.raises((DivergedError, DataError), match="nan"):
        SVI(model, None, adam, MaximumLikelihood()).run(x, num_epochs=1, eval_data=x, progress=False)


def test_callbacks_see_reports_and_can_stop(make_svi, x):
    seen = []

    def second(report):
        seen.append(report)
        return report.epoch == 2

    result = make_svi().run(x, batch_size=10, num_epochs=9, callbacks=(lambda r: None, second), progress=False, seed=0)
    assert result.state.stopped == "callback"
    assert [(r.step, r.epoch) for r in seen] == [(2, 1), (4, 2)]
    assert all(isinstance(report, EpochReport) and report.eval_bound is None for report in seen)
    assert seen[1].loss == pytest.approx(result.losses[2:].mean().item())
    assert seen[1].bound == pytest.approx(-seen[1].loss)
    assert 0 < seen[0].seconds < seen[1].seconds


def test_reports_of_regularised_objectives_keep_the_plain_bound(linear, x, adam):
    reports = []
    svi = SVI(*linear(), adam, ELBO(beta=4.0, kl="analytic"))
    svi.run(x, num_epochs=1, callbacks=[reports.append], progress=False, seed=0)
    assert reports[0].bound > -reports[0].loss


# --- seeds ------------------------------------------------------------------------------------------------------------


def global_state():
    return torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()


def same_state(a, b):
    return torch.equal(a[0], b[0]) and np.array_equal(a[1], b[1]) and a[2] == b[2]


@pytest.mark.parametrize("loader", [False, True])
def test_same_seed_same_numbers(make_svi, nets, x, assert_same, loader):
    data = DataLoader(x, batch_size=8, shuffle=True) if loader else x
    results = []
    for seed in (0, 0, 1):
        torch.rand(3)  # where the global generators stand does not matter
        svi = make_svi(*nets(dropout=0.5))
        results.append(svi.run(data, batch_size=8, num_epochs=3, seed=seed, progress=False))
    assert_same(results[0].params, results[1].params)
    assert torch.equal(results[0].losses, results[1].losses)
    assert not torch.equal(results[0].losses, results[2].losses)


def test_a_seed_leaves_global_generators_alone(make_svi, x):
    before = global_state()
    svi = make_svi()
    svi.run(x, num_epochs=2, seed=3, eval_data=x, progress=False)
    assert same_state(before, global_state())
    with pytest.raises(DataError):
        svi.run(x * math.nan, num_epochs=2, seed=3, progress=False)
    assert same_state(before, global_state())


def test_without_a_seed_pyros_generator_is_followed(make_svi, x, assert_same):
    results = []
    for seed in (5, 5, 6):
        svi = make_svi()
        pyro.set_rng_seed(seed)
        results.append(svi.run(x, batch_size=8, num_epochs=2, progress=False))
    assert_same(results[0].params, results[1].params)
    assert not torch.equal(results[0].losses, results[2].losses)
    before = global_state()
    make_svi().run(x, num_epochs=1, progress=False)
    assert not same_state(before, global_state())


def test_trials_draw_nothing(make_svi, x):
    """The first step's noise is that of a step without trials, whatever was looked at before."""
    losses = []
    for capture in (False, True):
        svi = make_svi(capture=capture)
        pyro.set_rng_seed(1)
        losses.append(svi.step(x))
    model, guide = svi.model, svi.guide
    fresh = make_svi()
    pyro.set_rng_seed(1)
    with torch.no_grad():
        losses.append(ELBO()(fresh.model, fresh.guide)(x).item())
    assert losses[0] == losses[1] == losses[2]
    assert (model, guide) != (fresh.model, fresh.guide)


# --- nothing else changes ---------------------------------------------------------------------------------------------


def test_modes_are_set_and_restored(nets, x, adam):
    model, guide = nets(dropout=0.5, batch_norm=True)
    model.eval()
    model.net[2].train()
    guide.net[1].eval()
    before = [module.training for root in (model, guide) for module in root.modules()]
    during = []
    hook = model.net[2].register_forward_hook(lambda module, inputs, output: during.append(module.training))
    svi = SVI(model, guide, adam, ELBO())
    svi.run(x, num_epochs=1, eval_data=x, seed=0, progress=False)
    assert during[-1] is False  # held-out data
    assert during[-2] is True
    svi.step(x)
    assert during[-1] is True
    with pytest.raises(DataError):
        svi.run(torch.full_like(x, math.nan), num_epochs=1, progress=False)
    assert [module.training for root in (model, guide) for module in root.modules()] == before
    hook.remove()


@pytest.mark.parametrize("pyros", [True, False])
@pytest.mark.parametrize("torchs", [True, False])
def test_validation_flags_are_restored(make_svi, x, flags, pyros, torchs):
    original = flags()
    try:
        pyro.enable_validation(pyros)
        torch.distributions.Distribution.set_default_validate_args(torchs)
        before = flags()
        svi = make_svi()
        svi.run(x, num_steps=1, seed=0, progress=False)
        assert flags() == before
        svi.step(x)
        assert flags() == before
        with pytest.raises(ZeroDivisionError):
            svi.run(x, num_steps=1, progress=False, callbacks=[lambda report: 1 / 0])
        assert flags() == before
        with pytest.raises(DataError):
            svi.run(x * math.inf, num_steps=1, progress=False)
        assert flags() == before
    finally:
        pyro.enable_validation(original.distributions)
        torch.distributions.Distribution.set_default_validate_args(original.torch)


def test_training_inside_no_grad(make_svi, x):
    svi = make_svi()
    with torch.no_grad():
        svi.run(x, num_steps=1, progress=False)
        assert not torch.is_grad_enabled()
    assert svi.state.step == 1


def test_outer_handlers_see_steps_and_no_trials(make_svi, x):
    class Counter(pyro.poutine.messenger.Messenger):
        def _process_message(self, msg):
            counts[-1] += 1

    counts = []
    for num_steps in (1, 3):
        counts.append(0)
        with Counter():
            make_svi().run(x, num_steps=num_steps, seed=0, progress=False)
    assert counts[0] > 0
    assert counts[1] == 3 * counts[0]


def test_data_are_not_changed(make_svi, x):
    before = x.clone()
    make_svi().run(x, num_epochs=2, seed=0, progress=False)
    assert torch.equal(x, before)
    assert not x.requires_grad


@pytest.mark.parametrize("capture", [False, True])
def test_memory_stays_flat(make_svi, x, capture):
    def tensors():
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    svi = make_svi(ema_decay=0.9, capture=capture)
    svi.run(x, num_steps=5, seed=0, progress=False)
    before = tensors()
    svi.run(x, num_steps=200, seed=0, progress=False)
    assert tensors() == before
