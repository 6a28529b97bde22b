"""``probgen train --backend numpyro``: a run of it is one like the others, and what it cannot do is refused."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import probgen
from probgen.cli.main import main
from probgen.runs import figures

SMALL = (
    *("vae:latent_dim=2,hidden=(8,)", "--split", "valid", "--eval-split", "test", "--num-epochs", "2"),
    *("--backend", "numpyro"),
)


@pytest.fixture(scope="module")
def trained_by_numpyro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "a"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "_of_pair", lambda *args: {})
        assert main(["train", *SMALL, "--run-dir", str(folder)]) == 0
    return folder


def test_a_run_is_like_the_others(trained_by_numpyro: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    folder = trained_by_numpyro
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 4), (2, 8)]  # 360 data in batches of 100
    assert set(rows[0]) == {"step", "epoch", "loss", "bound", "eval_bound", "seconds"}
    assert tomllib.loads((folder / "config.toml").read_text())["backend"] == "numpyro"
    assert main(["evaluate", str(folder), "--num-particles", "5"]) == 0
    assert main(["sample", str(folder), "--num-samples", "3", "--output", str(tmp_path / "samples.npz")]) == 0
    assert "was trained by `--backend numpyro`" in refused("resume", folder)
    assert "was trained by `--backend numpyro`" in refused("train", *SMALL, "--run-dir", folder, "--resume")


def test_the_torch_pair_has_the_weights(trained_by_numpyro: Path) -> None:
    """Its ELBO on the held-out data is the one that NumPyro has measured, within standard errors."""
    rows = [json.loads(line) for line in (trained_by_numpyro / "metrics.jsonl").read_text().splitlines()]
    data = probgen.data.load("digits", split="test", binarize="threshold")
    for which, expected in (("last", rows[-1]["eval_bound"]), ("best", max(row["eval_bound"] for row in rows))):
        model, guide = probgen.load(trained_by_numpyro, which)
        torch.manual_seed(0)
        noise = probgen.log_weights(model, guide, data.x, num_particles=200).detach().double()  # [K, N]
        error = (noise.var(0).mean() * (1 / 200 + 1) / len(data.x)).sqrt()  # ours of K samples, NumPyro's of one
        assert abs(noise.mean() - expected) < 5.0 * error


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--ema-decay", "0.9"), "`--backend numpyro` has no `--ema-decay`"),
        (("--patience", "3"), "`--backend numpyro` has no `--patience`"),
        (("--precision", "bfloat16"), "`--backend numpyro` has no `--precision`"),
        (("--accelerator", "cpu"), "`--backend numpyro` has no `--accelerator`"),
        (("--max-grad-norm", "1"), "`--backend numpyro` has no `--max-grad-norm`"),
        (("--binarize", "dynamic"), "use `--binarize fixed`"),
        (("vae:network=conv",), "`network='conv'` is there for Pyro alone"),
        (("gaussian-mixture:num_components=3",), "the model 'gaussian-mixture' is there for Pyro alone"),
        (("--guide", "amortized-flow"), "there are amortized-hierarchical, amortized-normal"),
        (("--guide", "none"), "has no guide 'none'"),
        (("programs.py:Net", "--guide", "amortized-normal"), "has no model 'programs.py:Net'"),
        (("--objective", "iwae:gradient=stl"), 'use `gradient="dreg"`'),
        (("--objective", "elbo:gradients=stl"), "did you mean 'gradient'?"),
        (("--num-epochs", "0"), "`num_epochs` must be a whole number of at least 1"),
        (("--learning-rate", "0"), "`--learning-rate` must be a finite number above 0"),
        (("--split", "valid", "--eval-split", "valid"), "held out of training"),
    ],
)
def test_what_is_refused(tmp_path: Path, refused: Callable[..., str], args: tuple[str, ...], message: str) -> None:
    folder = tmp_path / "a"
    assert message in refused("train", *args, "--backend", "numpyro", "--run-dir", folder)
    assert not folder.exists()


@pytest.mark.slow
@pytest.mark.parametrize("model", ["hierarchical-vae:latent_dims=(3,2),hidden=(8,)", "ppca:latent_dim=2"])
def test_the_other_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str) -> None:
    monkeypatch.setattr(figures, "_of_pair", lambda *args: {})
    folder = str(tmp_path / "a")
    guide = ("--guide", "amortized-normal:hidden=(8,)") if model.startswith("ppca") else ()
    options = ("--objective", "iwae:num_particles=3,gradient=dreg", "--schedule", "constant", "--binarize", "none")
    options = options if model.startswith("ppca") else options[:4]
    assert main(["train", model, *guide, *SMALL[1:], *options, "--run-dir", folder]) == 0
    assert main(["evaluate", folder, "--num-particles", "5"]) == 0


@pytest.mark.slow
def test_both_backends_train_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same weights to begin with, and other noise: after some epochs the held-out bounds are close."""
    monkeypatch.setattr(figures, "_of_pair", lambda *args: {})
    bounds = []
    for backend in ("numpyro", "pyro"):
        folder = tmp_path / backend
        options = ("--num-epochs", "40", "--backend", backend, "--run-dir", str(folder))
        assert main(["train", *SMALL[:-4], *options]) == 0
        bounds.append(json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["eval_bound"])
    assert abs(bounds[0] - bounds[1]) < 0.3
