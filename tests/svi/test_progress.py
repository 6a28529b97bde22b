"""What a run prints when nobody sits at a terminal, and on one."""

import re
import sys

import pytest
import torch

from probgen.svi.progress import Progress

LINE = re.compile(
    r"^(?P<label>.*) (?P<count>\d+)(/(?P<total>\d+))? init bound: (?P<first>-?[\d.]+), "
    r"avg\. bound \[(?P<start>\d+)-(?P<stop>\d+)\]: (?P<average>-?[\d.]+), (?P<ms>[\d.]+) ms/step$"
)


@pytest.fixture
def lines(capsys):
    """Runs a function and returns what it has printed on standard error, parsed."""

    def run(function):
        capsys.readouterr()
        result = function()
        printed = capsys.readouterr()
        assert printed.out == ""
        return [LINE.match(line) for line in printed.err.splitlines()], result

    return run


def test_a_line_every_twentieth(make_svi, x, lines):
    svi = make_svi()
    found, result = lines(lambda: svi.run(x, num_steps=40, seed=0))
    bounds = -result.losses
    assert len(found) == 20
    assert all(found)
    for i, line in enumerate(found):
        assert line["label"] == repr(svi.objective)
        assert (int(line["count"]), int(line["total"])) == (2 * i + 2, 40)
        assert (int(line["start"]), int(line["stop"])) == (2 * i + 1, 2 * i + 2)
        assert float(line["first"]) == pytest.approx(bounds[0].item(), abs=1e-4)
        assert float(line["average"]) == pytest.approx(bounds[2 * i : 2 * i + 2].mean().item(), abs=1e-4)
        assert float(line["ms"]) > 0


@pytest.mark.parametrize(("num_steps", "ends"), [(1, [1]), (7, [1, 2, 3, 4, 5, 6, 7]), (45, [*range(3, 46, 3)])])
def test_never_more_than_twenty_lines(make_svi, x, lines, num_steps, ends):
    found, _ = lines(lambda: make_svi().run(x, num_steps=num_steps, seed=0))
    assert [int(line["stop"]) for line in found] == ends


def test_the_last_block_may_be_short(make_svi, x, lines):
    found, result = lines(lambda: make_svi().run(x, num_steps=41, seed=0))
    assert [int(line["stop"]) for line in found] == [*range(3, 41, 3), 41]
    assert (int(found[-1]["start"]), int(found[-1]["stop"])) == (40, 41)
    assert float(found[-1]["average"]) == pytest.approx(-result.losses[39:].mean().item(), abs=1e-4)


def test_epochs_count_as_steps(make_svi, x, lines):
    found, _ = lines(lambda: make_svi().run(x, batch_size=10, num_epochs=2, seed=0))
    assert [(int(line["count"]), int(line["total"])) for line in found] == [(i, 4) for i in (1, 2, 3, 4)]


def test_a_second_run_counts_on(make_svi, x, lines):
    svi = make_svi()
    svi.run(x, num_steps=5, seed=0, progress=False)
    found, _ = lines(lambda: svi.run(x, num_steps=2, seed=0))
    assert [(int(line["start"]), int(line["stop"])) for line in found] == [(6, 6), (7, 7)]


def test_a_label_or_silence(make_svi, x, lines):
    found, _ = lines(lambda: make_svi().run(x, num_steps=1, progress="elbo, seed 3"))
    assert [line["label"] for line in found] == ["elbo, seed 3"]
    assert lines(lambda: make_svi().run(x, num_steps=30, progress=False))[0] == []


def test_streams_of_unknown_length(lines):
    def run():
        progress = Progress(None, "stream", 0)
        for count in range(1, 251):
            progress.update(torch.arange(count).tolist(), [0.001] * count)
        progress.close()

    found, _ = lines(run)
    assert [(int(line["start"]), int(line["stop"]), line["total"]) for line in found] == [
        (1, 100, None),
        (101, 200, None),
    ]
    assert float(found[1]["average"]) == 149.5
    assert float(found[0]["ms"]) == 1.0


def test_numbers_that_come_late_are_shown_once(lines):
    """On a device the last bound is read a step later."""

    def run():
        progress = Progress(3, "late", 0)
        for bounds in ([], [1.0], [1.0, 2.0], [1.0, 2.0], [1.0, 2.0, 3.0], [1.0, 2.0, 3.0]):
            progress.update(bounds, [0.001] * (len(bounds) + 1))

    found, _ = lines(run)
    assert [int(line["count"]) for line in found] == [1, 2, 3]


def test_a_bar_on_a_terminal(make_svi, x, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    make_svi().run(x, num_steps=20, seed=0, progress="bar")
    printed = capsys.readouterr().err
    assert "bar: 100%" in printed
    assert "20/20" in printed
    assert re.search(r"init bound: -\d+\.\d{4}, avg\. bound \[20-20\]: ", printed)
