"""The benchmarks: their arithmetic against truth, that they run, and the results they have left."""

import importlib
import math
import platform
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import probgen
from probgen import registry
from probgen.data import Dataset, load
from probgen.objectives import IWAE

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
RESULTS = sorted((BENCHMARKS / "results").glob("*.json"))

pytestmark = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="needs the folder benchmarks/ of the repository")

if BENCHMARKS.is_dir():  # they are programs, not a package: their folder is their path
    sys.path.insert(0, str(BENCHMARKS))
    record, handwritten, step_time, mnist_iwae, zoo = map(
        importlib.import_module, ("record", "handwritten", "step_time", "mnist_iwae", "zoo")
    )
    sys.path.remove(str(BENCHMARKS))

ROW_NAMES = [row.name for row in zoo.ROWS] if BENCHMARKS.is_dir() else []


# --- record --------------------------------------------------------------------------------------------------


def result(**changes: Any) -> dict[str, Any]:
    figures = [record.figure("a", 1.2, "ratio", goal="<= 1.3"), record.figure("b", 3.0, "nats", standard_error=1.0)]
    return record.document("topic", {"sizes": (1, 2)}, {"training": 0}, figures) | changes


@pytest.mark.parametrize("path", RESULTS, ids=[path.stem for path in RESULTS])
def test_committed_results_follow_the_schema(path: Path) -> None:
    content = record.read(path)
    assert record.problems(content) == []
    assert content["topic"] == path.stem


def test_a_result_survives_its_file(tmp_path: Path) -> None:
    content = result()
    path = record.write(content, tmp_path)
    assert record.read(path) == content
    assert record.problems(record.read(path)) == []
    assert [file.name for file in tmp_path.iterdir()] == ["topic.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = record.write(result(), tmp_path)
    before = path.read_text()
    with pytest.raises(ValueError, match="`seeds` must be integers"):
        record.write(result(seeds={"training": None}), tmp_path)
    assert path.read_text() == before


def test_an_edit_by_hand_shows() -> None:
    content = result()
    content["figures"][0]["value"] = 1.1
    assert record.problems(content) == ["`sha256` differs: the file was edited by hand; run the benchmark again"]


@pytest.mark.parametrize(
    ("figure", "message"),
    [
        ({"name": "a"}, "figure 'a' lacks"),
        ({"value": math.inf}, "`value` must be a finite number, got inf"),
        ({"standard_error": math.inf}, "`standard_error` must be a finite number or null"),
        ({"met": False}, "`met` is False, but the goal is '<= 1.3'"),
    ],
)
def test_bad_figures_are_named(figure: dict[str, Any], message: str) -> None:
    good = record.figure("a", 1.2, "ratio", goal="<= 1.3")
    content = result(figures=[figure if set(figure) == {"name"} else good | figure])
    assert any(message in problem for problem in record.problems(content))


@pytest.mark.parametrize(
    ("goal", "value", "error", "met"),
    [
        ("<= 1.3", 1.3, None, True),
        ("< 0.1", 0.1, None, False),
        (">= 2", 1.9, None, False),
        ("within 0.1", -0.05, None, True),
        ("within 4 standard errors", 0.5, 0.1, False),
        ("> 2 standard errors", 0.3, 0.1, True),
    ],
)
def test_goals(goal: str, value: float, error: float | None, met: bool) -> None:
    assert record.meets(goal, value, error) is met


def test_unclear_goals_are_refused() -> None:
    with pytest.raises(ValueError, match="`goal` must be such as"):
        record.meets("fast", 1.0)
    with pytest.raises(ValueError, match="needs a `standard_error`"):
        record.meets("> 2 standard errors", 1.0)


def test_standard_error() -> None:
    assert record.standard_error([1.0, 3.0]) == pytest.approx(1.0)


def test_results_name_no_host() -> None:
    machine = record.machine()
    assert set(machine) == set(record.MACHINE_KEYS)
    assert platform.node() not in machine.values()


# --- hand-written --------------------------------------------------------------------------------------------


@pytest.fixture
def probs() -> torch.Tensor:
    return torch.rand(30, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def twins(probs: torch.Tensor) -> tuple[Any, Any]:
    """A pair of ours and the hand-written net with the same weights."""
    pair = mnist_iwae.make_pair(probs.mean(0), hidden=(8, 6), latent_dim=3)
    return pair, mnist_iwae.make_net(pair)


def test_handwritten_imports_nothing_of_ours_or_pyro() -> None:
    text = (BENCHMARKS / "handwritten.py").read_text()
    assert not [line for line in text.splitlines() if line.startswith(("import", "from")) and "pro" in line.lower()]


@pytest.mark.parametrize("form", ["cross_entropy", "log_sigmoid"])
def test_handwritten_log_weights_are_ours(form: str, probs: torch.Tensor, twins: tuple[Any, Any]) -> None:
    pair, net = twins
    net.likelihood = getattr(handwritten, form)
    x = torch.bernoulli(probs)
    torch.manual_seed(5)
    by_hand = net.log_weights(x, 4)
    ours = probgen.log_weights(pair.model, pair.guide, x, num_particles=4, seed=5)
    torch.testing.assert_close(by_hand, ours, rtol=1e-5, atol=1e-4)


def test_handwritten_gradient_is_ours(probs: torch.Tensor, twins: tuple[Any, Any]) -> None:
    pair, net = twins
    x = torch.bernoulli(probs)
    torch.manual_seed(5)
    net.loss(x, 4).backward()
    torch.manual_seed(5)
    IWAE(num_particles=4)(pair.model, pair.guide)(x).backward()
    for own, by_hand in zip(pair.model.decoder.parameters(), net.decoder.parameters(), strict=True):
        torch.testing.assert_close(own.grad, by_hand.grad, rtol=1e-4, atol=1e-4)
    for own, by_hand in zip(pair.guide.encoder.parameters(), net.encoder.parameters(), strict=True):
        torch.testing.assert_close(own.grad, by_hand.grad, rtol=1e-4, atol=1e-4)


def test_handwritten_evaluation_is_log_p(twins: tuple[Any, Any]) -> None:
    # A decoder that ignores z gives independent bits; the mean of p(z) / q(z) is 1.
    _, net = twins
    with torch.no_grad():
        net.decoder[-1].weight.zero_()
        net.encoder[-1].weight.zero_()
        net.encoder[-1].bias[:3] = 0.3
        net.encoder[-1].bias[3:] = math.log(math.expm1(1.0))  # scale 1, so that Var(p / q) = exp(0.3^2)^3 - 1
    x = torch.ones(5, 16)
    truth = torch.nn.functional.logsigmoid(net.decoder[-1].bias).sum().detach()
    for at_once in (7, 5000):
        estimate = handwritten.evaluate(net, x, num_particles=5000, batch_size=2, at_once=at_once)
        assert float((estimate - truth).abs().max()) < 5 * math.sqrt(math.expm1(3 * 0.3**2) / 5000)


@pytest.mark.parametrize("capture", [True, False])
@pytest.mark.parametrize("particles", [1, 5])
def test_both_trainings_are_paired(capture: bool, particles: int, probs: torch.Tensor, twins: tuple[Any, Any]) -> None:
    pair, _ = twins
    data = Dataset(probs.repeat(8, 1), binarize="dynamic")  # 240 data: two whole batches and a smaller one
    plan = mnist_iwae.Plan(particles, num_steps=8, seed=3, capture=capture)
    assert mnist_iwae.check_pairing(data, plan, pair)["met"]


def test_runs_that_are_not_paired_are_refused(
    probs: torch.Tensor, twins: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mnist_iwae, "train_by_hand", lambda net, data, plan: handwritten.Trained(torch.ones(8), 1.0))
    with pytest.raises(SystemExit, match="the runs are not paired"):
        mnist_iwae.check_pairing(Dataset(probs, binarize="dynamic"), mnist_iwae.Plan(5, 8, 0), twins[0])


# --- step time -----------------------------------------------------------------------------------------------


def test_interval_of_a_median() -> None:
    # Binomial(10, 1/2): P(at most 1) = 0.011 and P(at most 2) = 0.055, so the second and the ninth of ten values.
    assert step_time.median_interval(range(10)) == (1, 8)
    assert step_time.median_interval(range(3)) == (0, 2)


def test_interval_covers_the_median() -> None:
    draws = torch.randn(400, 15, generator=torch.Generator().manual_seed(0)).tolist()
    covered = sum(low <= 0 <= high for low, high in map(step_time.median_interval, draws))
    assert covered >= 400 * 0.95 - 4 * math.sqrt(400 * 0.05 * 0.95)


def test_limit_counts_every_product() -> None:
    forward = 784 * 200 + 200 * 200 + 200 * 100 + 50 * 200 + 200 * 200 + 200 * 784
    limit = step_time.matmul_limit(1, repeats=1)
    assert limit.gflop == pytest.approx(2e-9 * 100 * (3 * forward - 784 * 200))  # the data need no gradient


@pytest.mark.parametrize("particles", [1, 3])
def test_competitors_do_the_same_work(particles: int) -> None:
    # Pyro and both hand-written steps make the same net and draw the same noise; ours is compared in the pairing test.
    batches = torch.from_numpy(importlib.import_module("step_settings").bits(3, 0))
    losses = []
    for make in (
        step_time.pyros,
        lambda k: step_time.by_hand(k, handwritten.cross_entropy),
        lambda k: step_time.by_hand(k, handwritten.log_sigmoid),
    ):
        torch.manual_seed(0)
        losses.append(make(particles)(batches).loss)
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)


@pytest.mark.slow
def test_step_time_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    step_time.main(["--rounds", "1", "--steps", "2", "--particles", "1", "2", "--imports", "1", "--out", str(tmp_path)])
    content = record.read(tmp_path / "step_time.json")
    assert record.problems(content) == []
    names = {figure["name"] for figure in content["figures"]}
    assert {"K=1: probgen / hand-written", "K=2: NumPyro, lax.scan", "import probgen"} <= names
    assert "95 % interval" in capsys.readouterr().out


# --- MNIST ---------------------------------------------------------------------------------------------------


def test_missing_mnist_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROBGEN_DATA", raising=False)
    with pytest.raises(SystemExit, match="PROBGEN_DATA"):
        mnist_iwae.main([])


@pytest.mark.slow
def test_mnist_iwae_runs(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist_iwae, "FIRST_IMAGES", 20)
    arguments = "--epochs 1 --train-size 300 --test-size 30 --eval-particles 60 --cross-check 10 --threads 1"
    mnist_iwae.main([*arguments.split(), "--out", str(tmp_path)])
    content = record.read(tmp_path / "mnist_iwae.json")
    assert record.problems(content) == []
    figures = {figure["name"]: figure for figure in content["figures"]}
    assert figures["difference of -log p(x), probgen minus hand-written"]["met"]
    assert figures["hand-written evaluator minus probgen.evaluate, same weights"]["met"]


# --- zoo -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["model", "guide", "likelihood"])
def test_the_zoo_has_every_name(kind: str) -> None:
    specs = [getattr(row, kind) for row in zoo.ROWS]
    assert {spec.partition(":")[0] for spec in specs if spec} == set(registry.names(kind))


def test_bernoulli_baseline_on_binarized_mnist(data_dir: Path) -> None:
    train, test = (load("mnist_fixed_binarized", split=split).x for split in ("train", "test"))
    assert float(zoo.independent_bernoulli(train, test).mean()) == pytest.approx(-205.793, abs=5e-4)  # published


def test_baselines_by_hand() -> None:
    bits, x = torch.tensor([[1.0], [1.0], [0.0]]), torch.tensor([[1.0], [0.0]])
    torch.testing.assert_close(zoo.independent_bernoulli(bits, x).exp(), torch.tensor([3 / 5, 2 / 5]).double())
    levels = torch.tensor([[0], [16], [16]])
    expected = torch.tensor([3 / 20, 1 / 20]).double()
    torch.testing.assert_close(zoo.independent_categorical(levels, torch.tensor([[16], [3]])).exp(), expected)
    grey = torch.tensor([[1.0], [3 / 16]])  # the same two levels as grey values
    torch.testing.assert_close(zoo.independent_categorical(levels / 16, grey).exp(), expected)


def test_normal_baseline_is_torchs() -> None:
    train, x = torch.randn(50, 3), torch.randn(5, 3)
    train[:, 2] = 0.0  # constant: the bound decides
    scale = train.double().std(0, correction=0).clamp_min(0.1)
    truth = torch.distributions.Normal(train.double().mean(0), scale).log_prob(x.double()).sum(-1)
    torch.testing.assert_close(zoo.independent_normal(train, x, min_scale=0.1), truth)


def test_baseline_of_each_class() -> None:
    bits = torch.tensor([[1.0], [1.0], [0.0]])
    labels = torch.tensor([0, 0, 1])
    log_prob = zoo.per_class((bits, labels), (bits, labels), baseline=zoo.independent_bernoulli)
    torch.testing.assert_close(log_prob.exp(), torch.tensor([3 / 4, 3 / 4, 2 / 3]).double())


@pytest.mark.parametrize("name", ["vae-conv", "conditional-vae", "hierarchical-top-down", "vae-categorical", "ppca"])
def test_zoo_rows_run(name: str, tmp_path: Path) -> None:
    zoo.main(["--quick", "--only", name, "--threads", "1", "--out", str(tmp_path)])
    content = record.read(tmp_path / "zoo.json")
    assert record.problems(content) == []
    assert [figure["name"] for figure in content["figures"]] == [name]


@pytest.mark.slow
def test_the_whole_zoo_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zoo.main(["--quick", "--threads", "1", "--out", str(tmp_path)])
    content = record.read(tmp_path / "zoo.json")
    rows = {figure["name"] for figure in content["figures"]}
    assert rows | set(content["settings"]["left_out"]) == set(ROW_NAMES)
    assert all("PROBGEN_DATA" in line for line in capsys.readouterr().err.splitlines())


def test_a_part_of_the_zoo_is_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in RESULTS}
    zoo.main(["--quick", "--only", "ppca", "--threads", "1"])
    assert "not written" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in sorted((BENCHMARKS / "results").glob("*.json"))} == before


def test_every_name_beats_its_baseline() -> None:
    path = BENCHMARKS / "results" / "zoo.json"
    if not path.exists():
        pytest.skip("benchmarks/results/zoo.json is not there yet: `make reproduce-zoo` writes it")
    figures = record.read(path)["figures"]
    for kind in ("model", "guide", "likelihood"):
        better = {str(figure[kind]).partition(":")[0] for figure in figures if figure["met"]}
        assert set(registry.names(kind)) <= better, kind
