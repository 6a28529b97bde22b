"""What ``probgen train`` and ``probgen resume`` do."""

import sys
from dataclasses import fields, replace
from pathlib import Path

from probgen.cli.store import in_own_store
from probgen.cli.train_command import Resume, Train
from probgen.data import sources
from probgen.runs.figures import FIGURES, draw_run
from probgen.runs.folder import recover
from probgen.runs.loading import fill
from probgen.runs.metrics import read_metrics
from probgen.runs.program_files import is_file_spec
from probgen.runs.saved import read_run
from probgen.runs.settings import TrainSettings
from probgen.runs.training import Trained, go_on, same_run, train


@in_own_store
def run(options: Train) -> None:
    """Trains a new run, or goes on with one; the summary goes to standard output, everything else to standard error."""
    run_dir = Path(options.run_dir)
    settings = TrainSettings(**{f.name: getattr(options, f.name) for f in fields(TrainSettings)})
    settings = replace(settings, data=_located(settings.data))
    _recover(run_dir)
    if not options.resume:
        _finish(train(settings, run_dir, overwrite=options.overwrite), run_dir)
        return
    files = {kind: spec for kind in ("model", "guide") if is_file_spec(spec := getattr(options, kind))}
    kept, settings, opened = same_run(run_dir, settings, **files, allow_changed=options.allow_changed)
    _finish(go_on(kept, settings, opened), run_dir)


def _recover(run_dir: Path) -> None:
    if recover(run_dir):
        print(
            f"probgen: '{run_dir}' has the run again that a process had begun to replace, which was killed before its "
            "first checkpoint",
            file=sys.stderr,
        )


def _located(data: str) -> str:
    """A path in full, so that later commands on the run may start from another folder."""
    return data if data in sources() or not Path(data).exists() else str(Path(data).absolute())


@in_own_store
def resume(options: Resume) -> None:
    """Goes on with a run, by its own settings."""
    run_dir = Path(options.run_dir)
    _recover(run_dir)
    kept, settings, files = same_run(
        run_dir, model=options.model, guide=options.guide, allow_changed=options.allow_changed
    )
    if options.num_epochs is not None:
        settings = replace(settings, num_epochs=options.num_epochs)
    _finish(go_on(kept, settings, files, step=options.step), run_dir)


def _finish(trained: Trained, run_dir: Path) -> None:
    """Figures and summary, of what a later command will load from the folder."""
    data = trained.data if trained.held_out is None else trained.held_out
    fill(trained.model, trained.guide, run_dir, data)
    drawn = draw_run(trained.model, trained.guide, data, run_dir, seed=trained.settings.seed)
    for line in drawn.skipped:
        print(f"probgen: {line}", file=sys.stderr)
    print(_summary(trained, run_dir, drawn.written), flush=True)


def _summary(trained: Trained, run_dir: Path, figures: list[str]) -> str:
    state, (rows,) = trained.result.state, read_metrics(run_dir).values()
    ended = ", ended by --patience" if state.stopped == "patience" else ""
    lines = [f"{trained.settings.objective}: {state.step} steps, epoch {state.epoch}{ended}"]
    if rows[-1].get("bound") is not None:
        lines.append(f"bound           {rows[-1]['bound']:.4f} nats per datum, mean of the last epoch")
    if state.best_bound is not None:
        lines.append(f"held-out bound  {state.best_bound:.4f} nats per datum, the best, at step {state.best_step}")
    lines += [
        f"figures         {run_dir / FIGURES}: {', '.join(figures) or 'none'}",
        f"checkpoint      {run_dir / 'checkpoints'}",
        f"next            probgen evaluate {run_dir} {read_run(run_dir).record.file_options}".rstrip(),
    ]
    return "\n".join(lines)
