"""What each of two processes does in tests/svi/test_devices.py; started by torchrun's variables, without torchrun."""

import json
import sys
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn

from probgen import SVI
from probgen.checkpoints import Checkpoints
from probgen.errors import ProbgenError
from probgen.guides import AmortizedNormal
from probgen.models import VAE
from probgen.objectives import ELBO, MaximumLikelihood

torch.set_default_dtype(torch.float64)


class Regression(PyroModule):
    """A linear model of y given x without latents: the gradient has no noise.

    ``full_size`` scales a minibatch up to all data.
    """

    def __init__(self, full_size=None):
        super().__init__()
        self.full_size = full_size
        self.weight = nn.Parameter(torch.zeros(3))

    def forward(self, x, y):
        size = self.full_size or len(x)
        with pyro.plate("data", size, subsample=None if self.full_size is None else torch.arange(len(x))):
            pyro.sample("y", dist.Normal(x @ self.weight, 1.0), obs=y)


class EveryStep(Checkpoints):
    due = True


def data():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(22, 3, generator=generator), torch.randn(22, generator=generator)


def adam(parameters):
    return torch.optim.Adam(parameters, lr=1e-2)


def result(svi, run):
    tensors = {name: value.tolist() for name, value in svi.held().items()}
    return {"params": tensors, "losses": run.losses.tolist(), "state": [svi.state.step, svi.state.best_bound]}


def regression(devices, full_size=None, source="tensor", **options):
    svi = SVI(Regression(full_size), None, adam, MaximumLikelihood(), devices=devices)
    x, y = data()
    if source == "tensor":
        return svi, svi.run((x, y), **{"batch_size": 8} | options, num_epochs=4, seed=3, progress=False)
    batches = list(zip(x.split(8), y.split(8), strict=True))
    if devices > 1:
        batches = [svi.group.share(batch) for batch in batches]
    return svi, svi.run(batches, num_epochs=4, seed=3, progress=False, **options)


def steps(devices):
    svi = SVI(Regression(), None, adam, MaximumLikelihood(), devices=devices)
    batches = zip(*(values.split(8) for values in data()), strict=True)
    losses = [svi.step(*svi.group.share(batch)) for batch in batches]
    return {"losses": losses, "params": {k: v.tolist() for k, v in svi.parameters.items()}}


class Normalised(VAE):
    """Counts what it sees in a buffer, as running statistics do."""

    def __init__(self):
        super().__init__((3,), 2, (4,), "normal")
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, x=None, **options):
        if self.training and x is not None:
            self.seen += x.sum(0)
        return super().forward(x, **options)


def vae(devices, seed, **options):
    torch.manual_seed(seed)
    pair = Normalised(), AmortizedNormal((3,), 2, (4,))
    svi = SVI(*pair, adam, ELBO(), devices=devices, **options.pop("svi", {}))
    return svi, svi.run(data()[0], batch_size=11, **({"num_epochs": 3, "seed": 3, "progress": False} | options))


def refused(function):
    try:
        function()
    except ProbgenError as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def everything(devices, rank, folder):
    """All cases, in one process or in two."""
    found = {
        "plain": result(*regression(devices)),
        "subsampled": result(*regression(devices, full_size=100)),
        "stream": result(*regression(devices, source="stream")),
        "steps": steps(devices),
        "held out": result(*regression(devices, eval_data=data(), patience=2)),
        "held out stream": result(*regression(devices, source="stream", eval_data=shares(devices, rank))),
        "captured": result(*regression_captured(devices)),
        "left out": result(*left_out(devices)),
    }
    if devices > 1:
        found["weights"] = result(*vae(devices, seed=rank))  # from other weights in each process
        averaged = {"svi": {"ema_decay": 0.9}, "eval_data": data()[0]}
        whole = result(*vae(devices, 0, **averaged))
        calls = []

        def stop(report):
            calls.append(report.step)
            return report.epoch == 2

        vae(devices, 0, callbacks=[stop], **averaged)
        vae(devices, 0, run_dir=EveryStep(folder / "run"), num_epochs=2, **averaged)
        resumed = result(*vae(devices, rank + 5, run_dir=folder / "run", resume=True, **averaged))
        found["resumed"] = resumed == whole
        found["calls"] = calls
        found["refused"] = [
            refused(lambda: SVI(Regression(), None, adam, MaximumLikelihood(), devices=3)),
            refused(lambda: regression(devices, batch_size=21)),
            refused(joint),
            refused(lambda: uneven(rank, list)),
            refused(lambda: uneven(rank, Endless)),
        ]
    return found


def regression_captured(devices):
    svi = SVI(Regression(), None, adam, MaximumLikelihood(), devices=devices, capture=True)
    return svi, svi.run(data(), batch_size=8, num_epochs=2, seed=3, progress=False)


def shares(devices, rank):
    """Held-out batches, of which each process has every other row."""
    x, y = data()
    return [(a[rank::devices], b[rank::devices]) for a, b in zip(x.split(11), y.split(11), strict=True)]


class Endless:
    """A stream that does not know its length."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


def uneven(rank, kind):
    """Streams of another length in each process."""
    batches = list(zip(*(values.split(4) for values in data()), strict=True))[: 3 + rank]
    SVI(Regression(), None, adam, MaximumLikelihood(), devices=2).run(kind(batches), num_epochs=2, progress=False)


class Branching(Regression):
    """Leaves a parameter out where a share's data are all of one sign."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, x, y):
        loc = x @ self.weight
        if bool((x[:, 0] > 0).any()):
            loc = loc + (x[:, 0] > 0) * self.bias
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(loc, 1.0), obs=y)


def left_out(devices):
    """Every other datum is positive, so that one process of two leaves the bias out."""
    x, y = data()
    x[:, 0] = x[:, 0].abs() * torch.tensor([1.0, -1.0]).repeat(11)
    svi = SVI(Branching(), None, adam, MaximumLikelihood(), devices=devices)
    batches = [batch if devices == 1 else svi.group.share(batch) for batch in zip(x.split(8), y.split(8), strict=True)]
    return svi, svi.run(batches, num_epochs=3, progress=False)


def joint():
    def model(x):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    guide = pyro.infer.autoguide.AutoNormal(model)
    SVI(model, guide, adam, ELBO(), devices=2).run(data()[1], num_epochs=1, progress=False)


if __name__ == "__main__":
    folder, rank, size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    if size > 1:
        store = torch.distributed.FileStore(str(folder / "store"), size)
        torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=size)
    (folder / f"{size}-{rank}.json").write_text(json.dumps(everything(size, rank, folder)))
    if size > 1:
        torch.distributed.destroy_process_group()
