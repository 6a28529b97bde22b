"""Files that mean harm: each is refused within a second by an error of probgen's, and nothing else happens.

Run as a program, this file is the witness: it resumes every run of a folder under an audit hook, which sees whatever is
opened, imported, compiled, executed or started.
"""

import functools
import hashlib
import json
import os
import pickle
import random
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import safetensors.torch
import torch
from torch import nn

import probgen
from probgen import SVI
from probgen.checkpoints import Checkpoints
from probgen.errors import ArgumentError, CheckpointError, ProbgenError
from probgen.objectives import ELBO
from probgen.svi import load_weights

SECOND = 1.0  # of the processor
TENSORS, STATE, MANIFEST, LATEST, METRICS = (
    *("tensors.safetensors", "state.json", "manifest.json", "latest.json", "metrics.jsonl"),
)


class Bomb:
    """Runs a command where it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch /tmp/probgen-was-here",)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), 0.5))
        self.shift = nn.Parameter(torch.zeros(()))
        self.fixed = nn.Parameter(torch.ones(3), requires_grad=False)
        self.register_buffer("mask", torch.tensor([True, True, False]))

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
            pyro.sample("x", dist.Normal(z * self.weight + self.shift, self.fixed).to_event(1), obs=x)


class Guide(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 1)
        nn.init.constant_(self.net.weight, 0.1)
        nn.init.zeros_(self.net.bias)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.net(x), 1.0).to_event(1))


def make():
    return SVI(Model(), Guide(), functools.partial(torch.optim.Adam, lr=0.01), ELBO(), accelerator="cpu", ema_decay=0.9)


def options(num_epochs=3):
    x = torch.arange(36.0).reshape(12, 3) / 36
    return {"data": x, "batch_size": 4, "num_epochs": num_epochs, "seed": 3, "eval_data": x[:4], "progress": False}


def train(run_dir):
    """A run with checkpoints at three steps, of two epochs of three."""
    make().run(**options(2), run_dir=Checkpoints(run_dir, every=0.0, keep=3))


# --- ways to damage a run ------------------------------------------------------------------------------------


def latest(run_dir):
    return run_dir / "checkpoints" / json.loads((run_dir / "checkpoints" / LATEST).read_bytes())["checkpoint"]


def path_of(run_dir, name):
    if name == METRICS:
        return run_dir / name
    return run_dir / "checkpoints" / name if name == LATEST else latest(run_dir) / name


def seal(run_dir):
    """Makes the sums right again."""
    folder = latest(run_dir)
    manifest = json.loads((folder / MANIFEST).read_bytes())
    for name in (TENSORS, STATE):
        content = (folder / name).read_bytes()
        manifest["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    seal_pointer(run_dir)


def seal_pointer(run_dir):
    pointer = json.loads((run_dir / "checkpoints" / LATEST).read_bytes())
    pointer["sha256"] = hashlib.sha256((latest(run_dir) / MANIFEST).read_bytes()).hexdigest()
    (run_dir / "checkpoints" / LATEST).write_text(json.dumps(pointer))


def write(name, content):
    """Another content of a file; sums right."""

    def damage(run_dir):
        path_of(run_dir, name).write_bytes(content)
        if name in (TENSORS, STATE):
            seal(run_dir)
        elif name == MANIFEST:
            seal_pointer(run_dir)

    return damage


def bytes_of(name, change, *, sealed=False):
    def damage(run_dir):
        path = path_of(run_dir, name)
        path.write_bytes(change(path.read_bytes()))
        if sealed:
            seal(run_dir)

    return damage


def json_of(name, change):
    """A JSON file with something changed in place; sums right."""

    def damage(run_dir):
        path = path_of(run_dir, name)
        value = json.loads(path.read_bytes())
        change(value)
        path.write_text(json.dumps(value))
        if name == STATE:
            seal(run_dir)
        elif name == MANIFEST:
            seal_pointer(run_dir)

    return damage


def state(way, value):
    """A state with one value exchanged, which is named by keys with dots between them."""

    def change(content):
        *above, key = way.split(".")
        for name in above:
            content = content[int(name) if name.isdigit() else name]
        content[int(key) if key.isdigit() else key] = value

    return json_of(STATE, change)


def tensors(change):
    """Tensors changed in place; sums right."""

    def damage(run_dir):
        path = latest(run_dir) / TENSORS
        content = safetensors.torch.load(path.read_bytes())
        change(content)
        path.write_bytes(safetensors.torch.save(content))
        seal(run_dir)

    return damage


def tensor(name, value):
    """One tensor exchanged: for another, or by a function of what it was."""
    return tensors(lambda content: content.update({name: value(content[name]) if callable(value) else value}))


def entry(name, position, number):
    """One number of a tensor exchanged."""

    def change(old):
        old.view(-1)[position] = number
        return old

    return tensor(name, change)


def header(change):
    """The header of the tensors changed in place; sums right."""

    def damage(run_dir):
        path = latest(run_dir) / TENSORS
        content = path.read_bytes()
        size = int.from_bytes(content[:8], "little")
        value = json.loads(content[8 : 8 + size])
        change(value)
        text = json.dumps(value).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])
        seal(run_dir)

    return damage


def other_file(name, make_it):
    """Something else in the place of a file."""

    def damage(run_dir):
        path = path_of(run_dir, name)
        path.unlink()
        make_it(path)

    return damage


def sparse(path):
    with path.open("wb") as file:
        file.truncate(10 * 2**30)


def linked_folder(run_dir):
    folder = latest(run_dir)
    folder.rename(run_dir / "elsewhere")
    folder.symlink_to(run_dir / "elsewhere")


def linked_checkpoints(run_dir):
    (run_dir / "checkpoints").rename(run_dir / "elsewhere")
    (run_dir / "checkpoints").symlink_to(run_dir / "elsewhere")


def linked_lock(run_dir):
    (run_dir / ".lock").unlink()
    (run_dir / ".lock").symlink_to(run_dir.parent / "victim")


def piped_lock(run_dir):
    (run_dir / ".lock").unlink()
    os.mkfifo(run_dir / ".lock")


def repeated_key(content):
    return content.replace(b'"step"', b'"seed": 1,\n "seed": 2,\n "step"', 1)


WEIGHT = "parameter/model.weight"
MOMENT = "optimizer/pair/0/exp_avg"
NAN, INF = float("nan"), float("inf")
DEEP = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"

CORPUS = {
    **{f"pickle as {name}": write(name, pickle.dumps(Bomb())) for name in (TENSORS, STATE, MANIFEST, LATEST, METRICS)},
    **{f"empty {name}": write(name, b"") for name in (TENSORS, STATE, MANIFEST, LATEST)},
    **{f"{name} missing": other_file(name, lambda path: None) for name in (TENSORS, STATE, MANIFEST)},
    **{
        f"{name} cut at {share}": bytes_of(name, lambda c, s=share: c[: int(len(c) * s)])
        for name in (TENSORS, STATE, MANIFEST, LATEST)
        for share in (0.1, 0.5, 0.99)
    },
    **{
        f"tensors cut at byte {n}, sums right": bytes_of(TENSORS, lambda c, n=n: c[:n], sealed=True)
        for n in (1, 7, 8, 9, 100, -1)
    },
    **{
        f"{name} with a bit flipped": bytes_of(name, lambda c: c[:-40] + bytes([c[-40] ^ 4]) + c[-39:])
        for name in (TENSORS, STATE, MANIFEST, LATEST)
    },
    **{
        f"{name} is a link": other_file(name, lambda path: path.symlink_to("/etc/passwd"))
        for name in (TENSORS, STATE, MANIFEST, LATEST, METRICS)
    },
    **{f"{name} is a pipe": other_file(name, os.mkfifo) for name in (TENSORS, STATE, MANIFEST, LATEST, METRICS)},
    **{f"{name} is a folder": other_file(name, os.mkdir) for name in (TENSORS, STATE, MANIFEST, LATEST, METRICS)},
    **{f"{name} has 10 GiB": other_file(name, sparse) for name in (TENSORS, STATE, MANIFEST, LATEST, METRICS)},
    **{f"{name} is not UTF-8": write(name, b'{"a": "\xff\xfe"}') for name in (STATE, MANIFEST, LATEST, METRICS)},
    **{f"{name} nests deep": write(name, DEEP) for name in (STATE, MANIFEST, LATEST)},
    **{f"{name} nests at 500": write(name, b'{"a":' * 500 + b"1" + b"}" * 500) for name in (STATE, MANIFEST, LATEST)},
    **{
        f"{name} has {label}": write(name, b'{"step": %s}' % text)
        for name in (STATE, MANIFEST, LATEST)
        for label, text in {
            "NaN": b"NaN",
            "Infinity": b"-Infinity",
            "1e999": b"1e999",
            "100,000 digits": b"1" * 100_000,
            "4,000 digits": b"1" * 4000,
            "a list of commas": b"[,,]",
        }.items()
    },
    **{
        f"{name} is {text.decode()}": write(name, text)
        for name in (STATE, MANIFEST, LATEST)
        for text in (b"[]", b"null", b"1", b'"x"', b"{}")
    },
    "a key twice": bytes_of(STATE, repeated_key, sealed=True),
    "all of memory in brackets": write(STATE, b'{"a": [' + b"[]," * 1_000_000 + b"[]]}"),
    "sums that are none": json_of(LATEST, lambda v: v.update(sha256="0" * 63)),
    "another sum": json_of(LATEST, lambda v: v.update(sha256="0" * 64)),
    "pointer to a path": json_of(LATEST, lambda v: v.update(checkpoint="../../elsewhere")),
    "pointer to an absolute path": json_of(LATEST, lambda v: v.update(checkpoint="/etc")),
    "pointer to nothing": json_of(LATEST, lambda v: v.update(checkpoint="step-000000000099")),
    "pointer to a number": json_of(LATEST, lambda v: v.update(checkpoint=6)),
    "manifest that names a path": json_of(MANIFEST, lambda v: v["files"].update({"../../x": v["files"][STATE]})),
    "manifest that names an absolute path": json_of(
        MANIFEST, lambda v: v.update(files={"/etc/passwd": v["files"][STATE]})
    ),
    "manifest without files": json_of(MANIFEST, lambda v: v.update(files=[])),
    "manifest with a negative size": json_of(MANIFEST, lambda v: v["files"][STATE].update(bytes=-1)),
    "manifest with a size that is true": json_of(MANIFEST, lambda v: v["files"][STATE].update(bytes=True)),
    "manifest with a huge size": json_of(MANIFEST, lambda v: v["files"][TENSORS].update(bytes=2**62)),
    "manifest without a sum": json_of(MANIFEST, lambda v: v["files"][STATE].pop("sha256")),
    "format 99": json_of(MANIFEST, lambda v: v.update(format=99)),
    "format true": json_of(MANIFEST, lambda v: v.update(format=True)),
    "checkpoint is a link": linked_folder,
    "checkpoints is a link": linked_checkpoints,
    "lock is a link": linked_lock,
    "lock is a pipe": piped_lock,
    "metrics of something else": bytes_of(METRICS, lambda c: b"[1]\n" + c),
    # headers of tensors
    **{
        f"header of {size} bytes": bytes_of(TENSORS, lambda c, s=size: s.to_bytes(8, "little") + c[8:], sealed=True)
        for size in (0, 2**25, 2**40, 2**64 - 1)
    },
    "header of nothing": write(TENSORS, (2).to_bytes(8, "little") + b"{}"),
    "header that nests deep": write(TENSORS, len(DEEP).to_bytes(8, "little") + DEEP),
    "header of a million tensors": write(
        TENSORS,
        (lambda text: len(text).to_bytes(8, "little") + text)(
            b"{"
            + b",".join(b'"%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}' % i for i in range(400_000))
            + b"}"
        ),
    ),
    "header with offsets that lie": header(lambda h: h[WEIGHT].update(data_offsets=[0, 4])),
    "header with offsets beyond the end": header(lambda h: h[WEIGHT].update(data_offsets=[2**40, 2**40 + 12])),
    "header with negative offsets": header(lambda h: h[WEIGHT].update(data_offsets=[-12, 0])),
    "header with tensors that overlap": header(
        lambda h: h[WEIGHT].update(data_offsets=h["average/model.weight"]["data_offsets"])
    ),
    "header with another dtype": header(lambda h: h[WEIGHT].update(dtype="I32")),
    "header with an unknown dtype": header(lambda h: h[WEIGHT].update(dtype="PICKLE")),
    "header with another shape": header(lambda h: h[WEIGHT].update(shape=[1, 3])),
    "header with a shape too large": header(lambda h: h[WEIGHT].update(shape=[2**40, 3])),
    "header with a shape that overflows": header(lambda h: h[WEIGHT].update(shape=[2**63, 2])),
    "header with an empty shape that overflows": header(
        lambda h: h[WEIGHT].update(shape=[0, 2**62, 2**62], data_offsets=[0, 0])
    ),
    # tensors
    "a parameter is nan": entry(WEIGHT, 1, NAN),
    "a parameter is infinite": entry(WEIGHT, 0, -INF),
    "an average is nan": entry("average/model.weight", 2, NAN),
    "a best parameter is nan": entry("best/parameter/model.weight", 0, NAN),
    "a moment is nan": entry(MOMENT, 0, NAN),
    "a count below 0": tensor("optimizer/pair/0/step", torch.tensor(-1.0)),
    "a count of infinity": tensor("optimizer/pair/0/step", torch.tensor(INF)),
    "a moment of another shape": tensor(MOMENT, torch.zeros(4)),
    "a moment of another dtype": tensor(MOMENT, lambda old: old.double()),
    "a moment with a path for a name": tensors(lambda c: c.update({"optimizer/pair/../../etc/passwd": c.pop(MOMENT)})),
    "a moment missing": tensors(lambda c: c.pop(MOMENT)),
    "a moment more": tensor("optimizer/pair/0/exp_avg_cube", torch.zeros(3)),
    "moments of no parameter": tensor("optimizer/pair/99/exp_avg", torch.zeros(3)),
    "moments of a negative parameter": tensor("optimizer/pair/-1/exp_avg", torch.zeros(3)),
    "a parameter missing": tensors(lambda c: c.pop(WEIGHT)),
    "a parameter more": tensor("parameter/model.other", torch.zeros(3)),
    "a parameter with a path for a name": tensor("parameter/../../../etc/passwd", torch.zeros(3)),
    "a parameter of another dtype": tensor(WEIGHT, lambda old: old.half()),
    "a parameter of another shape": tensor(WEIGHT, torch.zeros(2)),
    "a frozen parameter missing": tensors(lambda c: c.pop("frozen/model.fixed")),
    "a buffer missing": tensors(lambda c: c.pop("buffer/model.mask")),
    "a buffer of truth values that are none": tensor(
        "buffer/model.mask", lambda old: torch.full((3,), 7, dtype=torch.uint8).view(torch.bool)
    ),
    "a best parameter missing": tensors(lambda c: c.pop("best/parameter/model.weight")),
    "losses missing": tensors(lambda c: c.pop("losses")),
    "losses too few": tensor("losses", lambda old: old[:2]),
    "losses in a square": tensor("losses", torch.zeros(6, 1, dtype=torch.float64)),
    "losses of another dtype": tensor("losses", lambda old: old.float()),
    # generators
    **{
        f"{kind} {name} missing": tensors(lambda c, n=f"order/0/{kind}/{name}": c.pop(n))
        for kind in ("now", "began")
        for name in ("torch", "python", "numpy", "python.gauss", "numpy.gauss")
    },
    "no generator of the order": tensors(lambda c: c.pop("order/0/began/own.0")),
    "another generator of the order": tensors(
        lambda c: c.update({"order/0/began/own.1": c["order/0/began/own.0"].clone()})
    ),
    **{
        f"generator {name} of {label}": tensor(f"order/0/{name}", value)
        for name in ("now/torch", "began/own.0")
        for label, value in {
            "zeros": lambda old: torch.zeros_like(old),
            "ones": lambda old: torch.full_like(old, 255),
            "no length": torch.zeros(0, dtype=torch.uint8),
            "floats": lambda old: old.float(),
            "two dimensions": lambda old: old[None],
        }.items()
        if (name, label) != ("began/own.0", "two dimensions")
    },
    "Python's generator beyond its end": entry("order/0/now/python", 625, 700),
    "Python's generator of another version": entry("order/0/now/python", 0, 2),
    "Python's generator with large words": entry("order/0/now/python", 5, 2**40),
    "Python's generator with negative words": entry("order/0/now/python", 5, -1),
    "Python's generator of zeros": tensor(
        "order/0/now/python", lambda old: torch.cat([old[:1], torch.zeros_like(old[1:625]), old[625:]])
    ),
    "Python's generator of nan": tensor("order/0/now/python.gauss", torch.tensor([NAN], dtype=torch.float64)),
    "NumPy's generator beyond its end": entry("order/0/now/numpy", 624, 10_000),
    "NumPy's generator before its start": entry("order/0/now/numpy", 624, -3),
    "NumPy's generator of two minds": entry("order/0/now/numpy", 625, 2),
    "NumPy's generator of zeros": tensor(
        "order/0/now/numpy", lambda old: torch.cat([torch.zeros_like(old[:624]), old[624:]])
    ),
    "NumPy's generator too short": tensor("order/0/now/numpy", lambda old: old[:100]),
    "NumPy's generator of nan": entry("order/0/now/numpy.gauss", 0, NAN),
    # states
    "a negative cursor": state("position.cursor", -1),
    "a cursor beyond the data": state("position.cursor", 10**9),
    "steps that are not those of the losses": state("position.steps", 4),
    "a negative step": state("step", -6),
    "a step that jumps": state("step", 7),
    "an epoch too few": state("epoch", 1),
    "rows that are negative": state("position.rows", -1),
    "impatience": state("position.worse", 10**6),
    "a stop for no reason": state("stopped", "because"),
    "a best step to come": state("best_step", 1000),
    "a best bound that is true": state("best_bound", True),
    "no best bound": state("best_bound", None),
    "another class of optimizer": state("optimizers.pair.class", "os.system"),
    "an optimizer of no options": state("optimizers.pair.options", []),
    "an optimizer with huge betas": state("optimizers.pair.options.0.betas", [1e300, 0.9]),
    "an optimizer with negative betas": state("optimizers.pair.options.0.betas", [-0.9, 0.9]),
    "an optimizer of a text": state("optimizers.pair.options.0.lr", "fast"),
    "an optimizer with other flags": state("optimizers.pair.options.0.amsgrad", True),
    "an optimizer with one beta": state("optimizers.pair.options.0.betas", [0.9]),
    "an optimizer of an unknown option": state("optimizers.pair.options.0.closure", "os.system"),
    "an optimizer begun otherwise": state("begun.pair.0.lr", 0.5),
    "an optimizer begun with nothing": state("begun.pair", 7),
    "values of no parameter": state("optimizers.pair.values", {"x": {"step": 1}}),
    "values of a text": state("optimizers.pair.values", {"0": {"step": "now"}}),
    "another player": state("begun.critic", []),
    "a plan of texts": state("plan.num_epochs", "many"),
    "a plan of less than nothing": state("plan.patience", -1),
}


# --- settings ------------------------------------------------------------------------------------------------


def config(old, new):
    """``config.toml`` with a part of it exchanged."""

    def damage(run_dir):
        path = run_dir / "config.toml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return damage


def config_file(make_it):
    def damage(run_dir):
        (run_dir / "config.toml").unlink()
        make_it(run_dir / "config.toml")

    return damage


MODEL = 'model = "vae:latent_dim=1,hidden=4"'
CONFIGS = {
    "a program in a file": config(MODEL, 'model = "/tmp/program.py:Model"'),
    "a program in a file of the folder": config(MODEL, 'model = "checkpoints/program.py:Model"'),
    "a guide in a file": config('guide = "auto"', 'guide = "program.py:Guide"'),
    "a guide in a file, in the record": config('guide = "amortized-normal"', 'guide = "program.py:Guide"'),
    "a record of a file": config("[record]", '[record]\nmodel_file = "program.py:Model"\nmodel_sha256 = "0"'),
    "a name to import": config(MODEL, 'model = "os:system"'),
    "a dotted name": config(MODEL, 'model = "os.system"'),
    "a call": config(MODEL, "model = \"vae:latent_dim=__import__('os').system('id')\""),
    "an unknown model": config(MODEL, 'model = "vea"'),
    "an unknown likelihood": config(MODEL, 'model = "vae:latent_dim=1,likelihood=os.system"'),
    "brackets within brackets": config(MODEL, f'model = "vae:latent_dim={"(" * 500}{")" * 500}"'),
    "a huge power": config(MODEL, 'model = "vae:latent_dim=9**9**9"'),
    "a network too large to be": config(MODEL, 'model = "vae:latent_dim=1,hidden=99999999999999"'),
    "another network": config(MODEL, 'model = "vae:latent_dim=2,hidden=4"'),
    "data of an absolute path": config("event_shape = [64]", "event_shape = [9999999999, 9999999999]"),
    "an unknown key": config("[record]", 'import = "os"\n[record]'),
    "a key twice": config("[record]", "seed = 1\n[record]"),
    "a number for a text": config(MODEL, "model = 7"),
    "a text for a number": config("num_epochs = 1", 'num_epochs = "1"'),
    "a huge number": config("num_epochs = 1", f"num_epochs = {'1' * 5000}"),
    "a negative seed": config("seed = 0", "seed = -1"),
    "a date": config("seed = 0", "seed = 2026-01-01"),
    "no record": config("[record]", "[other]"),
    "deep arrays": config("event_shape = []", f"event_shape = {'[' * 5000}{']' * 5000}"),
    "deep tables": config("[record]", f"[{'.'.join('a' * 3000)}]\n[record]"),
    "not UTF-8": config_file(lambda path: path.write_bytes(b'model = "\xff"')),
    "pickle as config.toml": config_file(lambda path: path.write_bytes(pickle.dumps(Bomb()))),
    "an empty config.toml": config_file(lambda path: path.write_bytes(b"")),
    "a config.toml of 10 GiB": config_file(sparse),
    "a config.toml that is a link": config_file(lambda path: path.symlink_to("/etc/passwd")),
    "a config.toml that is a pipe": config_file(os.mkfifo),
    "a config.toml that is a folder": config_file(os.mkdir),
    "no config.toml": config_file(lambda path: None),
}


def train_from_settings(run_dir):
    from probgen.runs.settings import TrainSettings
    from probgen.runs.training import train as train_run

    model = MODEL.partition('"')[2].rstrip('"')
    train_run(TrainSettings(num_epochs=1, model=model, batch_size=500, capture=False), run_dir)


@pytest.fixture(scope="module")
def good_settings(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("settings") / "run"
    train_from_settings(run_dir)
    probgen.load(run_dir)
    return run_dir


@pytest.mark.parametrize("name", CONFIGS)
def test_hostile_settings_are_refused(good_settings, tmp_path, name):
    run_dir = shutil.copytree(good_settings, tmp_path / "run")
    (run_dir / "checkpoints" / "program.py").write_text("raise SystemExit('executed')")
    CONFIGS[name](run_dir)
    files, before = tree_of(run_dir), torch.get_rng_state()
    begin = time.process_time()
    with pytest.raises(ProbgenError) as caught:
        probgen.load(run_dir)
    assert time.process_time() - begin < SECOND
    assert len(str(caught.value)) < 1000
    assert tree_of(run_dir) == files
    assert torch.equal(torch.get_rng_state(), before)


def tree_of(folder):
    """Everything below a folder, but the lock."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_size, path.lstat().st_mtime_ns, path.is_symlink())
        for path in sorted(folder.rglob("*"))
        if path.name != ".lock" and not path.is_dir()
    }


def held(svi):
    own = [value.clone() for module in svi.modules for value in module.state_dict().values()]
    words = torch.tensor(random.getstate()[1]), torch.tensor(np.random.get_state()[1].astype(np.int64))
    return [*own, torch.get_rng_state(), *words]


def refused(run_dir, **changes):
    """The error that going on with a run raises, and the seconds until then; nothing may have moved."""
    svi, files = make(), tree_of(run_dir)
    before = held(svi)
    begin = time.process_time()
    with pytest.raises(ProbgenError) as caught:
        svi.run(**(options() | changes), run_dir=run_dir, resume=True)
    seconds = time.process_time() - begin
    assert all(torch.equal(a, b) for a, b in zip(before, held(svi), strict=True))
    assert tree_of(run_dir) == files
    assert svi.state.step == 0
    return caught.value, seconds


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("good") / "run"
    with torch.random.fork_rng():
        train(run_dir)
    return run_dir


def test_the_corpus_is_large():
    assert len(CORPUS) >= 30


@pytest.mark.parametrize("name", CORPUS)
def test_hostile_files_are_refused(good, tmp_path, name):
    run_dir = shutil.copytree(good, tmp_path / "run")
    CORPUS[name](run_dir)
    error, seconds = refused(run_dir)
    assert isinstance(error, CheckpointError | ArgumentError)
    assert str(run_dir) in str(error) or "`optim`" in str(error) or "`data`" in str(error)
    assert len(str(error)) < 1000
    assert seconds < SECOND
    assert "is a link" in str(error) or not name.endswith("is a link")
    assert "is no regular file" in str(error) or not name.endswith(("is a pipe", "is a folder"))
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize("name", ["pickle as state.json", "an average is nan", "pointer to a path", "format 99"])
def test_weights_are_not_loaded_from_hostile_files(good, tmp_path, name):
    run_dir = shutil.copytree(good, tmp_path / "run")
    CORPUS[name](run_dir)
    pair = Model(), Guide()
    before = [value.clone() for program in pair for value in program.state_dict().values()]
    with pytest.raises(CheckpointError):
        load_weights(*pair, run_dir)
    after = [value for program in pair for value in program.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_good_run_goes_on(good, tmp_path):
    """The same way as those that are refused."""
    run_dir = shutil.copytree(good, tmp_path / "run")
    svi = make()
    assert len(svi.run(**options(), run_dir=run_dir, resume=True).losses) == 9


def test_other_checkpoints_are_named(good, tmp_path):
    run_dir = shutil.copytree(good, tmp_path / "run")
    write(STATE, b"{}")(run_dir)
    steps = Checkpoints(run_dir).steps()
    assert len(steps) > 1
    error, _ = refused(run_dir)
    assert f"other checkpoints are those of the steps {', '.join(map(str, steps[:-1]))}: `resume=STEP`" in str(error)
    svi = make()
    assert len(svi.run(**options(), run_dir=run_dir, resume=steps[0]).losses) == 9


def test_a_lost_pointer(good, tmp_path):
    """What a process leaves that was killed before its first checkpoint was complete: the last folder counts."""
    run_dir = shutil.copytree(good, tmp_path / "run")
    (run_dir / "checkpoints" / LATEST).unlink()
    svi = make()
    assert len(svi.run(**options(), run_dir=run_dir, resume=True).losses) == 9


# --- wrong kinds at every place of a state -------------------------------------------------------------------


def ways(value, above=()):
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        yield (*above, key), member
        yield from ways(member, (*above, key))


WRONG = ("x", -1, 1.5, True, None, [], {}, [[1]], 2**62)
FREE = {  # where another value is right too, or tells nothing
    *(("position", name) for name in ("elapsed", "rows")),
    *(("plan", name) for name in ("num_epochs", "num_steps", "patience")),
    ("best_bound",),
    ("optimizers", "pair", "values"),
}


def changed(content, way, wrong):
    """A state with one value exchanged, or left out where ``wrong`` is the way itself."""
    content = json.loads(content)
    parent = functools.reduce(lambda inner, key: inner[key], way[:-1], content)
    if wrong is way:
        del parent[way[-1]]
    else:
        parent[way[-1]] = wrong
    return json.dumps(content)


def test_wrong_kinds_at_every_place(good, tmp_path):
    run_dir = shutil.copytree(good, tmp_path / "run")
    path = latest(run_dir) / STATE
    original, taken = path.read_bytes(), []
    places = {way: value for way, value in ways(json.loads(original)) if way not in FREE}
    assert len(places) > 50
    for i, (way, value) in enumerate(places.items()):
        for wrong in (way, WRONG[i % len(WRONG)], WRONG[(i + 4) % len(WRONG)]):
            if wrong is not way and (wrong == value or is_option_of_a_number(way, wrong)):
                continue
            path.write_text(changed(original, way, wrong))
            seal(run_dir)
            try:
                refused(run_dir)
            except pytest.fail.Exception:
                taken.append((way, "missing" if wrong is way else wrong))
                run_dir = shutil.copytree(good, tmp_path / f"{i} {wrong}".replace("/", "-"))
                path = latest(run_dir) / STATE
    assert taken == []


def is_option_of_a_number(way, wrong):
    """Whether a number stands where an optimizer has numbers, which change while it trains."""
    return way[:3] == ("optimizers", "pair", "options") and isinstance(wrong, int | float) and wrong is not True


# --- the witness ---------------------------------------------------------------------------------------------

WATCHED = ("exec", "compile", "import", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn")
WATCHED += ("subprocess.Popen", "pickle.find_class", "marshal.loads", "socket.connect", "socket.bind", "ctypes.dlopen")
WATCHED += ("os.remove", "os.rename", "os.chmod", "os.chown", "os.symlink", "os.link", "os.truncate", "shutil.rmtree")
MEMORY = 512 * 2**20


def witness(folder):
    """Goes on with every run of a folder under an audit hook, and prints what it has seen."""
    place, seen, name = os.path.realpath(folder), [], ""
    good = Path(folder) / "good"
    make().run(**options(), run_dir=good, resume=True)  # imports whatever is needed
    probgen.load(Path(folder) / "good-settings")
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, resource.RLIM_INFINITY))

    def hook(event, arguments):
        if not name:
            return
        if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            path = os.path.realpath(os.path.dirname(os.path.join(os.getcwd(), os.fsdecode(arguments[0]))))
            if not path.startswith(place):
                seen.append([name, event, os.fsdecode(arguments[0])])
        elif event == "compile" and arguments[1] == "<unknown>":
            pass  # `ast.literal_eval`, which reads a literal and makes no code
        elif event in WATCHED:
            seen.append([name, event, repr(arguments)[:200]])

    sys.addaudithook(hook)
    outcomes = {}
    for run_dir in sorted(Path(folder).iterdir()):
        if run_dir.name in ("good", "good-settings", "victim"):
            continue
        svi = make()
        go_on = functools.partial(svi.run, **options(), run_dir=run_dir, resume=True)
        if run_dir.name.startswith("settings"):
            go_on = functools.partial(probgen.load, run_dir)
        name = run_dir.name
        try:
            go_on()
            outcome = "loaded"
        except ProbgenError as error:
            outcome = type(error).__name__
        except BaseException as error:
            outcome = f"! {type(error).__name__}: {error}"
        name = ""
        outcomes[run_dir.name] = outcome
    json.dump({"outcomes": outcomes, "seen": seen}, sys.stdout)


def test_nothing_is_executed_or_opened(good, good_settings, tmp_path):
    names = {}
    shutil.copytree(good, tmp_path / "good")
    shutil.copytree(good_settings, tmp_path / "good-settings")
    for kind, corpus, source in (("files", CORPUS, good), ("settings", CONFIGS, good_settings)):
        for name, damage in corpus.items():
            names[f"{kind} {len(names)}"] = name
            damage(shutil.copytree(source, tmp_path / f"{kind} {len(names) - 1}"))
    done = subprocess.run(
        [sys.executable, __file__, tmp_path], capture_output=True, text=True, timeout=120, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout)
    assert answer["seen"] == []
    typed = ("CheckpointError", "ArgumentError", "DataFileError")
    assert {names[key]: outcome for key, outcome in answer["outcomes"].items() if outcome not in typed} == {}
    assert answer["outcomes"].keys() == names.keys()


if __name__ == "__main__":
    witness(sys.argv[1])
