"""``metrics.jsonl``: one line an epoch."""

import json
from pathlib import Path
from typing import Any

from probgen.errors import ArgumentError, DataFileError
from probgen.svi.keeping import METRICS, METRICS_LIMIT

Rows = list[dict[str, Any]]


def read_metrics(run_dir: Path) -> dict[str, Rows]:
    """The lines of a run, or of each run of a comparison, by label and seed.

    A last line without an end, which a process is writing, is left out.

    Args:
        run_dir: the folder of a run or of a comparison.

    Returns:
        For a run one entry, ``""``; for a comparison ``"label"``, or ``"label, seed s"`` where it has several seeds.

    Raises:
        ArgumentError: the folder has no metrics.
        DataFileError: they are damaged.
    """
    path = run_dir / METRICS
    try:
        content = path.read_bytes()[: METRICS_LIMIT + 1]
    except OSError as error:
        what = "does not exist" if not run_dir.exists() else f"has no {METRICS}"
        raise ArgumentError(f"'{run_dir}' {what}: name the folder of a run or of a comparison") from error
    if len(content) > METRICS_LIMIT:
        raise DataFileError(f"'{path}' is too large for metrics: at most {METRICS_LIMIT} bytes are read")
    lines = content.split(b"\n")[:-1]
    rows = [_row(line, path, number) for number, line in enumerate(lines, 1) if line.strip()]
    seeds = {row.get("seed") for row in rows}
    found: dict[str, Rows] = {}
    for row in rows:
        label = str(row.get("label", ""))
        found.setdefault(f"{label}, seed {row.get('seed')}" if len(seeds) > 1 else label, []).append(row)
    if not found:
        raise DataFileError(f"'{path}' is empty: no epoch is complete yet")
    return found


def _row(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise DataFileError(f"'{path}', line {number}, cannot be read as JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataFileError(f"'{path}', line {number}, is no JSON object")
    return row
