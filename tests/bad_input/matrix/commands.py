"""The command line: each command on files that hold bad data, or with programs and numbers that are wrong."""

import csv
import json
import random
from collections.abc import Callable
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from matrix.entries import FILE, NO_NUMBER, Case, Entry, Result
from matrix.pairs import good_data
from probgen.cli.main import _parse as _PARSE
from probgen.cli.main import main
from probgen.errors import ProbgenError

PROGRAMS = """
import pyro
import pyro.distributions as dist
import torch

def model(x):
    w = pyro.param("weight", torch.ones(2, 3) * {start})
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        pyro.sample("x", dist.Normal(z @ w, 1.0).to_event(1), obs=x)
        {model}

def guide(x):
    with pyro.plate("data", len(x)):
        {guide}
"""
GUIDE = 'pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))'
WRITTEN = {
    "duplicate site": {"model": 'pyro.sample("x", dist.Normal(0.0, 1.0))'},
    "missing site": {"guide": "pass"},
    "extra site": {"guide": f'{GUIDE}; pyro.sample("w", dist.Normal(0.0, 1.0))'},
    "wrong event dim": {"guide": GUIDE.replace("2", "3")},
    "non-finite start": {"start": "torch.nan"},
}


class Refused(ProbgenError):
    """What a command says on standard error when it ends with status 2."""


def command(*args: str) -> None:
    """Runs a command, without figures.

    Raises:
        Refused: it has ended with status 2 and one line, which names no traceback.
        RuntimeError: it has failed otherwise.
    """
    said = StringIO()
    with ExitStack() as contexts:
        contexts.enter_context(redirect_stdout(StringIO()))
        contexts.enter_context(redirect_stderr(said))
        contexts.enter_context(patch("probgen.cli.main._parse", _parse))
        nothing = SimpleNamespace(skipped=[], written=[])
        contexts.enter_context(patch("probgen.cli.training.draw_run", lambda *_, **__: nothing))
        contexts.enter_context(patch("probgen.comparison.comparing.as_png", lambda _: b""))
        status = main(args)
    errors = [line for line in said.getvalue().splitlines() if line.startswith("probgen: error: ")]
    if status == 0:
        return
    if status == 2 and len(errors) == 1 and "--debug" not in errors[0]:
        raise Refused(errors[0].removeprefix("probgen: error: "))
    raise RuntimeError(f"status {status}: {said.getvalue()}")


def _parse(arguments: list[str]) -> Any:
    """As the command does; tyro draws from Python's generator where pytest is loaded, to clear its cache at random."""
    before = random.getstate()
    try:
        return _PARSE(arguments)
    finally:
        random.setstate(before)


def _data(case: Case) -> list[str]:
    path = case.folder / "x.npz"
    data = case.good if case.kind.name == "device mismatch" else case.data  # a file lies on no device
    np.savez(path, **dict.fromkeys(("train", "valid", "test"), np.asarray(data)))
    return ["--data", str(path), "--binarize", "none"]


def _model(case: Case) -> str:
    likelihood = "normal-fixed" if case.kind.real else "bernoulli"
    return f"vae:latent_dim=2,hidden=(4,),likelihood={likelihood}"


def _programs(case: Case) -> list[str]:
    """The model, and what stands for the guide."""
    if case.kind.name not in WRITTEN:
        return [_model(case)]
    path = case.folder / "programs.py"
    path.write_text(PROGRAMS.format(**{"start": "1.0", "model": "", "guide": GUIDE} | WRITTEN[case.kind.name]))
    return [f"{path}:model", "--guide", f"{path}:guide"]


def _train(case: Case, folder: Path) -> None:
    device = ["--accelerator", "cuda:99"] if case.kind.name == "device mismatch" else []
    objective = ["--objective", f"iwae:num_particles={case.particles}"]
    length = ["--num-epochs", "1", "--batch-size", "2", "--no-capture"]
    command("train", *_programs(case), *_data(case), *objective, *length, *device, "--run-dir", str(folder))


def train(case: Case) -> Result:
    _train(case, case.folder / "run")
    return _metrics(case.folder / "run")


def compare(case: Case) -> Result:
    guide = {"missing site": "none", "wrong event dim": "amortized-normal:latent_dim=3"}.get(case.kind.name, "auto")
    length = ["--num-epochs", "1", "--batch-size", "2", "--num-particles", "4", "--no-capture"]
    objective = ["--objectives", f"iwae:num_particles={case.particles}"]
    device = ["--accelerator", "cuda:99"] if case.kind.name == "device mismatch" else []
    programs = ["--model", _model(case), "--guide", guide]
    command("compare", *programs, *_data(case), *objective, *length, *device, "--run-dir", str(case.folder / "run"))
    return _metrics(case.folder / "run")


def _metrics(folder: Path) -> Result:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {name: torch.tensor([row[name] for row in rows]) for name in ("loss", "bound", "eval_bound")}


_folder = TemporaryDirectory()  # of the trained runs
_trained: dict[bool, Path] = {}


def _run_folder(case: Case) -> Path:
    """A folder with a trained run, for all cells."""
    if case.kind.real not in _trained:
        folder = Path(_folder.name) / str(case.kind.real)
        folder.mkdir(exist_ok=True)
        good = Case(case.good, good_data(), case.pair, 3, folder, case.make, case.kind)
        _train(good, folder / "run")
        _trained[case.kind.real] = folder / "run"
    return _trained[case.kind.real]


def score(case: Case) -> Result:
    return {"log_prob": _scored("score", case, "--output", str(case.folder / "scores.csv"))}


def evaluate(case: Case) -> Result:
    return {"log_prob": _scored("evaluate", case, "--overwrite")}


def _scored(name: str, case: Case, *options: str) -> Tensor:
    run = _run_folder(case)
    device = ["--accelerator", "cuda:99"] if case.kind.name == "device mismatch" else []
    with patch("probgen.cli.evaluating.plots.evidence", side_effect=ProbgenError("none here")):
        command(name, str(run), *_data(case), "--num-particles", str(case.particles), *device, *options)
    path = case.folder / "scores.csv" if name == "score" else run / "evidence.csv"
    with path.open() as file:
        return torch.tensor([float(row["log_prob"]) for row in csv.DictReader(file)])


def reconstruct(case: Case) -> Result:
    return _drawn("reconstruct", case)


def interpolate(case: Case) -> Result:
    return _drawn("interpolate", case)


def _drawn(name: str, case: Case) -> Result:
    device = ["--accelerator", "cuda:99"] if case.kind.name == "device mismatch" else []
    output = case.folder / "out.npz"
    command(name, str(_run_folder(case)), *_data(case), *device, "--output", str(output))
    with np.load(output) as arrays:
        # t is the place on a line, and none for its ends
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files if key != "t"}


A_RUN = "the programs are those of a trained run"
OURS = "takes the programs of the library alone"
ENCODED = {"1e30": "finite all the same", "out of support": "as any numbers"}
DEVICE = {"device mismatch": ("cuda:99", "`accelerator", "'auto' or 'cpu'")}
IN_FILES = {"NumPy": FILE, "lists": FILE, "requires_grad": FILE}

CALLS: tuple[tuple[str, Callable[[Case], Result], dict[str, str]], ...] = (
    ("train", train, {"wrong features": FILE}),
    (
        "compare",
        compare,
        {"wrong features": FILE, "duplicate site": OURS, "extra site": OURS, "non-finite start": OURS},
    ),
    ("evaluate", evaluate, dict.fromkeys(WRITTEN, A_RUN)),
    ("score", score, dict.fromkeys(WRITTEN, A_RUN)),
    ("reconstruct", reconstruct, dict.fromkeys(WRITTEN, A_RUN) | {"K = 0": NO_NUMBER}),
    ("interpolate", interpolate, dict.fromkeys(WRITTEN, A_RUN) | {"K = 0": NO_NUMBER}),
)

COMMANDS = tuple(
    Entry(
        f"`probgen {name}`",
        call,
        functions=False,
        makes_pair=True,
        without=IN_FILES | senseless,
        takes_too={"rank": "flattened to `(3,)`"} | (ENCODED if name in ("reconstruct", "interpolate") else {}),
        refuses=DEVICE | ({"batch of one": ("one datum", "pass more data")} if name == "interpolate" else {}),
    )
    for name, call, senseless in CALLS
)
