"""What ``probgen plot`` does."""

import sys
from pathlib import Path

from probgen import plots
from probgen.cli.run_commands import Plot, require_new
from probgen.cli.store import in_own_store
from probgen.errors import ArgumentError
from probgen.runs.figures import FIGURES, Drawn, draw_run, figure_names, named_runs
from probgen.runs.loading import load_run, programs_of
from probgen.runs.saved import CONFIG, SavedRun, read_run
from probgen.runs.selecting import data_for


@in_own_store
def plot(options: Plot) -> None:
    """Draws the figures of a run, or the curves of several together and the figures of each in its own folder."""
    folders = [Path(folder) for folder in options.run_dirs]
    curves = named_runs(folders)
    runs = [read_run(folder) for folder in folders if _is_run(folder)]
    if len(folders) == 1 and runs:
        _draw_one(runs[0], options)
        return
    _refuse_useless(runs, options)
    output = Path("figures" if options.output is None else options.output)
    require_new(_files(output, ("training",)), overwrite=options.overwrite)
    plots.training(curves).save(output, "training")
    print(output / "training.png", flush=True)
    for run in [] if options.curves_only else runs:
        try:
            _draw(run, options, run.path / FIGURES, alone=False)
        except ArgumentError as error:  # such as a program's file that was not named
            print(f"probgen: no figures of {run.path}: {error}", file=sys.stderr)


def _is_run(folder: Path) -> bool:
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def _files(folder: Path, names: tuple[str, ...]) -> tuple[Path, ...]:
    return tuple(folder / f"{name}.{suffix}" for name in names for suffix in ("png", "csv"))


def _refuse_useless(runs: list[SavedRun], options: Plot) -> None:
    """Options that say what to draw of pairs, where there are none, or none whose programs come from files."""
    if options.of_pairs and not runs:
        raise ArgumentError(f"`{options.of_pairs[0]}` is for figures of runs, and comparisons have curves alone")
    for kind in ("model", "guide"):
        if getattr(options, kind) is not None and all(run.record.file_of(kind) is None for run in runs):
            raise ArgumentError(f"`--{kind}`: no run's {kind} comes from a file; leave it out")


def _draw_one(run: SavedRun, options: Plot) -> None:
    if options.output is None:
        if options.overwrite:
            raise ArgumentError(
                "`--overwrite` is for files in `--output`; figures in a run's own folder are drawn again anyway"
            )
        _draw(run, options, run.path / FIGURES, alone=True)
        return
    output = Path(options.output)
    require_new(_files(output, figure_names(pair=not options.curves_only)), overwrite=options.overwrite)
    _draw(run, options, output, alone=True)


def _draw(run: SavedRun, options: Plot, output: Path, *, alone: bool) -> None:
    if options.curves_only:
        drawn = draw_run(None, None, None, run.path, output)
    else:
        drawn = _draw_pair(run, options, output, alone=alone)
    for line in drawn.skipped:
        print(f"probgen: {run.path}: {line}", file=sys.stderr)
    print(*(output / f"{name}.png" for name in drawn.written), sep="\n", flush=True)


def _draw_pair(run: SavedRun, options: Plot, output: Path, *, alone: bool) -> Drawn:
    """Of several runs, ``--model`` and ``--guide`` are for those whose programs come from files."""
    given = {kind: getattr(options, kind) for kind in ("model", "guide") if alone or run.record.file_of(kind)}
    made = programs_of(run, given.get("model"), given.get("guide"), allow_changed=options.allow_changed)
    model, guide = load_run(run, "result", made)
    split = run.settings.split if run.settings.eval_split == "none" else run.settings.eval_split
    return draw_run(model, guide, data_for(run, None, split, None), run.path, output, seed=options.seed or 0)
