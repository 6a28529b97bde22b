"""What ``probgen compare`` does."""

import functools
import sys
from dataclasses import asdict
from typing import Any

import torch

from probgen import registry
from probgen.cli.compare_command import Compare
from probgen.comparison import RunSpec, compare, grid
from probgen.config import canonical, parameters, parse_spec
from probgen.data import Dataset, load
from probgen.errors import ArgumentError
from probgen.nets.arguments import positive_float
from probgen.objectives import Objective
from probgen.seeding import seeded
from probgen.svi import warmup_cosine

# What a guide takes over from the model's spec; its minimum scale, say, is another thing than the model's.
SHARED = ("latent_dim", "latent_dims", "hidden", "network", "activation", "num_classes")


GUIDES = {
    "conditional-vae": "amortized-normal",
    "gaussian-mixture": "none",
    "hierarchical-vae": "amortized-hierarchical",
    "ppca": "amortized-normal",
    "vae": "amortized-normal",
}


def run(options: Compare) -> None:
    """Loads, trains, evaluates; the table goes to standard output, everything else to standard error."""
    data, eval_data = _data(options)
    specs = _specs(options, data)
    comparison = compare(
        specs,
        data,
        eval_data=eval_data,
        seeds=options.seeds,
        num_epochs=options.num_epochs,
        batch_size=options.batch_size,
        num_particles=options.num_particles,
        accelerator=options.accelerator,
        run_dir=options.run_dir,
        overwrite=options.overwrite,
        config={"command": asdict(options)},
    )
    print(comparison.to_text(), flush=True)
    print(f"probgen: figure, table, metrics and settings are in {options.run_dir}", file=sys.stderr)


def _data(options: Compare) -> tuple[Dataset, Dataset]:
    parts, eval_parts = set(options.split.split("+")), set(options.eval_split.split("+"))
    if parts & eval_parts or "all" in parts | eval_parts:
        raise ArgumentError(
            f"`--split {options.split}` and `--eval-split {options.eval_split}` overlap; what is evaluated must be "
            "held out of training"
        )
    shape = options.event_shape or None
    data, eval_data = (
        load(options.data, split=split, binarize=options.binarize, event_shape=shape)
        for split in (options.split, options.eval_split)
    )
    return (data.labelled(), eval_data.labelled()) if _takes_labels(options.model) else (data, eval_data)


def _takes_labels(spec: str) -> bool:
    return "num_classes" in (parameters(registry.get("model", parse_spec(spec)[0])) or {})


def _specs(options: Compare, data: Dataset) -> dict[str, RunSpec]:
    """Everything that specs say, parsed and built once, so that nothing is wrong later."""
    model = functools.partial(registry.parse, "model", options.model, **_model_defaults(options, data))
    guide = _guide(options, data)
    with seeded(0):  # for their own messages, before a run's name stands in front of them
        model()
        if guide is not None:
            guide()
    objectives = _objectives(options.objectives)
    rate = positive_float("--learning-rate", options.learning_rate)
    return grid(
        model,
        guide,
        objectives,
        functools.partial(torch.optim.Adam, lr=rate),
        schedule=warmup_cosine() if options.schedule == "cosine" else None,
        capture=options.capture,
    )


def _objectives(specs: tuple[str, ...]) -> dict[str, Objective]:
    if not specs:
        raise ArgumentError("`--objectives` needs at least one spec, such as 'elbo'")
    repeated = next((spec for i, spec in enumerate(specs) if spec in specs[:i]), None)
    if repeated is not None:
        raise ArgumentError(
            f"`--objectives` names '{repeated}' twice; name each once, and repeat training by `--seeds`"
        )
    return {spec: registry.parse("objective", spec) for spec in specs}


def _model_defaults(options: Compare, data: Dataset) -> dict[str, Any]:
    """What the data decide: their shape, the number of classes, and for bits the output's bias (Burda et al. 2016)."""
    defaults = _shared_defaults(options, data)
    if _likelihood(options.model) == "bernoulli":
        defaults["data_mean"] = data.mean
    return defaults


def _shared_defaults(options: Compare, data: Dataset) -> dict[str, Any]:
    defaults: dict[str, Any] = {"event_shape": data.event_shape, "data_dim": data.x[0].numel()}
    if _takes_labels(options.model) and data.y is not None:
        defaults["num_classes"] = int(data.y.max()) + 1
    return defaults


def _likelihood(spec: str) -> str:
    """The name of the model's likelihood; empty if it is none that has a name."""
    name, arguments = parse_spec(spec)
    known = parameters(registry.get("model", name)) or {}
    default = known["likelihood"].default if "likelihood" in known else ""
    value = arguments.get("likelihood", default)
    return canonical(value.partition(":")[0]) if isinstance(value, str) else ""


def _guide(options: Compare, data: Dataset) -> functools.partial[Any] | None:
    """The guide's factory; the sizes that it shares with the model need not be said again."""
    spec = options.guide if options.guide != "auto" else GUIDES[parse_spec(options.model)[0]]
    if spec == "none":
        return None
    sizes = {name: value for name, value in parse_spec(options.model)[1].items() if name in SHARED}
    arguments = _shared_defaults(options, data) | sizes
    return functools.partial(registry.parse, "guide", spec, **arguments)
