"""What going on with a run means: longer runs, ends, earlier checkpoints, refusals, and other pairs."""

import functools
import json
import os
import random
import subprocess
import sys

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from probgen import SVI
from probgen.checkpoints import Checkpoints
from probgen.errors import ArgumentError, ArgumentTypeError, CheckpointError, DivergedError, ProbgenError
from probgen.objectives import ELBO, IWAE, RWS, Player
from probgen.svi import load_weights, warmup_cosine


class Stop(Exception):
    """Nobody catches it: what a killed process leaves is what is on the disk."""


class EveryStep(Checkpoints):
    due = True


def stopping(svi, after):
    turns = svi.turns

    def stop(*args, **kwargs):
        if svi.state.step == after:
            raise Stop
        return turns(*args, **kwargs)

    svi.turns = stop
    return svi


def left(svi, result):
    """All that a run leaves."""
    tensors = dict(svi.held()) | {"losses": result.losses}
    for seat in svi.seats:
        for i, state in seat.optimizer.state_dict()["state"].items():
            tensors |= {f"{seat.player.name}/{i}/{k}": torch.as_tensor(v) for k, v in state.items()}
    state = svi.state
    return tensors, (state.step, state.epoch, state.best_bound, state.best_step, state.stopped)


def assert_same(first, second):
    assert first[1] == second[1]
    assert first[0].keys() == second[0].keys()
    for name, value in first[0].items():
        assert torch.equal(value, second[0][name]), name


def epochs(run_dir):
    return [json.loads(line)["epoch"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def files(run_dir):
    return {
        str(path.relative_to(run_dir)): path.read_bytes()
        for path in run_dir.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


# --- how long ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "longer"),
    [
        ({"num_epochs": 2}, {"num_epochs": 5}),
        ({"num_steps": 6}, {"num_steps": 9}),
        ({"num_epochs": 1}, {"num_steps": 7}),
        ({"num_steps": 6}, {"num_epochs": 3}),
    ],
)
def test_a_longer_run(make_svi, plan, run_dir, first, longer):
    """Equal to a run that was as long from the start: without a schedule, which would know the end."""
    plan.pop("num_epochs")
    whole = make_svi()
    expected = left(whole, whole.run(**plan, **longer))
    make_svi().run(**plan, **first, run_dir=run_dir)
    resumed = make_svi()
    assert_same(expected, left(resumed, resumed.run(**plan, **longer, run_dir=run_dir, resume=True)))


@pytest.mark.parametrize("stop", [1, 4, 5])
def test_a_longer_run_from_within_an_epoch(make_svi, plan, run_dir, stop):
    """Parameters, optimizers and losses; the bound that was measured where the first run stopped counts too."""
    plan = plan | {"num_epochs": None, "eval_data": None}
    whole = make_svi()
    expected = left(whole, whole.run(**plan | {"num_steps": 8}))
    make_svi().run(**plan | {"num_steps": stop}, run_dir=run_dir)
    resumed = make_svi()
    assert_same(expected, left(resumed, resumed.run(**plan | {"num_steps": 8}, run_dir=run_dir, resume=True)))


def test_a_finished_run_returns_at_once(make_svi, plan, run_dir):
    first = make_svi()
    expected = left(first, first.run(**plan, run_dir=run_dir))
    before = files(run_dir)
    again = stopping(make_svi(), after=6)  # would raise
    assert_same(expected, left(again, again.run(**plan, run_dir=run_dir, resume=True)))
    shorter = stopping(make_svi(), after=6)
    assert len(shorter.run(**plan | {"num_epochs": 1}, run_dir=run_dir, resume=True).losses) == 6
    assert files(run_dir) == before


@pytest.mark.parametrize("stop", [4, 8, 11])
def test_patience(make_svi, plan, run_dir, x, stop):
    """The rate is so large that the bound becomes worse; the best parameters come back."""
    optim = functools.partial(torch.optim.SGD, lr=0.02, momentum=0.99)
    plan = plan | {"num_epochs": 30, "patience": 2}

    def make():
        model, guide = make_svi().model, make_svi().guide
        return SVI(model, guide, optim, ELBO(), accelerator="cpu")

    whole = make()
    expected = left(whole, whole.run(**plan))
    assert whole.state.stopped == "patience"
    assert whole.state.best_step < whole.state.step
    assert whole.state.step > stop
    with pytest.raises(Stop):
        stopping(make(), stop).run(**plan, run_dir=EveryStep(run_dir))
    resumed = make()
    assert_same(expected, left(resumed, resumed.run(**plan, run_dir=run_dir, resume=True)))
    for longer in ({}, {"num_epochs": 50}):  # its patience is at an end, however long it may be
        again = stopping(make(), whole.state.step)
        assert_same(expected, left(again, again.run(**plan | longer, run_dir=run_dir, resume=True)))
    patient, uninterrupted = make(), make()
    plan["patience"] = 4
    expected = left(uninterrupted, uninterrupted.run(**plan))
    assert_same(expected, left(patient, patient.run(**plan, run_dir=run_dir, resume=True)))


def test_a_callback_that_ends_the_run(make_svi, plan, run_dir):
    """The run is over, unless it is asked for more than before."""
    plan["num_epochs"] = 4
    whole = make_svi()
    expected = left(whole, whole.run(**plan, callbacks=[lambda report: report.epoch == 2], run_dir=run_dir))
    assert (whole.state.step, whole.state.stopped) == (6, "callback")
    again = stopping(make_svi(), after=6)
    assert_same(expected, left(again, again.run(**plan, run_dir=run_dir, resume=True)))
    longer, uninterrupted = make_svi(), make_svi()
    plan["num_epochs"] = 5
    expected = left(uninterrupted, uninterrupted.run(**plan))
    assert_same(expected, left(longer, longer.run(**plan, run_dir=run_dir, resume=True)))


def test_a_killed_run_asks_its_callbacks_again(make_svi, plan, run_dir):
    def callback(report):
        if report.epoch == 2 and not (run_dir / "seen").exists():
            (run_dir / "seen").touch()
            raise Stop
        return report.epoch == 2

    plan["num_epochs"] = 4
    with pytest.raises(Stop):
        make_svi().run(**plan, run_dir=EveryStep(run_dir), callbacks=[callback])
    resumed = make_svi()
    resumed.run(**plan, run_dir=run_dir, resume=True, callbacks=[callback])
    assert (resumed.state.step, resumed.state.stopped) == (6, "callback")
    assert epochs(run_dir) == [1, 2]


def test_schedules_go_on(make_svi, plan, run_dir):
    schedule = warmup_cosine(2)
    whole = make_svi(schedule=schedule)
    expected = left(whole, whole.run(**plan))
    with pytest.raises(Stop):
        stopping(make_svi(schedule=schedule), 4).run(**plan, run_dir=EveryStep(run_dir))
    resumed = make_svi(schedule=schedule)
    assert_same(expected, left(resumed, resumed.run(**plan, run_dir=run_dir, resume=True)))


def test_a_second_run_of_one_svi(make_svi, plan, run_dir):
    """Steps go on counting; what is resumed is the second run, by a fresh SVI."""
    whole = make_svi()
    whole.run(**plan)
    second = plan | {"seed": 9, "num_epochs": 3}
    expected = whole.run(**second)
    first = make_svi()
    first.run(**plan)
    with pytest.raises(Stop):
        stopping(first, 10).run(**second, run_dir=EveryStep(run_dir))
    resumed = make_svi()
    result = resumed.run(**second, run_dir=run_dir, resume=True)
    assert_same(left(whole, expected), left(resumed, result))
    assert resumed.state.step == 15


# --- earlier checkpoints -------------------------------------------------------------------------------------


def test_an_earlier_checkpoint(make_svi, plan, run_dir):
    whole = make_svi()
    expected = left(whole, whole.run(**plan, run_dir=EveryStep(run_dir, keep=10)))
    assert Checkpoints(run_dir).steps() == [0, 1, 2, 3, 4, 5, 6]
    with pytest.raises(Stop):  # at once: what is latest is what the metrics are of
        stopping(make_svi(), 2).run(**plan, run_dir=run_dir, resume=2)
    assert epochs(run_dir) == []
    assert Checkpoints(run_dir).latest().state["step"] == 2
    with pytest.raises(Stop):
        stopping(make_svi(), 3).run(**plan, run_dir=EveryStep(run_dir, keep=10), resume=True)
    assert Checkpoints(run_dir).steps() == [0, 1, 2, 3]  # later ones are not this run's
    resumed = make_svi()
    assert_same(expected, left(resumed, resumed.run(**plan, run_dir=run_dir, resume=0)))
    assert epochs(run_dir) == [1, 2]


def test_a_step_without_a_checkpoint(make_svi, plan, run_dir):
    make_svi().run(**plan, run_dir=run_dir)
    before = files(run_dir)
    with pytest.raises(CheckpointError, match="no checkpoint of step 5; there are: 0, 6"):
        make_svi().run(**plan, run_dir=run_dir, resume=5)
    assert files(run_dir) == before


@pytest.mark.parametrize("keep", [1, 3])
def test_keep(make_svi, plan, run_dir, keep):
    make_svi().run(**plan, run_dir=EveryStep(run_dir, keep=keep))
    assert Checkpoints(run_dir).steps() == list(range(7 - keep, 7))


# --- refusals ------------------------------------------------------------------------------------------------


def held(svi):
    own = [value.clone() for module in svi.modules for value in module.state_dict().values()]
    words = torch.tensor(random.getstate()[1]), torch.tensor(np.random.get_state()[1].astype(np.int64))
    return [*own, torch.get_rng_state(), *words]


def assert_refused(svi, error, message, run_dir, **options):
    before, content = held(svi), files(run_dir)
    with pytest.raises(error, match=message):
        svi.run(**options, run_dir=run_dir)
    assert all(torch.equal(a, b) for a, b in zip(before, held(svi), strict=True))
    assert files(run_dir) == content


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 3}, "batch_size is 3, but the run in .* was started with 4"),
        ({"seed": 4}, "seed is 4, .* was started with 3"),
        ({"seed": None}, "seed is None, .* was started with 3"),
        ({"data": torch.zeros(12, 3)}, "the values of `data` are others than those that the run"),
        ({"data": torch.zeros(11, 3)}, "data, length is 11, but the run in .* with 12"),
        ({"eval_data": None}, "eval_data is None, but the run"),
        ({"eval_data": torch.zeros(4, 3)}, "the values of `eval_data` are others than those"),
    ],
)
def test_other_options_are_refused(make_svi, plan, run_dir, changes, message):
    make_svi().run(**plan, run_dir=run_dir)
    assert_refused(make_svi(), ArgumentError, message, run_dir, **plan | changes, resume=True)


def other_pair(make_svi):
    model, guide = make_svi().model, make_svi().guide
    return model, guide


OTHERS = {
    "objective": ({"loss": IWAE(num_particles=2)}, "objective is .*IWAE.*was started with .*ELBO"),
    "class": ({"optim": functools.partial(torch.optim.SGD, lr=0.01)}, r"`optim`: .*trained by .*Adam.*SGD"),
    "rate": ({"optim": functools.partial(torch.optim.Adam, lr=0.02)}, "`optim`: `lr` is 0.02 .*started with 0.01"),
    "betas": (
        {"optim": functools.partial(torch.optim.Adam, lr=0.01, betas=(0.8, 0.9))},
        r"`optim`: `betas` is \[0.8, 0.9\]",
    ),
    "average": ({"ema_decay": 0.5}, "ema_decay is 0.5, .* was started with 0.9"),
    "no average": ({"ema_decay": None}, "ema_decay is None"),
    "clipping": ({"max_grad_norm": 1.0}, "max_grad_norm is 1.0, .* was started with None"),
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_svi_is_refused(make_svi, plan, run_dir, what):
    options, message = OTHERS[what]
    make_svi().run(**plan, run_dir=run_dir)
    options = {"optim": functools.partial(torch.optim.Adam, lr=0.01), "loss": ELBO(), "ema_decay": 0.9} | options
    other = SVI(make_svi().model, make_svi().guide, options.pop("optim"), options.pop("loss"), **options)
    assert_refused(other, ArgumentError, message, run_dir, **plan, resume=True)


def renamed(model):
    model.weight_of_z = model.weight
    del model.weight
    return model


class Wide(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.weight = nn.Parameter(torch.full((1, 3), 0.5))
        self.shift, self.fixed, self.mask = base.shift, base.fixed, base.mask

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
            pyro.sample("x", dist.Normal(z * self.weight[0] + self.shift, self.fixed).to_event(1), obs=x)


def thawed(model):
    model.fixed.requires_grad_(True)
    return model


def without_buffer(model):
    del model.mask
    return model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (Wide, r"parameter 'model.weight' is \(1, 3\) torch.float32, but .* has \(3,\)"),
        (lambda model: model.double(), r"parameter 'model.weight' is \(3,\) torch.float64"),
        (thawed, "has no parameter 'model.fixed': it is of another pair, in which it wants no gradient"),
        (without_buffer, "has a 'buffer' 'model.mask' that the pair lacks"),
    ],
    ids=["shape", "dtype", "trained", "buffer"],
)
def test_another_pair_is_refused(make_svi, plan, run_dir, change, message):
    make_svi().run(**plan, run_dir=run_dir)
    base = make_svi()
    options = plan | {"data": plan["data"], "resume": True}
    other = SVI(change(base.model), base.guide, functools.partial(torch.optim.Adam, lr=0.01), ELBO(), ema_decay=0.9)
    assert_refused(other, ArgumentError, message, run_dir, **options)


def test_folders(make_svi, plan, run_dir, tmp_path):
    svi = make_svi()
    with pytest.raises(CheckpointError, match="has no checkpoint of step 3"):
        svi.run(**plan, run_dir=run_dir, resume=3)
    assert not run_dir.exists()
    with pytest.raises(ArgumentError, match="`resume` needs the `run_dir`"):
        svi.run(**plan, resume=True)
    with pytest.raises(ArgumentTypeError, match="`resume` must be True, False or the step"):
        svi.run(**plan, run_dir=run_dir, resume="yes")
    with pytest.raises(ArgumentTypeError, match="`resume` must be True, False or the step"):
        svi.run(**plan, run_dir=run_dir, resume=-1)
    for wrong in (7, "", "a\0b", b"", object()):
        with pytest.raises(ArgumentTypeError, match="`run_dir` must be a path"):
            svi.run(**plan, run_dir=wrong)
    (tmp_path / "file").touch()
    with pytest.raises(ArgumentError, match="is a file; name a folder"):
        svi.run(**plan, run_dir=tmp_path / "file")
    with pytest.raises(ProbgenError, match="too long"):
        svi.run(**plan, run_dir=tmp_path / ("x" * 300))
    svi.run(**plan, run_dir=str(run_dir))
    assert_refused(make_svi(), ArgumentError, "holds a run already; `resume=True`", run_dir, **plan)


def test_a_folder_without_a_checkpoint_begins_anew(make_svi, plan, run_dir):
    run_dir.mkdir()
    whole, resumed = make_svi(), make_svi()
    expected = left(whole, whole.run(**plan))
    assert_same(expected, left(resumed, resumed.run(**plan, run_dir=run_dir, resume=True)))


def test_numbers_of_numpy(make_svi, plan, run_dir):
    plan = plan | {"batch_size": np.int64(4), "seed": np.int32(3), "num_epochs": np.int64(2)}
    with pytest.raises(Stop):
        stopping(make_svi(), 4).run(**plan, run_dir=EveryStep(run_dir))
    make_svi().run(**plan | {"batch_size": 4, "seed": 3, "num_epochs": 3}, run_dir=run_dir, resume=True)


def test_one_process_at_a_time(make_svi, plan, run_dir):
    """A record lock of another process."""
    make_svi().run(**plan, run_dir=run_dir)
    program = (
        "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    )
    command = [sys.executable, "-c", program, run_dir / ".lock"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        message = "another process is training in"
        assert_refused(make_svi(), ArgumentError, message, run_dir, **plan | {"num_epochs": 3}, resume=True)
        other.communicate(b"\n")
    make_svi().run(**plan | {"num_epochs": 3}, run_dir=run_dir, resume=True)


# --- streams -------------------------------------------------------------------------------------------------


class Unknown(IterableDataset):
    """A stream that does not know its length."""

    def __init__(self, x):
        self.x = x

    def __iter__(self):
        return iter(self.x)


@pytest.mark.parametrize("stop", [2, 3, 5])
def test_streams_of_unknown_length(make_svi, plan, run_dir, x, stop):
    def data():
        return DataLoader(Unknown(x), batch_size=4)

    whole = make_svi()
    expected = left(whole, whole.run(**plan | {"data": data()}))
    with pytest.raises(Stop):
        stopping(make_svi(), stop).run(**plan | {"data": data()}, run_dir=EveryStep(run_dir))
    resumed = make_svi()
    assert_same(expected, left(resumed, resumed.run(**plan | {"data": data()}, run_dir=run_dir, resume=True)))


def test_streams_that_cannot_go_on(make_svi, plan, run_dir, x):
    batches = list(x.split(4))
    with pytest.raises(Stop):
        stopping(make_svi(), 2).run(**plan | {"data": batches}, run_dir=EveryStep(run_dir))
    with pytest.raises(ArgumentTypeError, match="one-shot iterator"):
        make_svi().run(**plan | {"data": iter(batches)}, run_dir=run_dir, resume=True)
    with pytest.raises(ArgumentError, match=r"data, batches is 1, but the run in .* with 3"):
        make_svi().run(**plan | {"data": batches[:1]}, run_dir=run_dir, resume=True)
    loader = DataLoader(TensorDataset(x), 4, generator=torch.Generator())
    with pytest.raises(ArgumentError, match=r"`data` has 1 generators of its own, but the run .* had 0"):
        make_svi().run(**plan | {"data": loader}, run_dir=run_dir, resume=True)
    shrunk = Unknown(x[:4])
    with pytest.raises(Stop):
        stopping(make_svi(), 2).run(**plan | {"data": DataLoader(Unknown(x), 4)}, run_dir=EveryStep(run_dir / "b"))
    with pytest.raises(CheckpointError, match="`data` ended before its batch 2"):
        make_svi().run(**plan | {"data": DataLoader(shrunk, 4)}, run_dir=run_dir / "b", resume=True)


def test_training_that_diverges_keeps_what_was_good(make_svi, plan, run_dir, x):
    class Spoilt(IterableDataset):
        def __iter__(self):
            yield from x[:8]
            yield from (torch.full((3,), 1e30) for _ in range(4))

    plan = plan | {"data": DataLoader(Spoilt(), 4), "num_epochs": None, "num_steps": 9}
    with pytest.raises(ProbgenError, match="keeps the checkpoint of step 2"):
        make_svi().run(**plan, run_dir=EveryStep(run_dir))
    assert Checkpoints(run_dir).latest().state["step"] == 2
    load_weights(make_svi().model, make_svi().guide, run_dir)


# --- other kinds of pairs ------------------------------------------------------------------------------------


def function_model(x):
    scale = pyro.param("scale", torch.ones(3), constraint=constraints.positive)
    weight = pyro.param("weight", lambda: torch.full((3,), 0.5))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
        pyro.sample("x", dist.Normal(z * weight, scale).to_event(1), obs=x)


def function_guide(x):
    slope = pyro.param("slope", torch.full((3,), 0.1))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal((x @ slope)[:, None], 1.0).to_event(1))


def test_programs_with_pyro_param(plan, run_dir, x):
    def make():
        pyro.clear_param_store()
        return SVI(function_model, function_guide, functools.partial(torch.optim.Adam, lr=0.01), ELBO())

    whole = make()
    expected = left(whole, whole.run(**plan))
    values = {name: value.detach().clone() for name, value in pyro.get_param_store().items()}
    with pytest.raises(Stop):
        stopping(make(), 4).run(**plan, run_dir=EveryStep(run_dir))
    resumed = make()
    assert_same(expected, left(resumed, resumed.run(**plan, run_dir=run_dir, resume=True)))
    pyro.clear_param_store()
    with pytest.raises(ArgumentError, match="pass a batch too"):
        load_weights(function_model, function_guide, run_dir)
    load_weights(function_model, function_guide, run_dir, x)
    assert all(torch.equal(pyro.param(name), value) for name, value in values.items())


def test_a_refused_run_leaves_the_store_of_pyro_alone(plan, run_dir):
    svi = SVI(function_model, function_guide, functools.partial(torch.optim.Adam, lr=0.01), ELBO())
    svi.run(**plan, run_dir=run_dir)
    values = {name: value.detach().clone() for name, value in pyro.get_param_store().items()}
    other = SVI(function_model, function_guide, functools.partial(torch.optim.Adam, lr=0.5), ELBO())
    with pytest.raises(ArgumentError, match=r"`lr` is 0.5"):
        other.run(**plan, run_dir=run_dir, resume=True)
    assert all(torch.equal(pyro.param(name), value) for name, value in values.items())


def test_frozen_parameters_and_buffers_come_back(make_svi, plan, run_dir):
    first = make_svi()
    with torch.no_grad():
        first.model.fixed.fill_(2.0)
        first.model.mask.fill_(False)
    first.run(**plan, run_dir=run_dir)
    resumed, pair = make_svi(), make_svi()
    resumed.run(**plan, run_dir=run_dir, resume=True)
    load_weights(pair.model, pair.guide, run_dir)
    for model in (resumed.model, pair.model):
        assert torch.equal(model.fixed, torch.full((3,), 2.0))
        assert not model.fixed.requires_grad
        assert not model.mask.any()


class Sides(ELBO):
    def players(self, pair, parameters):
        own = {side: {n: p for n, p in parameters.items() if n.startswith(side)} for side in ("guide", "model")}
        return [Player(side, pair.player_loss, own[side], steps) for side, steps in (("guide", 2), ("model", 1))]


def test_two_players(make_svi, plan, run_dir):
    optim = {
        "guide": functools.partial(torch.optim.Adam, lr=0.01),
        "model": functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9),
    }

    def make(**changes):
        base = make_svi()
        return SVI(base.model, base.guide, optim | changes, Sides())

    whole = make()
    expected = left(whole, whole.run(**plan))
    with pytest.raises(Stop):
        stopping(make(), 4).run(**plan, run_dir=EveryStep(run_dir))
    swapped = make(guide=optim["model"], model=optim["guide"])
    assert_refused(swapped, ArgumentError, "`optim`: .*'guide' is .*SGD", run_dir, **plan, resume=True)
    resumed = make()
    assert_same(expected, left(resumed, resumed.run(**plan, run_dir=run_dir, resume=True)))


OPTIMIZERS = {
    **{name: {} for name in ("Adadelta", "Adafactor", "Adagrad", "Adamax", "ASGD", "NAdam", "RAdam", "Rprop")},
    "AdamW": {"amsgrad": True},
    "RMSprop": {"centered": True, "momentum": 0.5},
    "SGD": {"nesterov": True, "momentum": 0.9},
}


@pytest.mark.parametrize("update", ["wake", "wake-sleep"])
def test_objectives_of_two_sides(make_svi, plan, run_dir, update):
    adam = functools.partial(torch.optim.Adam, lr=0.01)

    def make():
        base = make_svi()
        return SVI(base.model, base.guide, adam, RWS(num_particles=3, guide_update=update), accelerator="cpu")

    whole = make()
    expected = left(whole, whole.run(**plan))
    with pytest.raises(Stop):
        stopping(make(), 4).run(**plan, run_dir=EveryStep(run_dir))
    resumed = make()
    assert_same(expected, left(resumed, resumed.run(**plan, run_dir=run_dir, resume=True)))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_of_torch(make_svi, plan, run_dir, name):
    optim = functools.partial(getattr(torch.optim, name), lr=0.005, **OPTIMIZERS[name])

    def make():
        return SVI(make_svi().model, make_svi().guide, optim, ELBO(), accelerator="cpu")

    whole = make()
    expected = left(whole, whole.run(**plan))
    with pytest.raises(Stop):
        stopping(make(), 4).run(**plan, run_dir=EveryStep(run_dir))
    resumed = make()
    assert_same(expected, left(resumed, resumed.run(**plan, run_dir=run_dir, resume=True)))


class Remembering(torch.optim.Optimizer):
    """One of a user's own: keeps a word, a number and a tensor that are not there from the start."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr, "turns": 0, "warm": False})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["turns"], group["warm"] = group["turns"] + 1, True
            for parameter in group["params"]:
                state = self.state[parameter]
                if group["turns"] > 2:
                    state.setdefault("far", parameter.clone())
                    state["word"] = "far"
                parameter -= group["lr"] * parameter.grad + 0.01 * (parameter - state.get("far", parameter))


def test_an_optimizer_of_ones_own(make_svi, plan, run_dir):
    def make():
        return SVI(make_svi().model, make_svi().guide, functools.partial(Remembering, lr=0.001), ELBO())

    whole = make()
    result = whole.run(**plan)
    with pytest.raises(Stop):
        stopping(make(), 4).run(**plan, run_dir=EveryStep(run_dir))
    resumed = make()
    assert torch.equal(resumed.run(**plan, run_dir=run_dir, resume=True).losses, result.losses)
    assert all(torch.equal(value, resumed.held()[name]) for name, value in whole.held().items())
    assert resumed.seats[0].optimizer.param_groups[0]["turns"] == 6


# --- weights -------------------------------------------------------------------------------------------------


def weights(pair):
    return [value.clone() for program in pair for value in program.state_dict().values()]


@pytest.mark.parametrize("ema_decay", [None, 0.9])
@pytest.mark.parametrize("patience", [None, 1])
@pytest.mark.parametrize("which", ["result", "last", "best"])
def test_weights(make_svi, plan, run_dir, which, patience, ema_decay):
    optim = functools.partial(torch.optim.SGD, lr=0.02, momentum=0.99)
    base, kept = make_svi(), []
    svi = SVI(base.model, base.guide, optim, ELBO(), ema_decay=ema_decay)

    def current(*_):
        with svi.averaged_parameters():
            kept.append(weights((svi.model, svi.guide)))

    svi.run(**plan | {"num_epochs": 8, "patience": patience}, run_dir=run_dir, callbacks=[current])
    best = svi.state.best_step // 3 - 1
    assert best < len(kept) - 1
    last = which == "last" or (which == "result" and patience is None)
    fresh = make_svi().model, make_svi().guide
    load_weights(*fresh, run_dir, which=which)
    assert all(torch.equal(a, b) for a, b in zip(weights(fresh), kept[-1 if last else best], strict=True))


def test_weights_that_are_not_there(make_svi, plan, run_dir, tmp_path):
    pair = make_svi().model, make_svi().guide
    with pytest.raises(ArgumentError, match="holds no checkpoint of a run"):
        load_weights(*pair, tmp_path / "none")
    with pytest.raises(ArgumentTypeError, match="`run_dir` must be a path"):
        load_weights(*pair, 3)
    make_svi().run(**plan | {"eval_data": None}, run_dir=run_dir)
    before = weights(pair)
    with pytest.raises(ArgumentError, match=r"no best parameters.*`eval_data`"):
        load_weights(*pair, run_dir, which="best")
    with pytest.raises(ArgumentError, match="`which`: 'bset' is unknown; did you mean 'best'"):
        load_weights(*pair, run_dir, which="bset")
    with pytest.raises(ArgumentError, match=r"'model.weight' is \(1, 3\)"):
        load_weights(Wide(pair[0]), pair[1], run_dir)
    with pytest.raises(ArgumentError, match=r"has a parameter 'guide.net.bias' that the pair lacks"):
        load_weights(pair[0], None, run_dir)
    more = make_svi().guide
    more.more = nn.Linear(2, 2)
    with pytest.raises(ArgumentError, match=r"has no parameter 'guide.more.weight'"):
        load_weights(pair[0], more, run_dir)
    assert all(torch.equal(a, b) for a, b in zip(before, weights(pair), strict=True))


def test_weights_of_a_frozen_pair_fit_a_fresh_one(make_svi, plan, run_dir):
    make_svi().run(**plan, run_dir=run_dir)
    pair = thawed(make_svi().model), make_svi().guide
    load_weights(*pair, run_dir)
    frozen = make_svi().model, make_svi().guide
    frozen[0].weight.requires_grad_(False)
    load_weights(*frozen, run_dir)
    assert all(torch.equal(a, b) for a, b in zip(weights(pair), weights(frozen), strict=True))


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))

    def forward(self, x):
        h = self.net(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(h, 1.0).to_event(1))


def test_running_statistics(make_svi, plan, run_dir):
    def make():
        return SVI(make_svi().model, Normed(), functools.partial(torch.optim.Adam, lr=0.01), ELBO())

    whole = make()
    expected = left(whole, whole.run(**plan))
    with pytest.raises(Stop):
        stopping(make(), 4).run(**plan, run_dir=EveryStep(run_dir))
    resumed = make()
    assert_same(expected, left(resumed, resumed.run(**plan, run_dir=run_dir, resume=True)))
    guide = Normed()
    load_weights(make_svi().model, guide, run_dir)
    assert torch.equal(guide.net[1].running_var, whole.guide.net[1].running_var)
    assert guide.net[1].num_batches_tracked == 6


def test_a_state_that_cannot_be_saved_says_so(make_svi, plan, run_dir):
    class Odd(Remembering):
        def step(self, closure=None):
            super().step(closure)
            for parameter in self.param_groups[0]["params"]:
                self.state[parameter]["when"] = object()

    svi = SVI(make_svi().model, make_svi().guide, functools.partial(Odd, lr=0.001), ELBO())
    with pytest.raises(CheckpointError, match="the optimizer's `when` is a object, which a checkpoint cannot hold"):
        svi.run(**plan, run_dir=run_dir)
    assert Checkpoints(run_dir).steps() == [0]


def test_metrics_that_were_removed(make_svi, plan, run_dir):
    make_svi().run(**plan, run_dir=run_dir)
    os.unlink(run_dir / "metrics.jsonl")
    make_svi().run(**plan | {"num_epochs": 3}, run_dir=run_dir, resume=True)
    assert epochs(run_dir) == [3]


def test_diverged_names_the_checkpoint(make_svi, plan, run_dir):
    svi = SVI(make_svi().model, make_svi().guide, functools.partial(torch.optim.SGD, lr=1e25), ELBO())
    with pytest.raises(DivergedError, match=r"keeps the checkpoint of step \d"):
        svi.run(**plan | {"num_epochs": 30}, run_dir=EveryStep(run_dir))
    saved = Checkpoints(run_dir).latest()
    assert all(torch.isfinite(v).all() for n, v in saved.tensors.items() if n.startswith("parameter/"))
