"""The page of the certificates: the grid, its standard errors, limits and refusals."""

from collections.abc import Iterable
from typing import Any

Record = dict[str, Any]
MARKS = {"certified": "✓", "refused": "–"}
HEAD = """# Certified gradients

Every objective and gradient estimator, on every problem, structure and backend: the mean of the estimated gradient
beside the exact one of what the objective minimises in expectation (`probgen.testing.certify`). Written by
`make certify`, not edited.

- ✓ certified: no number of the gradient is further from the exact one than chance explains (false alarms: once in a
  million such tables), and a bias of {smallest_bias:.0%} of the gradient's norm would have been seen with probability
  {power}, {smallest_bias_score:.0%} where score functions are used, for the parameters of the model and of the guide
  apart.
- – refused: the objective says that it would be wrong there (`UnsupportedObjective`), and names what works.
- ✗ neither.
- · not run yet.

Each entry shows the structures in this order: {structures}. *Unbiased* estimators are held to the exact gradient of the
expected bound of K particles; *consistent* ones to their own expectation at K, with the distance to the limit of many
particles below; *surrogate* ones to the gradient of the relaxed objective that they are the gradient of.
"""


def page(records: list[Record], content: Record) -> str:
    """The page in Markdown."""
    structures = unique(each["structure"] for each in records)
    parts = [HEAD.format(structures=", ".join(structures), **content["settings"]), provenance(records, content)]
    for backend in unique(each["backend"] for each in records):
        chosen = [each for each in records if each["backend"] == backend]
        title = {"torch": "Pyro", "numpyro": "NumPyro"}[backend]
        parts += [f"## {title}\n", grid(chosen, structures)]
    parts += ["## Distance to the limit\n", limits(records), "## Refusals\n", refusals(records)]
    if wrong := [each for each in records if each["status"] not in MARKS]:
        parts += ["## Neither certified nor refused\n", *(f"- {place(each)}: {each['message']}" for each in wrong), ""]
    return "\n".join(parts)


def unique(values: Iterable[str]) -> list[str]:
    """Without repetitions, in order."""
    return list(dict.fromkeys(values))


def provenance(records: list[Record], content: Record) -> str:
    """When, with what, and how much."""
    versions = ", ".join(f"{k} {v}" for k, v in content["versions"].items() if k not in ("commit", "changed"))
    counts = ", ".join(
        f"{sum(each['status'] == status for each in records)} {status}"
        for status in unique(each["status"] for each in records)
    )
    replicates = sum(each.get("replicates", 0) for each in records)
    return (
        f"{len(records)} of {content['settings']['cells']} cells: {counts}; {replicates:.2g} gradients drawn. "
        f"{content['date'][:10]}, {versions}; seeds "
        f"from {content['seeds']['first']} in steps of {content['seeds']['step']}. All numbers: "
        "`benchmarks/results/certificates.json`.\n"
    )


def table(header: list[str], rows: Iterable[list[str]]) -> str:
    """In Markdown."""
    lines = [header, [":---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def grid(records: list[Record], structures: list[str]) -> str:
    """Rows by problems, with a mark for each structure."""
    problems = unique(each["problem"] for each in records)
    by_place = {(each["row"], each["problem"], each["structure"]): each for each in records}

    def entry(row: str, problem: str) -> str:
        found = [by_place.get((row, problem, structure)) for structure in structures]
        marks = ["·" if each is None else MARKS.get(each["status"], "✗") for each in found]
        return marks[0] if len(set(marks)) == 1 else "".join(marks)

    def line(row: str) -> list[str]:
        ran = [each for each in records if each["row"] == row and "players" in each]
        players = [player for each in ran for player in each["players"].values()]
        largest = max((p["largest_t"] for p in players if p["largest_t"] is not None), default=None)
        error = max((p["relative_error"] for p in players if p["relative_error"] is not None), default=None)
        kind = ran[0]["kind"] if ran else ""
        numbers = ["" if largest is None else f"{largest:.1f}", "" if error is None else f"{100 * error:.2f} %"]
        return [row, kind, *(entry(row, problem) for problem in problems), *numbers]

    header = ["objective, gradient", "class", *problems, "largest t", "largest s.e."]
    return table(header, (line(row) for row in unique(each["row"] for each in records)))


def limits(records: list[Record]) -> str:
    """Distances of exact gradients at K particles from the limit's, of consistent estimators on one plate."""
    rows = []
    for each in records:
        if each.get("kind") == "consistent" and (each["backend"], each["structure"]) == ("torch", "plate"):
            distances = [player["limit_distance"] for player in each["players"].values()]
            shown = ["; ".join(f"{100 * value:.3g} %" for value in values) for values in distances]
            rows.append([each["row"], each["problem"], *shown])
    about = (
        "Exact numbers: the distance of the expected gradient at 1, 2 (and 3) particles from that of infinitely many."
    )
    return about + "\n\n" + table(["objective, gradient", "problem", "theta", "phi"], rows)


def refusals(records: list[Record]) -> str:
    """Each message once for a row, with its problems."""
    found: dict[tuple[str, str], list[str]] = {}
    for each in records:
        if each["status"] == "refused":
            found.setdefault((each["row"], each["message"]), []).append(f"{each['backend']} / {each['problem']}")
    rows = ([row, "; ".join(unique(places)), message.replace("|", "\\|")] for (row, message), places in found.items())
    return table(["objective, gradient", "where", "message"], rows)


def place(each: Record) -> str:
    """Where a record belongs."""
    return " / ".join(each[name] for name in ("backend", "problem", "structure", "row"))
