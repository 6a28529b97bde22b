"""The command line: quick help, one line for an error, everything checked before training."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import probgen
from probgen import registry
from probgen.cli.compare_command import OBJECTIVES, Compare
from probgen.cli.main import COMMANDS, main
from probgen.runs import building
from probgen.svi import SVI

QUICK = (
    *("--split", "valid", "--num-epochs", "1", "--batch-size", "400", "--num-particles", "10", "--no-capture"),
    *("--model", "vae:hidden=(8,),latent_dim=2"),
)


def compare(*args: str) -> int:
    return main(["compare", *QUICK, *args])


def table(text: str) -> list[str]:
    """The labels of the printed rows."""
    rows = text.splitlines()[2 : text.splitlines().index("")]
    return [row.split()[0] for row in rows]


@pytest.mark.parametrize(
    "args",
    [["--help"], [], ["--version"], ["list"], *([command, "--help"] for command in COMMANDS)],
    ids=" ".join,
)
def test_help_imports_nothing_heavy(args: list[str], tmp_path: Path) -> None:
    heavy = {"torch", "pyro", "matplotlib", "scipy", "jax", "arviz"} | (set() if args == ["list"] else {"numpy"})
    program = (
        "import sys\nfrom probgen.cli.main import main\n"
        f"try: main({args!r})\nexcept SystemExit as end: assert end.code == 0\n"
        f"print('loaded', *sorted({heavy!r} & sys.modules.keys()))"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    *printed, loaded = run.stdout.splitlines()
    assert loaded == "loaded"
    assert printed


def test_help_names_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["compare", "--help"])
    assert end.value.code == 0
    shown = capsys.readouterr().out
    for name in (*probgen.registry.names("model"), *probgen.registry.names("objective"), "--run-dir", "digits"):
        assert name in shown


def test_the_defaults_are_the_demo() -> None:
    assert Compare().objectives == OBJECTIVES
    assert Compare().data == "digits"
    assert len(OBJECTIVES) == 6


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"probgen {probgen.__version__}\n"


def test_compare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    objectives = ("elbo", "iwae:num_particles=2,gradient=dreg")
    assert compare("--objectives", *objectives, "--seeds", "0", "1", "--run-dir", str(folder), "--capture") == 0
    captured = capsys.readouterr()
    assert table(captured.out) == list(objectives)
    assert "2 seeds" in captured.out
    assert "iwae:num_particles=2,gradient=dreg, seed 1" in captured.err
    assert str(folder) in captured.err
    config = json.loads((folder / "config.json").read_text())
    assert config["command"]["model"] == "vae:hidden=(8,),latent_dim=2"
    assert "data_mean" in config["runs"]["elbo"]["model"]["kwargs"]  # of bits, the output's bias
    assert (folder / "comparison.png").exists()


def test_compare_at_equal_seconds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = [word for word in QUICK if word not in ("--num-epochs", "1")]
    specs = ("elbo", "piwae:num_particles=(2,30),gradient=dreg")
    arguments = ["--num-seconds", "0.2", "--objectives", *specs, "--run-dir", str(tmp_path)]
    assert main(["compare", *options, *arguments]) == 0
    printed = capsys.readouterr().out
    assert "steps" in printed.splitlines()[0].split()
    assert "0.2 s of training each" in printed
    config = json.loads((tmp_path / "config.json").read_text())
    assert set(config["num_steps"]) == set(specs)
    assert config["command"]["num_epochs"] is None


@pytest.mark.parametrize(
    "args",
    [
        ("--binarize", "none", "--model", "ppca:latent_dim=2"),
        ("--binarize", "none", "--model", "vae:hidden=(8,),latent_dim=2,likelihood='normal:min_scale=0.1'"),
        ("--binarize", "threshold", "--model", "conditional-vae:hidden=(8,),latent_dim=2"),
        ("--model", "hierarchical-vae:hidden=(8,),latent_dims=(3,2)", "--guide", "amortized-hierarchical"),
        ("--model", "vae:hidden=(4,8),latent_dim=2,network=conv", "--event-shape", "1", "8", "8"),
        ("--binarize", "none", "--model", "gaussian-mixture:num_components=2", "--guide", "none"),
    ],
)
def test_other_models(args: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    objective = "maximum-likelihood" if "none" in args[3:] else "elbo"
    code = compare(*args, "--objectives", objective, "--run-dir", str(tmp_path))
    captured = capsys.readouterr()
    assert code == 0, captured.err
    assert table(captured.out) == [objective]


@pytest.fixture
def never_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*args: Any, **kwargs: Any) -> None:
        pytest.fail("training began")

    monkeypatch.setattr(SVI, "run", run)


@pytest.mark.usefixtures("never_trained")
@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--model", "vea"), "model 'vea' is unknown; did you mean 'vae'?"),
        (("--model", "vae:latent_dims=2"), "`vae` takes no argument `latent_dims`; did you mean 'latent_dim'?"),
        (("--model", "vae:latent_dim=0"), "`latent_dim` must be a whole number of at least 1"),
        (("--guide", "amortised-normal"), "guide 'amortised-normal' is unknown; did you mean 'amortized-normal'?"),
        (
            ("--guide", "amortized-normal:latent_dim=3"),
            "site 'z' has event shape (2,) in the model but (3,) in the guide",
        ),
        (("--guide", "none"), "which the guide lacks"),
        (("--objectives", "elbo", "iwea:num_particles=5"), "objective 'iwea' is unknown; did you mean 'iwae'?"),
        (("--objectives", "elbo", "elbo"), "`--objectives` names 'elbo' twice"),
        (("--objectives",), "`--objectives` needs at least one spec"),
        (("--objectives", "elbo", "iwae:num_particles=0"), "`num_particles` must be a whole number of at least 1"),
        (("--objectives", "elbo", "maximum-likelihood"), "run 'maximum-likelihood', seed 0: MaximumLikelihood needs"),
        (("--data", "digts"), "did you mean 'digits'?"),
        (("--split", "tran"), "did you mean 'train'?"),
        (("--binarize", "none"), "`x` must be 0 or 1"),
        (("--event-shape", "3", "3"), "`event_shape` must have 64 elements"),
        (("--learning-rate", "0"), "`--learning-rate` must be a finite number above 0"),
        (("--num-epochs", "0"), "`num_epochs` must be a whole number of at least 1"),
        (("--batch-size", "0"), "`batch_size` must be a whole number of at least 1"),
        (("--num-particles", "0"), "`num_particles` must be a whole number of at least 1"),
        (("--seeds", "0", "0"), "`seeds` must differ"),
        (("--accelerator", "warp"), "`accelerator` must be 'auto' or a device"),
        (("--num-seconds", "2"), "pass one of `--num-epochs` and `--num-seconds`"),
    ],
)
def test_an_error_is_one_line_before_training(
    args: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert compare("--run-dir", str(folder), *args) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("probgen: error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert not folder.exists()


@pytest.mark.usefixtures("never_trained")
def test_a_folder_in_use_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert compare("--run-dir", str(tmp_path)) == 2
    assert "`--overwrite`" in capsys.readouterr().err


def test_overwrite(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert compare("--objectives", "elbo", "--run-dir", str(tmp_path), "--overwrite") == 0
    assert (tmp_path / "file").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["compare", "--objectivs", "elbo"], "--objectives"),
        (["compre"], "compare"),
        (["compare", "--binarize", "no"], "fixed"),
    ],
)
def test_usage_errors_name_what_is_right(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(args)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert compare("--model", "vea", "--debug") == 2
    shown = capsys.readouterr().err
    assert "Traceback (most recent call last)" in shown
    assert shown.splitlines()[-1].startswith("probgen: error: model 'vea' is unknown")


def test_errors_that_are_not_ours_say_their_type(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(self: Compare) -> None:
        raise OSError("disk\nfull")

    monkeypatch.setattr(Compare, "run", run)
    assert main(["compare"]) == 2
    assert capsys.readouterr().err == "probgen: error: OSError: disk full (`--debug` shows the traceback)\n"


def test_interruption(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(self: Compare) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Compare, "run", run)
    assert main(["compare"]) == 130
    assert capsys.readouterr().err == "probgen: interrupted\n"


def test_runs_as_a_module(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "probgen", "compare", "--model", "vea"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stderr.startswith("probgen: error: model 'vea' is unknown")
    assert list(tmp_path.iterdir()) == []


def test_every_model_has_a_guide_of_its_own():
    assert set(building.GUIDES) == set(registry.names("model"))
    assert set(building.GUIDES.values()) <= {*registry.names("guide"), "none"}


@pytest.mark.parametrize("splits", [("train+test", "test"), ("all", "test"), ("train", "all")])
def test_data_that_are_trained_on_are_not_held_out(splits, tmp_path, capsys):
    options = ["--split", splits[0], "--eval-split", splits[1], "--run-dir", str(tmp_path / "run")]
    assert main(["compare", *options]) == 2
    assert "held out of training" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
