"""Results of benchmarks as files: one schema, written at once or not at all, and sealed by a checksum."""

import argparse
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).resolve().parent / "results"
SCHEMA = 1

PACKAGES = ("torch", "pyro-ppl", "numpyro", "jax", "numpy", "probgen")
KEYS = ("schema", "topic", "date", "machine", "versions", "settings", "seeds", "figures", "sha256")
MACHINE_KEYS = ("cpu", "cores", "threads", "memory_gib", "instructions", "system")
VERSION_KEYS = ("python", *PACKAGES, "commit", "changed")
FIGURE_KEYS = ("name", "value", "unit", "standard_error", "goal", "met")
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")

_GOAL = re.compile(r"(<=|<|>=|>|within) (-?[0-9]+(?:\.[0-9]+)?)( standard errors)?")

Figure = dict[str, Any]
Document = dict[str, Any]


def figure(
    name: str,
    value: float,
    unit: str,
    *,
    standard_error: float | None = None,
    goal: str | None = None,
    **details: Any,
) -> Figure:
    """One number of a result.

    Args:
        name: what it is, unlike every other name of the file.
        value: a finite number.
        unit: such as ``"ms"``, ``"nats per datum"`` or ``"ratio"``.
        standard_error: of ``value``, or None where it has none.
        goal: ``"<= 1.3"``, ``"within 0.1"`` (of 0), ``"> 2 standard errors"``, or None.
        **details: whatever else a reader needs.
    """
    met = None if goal is None else meets(goal, value, standard_error)
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "standard_error": standard_error,
        "goal": goal,
        "met": met,
        **details,
    }


def meets(goal: str, value: float, standard_error: float | None = None) -> bool:
    """Whether a value reaches a goal.

    Raises:
        ValueError: the goal is not of a form that :func:`figure` names, or needs a standard error that is not there.
    """
    match = _GOAL.fullmatch(goal)
    if match is None:
        raise ValueError(f"`goal` must be such as '<= 1.3', 'within 0.1' or '> 2 standard errors', got {goal!r}")
    relation, bound = match[1], float(match[2])
    if match[3]:
        if standard_error is None:
            raise ValueError(f"`goal` {goal!r} needs a `standard_error`")
        bound *= standard_error
    comparisons = {
        "<=": value <= bound,
        "<": value < bound,
        ">=": value >= bound,
        ">": value > bound,
        "within": abs(value) <= bound,
    }
    return comparisons[relation]


def standard_error(values: Sequence[float]) -> float:
    """Standard error of the mean of independent values."""
    return statistics.stdev(values) / math.sqrt(len(values))


def document(topic: str, settings: dict[str, Any], seeds: dict[str, int], figures: list[Figure]) -> Document:
    """A result with everything that says where it came from.

    Args:
        topic: the file's name without its ending.
        settings: what was run, options and sizes.
        seeds: by purpose.
        figures: see :func:`figure`.
    """
    content = {
        "schema": SCHEMA,
        "topic": topic,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "settings": settings,
        "seeds": seeds,
        "figures": figures,
    }
    content = json.loads(_text(content))  # tuples become lists, as they will be read back
    return content | {"sha256": checksum(content)}


def write(content: Document, folder: Path = RESULTS) -> Path:
    """Writes a result to ``<folder>/<topic>.json``: the old file stays until the new one is complete.

    Raises:
        ValueError: the result does not follow the schema.
    """
    if found := problems(content):
        raise ValueError(f"the result does not follow the schema: {'; '.join(found)}")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{content['topic']}.json"
    with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".tmp", encoding="utf-8", delete=False) as file:
        try:
            file.write(_text(content) + "\n")
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
    return path


def read(path: Path) -> Document:
    """A result from its file, unchecked; see :func:`problems`."""
    content: Document = json.loads(path.read_text(encoding="utf-8"))
    return content


def checksum(content: Document) -> str:
    """The sha256 of everything but the checksum itself; an edit by hand shows in it."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, allow_nan=False).encode()).hexdigest()


def problems(content: Document) -> list[str]:
    """What is wrong with a result, in words; empty if nothing is."""
    if set(content) != set(KEYS):
        return [f"keys must be {sorted(KEYS)}, got {sorted(content)}"]
    found = []
    if content["schema"] != SCHEMA:
        found.append(f"`schema` must be {SCHEMA}, got {content['schema']!r}")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", str(content["topic"])):
        found.append(f"`topic` must be a plain name, got {content['topic']!r}")
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", str(content["date"])):
        found.append(f"`date` must be UTC in ISO form, got {content['date']!r}")
    for key, wanted in (("machine", MACHINE_KEYS), ("versions", VERSION_KEYS)):
        if set(content[key]) != set(wanted):
            found.append(f"`{key}` must have the keys {sorted(wanted)}, got {sorted(content[key])}")
    if not content["seeds"] or not all(_is_integer(seed) for seed in content["seeds"].values()):
        found.append(f"`seeds` must be integers by purpose, got {content['seeds']!r}")
    found += _figure_problems(content["figures"])
    if not found and content["sha256"] != checksum(content):
        found.append("`sha256` differs: the file was edited by hand; run the benchmark again")
    return found


def _figure_problems(figures: list[Figure]) -> list[str]:
    names = [entry.get("name") for entry in figures]
    found = [] if names and len(set(names)) == len(names) else [f"figures must have names of their own, got {names}"]
    for entry in figures:
        label = f"figure {entry.get('name')!r}"
        if missing := [key for key in FIGURE_KEYS if key not in entry]:
            found.append(f"{label} lacks {missing}")
            continue
        if not _is_finite(entry["value"]):
            found.append(f"{label}: `value` must be a finite number, got {entry['value']!r}")
        elif entry["standard_error"] is not None and not _is_finite(entry["standard_error"]):
            found.append(f"{label}: `standard_error` must be a finite number or null, got {entry['standard_error']!r}")
        elif entry != figure(**{key: entry[key] for key in entry if key != "met"}):
            found.append(f"{label}: `met` is {entry['met']!r}, but the goal is {entry['goal']!r}")
    return found


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _text(content: Document) -> str:
    return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)


# --- where it was run ----------------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """The processor and memory; no names of hosts or users."""
    info = _cpu_info()
    flags = info.get("flags", "").split()
    return {
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
        "cores": int(info["cpu cores"]) * int(info["sockets"]) if "cpu cores" in info else os.cpu_count(),
        "threads": os.cpu_count(),
        "memory_gib": _memory_gib(),
        "instructions": [name for name in INSTRUCTIONS if name in flags],
        "system": f"{platform.system()} {platform.machine()}",
    }


def _cpu_info() -> dict[str, str]:
    """The first processor of /proc/cpuinfo and the number of sockets; empty where there is no such file."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {}
    lines = [[part.strip() for part in line.split(":", 1)] for line in text.splitlines() if ":" in line]
    first = {key: value for key, value in reversed(lines)}
    sockets = {value for key, value in lines if key == "physical id"}
    return first | {"sockets": str(max(1, len(sockets)))}


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def versions() -> dict[str, Any]:
    """Versions of Python and the packages, the commit, and whether files were changed since."""
    found = {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}
    status = _git("status", "--porcelain", "--", ".", ":!benchmarks/results")
    return found | {"commit": _git("rev-parse", "HEAD"), "changed": None if status is None else bool(status)}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


# --- what every benchmark's command line shares --------------------------------------------------------------


def whole_number(text: str) -> int:
    """An option that must be a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def add_output(parser: argparse.ArgumentParser, topic: str) -> None:
    """The option that says where the result goes."""
    parser.add_argument(
        "--out",
        type=Path,
        default=RESULTS,
        metavar="FOLDER",
        help=f"folder of {topic}.json (default: benchmarks/results)",
    )


def shown(path: Path) -> str:
    """A path as seen from the root of the repository, where it lies below it."""
    resolved = path.resolve()
    return str(resolved.relative_to(ROOT)) if resolved.is_relative_to(ROOT) else str(path)
