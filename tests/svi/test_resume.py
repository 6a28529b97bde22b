"""A run that is interrupted and resumed ends with bitwise the same parameters as one that was not."""

import functools
import json
import math
import random

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from probgen import SVI
from probgen.checkpoints import Checkpoints
from probgen.data import Dataset
from probgen.errors import ArgumentError
from probgen.objectives import ELBO, IWAE, MaximumLikelihood
from probgen.svi import warmup_cosine
from probgen.svi.keeping import Keeper


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
    "nadam": functools.partial(torch.optim.NAdam, lr=1e-3),
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


@pytest.mark.parametrize(  # after the first step, at and after the ends of epochs (of 4)
    ("options", "stop"), [(o, s) for o in OPTIONS for s in (1, 4, 7, 8, 11) if o != "captured" or s in (4, 7)]
)
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


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="needs torch 2.9")
def test_an_optimizer_of_matrices_alone_goes_on(x, tmp_path):
    """Its options are checked on its own parameters: it takes no others."""
    plan = {"num_steps": 6, "batch_size": 10, "progress": False, "seed": 2}

    def model(x):
        weight = pyro.param("weight", lambda: torch.eye(3))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(x @ weight + 1.0, 1.0).to_event(1), obs=x)

    def run(**options):
        with pyro.get_param_store().scope():
            svi = SVI(model, None, functools.partial(torch.optim.Muon, lr=1e-3), MaximumLikelihood())
            return svi.run(x, **plan | options).params["weight"]

    whole = run()
    run(num_steps=3, run_dir=tmp_path)
    assert torch.equal(whole, run(run_dir=tmp_path, resume=True))


def test_held_out_streams_with_a_generator_give_the_same_bound_each_time(linear, x, adam, tmp_path):
    """Their own order is that of seed 0 at every evaluation."""
    plan = {"batch_size": 10, "progress": False, "seed": 2}
    generator = torch.Generator().manual_seed(5)

    def held_out():
        return DataLoader(TensorDataset(x), batch_size=7, shuffle=True, generator=generator)

    whole = SVI(*linear(), adam, ELBO())
    expected = everything(whole, whole.run(x, num_epochs=4, eval_data=held_out(), **plan))
    SVI(*linear(), adam, ELBO()).run(x, num_epochs=2, eval_data=held_out(), run_dir=tmp_path, **plan)
    resumed = SVI(*linear(), adam, ELBO())
    result = resumed.run(x, num_epochs=4, eval_data=held_out(), run_dir=tmp_path, resume=True, **plan)
    assert_same(expected, everything(resumed, result))


def test_a_held_out_bound_of_minus_infinity_is_kept(tmp_path, adam):
    """Of a class that the model gives no mass, say."""

    def model(x):
        logit = pyro.param("logit", torch.zeros(()))
        logits = torch.stack([logit, -logit, torch.tensor(-torch.inf)])
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Categorical(logits=logits), obs=x)

    def run(epochs, **options):
        with pyro.get_param_store().scope():
            svi = SVI(model, None, adam, MaximumLikelihood())
            svi.run(torch.tensor([0, 1, 1]), eval_data=torch.tensor([2]), num_epochs=epochs, progress=False, **options)
            return svi.state

    run(2, run_dir=tmp_path)
    state = run(3, run_dir=tmp_path, resume=True)
    assert state.epoch == 3
    assert state.best_bound in (None, -math.inf)


@pytest.mark.parametrize(
    ("before", "after"),
    [(warmup_cosine(3), None), (None, warmup_cosine(3)), (warmup_cosine(3), warmup_cosine(4))],
    ids=["left out", "new", "another"],
)
def test_another_schedule_is_refused(linear, x, adam, tmp_path, before, after):
    plan = {"num_steps": 2, "progress": False, "seed": 0, "run_dir": tmp_path}
    SVI(*linear(), adam, ELBO(), schedule=before).run(x, **plan)
    SVI(*linear(), adam, ELBO(), schedule=before).run(x, **plan, resume=True)
    with pytest.raises(ArgumentError, match="`resume`: schedule is"):
        SVI(*linear(), adam, ELBO(), schedule=after).run(x, **plan, resume=True)


def test_a_run_that_another_process_took_further_is_not_taken_back(linear, x, adam, tmp_path):
    """Between looking for the checkpoint and taking the folder somebody else may have trained there."""
    plan = {"num_steps": 2, "progress": False, "seed": 0, "run_dir": tmp_path}
    SVI(*linear(), adam, ELBO()).run(x, **plan)
    late = Keeper(tmp_path, True)
    SVI(*linear(), adam, ELBO()).run(x, **plan | {"num_steps": 5}, resume=True)
    with pytest.raises(ArgumentError, match="another process has trained in"):
        late.open(1)
    late.close()
    assert Checkpoints(tmp_path).steps()[-1] == 5
    fresh = tmp_path / "fresh"
    early = Keeper(fresh, False)
    SVI(*linear(), adam, ELBO()).run(x, **plan | {"run_dir": fresh})
    with pytest.raises(ArgumentError, match="another process has trained in"):
        early.open(0)
    early.close()


def test_a_last_line_without_its_end_gets_one(linear, x, adam, tmp_path):
    plan = {"progress": False, "seed": 0, "run_dir": tmp_path}
    SVI(*linear(), adam, ELBO()).run(x, num_epochs=2, **plan)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    SVI(*linear(), adam, ELBO()).run(x, num_epochs=3, resume=True, **plan)
    assert [json.loads(line)["epoch"] for line in path.read_text().splitlines()] == [1, 2, 3]
