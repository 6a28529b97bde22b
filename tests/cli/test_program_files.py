"""Programs from files: run only when the user names them, and only as they were."""

import hashlib
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
from probgen.errors import ArgumentError, ProgramError
from probgen.runs import figures
from probgen.runs.program_files import ProgramFile, parse_file_spec, program_factory

SHORT = ("--split", "valid", "--eval-split", "test", "--num-epochs", "1", "--no-capture")
GUIDE = "amortized-normal:latent_dim=2,hidden=(8,)"


@pytest.fixture(autouse=True)
def _no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "_of_pair", lambda *args: {})


@pytest.mark.parametrize(("name", "width"), [("Net", 8), ("Net:width=5", 5), ("make", 3)])
def test_classes_and_factories(name: str, width: int, programs: Path, tmp_path: Path) -> None:
    spec, folder = f"{programs}:{name}", tmp_path / "run"
    assert main(["train", spec, "--guide", GUIDE, *SHORT, "--run-dir", str(folder)]) == 0
    model, guide = probgen.load(folder, model=spec)
    assert isinstance(model, torch.nn.Module)
    assert model.decoder[0].out_features == width  # type: ignore[index,union-attr]
    assert isinstance(guide, probgen.guides.AmortizedNormal)
    table = tomllib.loads((folder / "config.toml").read_text())
    assert "model" not in table
    assert table["record"]["model_file"] == spec
    assert table["record"]["model_sha256"] == hashlib.sha256(programs.read_bytes()).hexdigest()
    assert main(["evaluate", str(folder), "--model", spec, "--num-particles", "5"]) == 0


def test_functions(programs: Path, tmp_path: Path) -> None:
    model, guide, folder = f"{programs}:model", f"{programs}:guide", tmp_path / "run"
    assert main(["train", model, "--guide", guide, *SHORT, "--run-dir", str(folder)]) == 0
    assert list(pyro.get_param_store()) == []
    probgen.load(folder, model=model, guide=guide)
    saved = probgen.checkpoints.Checkpoints(folder).latest()
    assert saved is not None
    for name in ("loc", "slope", "scale"):
        trained = saved.tensors[f"parameter/{name}"]
        assert torch.equal(pyro.param(name).unconstrained(), trained)
        assert trained.count_nonzero()
    assert main(["evaluate", str(folder), "--model", model, "--guide", guide, "--num-particles", "5"]) == 0
    assert main(["train", model, "--guide", guide, *SHORT, "--run-dir", str(folder), "--resume"]) == 0
    output = tmp_path / "samples.npz"
    assert main(["sample", str(folder), "--model", model, "--guide", guide, "--output", str(output)]) == 0


def test_a_run_does_not_say_by_itself_what_to_run(
    programs: Path, tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, folder = f"{programs}:Net", tmp_path / "run"
    assert main(["train", spec, "--guide", GUIDE, *SHORT, "--run-dir", str(folder)]) == 0
    monkeypatch.setattr(ProgramFile, "_run", lambda self: pytest.fail("the file was run"))
    for command in ("resume", "evaluate", "sample", "reconstruct", "interpolate", "score", "plot"):
        assert f"give again `--model {spec}`" in refused(command, folder)
    with pytest.raises(ArgumentError, match="give again"):
        probgen.load(folder)
    config = folder / "config.toml"
    assert "of a run whose model comes from a file" in refused("train", "--config", config, "--run-dir", tmp_path / "b")
    assert "but '" in refused("evaluate", folder, "--model", f"{programs}:make")


def test_a_file_that_has_changed_is_refused(programs: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    spec, folder = f"{programs}:Net", tmp_path / "run"
    assert main(["train", spec, "--guide", GUIDE, *SHORT, "--run-dir", str(folder)]) == 0
    before = hashlib.sha256(programs.read_bytes()).hexdigest()
    programs.write_text(programs.read_text() + "\n# another line\n")
    after = hashlib.sha256(programs.read_bytes()).hexdigest()
    message = refused("evaluate", folder, "--model", spec)
    assert before in message
    assert after in message
    assert "`--allow-changed`" in message
    assert main(["evaluate", str(folder), "--model", spec, "--allow-changed", "--num-particles", "5"]) == 0
    assert probgen.load(folder, model=spec, allow_changed=True)
    assert main(["resume", str(folder), "--model", spec, "--allow-changed", "--num-epochs", "2"]) == 0
    assert tomllib.loads((folder / "config.toml").read_text())["record"]["model_sha256"] == after


def test_a_program_itself_can_be_given(programs: Path, tmp_path: Path) -> None:
    spec, folder = f"{programs}:Net", tmp_path / "run"
    assert main(["train", spec, "--guide", GUIDE, *SHORT, "--run-dir", str(folder)]) == 0
    own = ProgramFile(str(programs)).get("Net")((64,))
    model, guide = probgen.load(folder, model=own)
    assert model is own
    wanted, _ = probgen.load(folder, model=spec)
    assert all(torch.equal(a, b) for a, b in zip(own.parameters(), wanted.parameters(), strict=True))
    assert not own.training
    assert not guide.training  # type: ignore[union-attr]


def test_a_registered_run_takes_no_other_program(trained: Path, programs: Path, refused: Callable[..., str]) -> None:
    assert "no other can take its weights" in refused("sample", trained, "--model", f"{programs}:Net")


def test_compare_takes_them(programs: Path, tmp_path: Path) -> None:
    options = ["--guide", GUIDE, "--objectives", "elbo", *SHORT, "--num-particles", "5"]
    folder = tmp_path / "run"
    assert main(["compare", "--model", f"{programs}:Net", *options, "--run-dir", str(folder)]) == 0
    assert "model" not in tomllib.loads((folder / "config.toml").read_text())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "is written path.py:Name"),
        (":", "is written path.py:Name"),
        (":Net Work", "is written path.py:Name"),
        (":Nett", "has no `Nett`; did you mean 'Net'? There are: Net, guide, make, model"),
        (":NUMBER", "is an int, and no Pyro program"),
        (":Net:widht=3", "takes no argument `widht`; did you mean 'width'?"),
        (":Net:width", "an argument must be `key=value`"),
        (":Net:width=-1", "fails in line"),
    ],
)
def test_what_is_wrong_with_a_name(
    name: str, message: str, programs: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    folder = tmp_path / "run"
    assert message in refused("train", f"{programs}{name}", "--guide", GUIDE, *SHORT, "--run-dir", folder)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def model(:", "SyntaxError"),
        ("x = 1\nraise KeyError('no')", "fails in line 2: KeyError: 'no'"),
        ("import nothing_of_this_name", "fails in line 1: ModuleNotFoundError"),
        ("import sys\nsys.exit(3)", "fails in line 2: SystemExit: 3"),
        ("class Net:\n    pass", "makes a Net, and no Pyro program"),
        ("class Net:\n    def __init__(self):\n        1 / 0", "fails in line 3: ZeroDivisionError"),
        ("def Net():\n    return None", "makes a NoneType, and no Pyro program"),
        ("\x00", "fails"),
    ],
)
def test_what_is_wrong_with_a_file(text: str, message: str, tmp_path: Path, refused: Callable[..., str]) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    assert message in refused("train", f"{path}:Net", "--guide", "none", "--run-dir", tmp_path / "run")
    assert list(tmp_path.iterdir()) == [path]


def test_a_model_from_a_file_needs_a_guide(programs: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    message = refused("train", f"{programs}:Net", "--run-dir", tmp_path / "run")
    assert "no guide is known to fit" in message
    assert "does not exist" in refused("train", f"{tmp_path}/none.py:Net", "--guide", "none")


def test_what_is_summed_is_what_is_run(tmp_path: Path) -> None:
    """The file is read once, and no compiled copy of an earlier content is taken for it."""
    path = tmp_path / "mine.py"
    for number in (1, 2):
        path.write_text(f"def model(x):\n    return {number}\n")
        file = ProgramFile(str(path))
        path.write_text("def model(x):\n    return 0\n")
        factory = program_factory(file, parse_file_spec(f"{path}:model"), {})
        assert factory()(None) == number
    assert list(tmp_path.iterdir()) == [path]
    assert str(tmp_path) not in sys.path


def test_dataclasses_with_late_annotations_work(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from __future__ import annotations\nimport dataclasses\n\n@dataclasses.dataclass\nclass Net:\n"
        "    width: int = 3\n    def __call__(self, x):\n        return self.width\n"
    )
    assert program_factory(ProgramFile(str(path)), parse_file_spec(f"{path}:Net:width=4"), {})()(None) == 4


def test_program_errors_keep_their_cause(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("1 / 0")
    with pytest.raises(ProgramError) as error:
        ProgramFile(str(path)).get("x")
    assert isinstance(error.value.__cause__, ZeroDivisionError)


def test_a_model_without_mean_is_sampled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, data, output = tmp_path / "logit_normal.py", tmp_path / "shares.npy", tmp_path / "samples.npz"
    path.write_text(
        "import pyro\nimport pyro.distributions as dist\nimport torch\n\n"
        "def model(x=None, num_samples=1):\n"
        "    loc = pyro.param('loc', torch.zeros(6))\n"
        "    with pyro.plate('data', num_samples if x is None else len(x)) as index:\n"
        "        base = dist.Normal(loc.expand(len(index), 6), 1.0)\n"
        "        p = dist.TransformedDistribution(base, [dist.transforms.SigmoidTransform()])\n"
        "        pyro.sample('x', p.to_event(1), obs=x)\n"
    )
    np.save(data, np.random.default_rng(0).uniform(0.1, 0.9, (40, 6)).astype(np.float32))
    options = ("--guide", "none", "--objective", "maximum-likelihood", "--binarize", "none", "--data", str(data))
    folder = tmp_path / "run"
    assert main(["train", f"{path}:model", *options, *SHORT[2:], "--run-dir", str(folder)]) == 0
    capsys.readouterr()
    assert main(["sample", str(folder), "--model", f"{path}:model", "--output", str(output)]) == 0
    assert {name: values.shape for name, values in np.load(output).items()} == {"x": (64, 6)}
