"""Gradient reports against a Gaussian pair whose gradients, and their noise, are known in closed form."""

import csv
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from pyro.nn import PyroModule
from torch import Tensor, nn

import probgen
from probgen import gradient_report
from probgen.comparison import GradientReport
from probgen.comparison.moments import GROUPS, Moments, exactly
from probgen.errors import ArgumentError, ArgumentTypeError, DataError, ProbgenError
from probgen.guides import AmortizedNormal
from probgen.models import VAE, GaussianMixture
from probgen.objectives import ELBO, IWAE, MIWAE, MaximumLikelihood
from probgen.plots import gradient_report as plot_gradients

SCALE = 0.6
COUNT = 200  # replicates
DREG = "iwae:num_particles=8,gradient=dreg"


class Model(PyroModule):
    """z ~ N(mu, 1), x | z ~ N(z, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.mu = nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(self.mu, 1.0)), 1.0), obs=x)


class Guide(PyroModule):
    """q(z | x) = N(a x + b, SCALE^2)."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.4, dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor(0.2, dtype=torch.float64))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(self.a * x + self.b, SCALE))


@pytest.fixture
def x() -> Tensor:
    return torch.randn(7, dtype=torch.float64)


@pytest.fixture
def pair() -> tuple[Model, Guide]:
    return Model(), Guide()


def exact(x: Tensor, model: Model, guide: Guide) -> dict[str, Tensor]:
    """The gradient of minus the ELBO: d/dm = mu + x - 2 m at the mean m of q."""
    m = (guide.a * x + guide.b).detach()
    slope = model.mu.detach() + x - 2 * m
    return {
        "model.mu": -(m - model.mu.detach()).sum(),
        "guide.a": -(slope * x).sum(),
        "guide.b": -slope.sum(),
    }


def report_of(pair: tuple[Any, Any], x: Any, objectives: Any, **options: Any) -> GradientReport:
    """A report; of captured steps, which are faster and have the same gradients."""
    settings = {"seed": 0, "num_replicates": COUNT, "reference_replicates": COUNT, "capture": True}
    return gradient_report(*pair, x, objectives, **{**settings, **options})


# --- numbers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("particles", [1, 4])
def test_variance_and_signal_are_the_exact_ones(pair: tuple[Model, Guide], x: Tensor, particles: int) -> None:
    report = report_of(pair, x, {"elbo": ELBO(num_particles=particles, gradient="pathwise")})
    want = exact(x, *pair)
    noise = {
        "model": len(x) * SCALE**2 / particles,  # d/dmu = z - mu
        "guide": float((4 * SCALE**2 * (1 + x**2)).sum()) / particles,  # d/dz = mu + x - 2 z
    }
    for player, names in (("model", ["model.mu"]), ("guide", ["guide.a", "guide.b"])):
        row = report.row("elbo", player)
        norm = math.sqrt(sum(float(want[name]) ** 2 for name in names))
        assert row.num_parameters == len(names)
        assert row.variance == pytest.approx(noise[player], abs=4 * row.variance_error)
        assert row.snr == pytest.approx(norm / math.sqrt(noise[player]), abs=4 * row.snr_error)
        assert row.norm == pytest.approx(norm, abs=4 * math.sqrt(noise[player] / COUNT))
        for name in names:
            error = math.sqrt(noise[player] / COUNT)
            assert float(report.gradients["elbo"][name]) == pytest.approx(float(want[name]), abs=4 * error)


def test_unbiased_estimators_have_no_bias(pair: tuple[Model, Guide], x: Tensor) -> None:
    specs = ["elbo", "elbo:gradient=stl", "elbo:kl=analytic"]
    for row in report_of(pair, x, specs, reference=exact(x, *pair)).rows:
        assert row.bias_score < 3.5, row
        assert row.bias <= 6 * math.sqrt(row.variance / COUNT), row


def test_bias_is_the_distance_of_the_expectations(pair: tuple[Model, Guide], x: Tensor) -> None:
    want = exact(x, *pair)
    shifted = {name: value + 3.0 for name, value in want.items()}
    report = report_of(pair, x, ["elbo"], reference=shifted)
    for player, count in (("model", 1), ("guide", 2)):
        row = report.row("elbo", player)
        assert row.bias == pytest.approx(3.0 * math.sqrt(count), abs=4 * math.sqrt(row.variance / COUNT))
        assert row.bias_score > 5
    of_guide = {name: value for name, value in shifted.items() if name.startswith("guide")}
    assert math.isnan(report_of(pair, x, ["elbo"], reference=of_guide).row("elbo", "model").bias)


def test_a_reference_that_is_an_objective(pair: tuple[Model, Guide], x: Tensor) -> None:
    reference = IWAE(num_particles=8, gradient="dreg")
    report = report_of(pair, x, ["iwae:num_particles=8", DREG, "elbo"], reference=reference)
    assert all(row.bias_score < 3.5 for row in report.rows if row.label != "elbo")
    assert report.row("elbo", "guide").bias_score > 5
    assert report.row(DREG, "guide").variance < report.row("iwae:num_particles=8", "guide").variance


def test_bounds_and_effective_sample_sizes(pair: tuple[Model, Guide], x: Tensor) -> None:
    objectives = {"elbo": ELBO(), "iwae": IWAE(num_particles=200), "miwae": MIWAE(num_particles=(2, 10))}
    report = report_of(pair, x, objectives, num_replicates=60)
    elbo, iwae, miwae = (report.row(label, "guide") for label in objectives)
    log_p = float(dist.Normal(0.3, math.sqrt(2.0)).log_prob(x).mean())
    assert iwae.bound == pytest.approx(log_p, abs=0.02)
    assert elbo.bound < iwae.bound
    assert elbo.ess == 1.0
    assert 1 < miwae.ess < 20 < iwae.ess < 200


def test_times_are_of_the_step(pair: tuple[Model, Guide], x: Tensor) -> None:
    row = report_of(pair, x, ["elbo"], num_replicates=40).row("elbo", "guide")
    assert 0 < row.ms_per_step < 1000
    assert row.variance_time == row.variance * row.ms_per_step


def test_a_captured_step_has_the_same_gradients(x: Tensor) -> None:
    pair = VAE((4,), 2, (8,)), AmortizedNormal((4,), 2, (8,))
    bits = torch.ones(5, 4)
    plain, captured = (report_of(pair, bits, [DREG], num_replicates=40, capture=capture) for capture in (False, True))
    for name, value in plain.gradients[DREG].items():
        torch.testing.assert_close(captured.gradients[DREG][name], value)


# --- moments ---------------------------------------------------------------------------------------------------


def moments_of(values: Tensor) -> Moments:
    moments = Moments()
    for value in values:
        moments.add(value)
    return moments


def test_moments_are_those_of_numpy() -> None:
    values = 1e6 + torch.randn(93, 5, dtype=torch.float64)  # groups of unequal size, far from 0
    moments = moments_of(values)
    torch.testing.assert_close(moments.mean, values.mean(0))
    assert moments.variance().value == pytest.approx(float(values.var(0).sum()), rel=1e-9)


def test_errors_of_the_jackknife() -> None:
    found = [moments_of(torch.randn(200, 3, dtype=torch.float64) + 0.5) for _ in range(200)]
    for estimates in ([m.variance() for m in found], [m.snr() for m in found]):
        spread = np.std([estimate.value for estimate in estimates])
        assert np.mean([estimate.error for estimate in estimates]) == pytest.approx(spread, rel=0.2)


@pytest.mark.parametrize("size", [1, 50])
def test_distances_and_their_scores_where_there_is_none(size: int) -> None:
    pairs = [[moments_of(torch.randn(60, size, dtype=torch.float64)) for _ in range(2)] for _ in range(150)]
    distances = np.array([a.distance(b) for a, b in pairs])
    assert abs(distances.mean()) < 4 * distances.std() / math.sqrt(len(pairs))
    scores = np.array([a.distance_score(b) for a, b in pairs])
    assert (scores > 3).mean() < 0.05
    assert scores.mean() < 1.5


def test_without_noise() -> None:
    value = torch.tensor([3.0, 4.0], dtype=torch.float64)
    still = moments_of(value.repeat(2 * GROUPS, 1))
    assert still.variance().value == 0.0
    assert still.snr().value == math.inf
    assert math.sqrt(still.signal()) == pytest.approx(5.0)
    assert still.distance_score(exactly(value)) == 0.0
    assert still.distance_score(exactly(value + 1)) == math.inf
    assert still.distance(exactly(value + 1)) == pytest.approx(2.0)
    nothing = moments_of(torch.zeros(2 * GROUPS, 2, dtype=torch.float64))
    assert math.isnan(nothing.snr().value)


# --- whose parameters, and what is left alone ------------------------------------------------------------------


def test_declared_parameters_belong_to_who_declares_them(x: Tensor) -> None:
    def model(x: Tensor) -> None:
        loc = pyro.param("centre", torch.tensor(0.3, dtype=torch.float64))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("x", dist.Normal(pyro.sample("z", dist.Normal(loc, 1.0)), 1.0), obs=x)

    def guide(x: Tensor) -> None:
        shift = pyro.param("shift", torch.tensor(0.2, dtype=torch.float64))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.4 * x + shift, SCALE))

    report = gradient_report(model, guide, x, ["elbo"], seed=0, num_replicates=40)
    assert report.players == ("model", "guide")
    assert set(report.gradients["elbo"]) == {"centre", "shift"}
    assert report.row("elbo", "model").variance == pytest.approx(len(x) * SCALE**2, rel=0.8)
    assert list(pyro.get_param_store()) == []


def test_models_without_latents(x: Tensor) -> None:
    report = gradient_report(
        GaussianMixture(2, 3), None, torch.randn(9, 2), [MaximumLikelihood()], seed=0, num_replicates=40
    )
    (row,) = report.rows
    assert row.player == "model"
    assert row.variance == 0.0
    assert row.snr == math.inf


def test_nothing_is_left_behind(pair: tuple[Model, Guide], x: Tensor) -> None:
    model, guide = pair
    model.eval()
    before = [p.detach().clone() for p in (*model.parameters(), *guide.parameters())]
    state, flag = torch.get_rng_state(), torch.distributions.Distribution._validate_args
    first = report_of(pair, x, ["elbo", DREG], num_replicates=40)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.distributions.Distribution._validate_args is flag
    assert not model.training
    assert guide.training
    for p, value in zip((*model.parameters(), *guide.parameters()), before, strict=True):
        assert torch.equal(p, value)
        assert p.grad is None
    second = report_of(pair, x, ["elbo", DREG], num_replicates=40)
    for a, b in zip(first.rows, second.rows, strict=True):
        assert (a.variance, a.snr, a.norm, a.bound) == (b.variance, b.snr, b.norm, b.bound)


def test_without_a_seed_the_global_generator_moves_on(pair: tuple[Model, Guide], x: Tensor) -> None:
    rows = [report_of(pair, x, ["elbo"], num_replicates=40, seed=None).row("elbo", "guide") for _ in range(2)]
    assert rows[0].variance != rows[1].variance


def test_batches_as_the_loop_takes_them(x: Tensor) -> None:
    data = probgen.data.load("digits", split="test", binarize="dynamic")
    pair = VAE((64,), 2, (8,)), AmortizedNormal((64,), 2, (8,))
    report = gradient_report(*pair, data, ["elbo"], seed=0, num_replicates=40)
    assert report.settings["num_data"] == len(data)
    by_name = gradient_report(*pair, {"x": data.fixed(0).x}, ["elbo"], seed=0, num_replicates=40)
    assert by_name.row("elbo", "guide").variance == report.row("elbo", "guide").variance


# --- refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("objectives", "options", "error", "message"),
    [
        ([], {}, ArgumentError, "`objectives` is empty"),
        (ELBO(), {}, ArgumentTypeError, "`objectives` must be a list of objectives or specs"),
        ("elbo", {}, ArgumentTypeError, "`objectives` must be a list of objectives or specs"),
        (["elbo", "elbo"], {}, ArgumentError, "`objectives` names 'elbo' twice"),
        ([3], {}, ArgumentTypeError, "an objective must be one of `probgen.objectives`"),
        (["iwea"], {}, ArgumentError, "'iwae'"),
        (["elbo"], {"num_replicates": 39}, ArgumentError, "`num_replicates` must be a whole number of at least 40"),
        (["elbo"], {"reference": {"guide.c": torch.tensor(0.0)}}, ArgumentError, "unknown parameter 'guide.c'"),
        (["elbo"], {"reference": {"guide.b": torch.zeros(2)}}, ArgumentError, r"must be \(\), got \(2,\)"),
        (["elbo"], {"reference": {"guide.b": torch.zeros(())}}, ArgumentError, "for every parameter of the model or"),
        (["elbo"], {"reference": 1.0}, ArgumentTypeError, "an objective must be"),
        (["elbo"], {"seed": -1}, ArgumentError, "`seed` must be None or"),
    ],
)
def test_refused(
    pair: tuple[Model, Guide], x: Tensor, objectives: Any, options: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        report_of(pair, x, objectives, **options)


def test_errors_name_the_objective(pair: tuple[Model, Guide], x: Tensor) -> None:
    def guide(x: Tensor) -> None:
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Poisson(torch.ones_like(x)))

    with pytest.raises(ProbgenError, match="objective 'elbo:gradient=stl': "):
        gradient_report(pair[0], guide, x, ["elbo:gradient=stl"], seed=0, num_replicates=40)
    with pytest.raises(DataError, match=r"objective 'elbo': .*nan"):
        report_of(pair, x * math.nan, ["elbo"])


# --- tables and figure -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn() -> GradientReport:
    torch.manual_seed(3)
    pair, x = (Model(), Guide()), torch.randn(7, dtype=torch.float64)
    return report_of(pair, x, ["elbo", "iwae:num_particles=8", DREG], reference=DREG, num_replicates=60)


def test_tables(drawn: GradientReport, tmp_path: Path) -> None:
    text = str(drawn)
    assert text.splitlines()[0].split()[:4] == ["objective", "player", "bound", "|E"]
    assert "60 replicates" in text
    assert "bias" in text
    assert repr(drawn).startswith("GradientReport(\n")
    assert drawn.to_markdown().count("\n") == 1 + len(drawn.rows)
    drawn.to_csv(tmp_path / "report.csv")
    with (tmp_path / "report.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["variance"]) for row in rows] == [row.variance for row in drawn.rows]
    assert drawn.to_dataframe().loc[("elbo", "guide"), "ess"] == 1.0
    with pytest.raises(ArgumentError, match=r"no objective 'elbow' in this report; .*elbo"):
        drawn.row("elbow", "guide")
    with pytest.raises(ArgumentError, match="no player 'critic'"):
        drawn.row("elbo", "critic")


def test_no_bias_without_a_reference(pair: tuple[Model, Guide], x: Tensor) -> None:
    report = report_of(pair, x, ["elbo"], num_replicates=40)
    assert "bias" not in str(report)
    assert len(plot_gradients(report).figure.axes) == 3


def test_figure(drawn: GradientReport) -> None:
    drawing = plot_gradients(drawn)
    figure = drawing.figure
    FigureCanvasAgg(figure).draw()
    assert [axes.get_title() for axes in figure.axes] == [
        "Signal-to-noise ratio",
        "Variance",
        "Variance x time",
        "Bias",
    ]
    assert all(axes.get_xlabel() for axes in figure.axes)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["model's parameters", "guide's parameters"]
    assert drawing.columns["variance"].tolist() == [row.variance for row in drawn.rows]
    width, height = figure.get_size_inches() * figure.dpi
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    for text, box in boxes:
        assert box.x0 >= 0, text
        assert box.x1 <= width, text
        assert box.y0 >= 0, text
        assert box.y1 <= height, text
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        assert not a.overlaps(b), (one, other)


def test_lazy_names() -> None:
    assert "gradient_report" in dir(probgen)
    assert probgen.gradient_report is probgen.comparison.gradient_report
    assert "gradient_report" in dir(probgen.plots)
