"""``--config``: defaults, then the file, then the command line."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from probgen.cli import comparing, training
from probgen.cli.compare_command import OBJECTIVES, Compare
from probgen.cli.main import main
from probgen.cli.train_command import Train
from probgen.runs.settings import MODEL


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The options that reach the commands, which do nothing."""
    options: list[Any] = []
    monkeypatch.setattr(training, "run", options.append)
    monkeypatch.setattr(comparing, "run", options.append)
    return options


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "run.toml"
    path.write_text(
        'model = "ppca:latent_dim=2"\nnum_epochs = 7\nlearning-rate = 1\nevent_shape = [1, 8, 8]\npatience = 3\n'
        'binarize = "none"\ncapture = false\nrun_dir = "runs/file"\n'
    )
    return path


def test_the_file_goes_before_the_defaults(config: Path, seen: list[Any]) -> None:
    assert main(["train", "--config", str(config)]) == 0
    (options,) = seen
    assert options == Train(
        model="ppca:latent_dim=2",
        num_epochs=7,
        learning_rate=1.0,
        event_shape=(1, 8, 8),
        patience=3,
        binarize="none",
        capture=False,
        run_dir="runs/file",
        config=str(config),
    )


@pytest.mark.parametrize("form", ["--config=", "--config"])
def test_the_command_line_goes_before_the_file(form: str, config: Path, seen: list[Any]) -> None:
    """Also with a value that is the default, which the file has changed."""
    file = [f"{form}{config}"] if form.endswith("=") else [form, str(config)]
    given = ["--num-epochs", "100", "--patience", "None", "--capture", "--run-dir", "runs/train"]
    assert main(["train", MODEL, *file, *given]) == 0
    (options,) = seen
    assert (options.model, options.num_epochs, options.patience, options.capture) == (MODEL, 100, None, True)
    assert (options.run_dir, options.learning_rate, options.event_shape) == ("runs/train", 1.0, (1, 8, 8))


def test_compare_takes_one_too(tmp_path: Path, seen: list[Any]) -> None:
    path = tmp_path / "compare.toml"
    path.write_text('objectives = ["elbo"]\nseeds = [1, 2]\n')
    assert main(["compare", "--config", str(path), "--seeds", "3"]) == 0
    assert seen == [Compare(objectives=("elbo",), seeds=(3,), config=str(path))]
    assert Compare().objectives == OBJECTIVES


def test_the_config_of_a_comparison_gives_the_same_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ["--split", "valid", "--num-epochs", "1", "--num-particles", "5", "--no-capture", "--objectives", "elbo"]
    assert (
        main(
            ["compare", "--model", "ppca:latent_dim=1", "--binarize", "none", *quick, "--run-dir", str(tmp_path / "a")]
        )
        == 0
    )
    first = capsys.readouterr().out
    assert main(["compare", "--config", str(tmp_path / "a" / "config.toml"), "--run-dir", str(tmp_path / "b")]) == 0
    second = capsys.readouterr().out
    assert (tmp_path / "a" / "config.toml").read_text() == (tmp_path / "b" / "config.toml").read_text()
    assert [line.split()[:5] for line in first.splitlines()] == [line.split()[:5] for line in second.splitlines()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("num_epoch = 3", "has an unknown key `num_epoch`; did you mean 'num_epochs'?"),
        ("[train]\nnum_epochs = 3", "has an unknown key `train`"),
        ("num_epochs = '3'", "`num_epochs` must be a whole number, got the string '3'"),
        ("num_epochs = 3.0", "`num_epochs` must be a whole number, got the number 3.0"),
        ("num_epochs = true", "`num_epochs` must be a whole number, got true"),
        ("num_epochs = 99999999999999999999", "`num_epochs` is a whole number of more than 64 bits"),
        ("learning_rate = 'fast'", "`learning_rate` must be a number, got the string 'fast'"),
        ("capture = 1", "`capture` must be true or false, got the whole number 1"),
        ("event_shape = 64", "`event_shape` must be a list, got the whole number 64"),
        ("event_shape = [1, 'x']", "`event_shape[1]` must be a whole number, got the string 'x'"),
        ("binarize = 'thresh'", "`binarize` must be one of threshold, fixed, dynamic, none, got the string 'thresh'"),
        ("model = 1979-05-27", "`model` must be a string, got date"),
        ("model = {vae = 1}", "`model` must be a string, got a table"),
        ("seed = 1\nseed = 2", "cannot be read as TOML"),
        ("seed = ", "cannot be read as TOML"),
        ("learning_rate = 1\nlearning-rate = 2", "`learning_rate` twice"),
        ("resume = true", "`resume` cannot stand in a file"),
        ("config = 'other.toml'", "`config` cannot stand in a file"),
        ("model = 'evil.py:Net'", "leave it out and give it on the command line, `probgen train evil.py:Net"),
        ("guide = 'evil.py:guide'", "`--guide evil.py:guide`"),
        ("record = 3", "`record` must be a table"),
        ("[record]\nshape = 3", "did you mean 'event_shape'?"),
        ("a = " + "[" * 4000, "nests too deep"),
        ("a = " + "9" * 5000, "cannot be read as TOML"),
        ("a" * 20000, "too large"),
        ("seed = 0x" + "f" * 5000, "more than 64 bits"),
    ],
)
def test_files_that_are_wrong(
    text: str, message: str, tmp_path: Path, refused: Callable[..., str], seen: list[Any]
) -> None:
    path = tmp_path / "run.toml"
    path.write_text(text)
    shown = refused("train", "--config", path)
    assert message in shown
    assert str(path) in shown
    assert seen == []


def test_files_that_are_no_text(tmp_path: Path, refused: Callable[..., str]) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(b"seed = '\xff'")
    assert "is not in UTF-8" in refused("train", "--config", path)
    assert "does not exist" in refused("train", "--config", tmp_path / "none.toml")
    assert "cannot be read" in refused("train", "--config", tmp_path)
    assert "`--config` is given twice" in refused("train", "--config", path, "--config", path)


def test_debug_shows_where_a_file_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--config", str(tmp_path / "none.toml"), "--debug"]) == 2
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_specs_of_a_file_are_checked_likewise(tmp_path: Path, refused: Callable[..., str]) -> None:
    path = tmp_path / "run.toml"
    path.write_text("objective = 'iwea'")
    assert "did you mean 'iwae'?" in refused("train", "--config", path, "--run-dir", tmp_path / "a")


def test_the_resolved_config_is_complete(trained: Path) -> None:
    table = tomllib.loads((trained / "config.toml").read_text())
    assert table["seed"] == 0
    assert table["batch_size"] == 100
    assert table["model"] == "vae:latent_dim=2,hidden=(8,)"
    assert table["record"]["event_shape"] == [64]
    assert table["record"]["guide"] == "amortized-normal"
    assert set(table) & {"run_dir", "resume", "overwrite", "debug", "config"} == set()
