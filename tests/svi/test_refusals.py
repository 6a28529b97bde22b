"""What cannot work is refused before the first step, by name, with everything left as it was."""

import functools
import random
import re
import subprocess
import sys

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from probgen import SVI
from probgen.data import Dataset
from probgen.errors import (
    ArgumentError,
    ArgumentTypeError,
    DataError,
    ProbgenError,
    ProgramError,
    UnsupportedObjective,
)
from probgen.objectives import ELBO, IWAE, MaximumLikelihood
from probgen.seeding import seeded


def described(value):
    """The same in every process: no address of an object."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


@pytest.fixture
def refused(tensors_of, assert_same, flags):
    """Runs or steps, expects an error, and compares everything with before."""

    def everything(svi):
        store = pyro.get_param_store()
        tensors = tensors_of(svi) | {f"store.{name}": value.detach().clone() for name, value in store.items()}
        tensors |= {f"module.{k}": v.detach().clone() for m in svi.modules for k, v in m.named_parameters()}
        gradients = [parameter.grad for module in svi.modules for parameter in module.parameters()]
        modes = [module.training for root in svi.modules for module in root.modules()]
        generators = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()
        return tensors, (gradients, modes, generators, flags(), svi.state.step)

    def check(svi, error, message, data, **options):
        before = everything(svi)
        with pytest.raises(error, match=message) as caught:
            svi.run(data, **{"num_epochs": 1, "progress": False} | options)
        assert isinstance(caught.value, ProbgenError)
        after = everything(svi)
        new = after[0].keys() - before[0].keys()
        assert not [name for name in new if name.startswith("store.")]
        assert_same({name: after[0][name] for name in before[0]}, before[0])
        assert after[1] == before[1]
        return caught.value

    return check


# --- data -------------------------------------------------------------------------------------------------------------


def with_last(x, value):
    x = x.clone()
    x[-1, -1] = value
    return x


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("kind", ["tensor", "numpy", "tuple", "dict", "stream", "numpy-stream", "eval"])
def test_values_that_are_not_finite(make_svi, x, refused, kind, value):
    bad = with_last(x, float(value))  # not in the first batch
    options = {"batch_size": 5}
    data = {
        "tensor": bad,
        "numpy": bad.numpy(),
        "tuple": (bad,),
        "dict": {"x": bad},
        "stream": [bad],
        "numpy-stream": [bad.numpy()],
        "eval": x,
    }[kind]
    if kind == "eval":
        options["eval_data"] = bad
    refused(make_svi(), DataError, re.escape(f"{value} at index (19, 2)"), data, **options)


def test_values_that_are_not_finite_later_in_a_stream(make_svi, x):
    svi = make_svi()
    with pytest.raises(DataError, match=r"argument 0 of a batch holds nan at index \(4, 2\)"):
        svi.run([x[:5], with_last(x[5:10], torch.nan)], num_epochs=1, progress=False)
    assert svi.state.step == 1


class Bernoulli(nn.Module):
    """x ~ Bernoulli(logits), after a function of the batch."""

    def __init__(self, function=lambda x: x):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(3))
        self.function = function

    def forward(self, x, y=None):
        values = self.function(x)
        with pyro.plate("data", len(values)):
            pyro.sample("x", dist.Bernoulli(logits=self.logits).to_event(1), obs=values)
            if y is not None:
                pyro.sample("y", dist.Categorical(logits=self.logits), obs=y)


@pytest.fixture
def bits():
    return torch.bernoulli(torch.full((20, 3), 0.5))


TRANSFORMS = {"itself": (lambda x: x, -0.9), "transform": (lambda x: 1.0 - x, 1.9)}


@pytest.mark.parametrize("capture", [False, True])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_values_outside_the_support_later_in_a_stream(adam, bits, tensors_of, assert_same, transform, capture):
    svi = SVI(Bernoulli(TRANSFORMS[transform][0]), None, adam, MaximumLikelihood(), capture=capture)
    value = TRANSFORMS[transform][1]
    good = SVI(Bernoulli(TRANSFORMS[transform][0]), None, adam, MaximumLikelihood(), capture=capture)
    message = r"site 'x' observes -0.9 at index \(4, 2\), outside the support of Bernoulli"
    with pytest.raises(DataError, match=message):
        svi.run([bits[:5], with_last(bits[5:10], value), bits[10:]], num_epochs=1, progress=False, seed=0)
    good.run([bits[:5]], num_epochs=1, progress=False, seed=0)
    assert svi.state.step == 1
    assert_same(tensors_of(svi), tensors_of(good))


@pytest.mark.parametrize("capture", [False, True])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_values_outside_the_support_in_a_later_step(adam, bits, tensors_of, assert_same, transform, capture):
    svi = SVI(Bernoulli(TRANSFORMS[transform][0]), None, adam, MaximumLikelihood(), capture=capture)
    svi.step(bits)
    before = tensors_of(svi)
    with pytest.raises(DataError, match=r"site 'x' observes -?1\d.3 at index \(0, 0\)"):
        svi.step(torch.full((5, 3), 17.3 if transform == "itself" else -16.3))
    assert_same(tensors_of(svi), before)
    svi.step(bits[:7])


def test_steps_after_a_run_are_checked_too(adam, bits):
    svi = SVI(Bernoulli(), None, adam, MaximumLikelihood())
    svi.run(bits, num_epochs=1, progress=False)
    with pytest.raises(DataError, match=r"site 'x' observes 17\.3 at index"):
        svi.step(torch.full((5, 3), 17.3))


def test_sites_that_only_later_steps_have_are_checked(adam, bits):
    svi = SVI(Bernoulli(), None, adam, MaximumLikelihood())
    svi.step(bits)
    with pytest.raises(DataError, match=r"site 'y' observes 3 at index \(1,\)"):
        svi.step(bits[:2], torch.tensor([0, 3]))


def test_what_a_program_mends_later_in_a_stream_is_not_refused(adam, bits):
    svi = SVI(Bernoulli(lambda x: (x > 0.5).double()), None, adam, MaximumLikelihood())
    svi.run([bits[:5], with_last(bits[5:10], 0.7)], num_epochs=1, progress=False)


def test_supports_that_depend_on_the_batch_later_in_a_stream(adam):
    def model(counts, total):
        p = pyro.param("p", torch.tensor(0.5))
        with pyro.plate("data", len(counts)):
            pyro.sample("x", dist.Binomial(total, p.sigmoid()), obs=counts)

    def batch(count, total):
        return torch.tensor([1.0, count]), torch.tensor([2.0, total])

    svi = SVI(model, None, adam, MaximumLikelihood())
    svi.run([batch(1.0, 2.0), batch(5.0, 6.0)], num_epochs=1, progress=False)
    with pytest.raises(DataError, match=r"site 'x' observes 5 at index \(1,\)"):
        svi.run([batch(5.0, 6.0), batch(5.0, 4.0)], num_epochs=1, progress=False)


def test_held_out_minibatches_of_joint_weights(adam, x, refused):
    """With a global latent the bound of a minibatch is no share of that of all data."""

    def model(x):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0).expand([3]).to_event(1), obs=x)

    def guide(x):
        pyro.sample("loc", dist.Normal(pyro.param("mean", torch.tensor(0.0)), 1.0))

    svi = SVI(model, guide, adam, ELBO())
    message = "weights of this pair are joint.*pass a `batch_size` that holds all of `eval_data`"
    for held_out in (x, [x[:10], x[10:]], DataLoader(x, batch_size=10)):
        refused(svi, ArgumentError, message, x, eval_data=held_out, batch_size=10)
    reports = []
    svi.run(x, eval_data=x, batch_size=20, num_epochs=1, callbacks=[reports.append], progress=False, seed=0)
    with seeded(0):
        assert reports[0].eval_bound == pytest.approx(svi.pair.bound(x).item())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.uint8])
def test_values_outside_the_support_in_the_last_row(adam, bits, refused, dtype):
    data = with_last(bits, 2.0).to(dtype)
    svi = SVI(Bernoulli(lambda x: x.double()), None, adam, MaximumLikelihood())
    message = r"site 'x' observes 2 at index \(19, 2\), outside the support of Bernoulli"
    refused(svi, DataError, message, data, batch_size=5)
    refused(svi, DataError, message, (data,), batch_size=1000)


def test_values_outside_the_support_of_a_transformed_site(adam, bits, refused):
    """The site observes something made of the data, so that the batches are looked at one by one."""
    svi = SVI(Bernoulli(lambda x: 1.0 - x), None, adam, MaximumLikelihood())
    message = r"site 'x' observes -1 at index \(4, 2\).*\(in the batch from datum 15 on\)"
    refused(svi, DataError, message, with_last(bits, 2.0), batch_size=5)
    svi.run(bits, num_epochs=1, progress=False)


def test_what_a_program_mends_is_not_refused(adam, bits):
    """Only the last row is grey, and the model binarizes."""
    svi = SVI(Bernoulli(lambda x: (x > 0.5).double()), None, adam, MaximumLikelihood())
    svi.run(with_last(bits, 0.7), batch_size=5, num_epochs=1, progress=False)


def test_a_support_of_one_datum_is_not_taken_for_all(adam, refused):
    def model(counts, total):
        p = pyro.param("p", torch.tensor(0.5))
        with pyro.plate("data", len(counts)):
            pyro.sample("x", dist.Binomial(total, p.sigmoid()), obs=counts)

    counts, totals = torch.tensor([1.0, 5.0, 2.0]), torch.tensor([2.0, 6.0, 3.0])
    svi = SVI(model, None, adam, MaximumLikelihood())
    for batch_size in (1, 2, 3):
        svi.run((counts, totals), batch_size=batch_size, num_epochs=1, progress=False)
    for batch_size in (1, 2, 3):
        data = (counts, torch.tensor([9.0, 4.0, 3.0]))
        refused(svi, DataError, "site 'x' observes 5 at index", data, batch_size=batch_size)


def test_labels_outside_the_support(adam, bits, refused):
    labels = torch.arange(20) % 3
    labels[-1] = 3
    svi = SVI(Bernoulli(), None, adam, MaximumLikelihood())
    message = r"site 'y' observes 3 at index \(19,\)"
    refused(svi, DataError, message, (bits, labels), batch_size=5)
    refused(svi, DataError, message, Dataset(bits, labels).labelled(), batch_size=5)


def test_dynamic_data_are_checked_without_a_pass_over_them(adam, refused):
    calls = []
    model = Bernoulli(lambda x: (calls.append(len(x)), x)[1])
    data = Dataset(torch.full((100, 3), 0.5), binarize="dynamic")
    SVI(model, None, adam, MaximumLikelihood()).run(data, batch_size=10, num_steps=1, progress=False)
    assert len(calls) == 3  # the trial, the search for parameters, the step
    model = Bernoulli(lambda x: x * 2)
    refused(SVI(model, None, adam, MaximumLikelihood()), DataError, "site 'x' observes 2", data, batch_size=10)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (torch.zeros(4, 5).double(), ProgramError, r"fail on a batch \(\(4, 5\) torch.float64\).*mat1 and mat2 shapes"),
        (torch.zeros(4, 3).float(), ProgramError, r"fail on a batch \(\(4, 3\) torch.float32\).*same dtype"),
        (torch.zeros(4, 3, dtype=torch.long), ProgramError, r"fail on a batch \(\(4, 3\) torch.int64\)"),
        (torch.zeros(4, 3, dtype=torch.complex64), ProbgenError, "complex64"),
        (np.array([["a", "b", "c"]]), DataError, "`data` is an array of dtype <U1"),
        (np.array([[1, None, "c"]], dtype=object), DataError, "`data` is an array of dtype object"),
        ([np.array([["a", "b", "c"]])], DataError, "an array of dtype <U1"),
        (torch.zeros(0, 3), DataError, "`data` is empty"),
        ((), ArgumentTypeError, "got tuple of nothing"),
        ({}, ArgumentTypeError, "got dict of nothing"),
        (torch.zeros(4, 0), DataError, "`data` is empty"),
        (torch.tensor(1.0), DataError, "`data` is a scalar"),
        ((torch.zeros(4, 3), torch.zeros(5)), DataError, r"one length, but `data\[0\]` has 4, `data\[1\]` has 5"),
        (torch.zeros(4, 3, requires_grad=True), DataError, "`data` requires gradients"),
        ([torch.zeros(4, 3, requires_grad=True)], DataError, "argument 0 of a batch requires gradients"),
        ((torch.zeros(4, 3), None), ArgumentTypeError, "got tuple of Tensor, NoneType"),
        ({"x": torch.zeros(4, 3), "y": "abc"}, ArgumentTypeError, "got dict of Tensor, str"),
        ("data.npz", ArgumentTypeError, "`data` must be .* got str"),
        (7, ArgumentTypeError, "`data` must be .* got int"),
        (None, ArgumentTypeError, "`data` must be .* got NoneType"),
        (TensorDataset(torch.zeros(4, 3)), ArgumentTypeError, "a torch Dataset needs a DataLoader"),
        ({"wrong": torch.zeros(4, 3)}, ProgramError, r"wrong=\(4, 3\) torch.float32.*unexpected keyword"),
        ([1.0, 2.0], ArgumentTypeError, r"`data` is a list of numbers.* `torch.tensor\(data\)`"),
        ([torch.zeros(4, 3), "abc"][1:], ProgramError, r"fail on a batch \(str\)"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_data_of_the_wrong_kind(make_svi, refused, data, error, message):
    refused(make_svi(), error, message, data)


def test_complex_values_that_a_model_would_take(adam, refused):
    def model(x):
        loc = pyro.param("loc", torch.zeros(3))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    svi = SVI(model, None, adam, MaximumLikelihood())
    refused(svi, DataError, "site 'x' observes torch.complex128 values", torch.zeros(4, 3, dtype=torch.complex128))


def test_pyros_store_is_restored_when_later_data_are_refused(adam, bits, refused):
    """The trial of the first batch has declared parameters by then."""

    def model(x):
        logits = pyro.param("logits", torch.zeros(3))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

    pyro.param("mine", torch.ones(2))
    svi = SVI(model, None, adam, MaximumLikelihood())
    refused(svi, DataError, "site 'x' observes 2", with_last(bits, 2.0), batch_size=5)
    refused(svi, DataError, "site 'x' observes 2", bits, eval_data=with_last(bits, 2.0), batch_size=5)
    assert list(pyro.get_param_store().keys()) == ["mine"]


def test_global_generators_are_left_alone_by_a_loader(make_svi, x, refused):
    refused(make_svi(), DataError, "nan", DataLoader(x * torch.nan, batch_size=4, shuffle=True))


# --- programs ---------------------------------------------------------------------------------------------------------


def latent_model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0).expand([len(x), 3]).to_event(1), obs=x)


def guide_of(name, shape):
    def guide(x):
        loc = pyro.param("loc", torch.zeros(shape))
        with pyro.plate("data", len(x)):
            pyro.sample(name, dist.Normal(loc, 1.0).to_event(len(shape)))

    return guide


def empty_guide(x):
    pyro.param("loc", torch.zeros(2))


def failing_model(x):
    pyro.param("loc", torch.zeros(2))
    raise RuntimeError("out of luck")


def failing_guide(x):
    {}["luck"]


@pytest.mark.parametrize(
    ("model", "guide", "error", "message"),
    [
        (latent_model, guide_of("z_1", (2,)), ProgramError, "the guide samples site 'z_1', which the model lacks"),
        (latent_model, empty_guide, ProgramError, "the model samples site 'z', which the guide lacks"),
        (latent_model, None, ProgramError, "the model samples site 'z', which the guide lacks"),
        (
            latent_model,
            guide_of("z", (3,)),
            ProgramError,
            r"site 'z' has event shape \(2,\) in the model but \(3,\) in the guide",
        ),
        (latent_model, guide_of("z", ()), ProgramError, r"event shape \(2,\) in the model but \(\) in the guide"),
        (failing_model, None, ProgramError, r"fail on a batch \(\(20, 3\) torch.float64\): RuntimeError: out of luck"),
        (latent_model, failing_guide, ProgramError, "fail on a batch .* KeyError: 'luck'"),
        (lambda x: None, None, ProgramError, "the model has no sample site"),
        (lambda x: 1 / 0, None, ProgramError, "ZeroDivisionError"),
        (lambda: None, None, ProgramError, "takes 0 positional arguments but 1 was given"),
    ],
)
def test_pairs_that_do_not_fit(adam, x, refused, model, guide, error, message):
    svi = SVI(model, guide, adam, ELBO())
    caught = refused(svi, error, message, x)
    assert not isinstance(caught.__cause__, ProbgenError)
    with pytest.raises(error, match=message):
        svi.step(x)


def test_the_smaller_batch_at_the_end_is_tried_too(nets, adam, x, refused):
    """Batch normalisation needs two data; a plate of a fixed size needs its size."""
    svi = SVI(*nets(batch_norm=True), adam, ELBO())
    refused(
        svi,
        ProgramError,
        r"fail on a batch \(\(1, 3\) torch.float64\): ValueError: Expected more than 1",
        x,
        batch_size=19,
    )
    svi.run(x, batch_size=19, num_steps=1, progress=False)  # does not reach it
    svi.run(x[:19], batch_size=19, num_epochs=1, eval_data=x, progress=False)  # is evaluated in eval mode

    def model(x):
        loc = pyro.param("loc", torch.zeros(3))
        with pyro.plate("data", 5):
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    svi = SVI(model, None, adam, MaximumLikelihood())
    refused(svi, ProgramError, r"\(3, 3\)", x[:18], batch_size=5)
    svi.run(x, batch_size=5, num_epochs=1, progress=False)


def test_objectives_that_do_not_fit(make_svi, nets, x, refused):
    refused(make_svi(loss=MaximumLikelihood()), UnsupportedObjective, "'z' is latent", x)
    dreg = IWAE(num_particles=2, gradient="dreg")
    refused(make_svi(*nets(discrete=True), loss=dreg), UnsupportedObjective, "`rsample`", x)


def test_nothing_to_train(adam, x, linear, refused):
    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.0, 1.0).expand([3]).to_event(1), obs=x)

    refused(SVI(model, None, adam, MaximumLikelihood()), ArgumentError, "'pair' has no parameters to train", x)
    unused = nn.Linear(2, 2)
    unused.forward = model
    with pytest.raises(ProgramError, match="depends on no parameter"):
        SVI(unused, None, adam, MaximumLikelihood()).step(x)


# --- arguments --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        *(({"batch_size": v}, ArgumentError, f"`batch_size` must be .* got {v}") for v in (0, -1, True, 2.5, None)),
        ({"num_steps": 3}, ArgumentError, "pass one of `num_epochs` and `num_steps`"),
        ({"num_epochs": None}, ArgumentError, "pass one of `num_epochs` and `num_steps`"),
        *(({"num_epochs": v}, ArgumentError, f"`num_epochs` must be .* got {v}") for v in (0, -1, True, 1.0)),
        ({"num_epochs": None, "num_steps": 0}, ArgumentError, "`num_steps` must be .* got 0"),
        ({"patience": 2}, ArgumentError, "`patience` counts epochs .* pass `eval_data` too"),
        ({"patience": 0, "eval_data": torch.zeros(2, 3)}, ArgumentError, "`patience` must be .* got 0"),
        *(({"seed": v}, ArgumentError, f"`seed` must be .* got {v}") for v in (-1, 2**32, True, 1.5)),
        ({"callbacks": print}, ArgumentTypeError, "`callbacks` must be a sequence"),
        ({"callbacks": [print, 3]}, ArgumentTypeError, "`callbacks` must be a sequence"),
    ],
    ids=described,
)
def test_options_of_a_run(make_svi, x, refused, options, error, message):
    refused(make_svi(), error, message, x, **options)


def test_batch_size_is_checked_for_streams_too(make_svi, x, refused):
    refused(make_svi(), ArgumentError, "`batch_size`", [x], batch_size=0)


ADAM = functools.partial(torch.optim.Adam, lr=0.05)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"loss": Trace_ELBO()},
            ArgumentTypeError,
            "`loss` must be an objective .* got pyro.infer.trace_elbo.Trace_ELBO",
        ),
        ({"loss": ELBO}, ArgumentTypeError, "`loss` must be an objective .* got the class probgen"),
        ({"loss": lambda *_: 0.0}, ArgumentTypeError, "`loss` must be an objective"),
        ({"model": 3}, ArgumentTypeError, "`model` must be callable, got int"),
        ({"model": None}, ArgumentTypeError, "`model` must be callable, got NoneType"),
        ({"guide": "auto"}, ArgumentTypeError, "`guide` must be callable, got str"),
        ({"optim": torch.optim.Adam([torch.ones(1)])}, ArgumentTypeError, "`optim` must be a callable from parameters"),
        ({"optim": pyro.optim.Adam({"lr": 0.1})}, ArgumentTypeError, "`optim` must be .* got pyro.optim"),
        ({"optim": {"pair": 3}}, ArgumentTypeError, "`optim` must be .* got builtins.int"),
        ({"optim": None}, ArgumentTypeError, "`optim` must be .* got builtins.NoneType"),
        *(
            ({"max_grad_norm": v}, ArgumentError, f"`max_grad_norm` must be a number finite and above 0, got {v}")
            for v in (0, -1.0, float("nan"), float("inf"), True)
        ),
        *(
            ({"ema_decay": v}, ArgumentError, f"`ema_decay` must be a number between 0 and 1, got {v}")
            for v in (0, 1, -0.5, float("nan"), True)
        ),
        *(
            ({"accelerator": v}, ArgumentError, f"`accelerator` must be 'auto' or a device .* got {v!r}")
            for v in ("gpu", "meta", "mps", None, 1.5)
        ),
        ({"accelerator": "cuda:99"}, ArgumentError, "`accelerator='cuda:99'`: no such CUDA device"),
    ],
    ids=described,
)
def test_arguments(linear, arguments, error, message):
    model, guide = linear()
    with pytest.raises(error, match=message):
        SVI(**{"model": model, "guide": guide, "optim": ADAM, "loss": ELBO()} | arguments)


@pytest.mark.parametrize(
    ("optim", "error", "message"),
    [
        (functools.partial(torch.optim.Adam, lr=-1.0), ArgumentError, "`optim` fails .* 'pair': Invalid learning rate"),
        (functools.partial(torch.optim.Adam, rate=1.0), ArgumentError, "`optim` fails .* unexpected keyword"),
        (lambda parameters: None, ArgumentTypeError, "`optim` must return a torch optimizer for 'pair', got NoneType"),
        (torch.optim.LBFGS, ArgumentTypeError, "must not be LBFGS"),
        ({"pairs": ADAM}, ArgumentError, "player 'pairs' that the objective lacks; did you mean 'pair'"),
    ],
    ids=described,
)
def test_optimizers(make_svi, x, refused, optim, error, message):
    refused(make_svi(optim=optim), error, message, x)


def test_a_refused_run_can_be_followed_by_a_right_one(make_svi, x, assert_same):
    svi, fresh = make_svi(), make_svi()
    for data in (x * torch.nan, x[:, :2], "abc"):
        with pytest.raises(ProbgenError):
            svi.run(data, num_epochs=1, progress=False)
    results = [s.run(x, num_epochs=1, seed=0, progress=False) for s in (svi, fresh)]
    assert_same(results[0].params, results[1].params)


SCRIPT = """
import functools
import pyro, torch
import pyro.distributions as dist
from probgen import SVI
from probgen.errors import ProbgenError
from probgen.objectives import ELBO, MaximumLikelihood

def model(x):
    logits = pyro.param("logits", torch.zeros(3))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)

def latent(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.0, 1.0))

adam = functools.partial(torch.optim.Adam, lr=0.1)
bits = torch.ones(20, 3)
nan, two = bits.clone(), bits.clone()
nan[-1, -1], two[-1, -1] = float("nan"), 2.0
cases = {
    "nan": (model, nan, {}), "support": (model, two, {}), "shape": (model, torch.ones(20, 4), {}),
    "empty": (model, bits[:0], {}), "latent": (latent, bits, {}), "batch_size": (model, bits, {"batch_size": 0}),
    "patience": (model, bits, {"patience": 1}),
}
wrong = [__debug__ * "not optimized"]
for name, (program, data, options) in cases.items():
    try:
        SVI(program, None, adam, ELBO()).run(data, progress=False, **{"num_epochs": 1, "batch_size": 5} | options)
    except ProbgenError as error:
        print(name, type(error).__name__)
    else:
        wrong.append(name)
try:
    SVI(model, None, functools.partial(torch.optim.SGD, lr=float("inf")), MaximumLikelihood()).run(
        bits, num_steps=5, progress=False
    )
except ProbgenError as error:
    print("diverged", type(error).__name__)
else:
    wrong.append("diverged")
raise SystemExit("".join(wrong) or 0)
"""


def test_refusals_do_not_rest_on_assert():
    done = subprocess.run(
        [sys.executable, "-O", "-c", SCRIPT], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split("\n")[:-1] == [
        "nan DataError",
        "support DataError",
        "shape ProgramError",
        "empty DataError",
        "latent ProgramError",
        "batch_size ArgumentError",
        "patience ArgumentError",
        "diverged DivergedError",
    ]
