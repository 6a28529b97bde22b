"""Pages made from what the benchmarks have measured: one for each file of ``benchmarks/results``."""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
TITLES = {
    "estimators_mnist": "Gradients of IWAE on MNIST",
    "resampled": "The resampled backward pass",
    "sbn_mnist": "Binary latents on MNIST",
    "snr": "Signal-to-noise ratio of gradients",
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


def drawings() -> dict[str, bytes]:
    """The figures that pages show, as PNG files."""
    return {f"results/{topic}.png": draw(_read(topic)) for topic, draw in FIGURES.items() if _path(topic).is_file()}


def draw_snr(content: dict[str, Any]) -> bytes:
    """Signal-to-noise ratio against particles, guide and model apart, with the rates of large numbers dotted."""
    from probgen.plots.drawing import as_png
    from probgen.plots.style import BLUE, GREY, VERMILION, new_figure, tidy, title

    figure = new_figure(9.0, 3.6)
    for axes, player in zip(figure.subplots(1, 2, sharey=True), ("guide", "model"), strict=True):
        points = [entry for entry in content["figures"] if entry.get("player") == player]
        for gradient, colour, marker in (("pathwise", VERMILION, "s"), ("dreg", BLUE, "o")):
            found = [entry for entry in points if entry["gradient"] == gradient]
            k, ratio = [entry["particles"] for entry in found], [entry["value"] for entry in found]
            error = [2 * entry["standard_error"] for entry in found]
            axes.errorbar(k, ratio, yerr=error, color=colour, marker=marker, markersize=4, capsize=2, label=gradient)
            rate = -0.5 if (gradient, player) == ("pathwise", "guide") else 0.5
            ends = [10, k[-1]]
            axes.plot(ends, [ratio[-1] * (end / k[-1]) ** rate for end in ends], color=GREY, linestyle=":")
        axes.set(xscale="log", yscale="log", xlabel="particles K")
        title(axes, f"Gradient of the {player}'s parameters (dotted: K to the power of one half, up or down)", 4.0)
        tidy(axes)
        axes.legend(frameon=False)
    figure.axes[0].set_ylabel("|E g| / sqrt(variance)")
    return as_png(figure)


FIGURES = {"snr": draw_snr}  # topic -> what draws its file


def pages(about: str) -> dict[str, str]:
    """All pages of results, and the page that says how they are measured, to which the list is added."""
    topics = sorted(path.stem for path in FOLDER.glob("*.json"))
    listed = "\n".join(["", "```{toctree}", ":caption: Results", "", *topics, "```", ""])
    return {"results/index.md": about + listed} | {f"results/{topic}.md": page(topic) for topic in topics}


def page(topic: str) -> str:
    """One file as a table, with where it came from."""
    content = _read(topic)
    title = TITLES.get(topic, topic.replace("_", " ").capitalize())
    shown = [f"![{title}]({topic}.png)\n"] if topic in FIGURES else []
    return "\n".join([f"# {title}\n", provenance(content), *shown, table(content), settings(content)])


def _read(topic: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(_path(topic).read_text(encoding="utf-8"))
    return content


def _path(topic: str) -> Path:
    return FOLDER / f"{topic}.json"


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
