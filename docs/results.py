"""Pages made from what the benchmarks have measured: one for each file of ``benchmarks/results``."""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
TITLES = {
    "mnist_iwae": "MNIST beside a hand-written loop",
    "step_time": "Time of a training step",
    "zoo": "Every model, guide and likelihood",
}
VALUES = {"zoo": "ahead of the baseline"}
# topic -> columns beside the figure itself, where all figures have them: (title, key, format)
DETAILS = {
    "zoo": [
        ("model", "model", "`{}`"),
        ("guide", "guide", "`{}`"),
        ("data", "data", "{}"),
        ("objective", "objective", "`{}`"),
        ("log p(x)", "log_prob", "{:.2f}"),
        ("s.e.", "log_prob_standard_error", "{:.2f}"),
        ("kind", "kind", "{}"),
        ("baseline", "baseline", "{:.2f}"),
    ],
    "step_time": [("95 % interval", "interval", "{0[0]:.4g} to {0[1]:.4g}")],
}


def pages(about: str) -> dict[str, str]:
    """All pages of results, and the page that says how they are measured, to which the list is added."""
    topics = sorted(path.stem for path in FOLDER.glob("*.json"))
    listed = "\n".join(["", "```{toctree}", ":caption: Results", "", *topics, "```", ""])
    return {"results/index.md": about + listed} | {f"results/{topic}.md": page(topic) for topic in topics}


def page(topic: str) -> str:
    """One file as a table, with where it came from."""
    content = json.loads((FOLDER / f"{topic}.json").read_text(encoding="utf-8"))
    title = TITLES.get(topic, topic.replace("_", " ").capitalize())
    return "\n".join([f"# {title}\n", provenance(content), table(content), settings(content)])


def provenance(content: dict[str, Any]) -> str:
    """When, where and by which versions."""
    machine, versions = content["machine"], content["versions"]
    packages = ", ".join(f"{name} {versions[name]}" for name in versions if name not in ("commit", "changed"))
    return (
        f"Measured on {content['date'][:10]} on {machine['cores']} cores of {machine['cpu']} ({machine['system']}) "
        f"with {packages}; written by `benchmarks/{content['topic']}.py` and not edited.\n"
    )


def table(content: dict[str, Any]) -> str:
    """A row for each figure."""
    columns = DETAILS.get(content["topic"], [])
    header = [
        "figure",
        *(title for title, _, _ in columns),
        VALUES.get(content["topic"], "value"),
        "s.e.",
        "unit",
        "goal",
        "met",
    ]
    rows = [row(figure, columns) for figure in content["figures"]]
    rule = [":---"] * (1 + len(columns)) + ["---:", "---:", ":---", ":---", ":---"]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, rule, *rows]) + "\n"


def row(figure: dict[str, Any], columns: list[tuple[str, str, str]]) -> list[str]:
    """The cells of a figure."""
    details = [cell(figure.get(key), form) for _, key, form in columns]
    met = {True: "yes", False: "no", None: ""}[figure["met"]]
    error = cell(figure["standard_error"], "{:.2g}")
    return [figure["name"], *details, cell(figure["value"], "{:.4g}"), error, figure["unit"], figure["goal"] or "", met]


def cell(value: Any, form: str) -> str:
    """A value as text, fit for a table; nothing for None."""
    return "" if value is None else form.format(value).replace("|", "\\|")


def settings(content: dict[str, Any]) -> str:
    """What was run, as it was recorded."""
    recorded = {"settings": content["settings"], "seeds": content["seeds"]}
    return f"## Settings\n\n```json\n{json.dumps(recorded, indent=2, ensure_ascii=False)}\n```\n"
