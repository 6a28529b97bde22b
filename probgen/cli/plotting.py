"""What ``probgen plot`` does."""

import sys
from pathlib import Path

from probgen import plots
from probgen.cli.run_commands import Plot, require_new
from probgen.cli.store import in_own_store
from probgen.errors import ArgumentError
from probgen.runs.figures import FIGURES, Drawn, draw_run, named_runs
from probgen.runs.loading import load_run, programs_of
from probgen.runs.saved import CONFIG, SavedRun, read_run
from probgen.runs.selecting import data_for


@in_own_store
def plot(options: Plot) -> None:
    """Draws the curves of several runs together, and the figures of each in its own folder."""
    folders = [Path(folder) for folder in options.run_dirs]
    curves = named_runs(folders)
    runs = [folder for folder in folders if (folder / CONFIG).is_file() and not (folder / "config.json").is_file()]
    if len(curves) > 1:
        outputs = tuple(Path(options.output) / f"training.{suffix}" for suffix in ("png", "csv"))
        require_new(outputs, overwrite=options.overwrite)
        plots.training(curves).save(options.output, "training")
        print(outputs[0], flush=True)
        runs = [] if options.curves_only else runs
    for folder in runs:
        _draw(folder, options, alone=len(folders) == 1)


def _draw(folder: Path, options: Plot, *, alone: bool) -> None:
    run = read_run(folder)
    if options.curves_only:
        drawn = draw_run(None, None, None, folder)
    else:
        try:
            drawn = _draw_pair(run, options, alone=alone)
        except ArgumentError as error:  # such as a program's file that was not named
            if alone:
                raise
            print(f"probgen: no figures of {folder}: {error}", file=sys.stderr)
            return
    for line in drawn.skipped:
        print(f"probgen: {folder}: {line}", file=sys.stderr)
    print(*(folder / FIGURES / f"{name}.png" for name in drawn.written), sep="\n", flush=True)


def _draw_pair(run: SavedRun, options: Plot, *, alone: bool) -> Drawn:
    """Of several runs, ``--model`` and ``--guide`` are for those whose programs come from files."""
    given = {kind: getattr(options, kind) for kind in ("model", "guide") if alone or run.record.file_of(kind)}
    made = programs_of(run, given.get("model"), given.get("guide"), allow_changed=options.allow_changed)
    model, guide = load_run(run, "result", made)
    split = run.settings.split if run.settings.eval_split == "none" else run.settings.eval_split
    return draw_run(model, guide, data_for(run, None, split, None), run.path, seed=options.seed)
