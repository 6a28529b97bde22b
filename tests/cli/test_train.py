"""``probgen train`` and ``probgen resume``: what they leave, what they refuse, and that the end is the same."""

import json
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyro
import pytest
import torch

import probgen
from probgen.cli.main import main
from probgen.runs import figures
from probgen.svi import SVI

SMALL = (
    *("vae:latent_dim=2,hidden=(8,)", "--split", "valid", "--eval-split", "test", "--num-epochs", "2"),
    *("--batch-size", "100", "--no-capture"),
)
STEPS = 8  # 360 data in batches of 100, twice


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training curves alone: the others are tested with their functions, and take seconds."""
    monkeypatch.setattr(figures, "_of_pair", lambda *args: {})


def parameters(folder: Path, **programs: str) -> dict[str, torch.Tensor]:
    model, guide = probgen.load(folder, **programs)
    return {f"{i}.{k}": v for i, p in enumerate((model, guide)) for k, v in p.state_dict().items()}


def same(a: Path, b: Path) -> bool:
    left, right = parameters(a), parameters(b)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def numbers(folder: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in lines(folder)]


def test_what_a_run_leaves(trained: Path) -> None:
    assert {path.name for path in trained.iterdir()} - {".lock"} == {
        *("checkpoints", "config.toml", "figures", "metrics.jsonl")
    }
    drawn = {path.name for path in (trained / "figures").iterdir()}
    names = ("training", "samples", "reconstructions", "latents", "traversal", "interpolation", "kl_per_latent")
    assert drawn == {f"{name}.{suffix}" for name in names for suffix in ("png", "csv")}
    assert [row["epoch"] for row in lines(trained)] == [1, 2]
    assert all(isinstance(row["eval_bound"], float) for row in lines(trained))


@pytest.mark.usefixtures("no_figures")
def test_the_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *SMALL, "--run-dir", str(tmp_path / "a")]) == 0
    captured = capsys.readouterr()
    last = lines(tmp_path / "a")[-1]
    best = max(row["eval_bound"] for row in lines(tmp_path / "a"))
    assert f"{last['bound']:.4f}" in captured.out
    assert f"{best:.4f}" in captured.out
    assert f"probgen evaluate {tmp_path / 'a'}" in captured.out
    assert f"{STEPS} steps" in captured.out
    shown = [line for line in captured.err.splitlines() if "avg. bound" in line]
    assert len(shown) == STEPS  # no terminal: a line every 5 %, here every step


@pytest.mark.usefixtures("no_figures")
def test_the_saved_config_gives_the_same_run(trained: Path, tmp_path: Path) -> None:
    assert main(["train", "--config", str(trained / "config.toml"), "--run-dir", str(tmp_path / "b")]) == 0
    assert (tmp_path / "b" / "config.toml").read_text() == (trained / "config.toml").read_text()
    assert same(trained, tmp_path / "b")


def test_it_is_the_run_of_the_api(trained: Path) -> None:
    """The command adds nothing to what a script would do."""
    data, held_out = (probgen.data.load("digits", split=split, binarize="threshold") for split in ("valid", "test"))
    with probgen.runs.building.seeded(0):
        model = probgen.models.VAE((64,), 2, (8,), data_mean=data.mean)
        guide = probgen.guides.AmortizedNormal((64,), 2, (8,))
    adam = probgen.runs.building.adam(5e-3)
    svi = SVI(model, guide, adam, probgen.objectives.ELBO(), schedule=probgen.svi.warmup_cosine())
    svi.run(data, batch_size=100, num_epochs=2, seed=0, eval_data=held_out, progress=False)
    loaded = probgen.load(trained)
    for ours, theirs in zip((model, guide), loaded, strict=True):
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            assert torch.equal(a, b)


@pytest.mark.usefixtures("no_figures")
def test_resume_ends_where_an_uninterrupted_run_does(trained: Path, tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    folder, steps = tmp_path / "a", iter(range(100))
    turns = SVI.turns

    def stopping(self: SVI, *args: object, **kwargs: object) -> object:
        if next(steps) == 5:  # in the second epoch
            raise Stopped
        return turns(self, *args, **kwargs)  # type: ignore[arg-type]

    command = ["train", *SMALL, "--run-dir", str(folder), "--checkpoint-every", "0"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SVI, "turns", stopping)
        assert main(command) == 2
    assert len(lines(folder)) == 1
    assert main([*command, "--resume"]) == 0
    assert same(trained, folder)
    assert numbers(trained) == numbers(folder)


@pytest.mark.usefixtures("no_figures")
def test_a_finished_run_can_be_made_longer(run: Path, tmp_path: Path) -> None:
    constant = ["train", *SMALL, "--schedule", "constant", "--run-dir"]
    assert main([*constant, str(tmp_path / "short")]) == 0
    assert main(["resume", str(tmp_path / "short"), "--num-epochs", "3"]) == 0
    assert main([*constant, str(tmp_path / "long"), "--num-epochs", "3"]) == 0
    assert same(tmp_path / "short", tmp_path / "long")
    assert numbers(tmp_path / "short") == numbers(tmp_path / "long")
    config = tomllib.loads((tmp_path / "short" / "config.toml").read_text())
    assert config["num_epochs"] == 3
    before = (run / "metrics.jsonl").read_text()
    assert main(["resume", str(run)]) == 0  # is at its end already
    assert (run / "metrics.jsonl").read_text() == before


@pytest.mark.usefixtures("no_figures")
def test_ema_and_patience_decide_what_is_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    options = ("--ema-decay", "0.5", "--patience", "1", "--max-grad-norm", "100", "--warmup-steps", "2")
    assert main(["train", *SMALL, *options, "--run-dir", str(folder)]) == 0
    result, last = (probgen.load(folder, which=which)[0] for which in ("result", "last"))
    tensors = {name: v for name, v in probgen.checkpoints.Checkpoints(folder).latest().tensors.items()}
    for name, value in last.named_parameters():
        assert torch.equal(value, tensors[f"average/model.{name}"])
    for name, value in result.named_parameters():
        assert torch.equal(value, tensors[f"best/average/model.{name}"])


@pytest.mark.usefixtures("no_figures")
def test_overwrite_replaces_a_run_and_leaves_other_files(run: Path, refused: Callable[..., str]) -> None:
    (run / "notes.txt").write_text("mine")
    (run / "evidence.csv").write_text("of the old run")
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert "`--resume`" in refused("train", *SMALL, "--run-dir", run)
    assert "`num_epochs`" in refused("train", *SMALL, "--run-dir", run, "--overwrite", "--num-epochs", "0")
    assert "latent" in refused("train", *SMALL, "--run-dir", run, "--overwrite", "--objective", "maximum-likelihood")
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert main(["train", *SMALL, "--run-dir", str(run), "--overwrite", "--seed", "1"]) == 0
    assert tomllib.loads((run / "config.toml").read_text())["seed"] == 1
    assert (run / "notes.txt").read_text() == "mine"
    assert not (run / "evidence.csv").exists()
    assert not (run / ".replaced").exists()


def test_a_folder_that_is_no_run_is_not_taken(tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "figures").mkdir()
    assert "holds files already" in refused("train", *SMALL, "--run-dir", tmp_path)
    assert "no run to overwrite" in refused("train", *SMALL, "--run-dir", tmp_path, "--overwrite")
    (tmp_path / "file").touch()
    assert "is a file" in refused("train", *SMALL, "--run-dir", tmp_path / "file")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("vea",), "model 'vea' is unknown; did you mean 'vae'?"),
        (("vae:latent_dims=2",), "did you mean 'latent_dim'?"),
        (("vae:latent_dim=0",), "`latent_dim` must be a whole number of at least 1"),
        (("--guide", "amortised-normal"), "did you mean 'amortized-normal'?"),
        (("--guide", "amortized-normal:latent_dim=3"), "site 'z' has event shape (2,) in the model but (3,)"),
        (("--guide", "none"), "which the guide lacks"),
        (("--objective", "iwea"), "objective 'iwea' is unknown; did you mean 'iwae'?"),
        (("--objective", "iwae:num_particles=0"), "`num_particles` must be a whole number of at least 1"),
        (("--objective", "maximum-likelihood"), "MaximumLikelihood needs a model without latent sites"),
        (("--data", "digts"), "did you mean 'digits'?"),
        (("--data", "nothing.npz"), "does not exist"),
        (("--split", "tran"), "did you mean 'train'?"),
        (("--eval-split", "valid"), "held out of training"),
        (("--binarize", "none"), "`x` must be 0 or 1"),
        (("--event-shape", "3", "3"), "`event_shape` must have 64 elements"),
        (("--learning-rate", "0"), "`--learning-rate` must be a finite number above 0"),
        (("--learning-rate", "nan"), "`--learning-rate` must be a finite number above 0"),
        (("--num-epochs", "0"), "`num_epochs` must be a whole number of at least 1"),
        (("--batch-size", "0"), "`batch_size` must be a whole number of at least 1"),
        (("--seed", "-1"), "`seed` must be"),
        (("--accelerator", "warp"), "`accelerator` must be 'auto' or a device"),
        (("--patience", "0"), "`patience` must be a whole number of at least 1"),
        (("--patience", "3", "--eval-split", "none"), "`--patience` counts epochs"),
        (("--ema-decay", "1"), "`ema_decay` must be a number between 0 and 1"),
        (("--max-grad-norm", "0"), "`max_grad_norm` must be a number"),
        (("--warmup-steps", "-1"), "`warmup_steps` must be a whole number of at least 0"),
        (("--keep-checkpoints", "0"), "`--keep-checkpoints` must be a whole number of at least 1"),
        (("--checkpoint-every", "inf"), "`--checkpoint-every` must be a number of seconds"),
        (("--run-dir", " "), "`--run-dir` must name a folder"),
        (("--resume",), "is no run: it does not exist"),
        (("--resume", "--overwrite"), "give one of them"),
        (("--allow-changed",), "`--allow-changed` is for a run that goes on"),
    ],
)
def test_refusals_leave_no_files(
    args: tuple[str, ...], message: str, tmp_path: Path, refused: Callable[..., str]
) -> None:
    small = args if args[0].startswith("v") else (SMALL[0], *args)
    assert message in refused("train", small[0], *SMALL[1:], "--run-dir", tmp_path / "deep" / "run", *small[1:])
    assert list(tmp_path.iterdir()) == []


def test_resume_is_of_the_same_run(run: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    before = (run / "config.toml").read_bytes()
    message = refused("train", *SMALL, "--run-dir", run, "--resume", "--seed", "1")
    assert "`--seed`: the run in" in message
    assert "has 0, but 1 was given" in message
    assert "is no run: it does not exist; there are: " in refused("resume", tmp_path / "b")
    assert "`num_epochs`" in refused("resume", run, "--num-epochs", "0")
    assert (run / "config.toml").read_bytes() == before


@pytest.mark.parametrize("command", [("resume",), ("train", *SMALL, "--resume", "--run-dir")])
def test_no_fewer_epochs_than_are_done(command: tuple[str, ...], run: Path, refused: Callable[..., str]) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    message = refused(*command, run, "--num-epochs", "1")
    assert f"`num_epochs` is 1, but the run in '{run}' has done 2 already; ask for 2 or more" in message
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.usefixtures("no_figures")
def test_fewer_epochs_than_planned(tmp_path: Path, refused: Callable[..., str]) -> None:
    """In the second of two epochs, of three: 2 may be asked for, and 1 may not."""
    folder, steps, turns = tmp_path / "a", iter(range(100)), SVI.turns

    def interrupted(self: SVI, *args: object, **kwargs: object) -> object:
        if next(steps) == 5:
            signal.raise_signal(signal.SIGINT)
        return turns(self, *args, **kwargs)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SVI, "turns", interrupted)
        assert main(["train", *SMALL, "--num-epochs", "3", "--run-dir", str(folder)]) == 130
    assert "is in epoch 2 already; ask for 2 or more" in refused("resume", folder, "--num-epochs", "1")
    assert tomllib.loads((folder / "config.toml").read_text())["num_epochs"] == 3
    assert main(["resume", str(folder), "--num-epochs", "2"]) == 0
    assert len(lines(folder)) == 2


@pytest.mark.usefixtures("no_figures")
def test_resume_after_a_kill_that_left_no_checkpoint(
    run: Path, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The process that was to replace the run is gone before it has kept anything: the run is there as before."""

    class Killed(BaseException):
        pass

    def killed(*args: object, **kwargs: object) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SVI, "run", killed)
        patch.setattr("probgen.runs.folder._locked_again", lambda *args: None)
        with pytest.raises(Killed):
            main(["train", *SMALL, "--seed", "1", "--run-dir", str(run), "--overwrite"])
    assert (run / ".replaced").is_dir()
    capsys.readouterr()
    assert main(["resume", str(run)]) == 0
    assert f"'{run}' has the run again that a process had begun to replace" in capsys.readouterr().err
    assert (run / "config.toml").read_bytes() == (trained / "config.toml").read_bytes()
    assert same(run, trained)
    assert not (run / ".replaced").exists()


@pytest.mark.parametrize("command", [("resume",), ("train", *SMALL, "--overwrite", "--run-dir")])
def test_one_process_at_a_time(command: tuple[str, ...], run: Path, refused: Callable[..., str]) -> None:
    pytest.importorskip("fcntl")
    program = (
        "import fcntl, sys\nfile = open(sys.argv[1], 'a')\nfcntl.lockf(file, fcntl.LOCK_EX)\nprint(flush=True)\ninput()"
    )
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    other = [sys.executable, "-c", program, str(run / ".lock")]
    with subprocess.Popen(other, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        message = refused(*command, run, "--num-epochs", "3")
        process.communicate("\n")
    assert f"another process is training in '{run}'" in message
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_comparison_is_no_run(tmp_path: Path, refused: Callable[..., str]) -> None:
    (tmp_path / "config.json").touch()
    assert "keeps no parameters" in refused("resume", tmp_path)


@pytest.mark.parametrize("damage", ["", "[record", "num_epochs = 'three'\n[record]", "[record]\nguides = 'x'"])
def test_damaged_settings(damage: str, run: Path, refused: Callable[..., str]) -> None:
    (run / "config.toml").write_text(damage)
    assert "config.toml" in refused("resume", run)


@pytest.mark.usefixtures("no_figures")
def test_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "a"
    assert main(["train", *SMALL, "--tensorboard", "--run-dir", str(folder)]) == 0
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    for name in ("loss", "bound", "eval_bound"):
        found = [(event.step, event.value) for event in events.Scalars(name)]
        assert found == [(row["step"], pytest.approx(row[name], rel=1e-6)) for row in lines(folder)]


@pytest.mark.usefixtures("no_figures")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals(
    number: signal.Signals, status: int, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The process saves, says how to go on, and goes on to the same end."""
    steps, turns = iter(range(100)), SVI.turns

    def interrupted(self: SVI, *args: object, **kwargs: object) -> object:
        if next(steps) == 5:
            signal.raise_signal(number)
        return turns(self, *args, **kwargs)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SVI, "turns", interrupted)
        assert main(["train", *SMALL, "--run-dir", str(tmp_path / "a")]) == status
    shown = capsys.readouterr().err
    assert "saved at step 6" in shown
    assert f"`probgen resume {tmp_path / 'a'}`" in shown
    assert main(["resume", str(tmp_path / "a")]) == 0
    assert same(trained, tmp_path / "a")


def test_the_global_state_is_left_alone(tmp_path: Path, no_figures: None) -> None:
    torch.manual_seed(3)
    before, store = torch.get_rng_state(), dict(pyro.get_param_store().items())
    assert main(["train", *SMALL, "--run-dir", str(tmp_path / "a")]) == 0
    probgen.load(tmp_path / "a")
    assert torch.equal(torch.get_rng_state(), before)
    assert dict(pyro.get_param_store().items()) == store


def test_a_run_on_a_file_goes_on_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The path of the data is kept in full, however it was typed."""
    np.save(tmp_path / "bits.npy", (np.random.default_rng(0).random((50, 6)) < 0.4).astype(np.uint8))
    monkeypatch.chdir(tmp_path)
    options = ["--data", "bits.npy", "--no-capture", "--run-dir", str(tmp_path / "run")]
    assert main(["train", "vae:latent_dim=1,hidden=(4,)", *options, "--num-epochs", "1"]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["resume", str(tmp_path / "run"), "--num-epochs", "2"]) == 0
    assert main(["evaluate", str(tmp_path / "run"), "--num-particles", "10"]) == 0, capsys.readouterr().err


def test_resume_goes_back_to_an_earlier_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the last checkpoint is damaged, as its message says."""
    run = tmp_path / "run"
    assert main(["train", *SMALL, "--run-dir", str(run), "--seed", "3"]) == 0
    whole = [value.clone() for program in probgen.load(run) for value in program.parameters()]
    first, last = sorted((run / "checkpoints").glob("step-*"))
    (last / "tensors.safetensors").write_bytes(b"")
    assert main(["resume", str(run)]) == 2
    assert f"steps {int(first.name[5:])}: `resume=STEP` (`--step`)" in capsys.readouterr().err
    assert main(["resume", str(run), "--step", "0"]) == 0
    again = [value for program in probgen.load(run) for value in program.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(whole, again, strict=True))
    assert main(["resume", str(run), "--step", "77"]) == 2
    assert "has no checkpoint of step 77" in capsys.readouterr().err
