"""A loaded pair is the trained one; what is no run, is refused in words."""

import dataclasses
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

import pyro
import pytest
import torch

import probgen
from probgen import registry
from probgen.errors import ArgumentError, CheckpointError, ProbgenError
from probgen.runs.saved import Record, config_text, read_run, split_record
from probgen.runs.settings import TrainSettings, read_settings
from probgen.runs.training import Trained, train

MODELS = {
    "vae": "vae:latent_dim=2,hidden=(8,)",
    "conditional-vae": "conditional-vae:latent_dim=2,hidden=(8,)",
    "hierarchical-vae": "hierarchical-vae:latent_dims=(3,2),hidden=(8,)",
    "ppca": "ppca:latent_dim=2",
    "gaussian-mixture": "gaussian-mixture:num_components=2",
}


def settings_of(name: str, **changes: object) -> TrainSettings:
    plain = TrainSettings(model=MODELS[name], split="valid", eval_split="none", num_epochs=1, capture=False)
    if name in ("ppca", "gaussian-mixture"):
        plain = dataclasses.replace(plain, binarize="none")
    if name == "gaussian-mixture":
        plain = dataclasses.replace(plain, objective="maximum-likelihood")
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Trained]]:
    done: dict[str, tuple[Path, Trained]] = {}

    def run(name: str) -> tuple[Path, Trained]:
        if name not in done:
            folder = tmp_path_factory.mktemp("runs") / name
            done[name] = folder, train(settings_of(name), folder)
        return done[name]

    return run


def test_every_model_is_here() -> None:
    assert set(MODELS) == set(registry.names("model"))


@pytest.mark.parametrize("name", MODELS)
def test_a_loaded_pair_is_the_trained_one(name: str, runs: Callable[[str], tuple[Path, Trained]]) -> None:
    folder, trained = runs(name)
    model, guide = probgen.load(folder)
    for ours, theirs in ((model, trained.model), (guide, trained.guide)):
        if theirs is None:
            assert ours is None
            continue
        left, right = ours.state_dict(), theirs.state_dict()  # type: ignore[union-attr]
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left)
        assert not any(module.training for module in ours.modules())  # type: ignore[union-attr]


@pytest.mark.parametrize("name", MODELS)
def test_predictive_works(name: str, runs: Callable[[str], tuple[Path, Trained]]) -> None:
    """Pyro's own way to draw: from the prior, and from the posterior given data."""
    folder, trained = runs(name)
    model, guide = probgen.load(folder)
    prior = pyro.infer.Predictive(model, num_samples=3)(num_samples=4)
    assert prior["x"].shape == (3, 4, 64)
    batch = trained.data.batch(slice(0, 5))
    args = batch if isinstance(batch, tuple) else (batch,)
    latents = [key for key in prior if key not in ("x", "y")]
    if guide is None:
        assert latents == []
        return
    posterior = pyro.infer.Predictive(model, guide=guide, num_samples=3, return_sites=["x", *latents])(*args)
    assert torch.equal(posterior["x"], args[0].expand(3, 5, 64))
    for key in latents:
        assert posterior[key].shape[:2] == (3, 5)
    generating = (None, args[1]) if name == "conditional-vae" else ()
    again = pyro.infer.Predictive(model, {key: posterior[key] for key in latents})(
        *generating, **({} if generating else {"num_samples": 5})
    )
    assert again["x"].shape == (3, 5, 64)


def test_loading_leaves_the_generators_alone(runs: Callable[[str], tuple[Path, Trained]]) -> None:
    folder, _ = runs("vae")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    probgen.load(folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_data_are_not_needed(runs: Callable[[str], tuple[Path, Trained]], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = runs("conditional-vae")
    monkeypatch.setattr("probgen.runs.building.load", lambda *args, **kwargs: pytest.fail("data were loaded"))
    assert probgen.load(folder)


def test_config_is_read_back(runs: Callable[[str], tuple[Path, Trained]]) -> None:
    folder, trained = runs("conditional-vae")
    run = read_run(folder)
    assert run.settings == trained.settings
    assert (run.record.event_shape, run.record.num_classes, run.record.guide) == ((64,), 10, "amortized-normal")
    text = (folder / "config.toml").read_text()
    assert config_text(run.settings, run.record) == text
    table, _ = split_record(tomllib.loads(text), "x")
    assert read_settings(TrainSettings, table, "x") == trained.settings


def test_defaults_are_a_complete_file() -> None:
    wanted = TrainSettings(max_grad_norm=1.5, ema_decay=0.5, patience=2, event_shape=(1, 8, 8))
    table, record = split_record(tomllib.loads(config_text(wanted, Record(probgen="0"))), "x")
    assert read_settings(TrainSettings, table, "x") == wanted
    assert record == Record(probgen="0")


def test_which(runs: Callable[[str], tuple[Path, Trained]]) -> None:
    folder, _ = runs("vae")
    with pytest.raises(ProbgenError, match="which"):
        probgen.load(folder, which="lsat")
    with pytest.raises(ArgumentError, match="no best parameters"):
        probgen.load(folder, which="best")


def test_what_is_no_run(tmp_path: Path, runs: Callable[[str], tuple[Path, Trained]]) -> None:
    folder, _ = runs("vae")
    for path, message in (
        (tmp_path / "none", "does not exist"),
        (tmp_path, r"has no config.toml"),
        (folder / "metrics.jsonl", "it is a file"),
        (folder.parent, f"there are: {folder}"),
    ):
        with pytest.raises(ArgumentError, match=message):
            probgen.load(path)
    (tmp_path / "config.toml").write_text("seed = 0")
    with pytest.raises(ArgumentError, match=r"has no \[record\]"):
        probgen.load(tmp_path)
    (tmp_path / "config.toml").write_text("seed = 0\n[record]\nevent_shape = [64]\nguide = 'amortized-normal'")
    with pytest.raises(ProbgenError, match="checkpoint"):
        probgen.load(tmp_path)


def test_weights_of_another_pair(tmp_path: Path, runs: Callable[[str], tuple[Path, Trained]]) -> None:
    folder, _ = runs("vae")
    text = (folder / "config.toml").read_text()
    shutil.copytree(folder / "checkpoints", tmp_path / "checkpoints")
    (tmp_path / "config.toml").write_text(text.replace("latent_dim=2", "latent_dim=1"))
    with pytest.raises(ProbgenError, match="it is of another pair"):
        probgen.load(tmp_path)


@pytest.mark.parametrize(
    "hostile", ["latent_dim=2,hidden=(10000000,10000000)", "latent_dim=10000000000000", "latent_dim=1" + "0" * 40]
)
def test_settings_of_a_pair_that_no_memory_holds(
    hostile: str, tmp_path: Path, runs: Callable[[str], tuple[Path, Trained]]
) -> None:
    folder, _ = runs("vae")
    text = (folder / "config.toml").read_text()
    shutil.copytree(folder / "checkpoints", tmp_path / "checkpoints")
    (tmp_path / "config.toml").write_text(text.replace("latent_dim=2,hidden=(8,)", hostile))
    with pytest.raises(CheckpointError, match=r"more than its checkpoints hold|cannot be built"):
        probgen.load(tmp_path)
