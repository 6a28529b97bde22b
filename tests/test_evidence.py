"""Evidence against closed forms: linear-Gaussian models, conjugate pairs, arviz's k-hat on the same weights."""

import importlib
import math
import random
from collections.abc import Iterator
from typing import Any

import arviz
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDelta, AutoNormal
from pyro.nn import PyroModule
from torch import Tensor, nn

import probgen
from probgen.core import bounds, weights
from probgen.data import Dataset
from probgen.errors import (
    ArgumentError,
    ArgumentTypeError,
    DataError,
    DivergedError,
    ProgramError,
)
from probgen.evidence import evaluate
from probgen.evidence.streams import UnitStream, WeightStream
from probgen.models import PPCA, VAE, GaussianMixture

D, L, N = 5, 2, 60


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class PosteriorGuide(nn.Module):
    """PPCA's exact posterior, its scale stretched; stretch = 1 is the exact one."""

    def __init__(self, model: PPCA, stretch: float = 1.0) -> None:
        super().__init__()
        self.model, self.stretch = [model], stretch  # in a list: the guide does not own the model's parameters

    def forward(self, x: Tensor) -> None:
        p = self.model[0].posterior(x)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.MultivariateNormal(p.loc, scale_tril=p.scale_tril * self.stretch))


@pytest.fixture
def ppca() -> PPCA:
    return PPCA(D, L)


@pytest.fixture
def x(ppca: PPCA) -> Tensor:
    with torch.no_grad():
        return ppca(num_samples=N)


def test_exact_posterior_is_exact(ppca: PPCA, x: Tensor) -> None:
    got = evaluate(ppca, PosteriorGuide(ppca), x, num_particles=100)
    truth = ppca.log_evidence(x).detach()
    assert (got.log_prob - truth).abs().max() < 1e-10
    assert (got.elbo - truth).abs().max() < 1e-10
    assert (got.ess - 100).abs().max() < 1e-8
    assert bool((got.khat == -math.inf).all())
    assert got.khat_share == 0.0
    assert got.monte_carlo_error.max() < 1e-7
    assert abs(got.gap) < 1e-10
    assert got.kind == "lower"


def test_mismatched_guide_is_within_its_error(ppca: PPCA, x: Tensor) -> None:
    truth = ppca.log_evidence(x).detach()
    got = evaluate(ppca, PosteriorGuide(ppca, 1.5), x, num_particles=2000, batch_size=25)
    within = (got.log_prob - truth).abs() <= 5 * got.monte_carlo_error
    assert within.double().mean() >= 0.99
    assert abs(got.mean - float(truth.mean())) < 5 * got.mean_monte_carlo_error
    assert bool((got.elbo < got.log_prob).all())
    # E_q[log p(x, z) - log q] = log p(x) - KL(q || p(z | x)), which the stretch alone decides.
    kl = L * ((1.5**2 - 1) / 2 - math.log(1.5))
    error = float((got.log_prob - truth - (got.gap - kl)).std()) / math.sqrt(N) + 1e-3
    assert abs(got.gap - kl) < 5 * max(error, math.sqrt(kl / (N * 2000)))


def test_kl_is_that_of_guide_and_prior(ppca: PPCA, x: Tensor) -> None:
    guide = PosteriorGuide(ppca, 1.5)
    p = ppca.posterior(x)
    q = dist.MultivariateNormal(p.loc, scale_tril=p.scale_tril * 1.5)
    prior = dist.MultivariateNormal(torch.zeros(L), torch.eye(L))
    truth = torch.distributions.kl_divergence(q, prior).detach()
    got = evaluate(ppca, guide, x, num_particles=4000).kl
    assert float((got - truth).abs().mean()) < 0.1  # the standard deviation of log q - log p is about 2


@pytest.mark.parametrize("guide", [None, "exact"])
def test_no_latents_is_exact(guide: str | None) -> None:
    mixture = GaussianMixture(D, 3)
    data = torch.randn(N, D)
    truth = mixture.log_evidence(data).detach()

    def without_method(x: Tensor) -> Any:
        return mixture(x)

    got = evaluate(mixture if guide is None else without_method, None, data, batch_size=7)
    torch.testing.assert_close(got.log_prob, truth)
    assert (got.kind, got.num_particles, got.khat_share) == ("exact", 1, 0.0)
    assert got.mean_monte_carlo_error == 0.0
    assert got.gap == 0.0
    assert got.standard_error == pytest.approx(float(truth.std()) / math.sqrt(N))
    assert "exact" in repr(got)


def test_log_evidence_stands_in_for_the_guide(ppca: PPCA, x: Tensor) -> None:
    got = evaluate(ppca, None, x, batch_size=11)
    torch.testing.assert_close(got.log_prob, ppca.log_evidence(x).detach())
    assert got.kind == "exact"


@pytest.mark.parametrize("num_particles", [1, 7, 40, 500])
@pytest.mark.parametrize("chunk", [1, 7, 499])
def test_stream_equals_the_whole(num_particles: int, chunk: int) -> None:
    log_weights = 30 * torch.randn(num_particles, 9)
    log_weights[:, 3] = -math.inf
    kl = torch.randn(num_particles, 9)
    stream = WeightStream(num_particles)
    for part, kl_part in zip(log_weights.split(chunk), kl.split(chunk), strict=True):
        stream.update(part, kl_part)
    got = stream.statistics()
    torch.testing.assert_close(got.log_prob, bounds.iwae(log_weights))
    torch.testing.assert_close(got.elbo, bounds.elbo(log_weights))
    torch.testing.assert_close(got.kl, kl.mean(0))
    torch.testing.assert_close(got.ess, weights.effective_sample_size(log_weights))
    torch.testing.assert_close(got.khat, weights.pareto_khat(log_weights), equal_nan=True)


def test_stream_is_exact_far_from_zero() -> None:
    stream = WeightStream(3)
    stream.update(torch.tensor([[-1e5], [-1e5 + 1], [-2e5]]), torch.zeros(3, 1))
    assert float(stream.statistics().log_prob) == pytest.approx(-1e5 + math.log((1 + math.e) / 3), abs=1e-9)


def test_khat_is_arvizs(ppca: PPCA, x: Tensor) -> None:
    with probgen.seeding.seeded(0), torch.no_grad():
        log_weights = probgen.log_weights(ppca, PosteriorGuide(ppca, 0.8), x, num_particles=1000)
    got = evaluate(ppca, PosteriorGuide(ppca, 0.8), x, num_particles=1000, batch_size=N, max_particles_at_once=1000)
    torch.testing.assert_close(got.log_prob, bounds.iwae(log_weights))  # the same particles
    _, khat = arviz.psislw(np.ascontiguousarray(log_weights.numpy().T))
    np.testing.assert_allclose(got.khat.numpy(), khat, atol=1e-8)
    assert got.khat_share == float((khat > min(1 - 1 / math.log10(1000), 0.7)).mean())


def test_monte_carlo_error_is_calibrated(ppca: PPCA, x: Tensor) -> None:
    repetitions = 100
    runs = [
        evaluate(ppca, PosteriorGuide(ppca, 1.3), x, num_particles=200, batch_size=N, seed=seed)
        for seed in range(repetitions)
    ]
    spread = torch.stack([run.log_prob for run in runs]).std(0)
    claimed = torch.stack([run.monte_carlo_error for run in runs]).mean(0)
    # A standard deviation from 100 repetitions has a relative error of 1 / sqrt(198), the mean over N data a small one.
    ratio = spread / claimed
    assert abs(float(ratio.mean()) - 1) < 5 / math.sqrt(198 * N) + 0.02
    assert bool(((ratio - 1).abs() < 5 / math.sqrt(198)).all())
    total = torch.tensor([run.mean for run in runs]).std()
    assert abs(float(total) / runs[0].mean_monte_carlo_error - 1) < 5 / math.sqrt(198)


def test_memory_is_bounded(ppca: PPCA, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, kept = [], []
    update = WeightStream.update

    def spy(self: WeightStream, log_weights: Tensor, kl: Tensor) -> None:
        update(self, log_weights, kl)
        sizes.append(tuple(log_weights.shape))
        kept.append(max(v.numel() for v in vars(self).values() if isinstance(v, Tensor)))

    monkeypatch.setattr(WeightStream, "update", spy)
    evaluate(ppca, PosteriorGuide(ppca, 1.1), x, num_particles=1000, batch_size=25, max_particles_at_once=64)
    assert len(sizes) == 3 * 16
    assert max(sizes) == (64, 25)
    assert {size[1] for size in sizes} == {25, 10}
    assert max(kept) <= (weights.tail_length(1000) + 1) * 25


def test_default_chunks_bound_the_samples(ppca: PPCA, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    update = WeightStream.update
    monkeypatch.setattr(WeightStream, "update", lambda self, w, kl: (sizes.append(w.numel()), update(self, w, kl))[1])
    evaluate(ppca, PosteriorGuide(ppca, 1.1), x, num_particles=1000)
    assert max(sizes) <= 1 << 14


def test_all_forms_of_data_agree(ppca: PPCA, x: Tensor) -> None:
    guide = PosteriorGuide(ppca)

    class Loader:
        def __iter__(self) -> Iterator[list[Tensor]]:
            return iter([[x[:40]], [x[40:]]])

    want = ppca.log_evidence(x).detach()
    for data in (x, x.numpy(), (x,), {"x": x}, Dataset(x), [x[:7], x[7:]], Loader()):
        got = evaluate(ppca, guide, data, num_particles=20, batch_size=40)
        torch.testing.assert_close(got.log_prob, want)


def test_dynamic_data_are_drawn_once() -> None:
    model, guide = VAE((4,), 2, (3,)), _encoder(4, 2)
    grey = Dataset(torch.rand(30, 4, dtype=torch.float32), binarize="dynamic")
    got = evaluate(model, guide, grey, num_particles=20, seed=3)
    want = evaluate(model, guide, grey.fixed(3), num_particles=20, seed=3)
    assert torch.equal(got.log_prob, want.log_prob)
    other = evaluate(model, guide, grey, num_particles=20, seed=4)
    assert not torch.equal(got.log_prob, other.log_prob)
    assert evaluate(model, guide, grey, num_particles=2, seed=None).kind == "lower"


def _encoder(data_dim: int, latent_dim: int) -> nn.Module:
    return importlib.import_module("probgen.guides").AmortizedNormal((data_dim,), latent_dim, (3,))


def test_bits_per_dim() -> None:
    bits = torch.randint(2, (12, 4)).double()
    got = evaluate(VAE((4,), 2, (3,)), _encoder(4, 2), bits, num_particles=20)
    assert got.dims == 4
    assert got.bits_per_dim == pytest.approx(-got.mean / (4 * math.log(2)))


def test_densities_have_no_bits(ppca: PPCA, x: Tensor) -> None:
    assert evaluate(ppca, PosteriorGuide(ppca), x, num_particles=5).bits_per_dim is None


def test_seeded_and_side_effect_free(ppca: PPCA, x: Tensor) -> None:
    def evaluated(**options: Any) -> Tensor:
        return evaluate(ppca, PosteriorGuide(ppca, 1.2), x, num_particles=50, **options).log_prob

    pyro.clear_param_store()
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    first = evaluated(seed=1)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]
    assert random.getstate() == states[2]
    assert torch.equal(first, evaluated(seed=1))
    assert not torch.equal(first, evaluated(seed=2))
    pyro.set_rng_seed(5)
    drawn = evaluated(seed=None)
    pyro.set_rng_seed(5)
    assert torch.equal(drawn, evaluated(seed=None))
    assert not torch.equal(drawn, evaluated(seed=None))
    assert len(pyro.get_param_store()) == 0


def test_eval_mode_and_gradients_are_restored() -> None:
    seen = []

    class Noisy(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.drop, self.norm = nn.Dropout(0.5), nn.BatchNorm1d(3)
            self.norm.eval()

        def forward(self, x: Tensor) -> None:
            seen.append((self.drop.training, torch.is_grad_enabled(), pyro.poutine.util.is_validation_enabled()))
            with pyro.plate("data", len(x), dim=-1):
                pyro.sample("x", dist.Normal(self.norm(self.drop(torch.ones(3))[None]), 1.0).to_event(1), obs=x)

    model = Noisy()
    evaluate(model, None, torch.zeros(6, 3), batch_size=2)
    assert {(training, grad) for training, grad, _ in seen} == {(False, False)}
    assert seen[0][2] is True  # one validated run, the rest without Pyro's checks
    assert not any(validated for _, _, validated in seen[1:])
    assert (model.training, model.drop.training, model.norm.training) == (True, True, False)
    assert torch.is_grad_enabled()


def test_active_units() -> None:
    """Two of four latents tell about the data; with few particles the others' noise would pass for activity."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z[..., :2], 1.0).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        loc = torch.cat((x, torch.zeros_like(x)), -1)
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc, torch.tensor([0.1, 0.1, 1.0, 1.0])).to_event(1))

    data = torch.randn(400, 2)
    got = evaluate(model, guide, data, num_particles=20, batch_size=150, max_particles_at_once=6)
    variances = got.unit_variances["z"]
    torch.testing.assert_close(variances[:2], data.var(0), atol=0.01, rtol=0.01)
    # The mean of 20 standard normals has a variance of 1/20; subtracted, what is left is 1/20 sqrt(2 / 400) at most.
    assert variances[2:].abs().max() < 5 / 20 * math.sqrt(2 / 400)
    assert got.active_units == 2 + int((variances[2:] > 0.01).sum())
    assert evaluate(model, guide, data, num_particles=1000).active_units == 2
    assert evaluate(model, guide, data, num_particles=1).active_units is None


def test_units_merge_like_one_batch() -> None:
    values = torch.randn(3, 10, 2, 2)  # [K, batch, *units]
    whole, parts = UnitStream(), UnitStream()
    whole.update([("z", values.sum(0), (values**2).sum(0))], 3)
    for part in values.split(4, dim=1):
        parts.update([("z", part.sum(0), (part**2).sum(0))], 3)
    mean = values.mean(0)
    truth = mean.var(0) - values.var(0).mean(0) / 3
    torch.testing.assert_close(whole.variances()["z"], truth)
    torch.testing.assert_close(parts.variances()["z"], truth)


def test_units_of_changing_shape_are_left_out() -> None:
    stream = UnitStream()
    for length in (2, 3):
        stream.update([("z", torch.zeros(5, length), torch.zeros(5, length))], 3)
    assert stream.variances() == {}


def test_plates_inside_a_datum_are_summed_and_counted() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-2), pyro.plate("inner", 3, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-2), pyro.plate("inner", 3, dim=-1):
            pyro.sample("z", dist.Normal(x / 1.25, math.sqrt(0.2)))  # the exact posterior

    data = torch.randn(8, 3)
    truth = dist.Normal(0.0, math.sqrt(1.25)).log_prob(data).sum(-1)
    got = evaluate(model, guide, data, num_particles=50, batch_plate="data", batch_size=3)
    torch.testing.assert_close(got.log_prob, truth)
    assert got.unit_variances["z"].shape == (3,)
    with pytest.raises(ProgramError, match=r"several plates, of sizes \(3, 3\).*`batch_plate=`"):
        evaluate(model, guide, data, batch_size=3)


def test_scales_leave_the_evidence_alone(ppca: PPCA, x: Tensor) -> None:
    guide = PosteriorGuide(ppca)
    truth = ppca.log_evidence(x).detach()
    scaled = evaluate(poutine.scale(ppca, 0.1), poutine.scale(guide, 0.1), x, num_particles=10)
    torch.testing.assert_close(scaled.log_prob, truth)

    def of_a_larger_set(x: Tensor) -> Any:
        p = ppca.posterior(x)
        with pyro.plate("data", 1000, subsample=x, dim=-1) as batch:
            z = pyro.sample("z", dist.MultivariateNormal(p.loc, p.covariance_matrix))
            return batch, z

    def model(x: Tensor) -> None:
        with pyro.plate("data", 1000, subsample=x, dim=-1) as batch:
            z = pyro.sample("z", dist.Normal(torch.zeros(L), 1.0).to_event(1))
            pyro.sample("x", ppca.decode(z), obs=batch)

    torch.testing.assert_close(evaluate(model, of_a_larger_set, x, num_particles=10).log_prob, truth)


def test_a_pair_that_subsamples_is_refused(x: Tensor) -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), subsample_size=10, dim=-1) as index:
            pyro.sample("x", dist.Normal(torch.zeros(D), 1.0).to_event(1), obs=x[index])

    with pytest.raises(ProgramError, match=r"plate 'data' draws a minibatch of its own.*subsample=x"):
        evaluate(model, None, x)


def test_joint_weights(x: Tensor) -> None:
    """One location for all data, conjugate: log p(all x) in closed form."""

    def model(x: Tensor) -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    def guide(x: Tensor) -> None:
        pyro.sample("loc", dist.Normal(x.sum() / (len(x) + 1), 1.3 * (len(x) + 1) ** -0.5))

    data = x[:20, 0]
    truth = dist.MultivariateNormal(torch.zeros(20), torch.eye(20) + 1).log_prob(data)
    got = evaluate(model, guide, data, num_particles=5000)
    assert got.joint
    assert got.log_prob.shape == (1,)
    assert abs(got.mean - float(truth)) < 5 * got.mean_monte_carlo_error
    assert math.isnan(got.standard_error)
    assert got.active_units is None
    assert "all data" in repr(got)
    with pytest.raises(ProgramError, match=r"joint weight.*`batch_size=20`"):
        evaluate(model, guide, data, batch_size=5)
    with pytest.raises(ProgramError, match="joint weight"):
        evaluate(model, guide, [data[:10], data[10:]])


def test_autoguides_take_their_data_at_once(ppca: PPCA, x: Tensor) -> None:
    guide = AutoNormal(ppca)
    guide(x)
    got = evaluate(ppca, guide, x, num_particles=100)
    assert got.log_prob.shape == (N,)
    with pytest.raises(ProgramError, match=f"`batch_size={N}`"):
        evaluate(ppca, guide, x, batch_size=10)


def test_point_guides_give_none(ppca: PPCA, x: Tensor) -> None:
    guide = AutoDelta(ppca)
    guide(x)
    got = evaluate(ppca, guide, x)
    assert got.kind == "none"
    assert bool(got.log_prob.isnan().all())
    assert bool(got.elbo.isfinite().all())
    assert "point mass at site 'z' (AutoDelta)" in got.note
    assert "none" in repr(got)
    assert math.isnan(got.khat_share)


def test_a_scale_on_latents_is_the_objectives_not_the_models(ppca: PPCA, x: Tensor) -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            with poutine.scale(scale=0.5):
                z = pyro.sample("z", dist.Normal(torch.zeros(L), 1.0).to_event(1))
            pyro.sample("x", ppca.decode(z), obs=x)

    got = evaluate(model, PosteriorGuide(ppca), x, num_particles=10)
    torch.testing.assert_close(got.log_prob, ppca.log_evidence(x).detach())


def test_values_are_checked_in_every_batch(ppca: PPCA, x: Tensor) -> None:
    bits = torch.zeros(30, 4)
    bits[29, 1] = 0.5
    with pytest.raises(DataError, match=r"`x` must be 0 or 1 .* got 0.5 at index"):
        evaluate(VAE((4,), 2, (3,)), _encoder(4, 2), bits, batch_size=10, num_particles=5)
    x = x.clone()
    x[50] = math.nan
    with pytest.raises(DataError, match="holds nan at index"):
        evaluate(ppca, _encoder(D, L), x, batch_size=10)


def test_a_weight_that_is_not_a_number_names_datum_and_site(ppca: PPCA) -> None:
    def guide(x: Tensor) -> None:
        scale = torch.where(x[:, :L] > 5, 0.0, 1.0)  # a scale of 0 makes log q infinite
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(len(x), L), scale, validate_args=False).to_event(1))

    data = torch.zeros(30, D)
    data[23] = 6.0
    with pytest.raises(DivergedError, match=r"datum 23 is .*the guide's log-density at site 'z'"):
        evaluate(ppca, guide, data, batch_size=10, num_particles=10)


def test_data_that_cannot_occur_have_no_weight() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z * 0 + torch.where(x > 5, 1e200, 0.0), 1.0), obs=x)

    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))

    got = evaluate(model, guide, torch.tensor([0.0, 6.0]), num_particles=30)
    assert got.log_prob[1] == -math.inf
    assert got.ess[1] == 0.0
    assert got.monte_carlo_error[1] == math.inf
    assert got.khat[1] == math.inf


def test_other_refusals(ppca: PPCA, x: Tensor) -> None:
    guide = PosteriorGuide(ppca)
    with pytest.raises(ArgumentError, match="`num_particles` must be a whole number"):
        evaluate(ppca, guide, x, num_particles=0)
    with pytest.raises(ArgumentError, match="`batch_size`"):
        evaluate(ppca, guide, x, batch_size=0)
    with pytest.raises(ArgumentError, match="`max_particles_at_once`"):
        evaluate(ppca, guide, x, max_particles_at_once=0)
    with pytest.raises(ArgumentTypeError, match="one-shot iterator"):
        evaluate(ppca, guide, iter([x]))
    with pytest.raises(DataError, match="`data` is empty"):
        evaluate(ppca, guide, x[:0])
    with pytest.raises(ProgramError, match="observes nothing"):
        evaluate(lambda x: pyro.sample("z", dist.Normal(0.0, 1.0)), lambda x: pyro.sample("z", dist.Normal(0, 1.0)), x)
    with pytest.raises(ProgramError, match=r"size 7 for a minibatch of 60 data"):
        evaluate(_seven, None, x)


def _seven(x: Tensor) -> None:
    with pyro.plate("seven", 7, dim=-1):
        pyro.sample("x", dist.Normal(torch.zeros(D), 1.0).to_event(1), obs=x[:7])


def test_progress_goes_to_standard_error(ppca: PPCA, x: Tensor, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(ppca, None, x, progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "60/60" in captured.err


@pytest.mark.parametrize("use", ["evaluate", "log_weights"])
def test_what_wants_no_gradient_stays_so(ppca: PPCA, x: Tensor, use: str) -> None:
    """Pyro's store switches it on for parameters of PyroModules."""
    frozen = next(ppca.parameters())
    frozen.requires_grad_(False)
    guide = PosteriorGuide(ppca, 1.5)
    if use == "evaluate":
        evaluate(ppca, guide, x, num_particles=10)
    else:
        probgen.log_weights(ppca, guide, x, num_particles=10)
    assert not frozen.requires_grad


def test_progress_off_a_terminal_is_a_line_every_five_percent(
    ppca: PPCA, x: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(ppca, PosteriorGuide(ppca, 1.5), x[:40], num_particles=2, batch_size=1, progress=True)
    assert capsys.readouterr().err.splitlines() == [f"log p(x) {count}/40 data" for count in range(2, 41, 2)]
    evaluate(ppca, PosteriorGuide(ppca, 1.5), x[:40], num_particles=2, batch_size=15, progress=True)
    assert capsys.readouterr().err.splitlines() == [f"log p(x) {count}/40 data" for count in (15, 30, 40)]
