"""The commands on a trained run: what they write agrees with the API, and nothing is overwritten in silence."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import probgen
from probgen.cli.main import main
from probgen.runs.figures import figure_names


@pytest.fixture(scope="module")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "conditional"
    options = ["--split", "valid", "--eval-split", "none", "--num-epochs", "1", "--no-capture"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probgen.runs.figures, "_of_pair", lambda *args: {})
        assert main(["train", "conditional-vae:latent_dim=2,hidden=(8,)", *options, "--run-dir", str(folder)]) == 0
    return folder


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def held_out(split: str = "test") -> probgen.data.Dataset:
    return probgen.data.load("digits", split=split, binarize="threshold")


def test_evaluate(run: Path, capsys: pytest.CaptureFixture[str], refused: Callable[..., str]) -> None:
    assert main(["evaluate", str(run), "--num-particles", "30"]) == 0
    wanted = probgen.evaluate(*probgen.load(run), held_out(), num_particles=30, seed=0)
    rows, summary = table(run / "evidence.csv"), json.loads((run / "evidence.json").read_text())
    order = held_out().file_rows.argsort()  # the table is in the order of the source
    assert [int(row["index"]) for row in rows] == held_out().file_rows[order].tolist()
    assert [float(row["log_prob"]) for row in rows] == wanted.log_prob[order].tolist()
    assert [float(row["khat"]) for row in rows] == wanted.khat[order].tolist()
    assert {row["kind"] for row in rows} == {"lower"}
    assert summary["log_prob"] == pytest.approx(wanted.mean, rel=1e-12)
    assert summary["standard_error"] == pytest.approx(wanted.standard_error, rel=1e-12)
    assert summary["bits_per_dim"] == pytest.approx(wanted.bits_per_dim, rel=1e-12)
    assert (summary["num_data"], summary["kind"], summary["split"]) == (360, "lower", "test")
    assert (run / "checkpoints" / summary["checkpoint"]).is_dir()
    assert {"evidence.png", "evidence.csv"} <= {path.name for path in (run / "figures").iterdir()}
    header, _, row, *_ = capsys.readouterr().out.splitlines()
    assert header.split()[:4] == ["run", "log", "p(x)", "s.e."]
    assert row.split()[:2] == ["a", f"{wanted.mean:.3f}"]
    before = (run / "evidence.csv").read_bytes()
    assert "`--overwrite`" in refused("evaluate", run, "--num-particles", "5")
    assert (run / "evidence.csv").read_bytes() == before
    assert main(["evaluate", str(run), "--num-particles", "5", "--split", "valid", "--overwrite"]) == 0
    assert json.loads((run / "evidence.json").read_text())["split"] == "valid"


def test_score_of_a_file(trained: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    x = held_out().x[:7]
    np.savez(tmp_path / "data.npz", x=x.numpy())
    command = ["score", str(trained), "--data", str(tmp_path / "data.npz"), "--num-particles", "20"]
    output = tmp_path / "deep" / "scores.csv"
    assert main([*command, "--output", str(output)]) == 0
    shuffled = probgen.data.load(tmp_path / "data.npz", split="all")
    wanted = probgen.evaluate(*probgen.load(trained), shuffled.x, num_particles=20, seed=0)
    rows = table(output)
    assert list(rows[0]) == ["index", "log_prob", "monte_carlo_error", "ess", "khat", "elbo", "kl", "kind"]
    assert [float(row["log_prob"]) for row in rows] == wanted.log_prob[shuffled.file_rows.argsort()].tolist()
    assert [row["khat"] for row in rows] == [""] * 7  # too few particles
    assert "`--overwrite`" in refused(*command, "--output", output)
    assert "must end in .csv" in refused(*command, "--output", tmp_path / "scores.txt")


def test_sample(trained: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    paths = [tmp_path / name for name in ("a.npz", "b.npz", "c.npz")]
    for path, seed in zip(paths, ("0", "0", "1"), strict=True):
        assert main(["sample", str(trained), "--num-samples", "600", "--seed", seed, "--output", str(path)]) == 0
        assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    a, b, c = (np.load(path) for path in paths)
    assert {name: a[name].shape for name in a} == {"x": (600, 64), "z": (600, 2), "mean": (600, 64)}
    assert all((a[name] == b[name]).all() for name in a)
    assert (a["z"] != c["z"]).any()
    assert len(np.unique(a["z"][:, 0])) == 600  # more than one run of the model, on other noise
    assert np.isin(a["x"], (0, 1)).all()
    model, _ = probgen.load(trained)
    mean = model.decode(torch.from_numpy(a["z"])).mean  # type: ignore[attr-defined]
    np.testing.assert_allclose(a["mean"], mean.detach().numpy(), rtol=1e-5, atol=1e-6)
    # z ~ N(0, I): 600 draws in 2 dimensions, 5 standard errors
    assert np.abs(a["z"].mean(0)).max() < 5 / 600**0.5
    assert "`--overwrite`" in refused("sample", trained, "--output", paths[0])
    assert "`num_samples` must be" in refused("sample", trained, "--num-samples", "0", "--output", tmp_path / "d.npz")
    assert "takes no labels" in refused("sample", trained, "--label", "3", "--output", tmp_path / "d.npz")
    assert not (tmp_path / "d.npz").exists()
    assert len(probgen.data.load(paths[0], split="all")) == 600  # the samples are data


def test_samples_of_a_conditional_model(conditional: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    for label, wanted in (("3", [3] * 12), (None, [*range(10), 0, 1])):
        path = tmp_path / f"{label}.npz"
        options = [] if label is None else ["--label", label]
        assert main(["sample", str(conditional), "--num-samples", "12", *options, "--output", str(path)]) == 0
        arrays = np.load(path)
        assert arrays["y"].tolist() == wanted
        model, _ = probgen.load(conditional)
        mean = model.decode(torch.from_numpy(arrays["z"]), torch.tensor(wanted)).mean  # type: ignore[attr-defined]
        np.testing.assert_allclose(arrays["mean"], mean.detach().numpy(), rtol=1e-5, atol=1e-6)
    message = refused("sample", conditional, "--label", "10", "--output", tmp_path / "d.npz")
    assert "`--label` must be a class from 0 to 9, got 10" in message


def test_reconstruct(trained: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    path = tmp_path / "r.npz"
    assert main(["reconstruct", str(trained), "--num-data", "300", "--output", str(path)]) == 0
    arrays = np.load(path)
    np.testing.assert_array_equal(arrays["x"], held_out().x[:300].numpy())
    model, guide = probgen.load(trained)
    mean = model.decode(torch.from_numpy(arrays["z"])).mean  # type: ignore[attr-defined]
    np.testing.assert_allclose(arrays["mean"], mean.detach().numpy(), rtol=1e-5, atol=1e-6)
    q = guide.posterior(torch.from_numpy(arrays["x"]))  # type: ignore[union-attr]
    standard = ((torch.from_numpy(arrays["z"]) - q.mean) / q.stddev).detach()
    assert standard.pow(2).mean().item() == pytest.approx(1.0, abs=5 * (2 / 600) ** 0.5)  # draws of the guide
    assert path.with_suffix(".png").exists()
    assert "`num_data`" in refused("reconstruct", trained, "--num-data", "0", "--output", tmp_path / "b.npz")


def test_interpolate(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "i.npz"
    assert main(["interpolate", str(trained), "--pairs", "2", "--steps", "4", "--output", str(path)]) == 0
    arrays = np.load(path)
    assert arrays["x"].shape[1] == 64
    assert {1, 2} == set(arrays["pair"] + 1 - arrays["pair"].min())
    assert path.with_suffix(".png").exists()


def test_plot(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], refused: Callable[..., str]) -> None:
    other, output = tmp_path / "b", tmp_path / "figures"
    shutil.copytree(run, other)
    shutil.rmtree(run / "figures")
    assert main(["plot", str(run), "--curves-only"]) == 0
    assert {path.name for path in (run / "figures").iterdir()} == {"training.png", "training.csv"}
    command = ["plot", str(run), str(other), "--curves-only", "--output", str(output)]
    capsys.readouterr()
    assert main(command) == 0
    assert capsys.readouterr().out.split() == [str(output / "training.png")]
    assert {row["run"] for row in table(output / "training.csv")} == {"a", "b"}
    assert "`--overwrite`" in refused(*command)
    assert main([*command, "--overwrite"]) == 0
    assert "does not exist" in refused("plot", tmp_path / "none")
    assert "has no metrics.jsonl" in refused("plot", tmp_path)
    (run / "metrics.jsonl").write_text("{}\n[]\n")
    assert "line 2, is no JSON object" in refused("plot", run)


def test_plot_of_one_run_into_another_folder(run: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    output, before = tmp_path / "out", {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert main(["plot", str(run), "--curves-only", "--output", str(output)]) == 0
    assert {path.name for path in output.iterdir()} == {"training.png", "training.csv"}
    (output / "training.png").unlink()
    (output / "training.csv").rename(output / "latents.csv")
    assert "latents.csv' exists already; pass `--overwrite`" in refused("plot", run, "--output", output)
    assert main(["plot", str(run), "--output", str(output), "--overwrite"]) == 0
    assert {path.name for path in output.iterdir()} == {path.name for path in (run / "figures").iterdir()}
    assert {f"{name}.png" for name in figure_names(pair=True)} == {path.name for path in output.glob("*.png")}
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--overwrite",), "`--overwrite` is for files in `--output`"),
        (("--curves-only", "--seed", "0"), "`--seed` is for the figures of a pair"),
        (("--curves-only", "--model", "m.py:Net"), "`--model` is for the figures of a pair"),
        (("--curves-only", "--guide", "m.py:Net"), "`--guide` is for the figures of a pair"),
        (("--curves-only", "--allow-changed"), "`--allow-changed` is for the figures of a pair"),
    ],
)
def test_plot_ignores_no_option(
    options: tuple[str, ...], message: str, trained: Path, refused: Callable[..., str]
) -> None:
    assert message in refused("plot", trained, *options)


def test_plot_of_several_runs_ignores_no_option(run: Path, trained: Path, refused: Callable[..., str]) -> None:
    assert "no run's guide comes from a file" in refused("plot", run, trained, "--guide", "m.py:Net")


@pytest.mark.parametrize("labels", [("elbo", "iwae"), ("elbo",)])
def test_plot_of_a_comparison(labels: tuple[str, ...], tmp_path: Path, refused: Callable[..., str]) -> None:
    rows = [{"label": label, "seed": 0, "epoch": 1, "loss": 1.0, "bound": -1.0} for label in labels]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"half')
    command = ["plot", str(tmp_path), "--output", str(tmp_path / "out")]
    assert main(command) == 0
    assert {row["run"] for row in table(tmp_path / "out" / "training.csv")} == set(labels)
    assert "comparisons have curves alone" in refused(*command, "--overwrite", "--seed", "1")


@pytest.mark.parametrize("command", ["evaluate", "score", "sample", "reconstruct", "interpolate", "plot", "resume"])
def test_what_is_no_run(command: str, tmp_path: Path, refused: Callable[..., str]) -> None:
    message = refused(command, tmp_path / "none")
    assert "does not exist" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--data", "digts"), "did you mean 'digits'?"),
        (("--split", "tets"), "did you mean 'test'?"),
        (("--num-particles", "0"), "`num_particles` must be a whole number of at least 1"),
        (("--batch-size", "0"), "`batch_size` must be a whole number of at least 1"),
        (("--seed", "-1"), "`seed` must be"),
        (("--binarize", "none"), "`x` must be 0 or 1"),
        (("--accelerator", "warp"), "`accelerator` must be"),
    ],
)
def test_refusals_write_nothing(
    args: tuple[str, ...], message: str, trained: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    assert message in refused("score", trained, *args, "--output", tmp_path / "scores.csv")
    assert list(tmp_path.iterdir()) == []


def held_out_of_another_shape(trained: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    np.savez(tmp_path / "data.npz", x=np.zeros((10, 5)))
    message = refused("score", trained, "--data", tmp_path / "data.npz", "--output", tmp_path / "s.csv")
    assert "was trained on another shape" in message
    assert "64 elements" in message or "(64,)" in message


def test_no_best_without_held_out_data(conditional: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    message = refused("sample", conditional, "--which", "best", "--output", tmp_path / "s.npz")
    assert "no best parameters" in message


def test_a_damaged_checkpoint(run: Path, refused: Callable[..., str]) -> None:
    pointer = json.loads((run / "checkpoints" / "latest.json").read_text())["checkpoint"]
    tensors = run / "checkpoints" / pointer / "tensors.safetensors"
    *rest, last = tensors.read_bytes()
    tensors.write_bytes(bytes([*rest, last ^ 1]))
    assert "is damaged" in refused("evaluate", run)


def test_list(capsys: pytest.CaptureFixture[str], refused: Callable[..., str]) -> None:
    assert main(["list"]) == 0
    shown = capsys.readouterr().out
    for kind in probgen.registry.kinds():
        for name in probgen.registry.names(kind):
            assert name in shown
            assert probgen.registry.entry(kind, name).summary in shown
    for name in probgen.data.sources():
        assert name in shown
    assert main(["list", "models"]) == 0
    assert "objectives" not in capsys.readouterr().out
    assert "nothing is called 'vea'; did you mean 'vae'?" in refused("list", "vea")


@pytest.mark.parametrize("kind", probgen.registry.kinds())
def test_list_of_one_name(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    for name in probgen.registry.names(kind):
        assert main(["list", name]) == 0
        shown = capsys.readouterr().out
        assert probgen.registry.entry(kind, name).example in shown
        for parameter in (probgen.config.parameters(probgen.registry.get(kind, name)) or {}).values():
            default = "(required)" if parameter.default is parameter.empty else repr(parameter.default)
            assert f"{parameter.name}={default}" in shown


def test_list_of_a_data_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "digits"]) == 0
    assert "1,797" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["trian"], "train"),
        (["train", "--num-epoch", "3"], "--num-epochs"),
        (["train", "--num-epochs", "many"], "INT"),
        (["train", "--schedule", "cosin"], "cosine"),
        (["evaluate"], "RUN"),
        (["evaluate", "a", "--num-particle", "3"], "--num-particles"),
    ],
)
def test_usage_errors(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(args)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "spec"),
    [
        ("train vae --latent-dim 3 --seed 1", "vae:latent_dim=3"),
        ("train vae:latent_dim=3 --latent_dim=5", "vae:latent_dim=5"),
        ("train --latent-dim 3 vae:hidden=(8,) --hidden 8 9", "'vae:hidden=(8,9),latent_dim=3'"),
        ("train --latent-dim 3", "'vae:hidden=(200,100),latent_dim=3'"),
        ("train vae --objective iwae --num-particles 5", "iwae:num_particles=5"),
        ("compare --model ppca --latent-dim 3", "ppca:latent_dim=3"),
        ("train ppca --hidden 3", None),
        ("train vae --batch-sise 3", None),
        ("evaluate runs/a --latent-dim 3", None),
    ],
)
def test_options_that_belong_into_a_spec(args: str, spec: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(args.split())
    assert end.value.code == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert last.endswith(f" into its spec: {spec}") if spec else "into its spec" not in last


def test_scores_are_in_the_order_of_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Splits shuffle a file that is one array; a table of its data must not."""
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    x[7] = 9.0  # unlike all others
    np.save(tmp_path / "x.npy", x)
    data = ["--data", str(tmp_path / "x.npy"), "--binarize", "none"]
    run, output = str(tmp_path / "run"), tmp_path / "scores.csv"
    assert main(["train", "ppca:latent_dim=1", *data, "--num-epochs", "1", "--run-dir", run]) == 0
    assert main(["score", run, *data, "--output", str(output), "--num-particles", "20"]) == 0, capsys.readouterr().err
    rows = list(csv.DictReader(output.read_text().splitlines()))
    assert [int(row["index"]) for row in rows] == list(range(40))
    assert min(rows, key=lambda row: float(row["log_prob"]))["index"] == "7"
