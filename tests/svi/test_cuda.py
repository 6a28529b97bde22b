"""The loop on a CUDA device."""

import functools
import math

import pytest
import torch
from torch.utils.data import DataLoader

from probgen import SVI
from probgen.data import Dataset
from probgen.errors import DivergedError
from probgen.objectives import ELBO, IWAE, MaximumLikelihood
from probgen.svi import warmup_cosine

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here")


@pytest.fixture
def adam():
    return functools.partial(torch.optim.Adam, lr=0.05)


def test_auto_takes_the_device(nets, x, adam):
    svi = SVI(*nets(batch_norm=True, dropout=0.5), adam, IWAE(num_particles=3, gradient="dreg"), ema_decay=0.9)
    devices = []
    svi.model.register_forward_hook(lambda module, inputs, output: devices.append(inputs[0].device.type))
    result = svi.run(x, batch_size=8, num_epochs=3, seed=0, eval_data=x, patience=2, progress=False)
    assert set(devices) == {"cuda"}
    assert {tensor.device.type for tensor in svi.moved().values()} == {"cuda"}
    assert {value.device.type for value in result.params.values()} == {"cuda"}
    assert result.losses.device.type == "cpu"
    assert result.losses.shape == (9,)
    assert torch.isfinite(result.losses).all()
    assert math.isfinite(result.state.ms_per_step)


@pytest.mark.parametrize("capture", [False, True])
def test_without_noise_the_numbers_are_the_cpus(likelihood_model, x, adam, capture):
    ends = []
    for accelerator in ("cpu", "cuda"):
        svi = SVI(
            likelihood_model(),
            None,
            adam,
            MaximumLikelihood(),
            schedule=warmup_cosine(2),
            max_grad_norm=3.0,
            accelerator=accelerator,
            capture=capture,
        )
        ends.append(svi.run(x, num_steps=50, seed=0, progress=False))
    torch.testing.assert_close(ends[0].losses, ends[1].losses, rtol=1e-9, atol=0)
    for name, value in ends[0].params.items():
        torch.testing.assert_close(ends[1].params[name].cpu(), value, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("discrete", [False, True])
def test_captured_steps_are_the_ordinary_ones(nets, x, adam, discrete):
    losses = [
        SVI(*nets(discrete=discrete, batch_norm=True), adam, ELBO(num_particles=2), capture=capture)
        .run(x, batch_size=8, num_epochs=3, seed=0, progress=False)
        .losses
        for capture in (False, True)
    ]
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-9, atol=0)


def test_same_seed_same_numbers(nets, x, adam):
    state = torch.cuda.get_rng_state()
    first, second = (
        SVI(*nets(dropout=0.5), adam, ELBO()).run(Dataset(x.sigmoid(), binarize="dynamic"), num_epochs=2, seed=3)
        for _ in range(2)
    )
    assert torch.equal(first.losses, second.losses)
    assert torch.equal(torch.cuda.get_rng_state(), state)


def test_streams_move_to_the_device(nets, x, adam):
    svi = SVI(*nets(), adam, ELBO())
    losses = svi.run(DataLoader(x, batch_size=8, pin_memory=True), num_epochs=2, seed=0, progress=False).losses
    assert len(losses) == 6
    assert isinstance(svi.step(x), float)
    assert isinstance(svi.step(x.numpy()), float)


def test_divergence_is_seen_a_step_late(likelihood_model, x, adam):
    bad = torch.cat([x[:5], torch.full((1, 3), 1e200)])  # whose square overflows
    svi = SVI(likelihood_model(), None, adam, MaximumLikelihood())
    with pytest.raises(DivergedError, match=r"the loss is inf at step 2\. .* of a later step \(3\) and not to be used"):
        svi.run([x, bad, x, x], num_epochs=1, seed=0, progress=False)


def test_steps_look_before_the_optimizer_moves(likelihood_model, x, adam):
    svi = SVI(likelihood_model(), None, adam, MaximumLikelihood())
    svi.step(x)
    before = svi.model.loc.detach().clone()
    with pytest.raises(DivergedError, match="the loss is inf at step 2: site 'x' has log p -inf"):
        svi.step(torch.full_like(x, 1e200))
    assert torch.equal(svi.model.loc, before)


def test_progress_is_complete(likelihood_model, x, adam, capsys):
    SVI(likelihood_model(), None, adam, MaximumLikelihood()).run(x, batch_size=10, num_epochs=3, seed=0)
    assert [line.split(" init")[0][-3:] for line in capsys.readouterr().err.splitlines()] == [
        f"{i}/6" for i in range(1, 7)
    ]
