"""Loss and bounds: what is drawn is what was given, averaged over the last epochs."""

import math
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from probgen.errors import ArgumentError, ArgumentTypeError, DataError
from probgen.plots import training
from probgen.plots.training_figure import moving_average


def rows(count: int, level: float = -90.0) -> list[dict[str, Any]]:
    bounds = level - 50 * np.exp(-np.arange(count) / 3) + np.random.default_rng(0).normal(size=count)
    held_out = [float(b) - 1 if i % 4 == 3 else None for i, b in enumerate(bounds)]
    return [
        {"step": 10 * (i + 1), "epoch": i + 1, "loss": -float(b), "bound": float(b), "eval_bound": held_out[i]}
        for i, b in enumerate(bounds)
    ]


@pytest.mark.parametrize("window", [1, 3, 50])
def test_moving_average_is_a_convolution(window: int) -> None:
    values = np.random.default_rng(1).normal(size=50)
    average = moving_average(values, window)
    expected = np.convolve(values, np.ones(window) / window, mode="valid")
    np.testing.assert_allclose(average[window - 1 :], expected, rtol=0, atol=1e-13)
    np.testing.assert_allclose(average[: window - 1], [values[: i + 1].mean() for i in range(window - 1)])


def test_moving_average_leaves_out_what_is_missing() -> None:
    values = np.array([math.nan, 1.0, math.inf, 3.0, math.nan])
    np.testing.assert_array_equal(moving_average(values, 2), [math.nan, 1.0, 1.0, 3.0, 3.0])
    np.testing.assert_array_equal(moving_average(values, 1), [math.nan, 1.0, math.nan, 3.0, math.nan])


def test_what_is_drawn_is_the_table() -> None:
    runs = {"a": rows(40), "b": rows(25, -80.0)}
    drawing = training(runs, window=5)
    table = {name: np.asarray(values) for name, values in drawing.columns.items()}
    assert table["run"].tolist() == ["a"] * 40 + ["b"] * 25
    np.testing.assert_array_equal(table["bound"][:40], [row["bound"] for row in runs["a"]])
    np.testing.assert_array_equal(table["loss_average"][40:], moving_average(table["loss"][40:], 5))
    losses, bounds = drawing.figure.axes
    assert "nats per datum" in losses.get_ylabel()
    assert "last 5" in bounds.get_title()
    for label in "ab":
        chosen = table["run"] == label
        drawn = [line.get_ydata() for line in bounds.lines]
        for name in ("bound", "bound_average"):
            assert any(np.array_equal(table[name][chosen], values) for values in drawn), name
        held_out = table["eval_bound"][chosen]
        assert any(np.array_equal(held_out[np.isfinite(held_out)], values) for values in drawn)
    legend = [text.get_text() for text in drawing.figure.legends[0].get_texts()]
    assert legend == ["a", "b", "held-out data"]


def test_default_window_is_a_twentieth() -> None:
    table = training({"a": rows(60)}).columns
    np.testing.assert_array_equal(table["bound_average"], moving_average(np.asarray(table["bound"]), 3))


def test_missing_entries() -> None:
    lines: list[dict[str, Any]] = [
        {"loss": 3.0, "bound": None},
        {"epoch": 2, "loss": None, "bound": -2.0, "extra": "x"},
        {"epoch": 3, "loss": math.inf, "bound": -1.0, "eval_bound": math.nan},
    ]
    table = training({"a": lines, "empty": []}).columns
    np.testing.assert_array_equal(table["epoch"], [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(table["loss"], [3.0, math.nan, math.nan])
    np.testing.assert_array_equal(table["bound"], [math.nan, -2.0, -1.0])


def test_one_epoch_can_be_seen() -> None:
    figure = training({"a": rows(1)}).figure
    assert [line.get_marker() for axes in figure.axes for line in axes.lines] == ["o", "o"]
    assert figure.axes[0].get_xticks().tolist() == [1.0]


def test_without_bounds_there_is_one_panel() -> None:
    assert len(training({"a": [{"epoch": i, "loss": 1.0 / i} for i in range(1, 9)]}).figure.axes) == 1


def test_first_epochs_do_not_flatten_the_others() -> None:
    lines = [{"epoch": i, "loss": 1e4 if i < 3 else 100.0 + i % 3} for i in range(1, 31)]
    axes = training({"a": lines}).figure.axes[0]
    assert axes.get_ylim()[1] < 110
    assert "off the scale" in axes.get_xlabel()


def test_bits_per_dimension() -> None:
    figure = training({"a": rows(10)}, dims=64).figure
    FigureCanvasAgg(figure).draw()
    bounds = figure.axes[1]
    (second,) = bounds.child_axes
    assert second.get_ylabel() == "bits per dimension"
    np.testing.assert_allclose(sorted(second.get_ylim()), sorted(-np.array(bounds.get_ylim()) / (64 * math.log(2))))


def test_many_runs_differ_in_colour_or_line() -> None:
    figure = training({f"run {i}": rows(5) for i in range(20)}).figure
    lines = {(line.get_color(), line.get_linestyle()) for line in figure.legends[0].get_lines()[:20]}
    assert len(lines) == 20


@pytest.mark.parametrize(
    ("runs", "options", "error", "message"),
    [
        ({}, {}, ArgumentError, "`runs` is empty"),
        ([{"loss": 1.0}], {}, ArgumentTypeError, "mapping from labels to the lines"),
        ({"a": [1.0]}, {}, ArgumentTypeError, "line 0 of run 'a' must be a dictionary"),
        ({"a": [{"loss": "1"}]}, {}, ArgumentTypeError, "`loss` of run 'a' must be a number or None, got '1'"),
        ({"a": []}, {}, DataError, "nothing to draw"),
        ({"a": [{"epoch": 1, "loss": None}]}, {}, DataError, "nothing to draw"),
        ({"a": [{"loss": 1.0}]}, {"window": 0}, ArgumentError, "`window` must be a whole number of at least 1"),
        ({"a": [{"loss": 1.0}]}, {"dims": 0}, ArgumentError, "`dims` must be a whole number of at least 1"),
    ],
)
def test_refusals(runs: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        training(runs, **options)
