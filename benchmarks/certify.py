"""Certifies every gradient estimator on every problem, and writes ``docs/certificates.md``.

Cells that are certified are kept in ``runs/certify`` by the hash of the source that they depend on: a run that is
interrupted is taken up where it was, and after a change only what depends on it runs again.

Run: ``make certify``, or ``python benchmarks/certify.py --backend torch --row IWAE`` for a part (which writes no page).
"""

import argparse
import hashlib
import json
import multiprocessing
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from certificates_page import page
from record import ROOT, document, figure, write

from probgen.errors import ProbgenError
from probgen.testing.certificate import FALSE_ALARM, NUMBERS, POWER, PRECISE, SCORE, Certificate
from probgen.testing.grid import Cell, Outcome, cells, certify_cell

CACHE = ROOT / "runs" / "certify"
PAGE = ROOT / "docs" / "certificates.md"
SOURCES = {
    "torch": ("core", "programs", "objectives", "testing"),
    "numpyro": ("core", "numpyro", "testing"),
}
NO_SOURCE = ("divergences", "checks")  # folders on which no gradient depends
SEED = 200_000  # a cell draws from this times its number on, apart from every other cell


def fingerprint(backend: str, root: Path = ROOT) -> str:
    """A hash of the source that a backend's certificates depend on."""
    digest = hashlib.sha256()
    for folder in SOURCES[backend]:
        for path in sorted((root / "probgen" / folder).rglob("*.py")):
            if not set(path.parts) & set(NO_SOURCE):
                digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def run(number: int) -> dict[str, Any]:
    """The cell of this number as a record; an error is a record too."""
    cell = numbered()[number]
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcome = certify_cell(cell, seed=(1 + number) * SEED)
    except (ProbgenError, AttributeError, RuntimeError, TypeError, ValueError, IndexError, KeyError) as error:
        outcome = Outcome(cell.name, "error", f"{type(error).__name__}: {error}")
    return record_of(cell, outcome) | {"seconds": round(time.perf_counter() - start, 1)}


@lru_cache
def numbered() -> tuple[Cell, ...]:
    """All cells."""
    return tuple(cells())


def record_of(cell: Cell, outcome: Outcome) -> dict[str, Any]:
    """What is kept of an outcome."""
    place = {
        "backend": cell.backend,
        "problem": cell.problem.name,
        "structure": cell.structure,
        "row": cell.row.name,
        "status": outcome.status,
        "message": outcome.message,
    }
    return place | ({} if outcome.certificate is None else summary(outcome.certificate))


def summary(found: Certificate) -> dict[str, Any]:
    """A certificate in a few numbers."""
    return {
        "kind": found.kind,
        "replicates": found.replicates,
        "seed": found.seed,
        "players": {
            player.player: {
                "norm": rounded(player.norm),
                "largest_t": rounded(player.largest_t),
                "relative_error": rounded(player.relative_error),
                "relative_bias": rounded(player.relative_bias),
                "limit_distance": [rounded(distance) for distance in player.limit_distance],
            }
            for player in found.players
        },
        "limit": found.limit,
        "critical": rounded(found.critical),
    }


def rounded(value: float) -> float | None:
    """Three digits; None for what JSON cannot hold."""
    return float(f"{value:.3g}") if abs(value) < float("inf") else None


# --- what is there already ----------------------------------------------------------------------------------------


def key(record: dict[str, Any]) -> tuple[str, ...]:
    """By which a record is found again."""
    return tuple(record[name] for name in ("backend", "problem", "structure", "row"))


def cache(backend: str) -> Path:
    """The file of a backend's records, in the state of the source."""
    return CACHE / f"{backend}-{fingerprint(backend)}.jsonl"


def known(backend: str) -> dict[tuple[str, ...], dict[str, Any]]:
    """The records of earlier runs; what had gone wrong is run again."""
    path = cache(backend)
    lines = path.read_text().splitlines() if path.exists() else []
    records = [json.loads(line) for line in lines if line.endswith("}")]
    return {key(record): record for record in records if record["status"] in ("certified", "refused")}


def certified(chosen: list[tuple[int, Cell]], workers: int) -> Iterator[dict[str, Any]]:
    """Records of all chosen cells, those that are known first."""
    CACHE.mkdir(parents=True, exist_ok=True)
    found = {backend: known(backend) for backend in SOURCES}
    names = {number: (c.backend, c.problem.name, c.structure, c.row.name) for number, c in chosen}
    missing = [n for n, cell in chosen if names[n] not in found[cell.backend]]
    yield from (found[cell.backend][names[n]] for n, cell in chosen if names[n] in found[cell.backend])
    paths = {backend: cache(backend) for backend in SOURCES}
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, initializer=one_thread) as pool:
        for record in pool.imap_unordered(run, missing, chunksize=6):
            with paths[record["backend"]].open("a") as file:
                file.write(json.dumps(record) + "\n")
            yield record


def one_thread() -> None:
    """The workers share the machine."""
    import torch

    torch.set_num_threads(1)


# --- what is written ------------------------------------------------------------------------------------------------


def figures(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A figure for each row and backend, with its cells."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for each in records:
        groups.setdefault(f"{each['backend']} / {each['row']}", []).append(each)
    made = []
    for name, group in groups.items():
        ran = [each for each in group if "players" in each]
        shares = [
            (player["largest_t"] if player["largest_t"] is not None else 1e9) / each["critical"]
            for each in ran
            for player in each["players"].values()
        ]
        details = [{k: v for k, v in each.items() if k not in ("row", "backend", "seconds")} for each in group]
        counts = {status: sum(each["status"] == status for each in group) for status in {e["status"] for e in group}}
        made.append(
            figure(name, max(shares, default=0.0), "of the critical t", goal="<= 1", cells=details, counts=counts)
        )
    return made


def settings() -> dict[str, Any]:
    """What holds for the whole table."""
    return {
        "cells": len(numbered()),
        "false_alarm": FALSE_ALARM,
        "numbers": NUMBERS,
        "power": POWER,
        "smallest_bias": PRECISE,
        "smallest_bias_score": SCORE,
    }


def finish(records: list[dict[str, Any]]) -> None:
    """Writes the results and the page."""
    order = {name: i for i, name in enumerate(cell.name for cell in numbered())}
    records = sorted(records, key=lambda each: order[" / ".join(key(each))])
    content = document("certificates", settings(), {"first": SEED, "step": SEED}, figures(records))
    write(content)
    PAGE.write_text(page(records, content), encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Certifies what is asked for; 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("backend", "problem", "structure", "row"):
        parser.add_argument(f"--{name}", default="", help=f"only cells whose {name} contains this text")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--page", action="store_true", help="write the page of the cells that are known, and run none")
    options = parser.parse_args(arguments)
    if options.page:
        finish([record for backend in SOURCES for record in known(backend).values()])
        return 0
    everything = list(enumerate(numbered()))
    chosen = [(number, cell) for number, cell in everything if wanted(cell, options)]
    records, wrong = [], []
    for each in progress(certified(chosen, options.workers), len(chosen)):
        records.append(each)
        if each["status"] not in ("certified", "refused"):
            wrong.append(each)
            print(f"{each['status']}: {' / '.join(key(each))}: {each['message']}", file=sys.stderr, flush=True)
    if len(chosen) == len(everything):
        finish(records)
    print(f"{len(records) - len(wrong)} of {len(records)} cells are as they should be")
    return 1 if wrong else 0


def wanted(cell: Cell, options: argparse.Namespace) -> bool:
    """Whether a cell was asked for."""
    parts = {"backend": cell.backend, "problem": cell.problem.name, "structure": cell.structure, "row": cell.row.name}
    return all(getattr(options, name) in part for name, part in parts.items())


def progress(records: Iterable[dict[str, Any]], total: int) -> Iterable[dict[str, Any]]:
    """With a bar on the terminal."""
    from tqdm.auto import tqdm

    bar: Iterable[dict[str, Any]] = tqdm(records, total=total, unit="cell", smoothing=0.02, mininterval=5.0)
    return bar


if __name__ == "__main__":
    sys.exit(main())
