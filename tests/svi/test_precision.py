"""Networks in bfloat16: the numbers of full precision up to its rounding, and densities in float32 alone."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule
from torch import nn

from probgen import SVI, registry
from probgen.errors import ArgumentError, ProgramError
from probgen.guides import AmortizedFlow, AmortizedMultivariateNormal, AmortizedNormal
from probgen.models import VAE
from probgen.objectives import ELBO, IWAE
from probgen.programs.modules import write

EPSILON = 2.0**-8  # the rounding of bfloat16


@pytest.fixture(autouse=True)
def _float32(_float64):
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def bits():
    return (torch.rand(40, 12, generator=torch.Generator().manual_seed(0)) < 0.4).float()


def make(guide=AmortizedNormal, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        pair = VAE((12,), 3, (16,)), guide((12,), 3, (16,))
    return SVI(*pair, functools.partial(torch.optim.SGD, lr=1e-3), IWAE(num_particles=4), **options)


def gradient(svi, x):
    """The gradient of one step from the moved parameters, as SGD without momentum leaves it, in units of its rate."""
    before = [p.detach().clone() for p in (*svi.model.parameters(), *svi.guide.parameters())]
    loss = svi.run(x, num_steps=1, batch_size=len(x), seed=0, progress=False).losses[0]
    after = [p.detach() for p in (*svi.model.parameters(), *svi.guide.parameters())]
    return loss, torch.cat([(b - a).flatten() / 1e-3 for a, b in zip(after, before, strict=True)])


@pytest.mark.parametrize("guide", [AmortizedNormal, AmortizedMultivariateNormal, AmortizedFlow])
def test_close_to_full_precision(bits, guide):
    full, reduced = (gradient(make(guide, precision=p), bits) for p in ("full", "bfloat16"))
    assert full[0] != reduced[0]
    # Four layers between x and the density, each with a relative rounding of epsilon in inputs and weights.
    assert abs(full[0] - reduced[0]) < 8 * EPSILON * abs(full[0])
    assert torch.linalg.vector_norm(full[1] - reduced[1]) < 16 * EPSILON * torch.linalg.vector_norm(full[1])


def test_densities_stay_single(bits):
    seen = set()

    class Watched(VAE):
        def forward(self, x=None, **options):
            with pyro.poutine.trace() as recorder:
                value = super().forward(x, **options)
            recorder.trace.compute_log_prob()
            for _, site in recorder.trace.iter_stochastic_nodes():
                seen.update({site["value"].dtype, site["log_prob"].dtype})
            seen.update(site["log_prob"].dtype for site in recorder.trace.nodes.values() if "log_prob" in site)
            return value

    svi = SVI(
        Watched((12,), 3, (16,)),
        AmortizedNormal((12,), 3, (16,)),
        functools.partial(torch.optim.Adam, lr=1e-3),
        ELBO(),
        precision="bfloat16",
    )
    svi.run(bits, num_steps=2, seed=0, progress=False)
    assert seen == {torch.float32, torch.int64}  # the indices of the plate


def test_captured_is_bitwise_the_same(bits):
    runs = [make(precision="bfloat16", capture=c).run(bits, num_steps=5, seed=0, progress=False) for c in (False, True)]
    assert torch.equal(runs[0].losses, runs[1].losses)


def test_networks_are_left_as_they_were(bits):
    svi = make(precision="bfloat16")
    x = torch.randn(2, 3)
    svi.run(bits, num_steps=1, seed=0, progress=False)
    assert svi.model.decoder(x).dtype == torch.float32
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in (*svi.model.modules(), *svi.guide.modules()))
    exact = svi.model.decoder(x)
    with svi._reduced.at_work():
        assert not torch.equal(svi.model.decoder(x), exact)
        with svi._reduced.suspended():
            assert torch.equal(svi.model.decoder(x), exact)


def test_held_out_bounds_are_exact(bits):
    reports = []
    svi = make(precision="bfloat16")
    svi.run(bits, num_epochs=1, eval_data=bits, seed=0, progress=False, callbacks=[reports.append])
    full = make()
    write(list(full.model.parameters()), list(svi.model.parameters()))
    write(list(full.guide.parameters()), list(svi.guide.parameters()))
    again = []
    frozen = SVI(full.model, full.guide, functools.partial(torch.optim.SGD, lr=0.0), IWAE(num_particles=4))
    frozen.run(bits, num_epochs=1, eval_data=bits, seed=0, progress=False, callbacks=[again.append])
    assert reports[0].eval_bound == again[0].eval_bound


def test_an_error_inside_a_network_closes_autocast(bits):
    svi = make(precision="bfloat16")
    with pytest.raises(Exception, match="shape"):
        svi.run(bits[:, :5], num_steps=1, progress=False)
    assert not torch.is_autocast_enabled("cpu")
    with svi._reduced.at_work(), pytest.raises(RuntimeError):
        svi.model.decoder(torch.zeros(2, 99))
    assert not torch.is_autocast_enabled("cpu")
    svi.run(bits, num_steps=1, progress=False)


def test_refusals(bits):
    with pytest.raises(ArgumentError, match="`precision`: 'bf16' is unknown; did you mean 'bfloat16'"):
        make(precision="bf16")

    def model(x):
        pyro.sample("x", dist.Normal(pyro.param("loc", torch.zeros(12)), 1.0).to_event(1), obs=x[0])

    adam = functools.partial(torch.optim.Adam, lr=1e-3)
    with pytest.raises(ArgumentError, match='there is none: use `precision="full"`'):
        SVI(model, None, adam, ELBO(), precision="bfloat16")
    with pytest.raises(ArgumentError, match=r"float32 parameters, got torch.float64"):
        SVI(VAE((12,), 3, (16,)).double(), AmortizedNormal((12,), 3, (16,)), adam, ELBO(), precision="bfloat16")


def test_a_site_in_bfloat16_is_refused(bits):
    """A program inside a plain module runs under autocast, and its matrix products with it."""

    class Inner(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(12, 3)

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.net(x), 1.0).to_event(1))

    class Guide(PyroModule):
        def __init__(self):
            super().__init__()
            self.inner = Inner()

        def forward(self, x):
            self.inner(x)

    adam = functools.partial(torch.optim.Adam, lr=1e-3)
    svi = SVI(VAE((12,), 3, (16,)), Guide(), adam, ELBO(), precision="bfloat16")
    with pytest.raises(ProgramError, match=r"site 'z' is torch.bfloat16: densities need float32"):
        svi.run(bits, num_steps=1, progress=False)


@pytest.mark.parametrize("name", ["amortized-normal", "amortized-flow", "amortized-multivariate-normal"])
def test_the_registry_s_guides_train(bits, name):
    guide = registry.get("guide", name)((12,), 3, (16,))
    svi = SVI(VAE((12,), 3, (16,)), guide, functools.partial(torch.optim.Adam, lr=1e-2), ELBO(), precision="bfloat16")
    losses = svi.run(bits, num_steps=60, seed=0, progress=False).losses
    assert losses[-10:].mean() < losses[:10].mean()
