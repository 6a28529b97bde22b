"""A run that is interrupted and resumed ends with bitwise the same parameters as one that was not."""

import functools
import json
import random

import numpy as np
import pyro
import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from probgen import SVI
from probgen.checkpoints import Checkpoints
from probgen.data import Dataset
from probgen.objectives import ELBO, IWAE
from probgen.svi import warmup_cosine


class Stop(Exception):
    """An interruption that nobody catches: what a killed process leaves is what is on the disk."""


class EveryStep(Checkpoints):
    """Saves after every step, whatever it costs."""

    due = True


def stopping(svi, after):
    """Makes the turn of step ``after`` + 1 raise."""
    turns = svi.turns

    def stop(*args, **kwargs):
        if svi.state.step == after:
            raise Stop
        return turns(*args, **kwargs)

    svi.turns = stop
    return svi


def everything(svi, result):
    """All that a run leaves: parameters, averages, buffers, optimizers, losses, and the numbers of its state."""
    tensors = dict(svi.held())
    for seat in svi.seats:
        for i, state in seat.optimizer.state_dict()["state"].items():
            tensors |= {f"{seat.player.name}/{i}/{name}": torch.as_tensor(value) for name, value in state.items()}
        tensors |= {f"lr/{i}": torch.tensor(g["lr"]) for i, g in enumerate(seat.optimizer.param_groups)}
    state = svi.state
    numbers = (state.step, state.epoch, state.best_bound, state.best_step, state.stopped)
    return tensors | {"losses": result.losses}, numbers


def assert_same(first, second):
    assert first[1] == second[1]
    assert first[0].keys() == second[0].keys()
    for name, value in first[0].items():
        assert torch.equal(value, second[0][name]), name


OPTIONS = {
    "adam": {},
    "averaged, clipped, scheduled": {"ema_decay": 0.9, "max_grad_norm": 1.0, "schedule": warmup_cosine(3)},
    "captured": {"capture": True},
}
OPTIMIZERS = {
    "adam": functools.partial(torch.optim.Adam, lr=1e-2, fused=True),
    "adamw, amsgrad": functools.partial(torch.optim.AdamW, lr=1e-2, amsgrad=True),
    "sgd": functools.partial(torch.optim.SGD, lr=1e-3, momentum=0.9),
    "rmsprop": functools.partial(torch.optim.RMSprop, lr=1e-3, centered=True),
}


def sources(x):
    bits = Dataset(torch.sigmoid(x), binarize="dynamic")

    def loader(**options):
        generator = torch.Generator().manual_seed(5)
        return DataLoader(TensorDataset(x), batch_size=6, shuffle=True, generator=generator, **options)

    return {
        "tensor": lambda: x,
        "dynamic": lambda: bits,
        "list of batches": lambda: list(x.split(6)),
        "loader": lambda: DataLoader(TensorDataset(x), batch_size=6, shuffle=True),
        "loader with a generator": loader,
        "sampler with a generator": lambda: DataLoader(
            TensorDataset(x), 6, sampler=RandomSampler(TensorDataset(x), generator=torch.Generator().manual_seed(3))
        ),
    }


@pytest.mark.parametrize("stop", [1, 4, 7, 8, 11])  # after the first step, at and after the ends of epochs (of 4)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_resumed_equals_uninterrupted(nets, x, adam, tmp_path, options, stop):
    plan = {"num_epochs": 3, "batch_size": 6, "seed": 1, "progress": False, "eval_data": x[:8]}

    def make():
        pair = nets(batch_norm=options != "captured", dropout=0.0 if options == "captured" else 0.2)
        return SVI(*pair, adam, IWAE(num_particles=3), **OPTIONS[options])

    whole = make()
    expected = everything(whole, whole.run(x, **plan))
    with pytest.raises(Stop):
        stopping(make(), stop).run(x, **plan, run_dir=EveryStep(tmp_path))
    assert Checkpoints(tmp_path).steps()[-1] == stop
    resumed = make()
    result = resumed.run(x, **plan, run_dir=tmp_path, resume=True)
    assert_same(expected, everything(resumed, result))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert [row["step"] for row in rows] == [4, 8, 12]


@pytest.mark.parametrize("stop", [2, 4, 7])
@pytest.mark.parametrize("kind", sources(torch.zeros(2, 3)))
def test_data_go_on_where_they_stood(nets, x, adam, tmp_path, kind, stop):
    """In the middle of an epoch too, with what skipped batches draw; with a fresh source, as in another process."""
    plan = {"num_steps": 10, "batch_size": 6, "progress": False, "seed": 2}

    def make():
        return SVI(*nets(dropout=0.2), adam, ELBO())

    def data():
        return sources(x)[kind]()

    whole = make()
    expected = everything(whole, whole.run(data(), **plan))
    with pytest.raises(Stop):
        stopping(make(), stop).run(data(), **plan, run_dir=EveryStep(tmp_path))
    resumed = make()
    assert_same(expected, everything(resumed, resumed.run(data(), **plan, run_dir=tmp_path, resume=True)))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_go_on(linear, x, tmp_path, name):
    plan = {"num_steps": 8, "batch_size": 10, "progress": False, "seed": 2}
    whole = SVI(*linear(), OPTIMIZERS[name], ELBO())
    expected = everything(whole, whole.run(x, **plan))
    with pytest.raises(Stop):
        stopping(SVI(*linear(), OPTIMIZERS[name], ELBO()), 5).run(x, **plan, run_dir=EveryStep(tmp_path))
    resumed = SVI(*linear(), OPTIMIZERS[name], ELBO())
    assert_same(expected, everything(resumed, resumed.run(x, **plan, run_dir=tmp_path, resume=True)))


def test_without_a_seed_generators_go_on(linear, x, adam, tmp_path):
    """Noise of torch comes from the global generator; those of NumPy and Python are kept beside it."""
    plan = {"num_steps": 9, "batch_size": 10, "progress": False}
    drawn = []

    def make():
        model, guide = linear()
        guide.register_forward_pre_hook(lambda *_: drawn.append((random.random(), np.random.normal())))
        return SVI(model, guide, adam, ELBO())

    pyro.set_rng_seed(4)
    whole = make()
    expected = everything(whole, whole.run(x, **plan))
    tail, drawn[:] = drawn[-4:], []
    pyro.set_rng_seed(4)
    with pytest.raises(Stop):
        stopping(make(), 5).run(x, **plan, run_dir=EveryStep(tmp_path))
    pyro.set_rng_seed(99)
    resumed = make()
    assert_same(expected, everything(resumed, resumed.run(x, **plan, run_dir=tmp_path, resume=True)))
    assert drawn[-4:] == tail
