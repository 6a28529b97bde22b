"""What ``probgen evaluate`` and ``probgen score`` do."""

import csv
import io
import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from probgen import __version__, plots
from probgen.checkpoints import Checkpoints
from probgen.checkpoints.disk import replace_synced
from probgen.cli.run_commands import Evaluate, OnData, Score
from probgen.cli.store import in_own_store
from probgen.data import Dataset
from probgen.errors import ProbgenError
from probgen.evidence import Evidence, Row, evaluate, summarize
from probgen.plots.table import Column, to_text
from probgen.programs.param_scope import Program
from probgen.runs.figures import FIGURES
from probgen.runs.loading import load_run, programs_of
from probgen.runs.saved import SavedRun, read_run
from probgen.runs.selecting import data_for, placed

PER_DATUM = ("log_prob", "monte_carlo_error", "ess", "khat", "elbo", "kl")


@in_own_store
def evaluate_run(options: Evaluate) -> None:
    """Evaluates a run; the table goes to standard output."""
    run, evidence, data = _evidence(options, options.num_particles, options.batch_size)
    folder = Path(options.run_dir)
    replace_synced(folder / "evidence.csv", _table(evidence, data).encode())
    (row,) = summarize({folder.resolve().name: [evidence]}, {folder.resolve().name: [math.nan]}).copy()
    summary = _summary(options, run, evidence, data, row)
    replace_synced(folder / "evidence.json", (json.dumps(summary, indent=2, allow_nan=False) + "\n").encode())
    try:
        plots.evidence(evidence).save(folder / FIGURES, "evidence")
    except ProbgenError as error:
        print(f"probgen: no figure 'evidence': {error}", file=sys.stderr)
    print(f"{to_text(_columns(evidence), [row])}\n\n{_caption(evidence, data)}", flush=True)
    print(f"probgen: evidence.csv, evidence.json and {FIGURES}/evidence.png are in {folder}", file=sys.stderr)


@in_own_store
def score(options: Score) -> None:
    """Writes log p(x) of each datum."""
    _, evidence, data = _evidence(options, options.num_particles, options.batch_size)
    path = Path(options.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_synced(path, _table(evidence, data).encode())
    print(f"{_caption(evidence, data)}\n{evidence}", file=sys.stderr)
    print(path, flush=True)


def load_for(options: Any) -> tuple[SavedRun, Program, Program | None]:
    """The pair that a command on a run asks for, on its device."""
    run = read_run(options.run_dir)
    made = programs_of(run, options.model, options.guide, allow_changed=options.allow_changed)
    pair = load_run(run, options.which, made)
    return run, *placed(pair, options.accelerator)


def _evidence(options: OnData, num_particles: int, batch_size: int) -> tuple[SavedRun, Evidence, Dataset]:
    run, model, guide = load_for(options)
    data = data_for(run, options.data, options.split, options.binarize)
    evidence = evaluate(
        model,
        guide,
        data,
        num_particles=num_particles,
        batch_size=batch_size,
        seed=options.seed,
        progress=True,
    )
    return run, evidence, data


def _columns(evidence: Evidence) -> list[Column]:
    columns = [
        Column("run", "label"),
        Column("log p(x)", "log_prob", ".3f"),
        Column("s.e.", "standard_error", ".3f"),
        Column("MC s.e.", "monte_carlo_error", ".3f"),
        Column("ELBO", "elbo", ".3f"),
        Column("gap", "gap", ".3f"),
        Column("KL", "kl", ".3f"),
        Column("active", "active_units", ".3g"),
        Column("ESS", "ess", ".1f"),
        Column(f"k-hat>{max(evidence.khat_threshold, 0.0):.2f}", "khat_share", ".1%"),
        Column("kind", "kind"),
    ]
    return columns


def _caption(evidence: Evidence, data: Dataset) -> str:
    what = f"{len(evidence.log_prob)} data of {data.name}, {data.split}"
    bits = "" if evidence.bits_per_dim is None else f" {evidence.bits_per_dim:.4f} bits/dim."
    particles = "" if evidence.kind == "exact" else f"; {evidence.num_particles} particles"
    note = f" {evidence.note}" if evidence.kind == "none" else ""
    return (
        f"Nats per datum on {what}{particles}.{bits} s.e.: standard error over the data, MC: over the particles.{note}"
    )


def _table(evidence: Evidence, data: Dataset) -> str:
    """A line for each datum, in the order of its file; an empty cell is a number that is not known."""
    columns = [evidence.log_prob, evidence.monte_carlo_error, evidence.ess, evidence.khat, evidence.elbo, evidence.kl]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["index", *PER_DATUM, "kind"])
    rows = range(len(evidence.log_prob)) if data.file_rows is None else data.file_rows.tolist()
    for index, values in sorted(zip(rows, zip(*map(Tensor.tolist, columns), strict=True), strict=True)):
        writer.writerow([index, *("" if math.isnan(value) else value for value in values), evidence.kind])
    return text.getvalue()


def _summary(options: Evaluate, run: SavedRun, evidence: Evidence, data: Dataset, row: Row) -> dict[str, Any]:
    """What ``evidence.json`` holds; null where a number is not known."""
    left_out = ("label", "num_seeds", "seed_error", "behind", "behind_error", "ms_per_step")
    table = {key: value for key, value in asdict(row).items() if key not in left_out}
    table |= {"bits_per_dim": evidence.bits_per_dim, "note": evidence.note, "num_data": len(evidence.log_prob)}
    table |= {"data": data.name, "split": data.split, "binarize": data.binarize or "none", "which": options.which}
    table |= {"seed": options.seed, "batch_size": options.batch_size, "probgen": __version__}
    table["checkpoint"] = json.loads(Checkpoints(run.path).pointer() or b"{}").get("checkpoint")  # what was evaluated
    return {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in table.items()}
