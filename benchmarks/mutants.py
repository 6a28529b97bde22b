"""Plants wrong gradients in a copy of the source, one at a time, and sees whether certification finds them.

Each mutation of ``mutations.py`` runs the cells of the grid that concern it until one is not certified. One that gets
through is printed with the certificates that it has passed.

Run: ``make mutants``, or ``python benchmarks/mutants.py --name TVO`` for some of them (which writes nothing).
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mutations import MUTATIONS, Mutation
from record import ROOT, document, figure, write

PAGE = ROOT / "docs" / "mutants.md"
GOAL = 0.95
SEED = 11
TIMEOUT = 900


def problems(root: Path = ROOT) -> list[str]:
    """What is wrong with the table: texts that are not there once, names twice."""
    found = []
    for mutation in MUTATIONS:
        count = (root / mutation.path).read_text(encoding="utf-8").count(mutation.old)
        if count != 1:
            found.append(f"{mutation.name}: its text is there {count} times in {mutation.path}")
    names = [mutation.name for mutation in MUTATIONS]
    return found + [f"{name}: the name is there twice" for name in names if names.count(name) > 1]


@contextmanager
def mutated(mutation: Mutation) -> Iterator[Path]:
    """A folder with the package as it is installed, and the mutation in it."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        shutil.copytree(ROOT / "probgen", Path(folder) / "probgen", ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("guides", "models"):
            shutil.copytree(ROOT / name, Path(folder) / "probgen" / name, ignore=shutil.ignore_patterns("__pycache__"))
        path = Path(folder) / mutation.path
        path.write_text(path.read_text(encoding="utf-8").replace(mutation.old, mutation.new), encoding="utf-8")
        yield Path(folder)


def run(mutation: Mutation) -> dict[str, Any]:
    """What became of one mutation."""
    start = time.perf_counter()
    with mutated(mutation) as folder:
        command = [sys.executable, "-W", "ignore", str(Path(__file__).resolve()), "--inside"]
        asked = json.dumps({"cells": mutation.cells, "backend": mutation.backend, "root": str(folder)})
        environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            input=asked,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
    if done.returncode != 0:
        raise RuntimeError(f"{mutation.name}: {done.stderr[-2000:]}")
    outcome = json.loads(done.stdout.splitlines()[-1])
    return (
        {"name": mutation.name, "family": mutation.family, "path": mutation.path}
        | outcome
        | {
            "old": mutation.old,
            "new": mutation.new,
            "seconds": round(time.perf_counter() - start, 1),
        }
    )


def inside() -> None:
    """Certifies cells in the mutated package until one fails; prints what happened as JSON."""
    asked = json.loads(sys.stdin.read())
    import torch

    import probgen
    from probgen.errors import ProbgenError
    from probgen.testing.grid import Cell, certify_cell, rows
    from probgen.testing.problems import PROBLEMS

    torch.set_num_threads(1)
    if not str(probgen.__file__).startswith(asked["root"]):
        raise RuntimeError(f"the package was loaded from {probgen.__file__}, not from the copy")
    by_name = {row.name: row for row in rows()}, {problem.name: problem for problem in PROBLEMS}
    passed = []
    for row, problem, structure in asked["cells"]:
        cell = Cell(by_name[0][row], by_name[1][problem], structure, asked["backend"])
        try:
            outcome = certify_cell(cell, seed=SEED, max_replicates=5_000_000)
            status, message = outcome.status, outcome.message
        except (ProbgenError, RuntimeError, TypeError, ValueError, ZeroDivisionError) as error:
            status, message = "error", f"{type(error).__name__}: {str(error)[:200]}"
        if status != "certified":
            print(json.dumps({"caught": True, "cell": cell.name, "status": status, "message": message}))
            return
        passed.append(cell.name)
    print(json.dumps({"caught": False, "cell": "; ".join(passed), "status": "certified", "message": ""}))


# --- what is written ------------------------------------------------------------------------------------------------


def page(results: list[dict[str, Any]]) -> str:
    """The page in Markdown."""
    caught = sum(each["caught"] for each in results)
    rows = [
        "| "
        + " | ".join(
            (
                each["name"],
                f"`{each['path']}`",
                "yes" if each["caught"] else "**no**",
                each["cell"],
                each["status"],
                each["message"].replace("|", "\\|").replace("\n", " ")[:160],
            )
        )
        + " |"
        for each in results
    ]
    head = (
        "# Planted mistakes\n\n"
        "Wrong gradients, each an edit of one line of the source in a copy of the tree, and the first certificate that "
        "found it. Written by `make mutants`, not edited; the edits are in `benchmarks/mutations.py`.\n\n"
        f"{caught} of {len(results)} are caught.\n\n"
        "| mistake | file | caught | by | as | because |\n| :--- | :--- | :--- | :--- | :--- | :--- |\n"
    )
    return head + "\n".join(rows) + "\n"


def finish(results: list[dict[str, Any]]) -> None:
    """Writes the results and the page."""
    share = sum(each["caught"] for each in results) / len(results)
    made = [figure("caught", share, "share", goal=f">= {GOAL}", mutations=results)]
    write(document("mutants", {"mutations": len(results)}, {"replicates": SEED}, made))
    PAGE.write_text(page(results), encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Runs the mutations that are asked for; 1 if too many get through."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", default="", help="only mutations whose name contains this text")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.inside:
        inside()
        return 0
    if found := problems():
        print("\n".join(["the table does not fit the source:", *found]), file=sys.stderr)
        return 2
    chosen = [mutation for mutation in MUTATIONS if options.name in mutation.name]
    results = []
    with ThreadPoolExecutor(options.workers) as pool:
        for each in pool.map(run, chosen):
            results.append(each)
            how = f"caught ({each['status']}) by {each['cell']}" if each["caught"] else f"SURVIVES {each['cell']}"
            print(f"{each['seconds']:6.1f} s  {each['name']}: {how}", flush=True)
    caught = sum(each["caught"] for each in results)
    print(f"{caught} of {len(results)} are caught")
    if len(chosen) == len(MUTATIONS):
        finish(results)
    return 0 if caught >= GOAL * len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
