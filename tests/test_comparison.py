"""Comparisons: alike in everything but the objective, and files that hold what happened."""

import csv
import functools
import json
import math
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from torch import Tensor

from probgen import SVI, Evidence, compare, evaluate, registry
from probgen.comparison import Comparison, Run, RunSpec, grid
from probgen.data import Dataset
from probgen.errors import ArgumentError, ArgumentTypeError, DataError, DivergedError, MissingExtra, ProgramError
from probgen.guides import AmortizedNormal
from probgen.models import PPCA, VAE, GaussianMixture
from probgen.objectives import ELBO, IWAE, MaximumLikelihood
from probgen.svi import warmup_cosine

MODEL = functools.partial(PPCA, 4, 2)
GUIDE = functools.partial(AmortizedNormal, (4,), 2, (5,))
STILL = functools.partial(torch.optim.SGD, lr=0.0)
ADAM = functools.partial(torch.optim.Adam, lr=1e-2)
OBJECTIVES = {"elbo": ELBO(), "iwae": IWAE(num_particles=3)}


@pytest.fixture
def x() -> Tensor:
    return torch.randn(40, 4)


def quick(runs: Any, x: Tensor, **options: Any) -> Comparison:
    settings: dict[str, Any] = {"num_epochs": 1, "batch_size": 20, "num_particles": 30, "progress": False}
    return compare(runs, x[:30], **{"eval_data": x[30:], **settings, **options})


def test_same_weights_and_evaluation_at_a_seed(x: Tensor) -> None:
    got = quick(grid(MODEL, GUIDE, OBJECTIVES, STILL), x, seeds=(0, 1))
    assert [(run.label, run.seed) for run in got.runs] == [("elbo", 0), ("iwae", 0), ("elbo", 1), ("iwae", 1)]
    weights = [torch.cat([p.flatten() for p in run.guide.parameters()]) for run in got.runs]  # type: ignore[union-attr]
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[2], weights[3])
    assert not torch.equal(weights[0], weights[2])
    evidence = [run.evidence.log_prob for run in got.runs]
    assert torch.equal(evidence[0], evidence[1])  # the same particles too
    assert not torch.equal(evidence[0], evidence[2])


def test_no_two_runs_share_a_tensor(x: Tensor) -> None:
    got = quick(grid(MODEL, GUIDE, OBJECTIVES, ADAM), x, seeds=(0, 1))
    tensors = [p for run in got.runs for program in (run.model, run.guide) for p in program.parameters()]  # type: ignore[union-attr]
    assert len({id(p) for p in tensors}) == len(tensors)
    assert len({p.data_ptr() for p in tensors}) == len(tensors)


def test_nothing_outside_changes(x: Tensor) -> None:
    pyro.param("mine", torch.ones(2))
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    quick(grid(MODEL, GUIDE, OBJECTIVES, ADAM), x)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]
    assert random.getstate() == states[2]
    assert list(pyro.get_param_store()) == ["mine"]


def test_programs_with_pyro_param_are_isolated(x: Tensor) -> None:
    def model(x: Tensor) -> None:
        scale = pyro.param("scale", lambda: 1 + torch.rand(()), constraint=constraints.positive)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, scale).to_event(1), obs=x)

    def guide(x: Tensor) -> None:
        loc = pyro.param("loc", lambda: torch.rand(4))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc * x, 1.0).to_event(1))

    got = quick(grid(lambda: model, lambda: guide, OBJECTIVES, ADAM), x, seeds=(0, 1))
    assert list(pyro.get_param_store()) == []
    values = []
    for run in got.runs:
        with run.parameters():
            values.append(pyro.param("loc").detach().clone())
            again = evaluate(run.model, run.guide, x[30:], num_particles=30, batch_size=20)
        assert torch.equal(again.log_prob, run.evidence.log_prob)
    assert len({tuple(value.tolist()) for value in values}) == 4


def test_a_run_is_what_one_would_do_by_hand(x: Tensor) -> None:
    got = quick({"a": RunSpec(MODEL, GUIDE, ADAM, ELBO())}, x, seeds=(7,)).runs[0]
    pyro.set_rng_seed(7)
    model, guide = MODEL(), GUIDE()
    result = SVI(model, guide, ADAM, ELBO()).run(x[:30], batch_size=20, num_epochs=1, seed=7, progress=False)
    assert torch.equal(got.losses, result.losses)
    want = evaluate(model, guide, x[30:], num_particles=30, batch_size=20, seed=0)
    assert torch.equal(got.evidence.log_prob, want.log_prob)
    assert got.ms_per_step > 0


def test_the_average_is_what_is_evaluated(x: Tensor) -> None:
    spec = RunSpec(MODEL, GUIDE, ADAM, ELBO(), ema_decay=0.9)
    got = quick({"a": spec}, x, num_epochs=5).runs[0]
    svi = spec.build(0)
    result = svi.run(x[:30], batch_size=20, num_epochs=5, seed=0, progress=False)
    weights = dict(got.model.named_parameters())  # type: ignore[union-attr]
    torch.testing.assert_close(weights["loadings"], result.state.averaged["model.loadings"])
    assert not torch.equal(weights["loadings"], result.params["model.loadings"])


def test_models_without_latents(x: Tensor) -> None:
    runs = {"mixture": RunSpec(functools.partial(GaussianMixture, 4, 2), None, ADAM, MaximumLikelihood())}
    row = quick(runs | grid(MODEL, GUIDE, {"elbo": ELBO()}, ADAM), x).rows[0]
    assert (row.kind, row.gap, row.monte_carlo_error, row.num_particles) == ("exact", 0.0, 0.0, 1)


def _evidence(log_prob: list[float], kind: str = "lower", **fields: Any) -> Evidence:
    values = torch.tensor(log_prob, dtype=torch.float64)
    ones = torch.ones_like(values)
    defaults = {"elbo": values - 2, "kl": ones, "ess": 10 * ones, "khat": 0.1 * ones, "monte_carlo_error": 0.3 * ones}
    return Evidence(log_prob=values, kind=kind, num_particles=1000, **(defaults | fields))


def _comparison(evidence: dict[str, list[Evidence]]) -> Comparison:
    runs = [
        Run(label, seed, print, None, member, torch.zeros(1), 2.0 + seed, {"params": {}, "constraints": {}})
        for label, members in evidence.items()
        for seed, member in enumerate(members)
    ]
    return Comparison(tuple(runs), None, {})


def test_rows() -> None:
    variances = {"z": torch.tensor([0.5, 0.02, 0.001])}
    khat = torch.tensor([0.1, 0.6, 0.7, math.inf], dtype=torch.float64)
    got = _comparison(
        {
            "a": [_evidence([-4.0, -3.0, -2.0, -1.0], khat=khat, unit_variances=variances), _evidence([-1.0] * 4)],
            "b": [_evidence([-2.0, -2.0, -2.0, -2.0]), _evidence([-1.0, -1.0, -1.0, 1.0])],
        }
    )
    a, b = got.rows
    assert (a.label, a.kind, a.num_seeds) == ("a", "lower", 2)
    assert a.log_prob == -1.75
    assert a.standard_error == pytest.approx(np.std([-2.5, -2.0, -1.5, -1.0], ddof=1) / 2)
    assert a.seed_error == pytest.approx(np.std([-2.5, -1.0], ddof=1) / math.sqrt(2))
    assert a.monte_carlo_error == pytest.approx(math.sqrt(2) * (0.3 / 2) / 2)  # 0.3 / sqrt(4) for each of two seeds
    assert a.gap == pytest.approx(2.0)
    assert a.khat_share == pytest.approx((2 / 4 + 0) / 2)  # the threshold of 1000 particles is 2/3
    assert a.active_units is None  # one of the seeds does not know
    assert a.ms_per_step == 2.5
    assert b.log_prob == -1.25
    assert (b.behind, b.behind_error) == (0.0, 0.0)
    assert a.behind == pytest.approx(0.5)
    pairs = np.array([-1.5, -1.5, -1.5, -0.5]) - np.array([-2.5, -2.0, -1.5, -1.0])
    assert a.behind_error == pytest.approx(np.std(pairs, ddof=1) / 2)
    assert got.best.label == "b"
    assert got.labels == ("a", "b")


def test_what_has_no_evidence_is_never_the_best() -> None:
    none = _evidence([math.nan, math.nan], kind="none")
    got = _comparison({"map": [none], "elbo": [_evidence([-2.0, -1.0])]})
    assert got.best.label == "elbo"
    assert math.isnan(got.rows[0].log_prob)
    assert "  -  " in got.to_text()


def test_text_is_aligned_ascii(x: Tensor) -> None:
    got = quick(grid(MODEL, GUIDE, OBJECTIVES, ADAM), x)
    text = got.to_text()
    assert text.isascii()
    header, rule, first, second, blank, caption = text.splitlines()
    for column in ("objective", "log p(x)", "ELBO", "gap", "KL", "active", "ESS", "k-hat>0.32", "ms/step", "kind"):
        assert column in header
    assert "seed s.e." not in header
    assert set(rule) == {"-", " "}
    ends = [i for i, character in enumerate(rule) if rule[i : i + 2] == "- "]
    assert all(line[end + 1 : end + 3] in ("  ", "") for line in (first, second) for end in ends)
    assert blank == ""
    assert "10 held-out data; 30 particles; 1 seed." in caption
    assert "seed s.e." in quick(grid(MODEL, GUIDE, OBJECTIVES, ADAM), x, seeds=(0, 1)).to_text()
    assert text in repr(got)


def test_markdown_csv_and_dataframe(x: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    got = quick(grid(MODEL, GUIDE, OBJECTIVES, ADAM), x)
    lines = got.to_markdown().splitlines()
    assert len(lines) == 4
    assert all(line.startswith("|") and line.endswith("|") and line.count("|") == lines[0].count("|") for line in lines)
    got.to_csv(tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open() as file:
        read = list(csv.DictReader(file))
    assert [row["label"] for row in read] == ["elbo", "iwae"]
    assert float(read[0]["log_prob"]) == got.rows[0].log_prob
    frame = got.to_dataframe()
    assert frame.loc["iwae", "elbo"] == got.rows[1].elbo
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(MissingExtra, match="pip install pandas"):
        got.to_dataframe()


def test_run_folder(x: Tensor, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "one"
    got = quick(grid(MODEL, GUIDE, OBJECTIVES, ADAM), x, seeds=(0, 1), num_epochs=2, run_dir=folder, config={"a": [1]})
    names = {"config.json", "metrics.jsonl", "comparison.csv", "comparison.png"}
    assert {path.name for path in folder.iterdir()} == names
    config = json.loads((folder / "config.json").read_text())
    assert config["seeds"] == [0, 1]
    assert config["a"] == [1]
    assert config["runs"]["iwae"]["objective"] == repr(OBJECTIVES["iwae"])
    assert config["runs"]["iwae"]["model"] == {"call": "probgen.models.ppca.PPCA", "args": [4, 2], "kwargs": {}}
    assert config["versions"].keys() == {"probgen", "python", "torch", "pyro"}
    assert " at 0x" not in (folder / "config.json").read_text()
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [(line["label"], line["seed"], line["epoch"]) for line in lines] == [
        (label, seed, epoch) for seed in (0, 1) for label in ("elbo", "iwae") for epoch in (1, 2)
    ]
    assert {frozenset(line) for line in lines} == {
        frozenset({"label", "seed", "step", "epoch", "loss", "bound", "eval_bound", "seconds"})
    }
    with (folder / "comparison.csv").open() as file:
        assert [float(row["log_prob"]) for row in csv.DictReader(file)] == [row.log_prob for row in got.rows]
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_in_use_is_refused_and_only_ours_is_replaced(x: Tensor, tmp_path: Path) -> None:
    runs = grid(MODEL, GUIDE, {"elbo": ELBO()}, ADAM)
    quick(runs, x, run_dir=tmp_path)  # an empty folder is as good as none
    (tmp_path / "notes.txt").write_text("mine")
    before = (tmp_path / "metrics.jsonl").read_text()
    with pytest.raises(ArgumentError, match=r"`run_dir`: .* holds files already.*`overwrite=True`"):
        quick(runs, x, run_dir=tmp_path)
    assert (tmp_path / "metrics.jsonl").read_text() == before
    quick(runs, x, run_dir=tmp_path, overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1
    with pytest.raises(ArgumentError, match="is a file"):
        quick(runs, x, run_dir=tmp_path / "notes.txt", overwrite=True)


def test_files_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    got = _comparison({"a": [_evidence([-1.0, -2.0])]})
    got.to_csv(tmp_path / "rows.csv")
    before = (tmp_path / "rows.csv").read_text()

    def fail(*args: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        _comparison({"b": [_evidence([-1.0, -2.0])]}).to_csv(tmp_path / "rows.csv")
    assert (tmp_path / "rows.csv").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


def test_results_so_far_survive_an_interruption(x: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, count = SVI.run, []

    def interrupted(self: SVI, *args: Any, **kwargs: Any) -> Any:
        count.append(1)
        if len(count) == 2:
            raise KeyboardInterrupt
        return run(self, *args, **kwargs)

    monkeypatch.setattr(SVI, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        quick(grid(MODEL, GUIDE, OBJECTIVES, ADAM), x, run_dir=tmp_path)
    with (tmp_path / "comparison.csv").open() as file:
        assert [row["label"] for row in csv.DictReader(file)] == ["elbo"]


@pytest.fixture
def never_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*args: Any, **kwargs: Any) -> None:
        pytest.fail("training began")

    monkeypatch.setattr(SVI, "run", run)


@pytest.mark.usefixtures("never_trained")
def test_refused_before_training(x: Tensor, tmp_path: Path) -> None:
    runs = grid(MODEL, GUIDE, OBJECTIVES, ADAM)
    shared = MODEL()
    with pytest.raises(ArgumentError, match=r"run 'iwae', seed 0: shares the parameter 'model.*not `lambda: vae`"):
        quick(grid(lambda: shared, GUIDE, OBJECTIVES, ADAM), x)
    with pytest.raises(ArgumentError, match="shares the parameter"):  # one label, but its seeds would share
        quick(grid(lambda: shared, GUIDE, {"elbo": ELBO()}, ADAM), x)
    with pytest.raises(ProgramError, match=r"run 'b', seed 0: site 'z' has event shape"):
        quick(runs | {"b": RunSpec(MODEL, functools.partial(AmortizedNormal, (4,), 3, (5,)), ADAM, ELBO())}, x)
    bits = torch.randint(2, (40, 4)).float()
    bits[35, 2] = 0.5  # in the held-out data, and not in the first batch
    vae = grid(functools.partial(VAE, (4,), 2, (3,)), GUIDE, OBJECTIVES, ADAM)
    with pytest.raises(DataError, match=r"0\.5"):
        quick(vae, bits, batch_size=4, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ArgumentError, match="`seeds` must be a sequence"):
        quick(runs, x, seeds=())
    with pytest.raises(ArgumentError, match="`seeds` must be a sequence"):
        quick(runs, x, seeds=3)
    with pytest.raises(ArgumentError, match="`seeds` must differ"):
        quick(runs, x, seeds=(1, 1))
    with pytest.raises(ArgumentError, match="one of `num_epochs`, `num_steps` and `num_seconds`"):
        quick(runs, x, num_steps=3)
    with pytest.raises(ArgumentError, match="`num_epochs` must be a whole number of at least 1"):
        quick(runs, x, num_epochs=0)
    with pytest.raises(ArgumentError, match="`num_particles`"):
        quick(runs, x, num_particles=0)
    with pytest.raises(ArgumentError, match="`runs` is empty"):
        quick({}, x)
    with pytest.raises(ArgumentTypeError, match="`runs` must be a dictionary"):
        quick([ELBO()], x)


def test_equal_seconds_are_that_many_steps(x: Tensor, tmp_path: Path) -> None:
    runs = grid(MODEL, GUIDE, {"elbo": ELBO(), "many": IWAE(num_particles=3000)}, ADAM, schedule=warmup_cosine())
    state = torch.get_rng_state()
    got = quick(runs, x, num_epochs=None, num_seconds=0.4, seeds=(0, 1), run_dir=tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), state)
    steps = {label: {run.num_steps for run in got.runs if run.label == label} for label in runs}
    assert all(len(counts) == 1 for counts in steps.values())  # the same for both seeds
    few, many = (counts.pop() for counts in (steps["many"], steps["elbo"]))
    assert 1 <= few < many
    again = quick(runs, x, num_epochs=None, num_steps=many)  # all else is as with that number of steps
    assert torch.equal(again.runs[0].losses, got.runs[0].losses)
    assert torch.equal(again.runs[0].evidence.log_prob, got.runs[0].evidence.log_prob)
    assert [row.num_steps for row in got.rows] == [many, few]
    header = got.to_text().splitlines()[0].split()
    assert "steps" in header
    assert "0.4 s of training each" in got.to_text()
    assert "steps" not in again.to_text().splitlines()[0].split()
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["num_seconds"], config["num_steps"]) == (0.4, {"elbo": many, "many": few})


def test_the_budget_of_seconds_is_about_kept(x: Tensor) -> None:
    got = quick(grid(MODEL, GUIDE, {"elbo": ELBO()}, ADAM), x, num_epochs=None, num_seconds=1.0).runs[0]
    assert 0.2 < got.num_steps * got.ms_per_step / 1000 < 5.0  # another process may take the machine meanwhile


@pytest.mark.parametrize("value", [0, -1.0, math.inf, "1"])
def test_seconds_are_a_number_above_zero(x: Tensor, value: Any) -> None:
    with pytest.raises(ArgumentError, match="`num_seconds` must be a finite number above 0"):
        quick(grid(MODEL, GUIDE, OBJECTIVES, ADAM), x, num_epochs=None, num_seconds=value)


def test_objectives_by_spec(x: Tensor) -> None:
    specs = ["elbo:beta=2.0", "iwae:num_particles=3,gradient=dreg"]
    assert quick(grid(MODEL, GUIDE, specs, ADAM), x).labels == tuple(specs)
    with pytest.raises(ArgumentError, match="'iwae'"):
        grid(MODEL, GUIDE, ["iwea"], ADAM)
    with pytest.raises(ArgumentTypeError, match="an objective must be one of"):
        grid(MODEL, GUIDE, {"a": print}, ADAM)


@pytest.mark.parametrize("name", [name for name in registry.names("objective") if name != "maximum-likelihood"])
def test_every_objective_of_the_registry(x: Tensor, name: str) -> None:
    got = quick(grid(MODEL, GUIDE, [registry.entry("objective", name).example], ADAM), x)
    assert math.isfinite(got.rows[0].log_prob)


def test_a_run_that_diverges_is_named(x: Tensor) -> None:
    wild = functools.partial(torch.optim.SGD, lr=1e30)
    with pytest.raises(DivergedError, match="run 'wild', seed 0: "):
        quick({"wild": RunSpec(MODEL, GUIDE, wild, ELBO())}, x, num_epochs=5)


def test_dynamic_data_are_evaluated_on_one_draw() -> None:
    grey = Dataset(torch.rand(40, 4), binarize="dynamic")
    runs = grid(functools.partial(VAE, (4,), 2, (3,)), GUIDE, OBJECTIVES, STILL)
    got = compare(runs, grey, eval_data=grey, num_steps=2, batch_size=20, num_particles=30, progress=False)
    assert torch.equal(got.eval_data.x, grey.fixed(0).x)
    assert torch.equal(got.runs[0].evidence.log_prob, got.runs[1].evidence.log_prob)


def test_progress_names_the_run(x: Tensor, capsys: pytest.CaptureFixture[str]) -> None:
    quick(grid(MODEL, GUIDE, OBJECTIVES, ADAM), x, seeds=(0, 1), progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "elbo, seed 0" in captured.err
    assert "iwae, seed 1" in captured.err
