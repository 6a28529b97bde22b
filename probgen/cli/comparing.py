"""What ``probgen compare`` does."""

import sys
from dataclasses import asdict
from pathlib import Path

from probgen import registry
from probgen.checkpoints.disk import replace_synced
from probgen.cli.compare_command import Compare
from probgen.cli.train_command import EXCLUDED
from probgen.comparison import RunSpec, compare, grid
from probgen.data import Dataset
from probgen.errors import ArgumentError
from probgen.objectives import Objective
from probgen.runs.building import adam, load_data, recipe, schedule_of, shape_of
from probgen.runs.saved import CONFIG, config_text

EPOCHS = 100  # where no length is given


def run(options: Compare) -> None:
    """Loads, trains, evaluates; the table goes to standard output, everything else to standard error."""
    data, eval_data = load_data(options)
    comparison = compare(
        _specs(options, data),
        data,
        eval_data=eval_data,
        seeds=options.seeds,
        num_epochs=_epochs(options),
        num_seconds=options.num_seconds,
        batch_size=options.batch_size,
        num_particles=options.num_particles,
        accelerator=options.accelerator,
        run_dir=options.run_dir,
        overwrite=options.overwrite,
        config={"command": asdict(options)},
    )
    config = config_text(options, None, left_out=(*EXCLUDED, "run_dir"))
    replace_synced(Path(options.run_dir) / CONFIG, config.encode())
    print(comparison.to_text(), flush=True)
    print(f"probgen: figure, table, metrics and settings are in {options.run_dir}", file=sys.stderr)


def _epochs(options: Compare) -> int | None:
    if options.num_seconds is None:
        return EPOCHS if options.num_epochs is None else options.num_epochs
    if options.num_epochs is not None:
        raise ArgumentError("pass one of `--num-epochs` and `--num-seconds`")
    return None


def _specs(options: Compare, data: Dataset) -> dict[str, RunSpec]:
    """Everything that specs say, parsed and built once, so that nothing is wrong later."""
    made = recipe(options, shape_of(options, data), data.mean)
    made.pair(0)  # for its own messages, before a run's name stands in front of them
    return grid(
        made.model,
        made.guide,
        _objectives(options.objectives),
        adam(options.learning_rate),
        schedule=schedule_of(options.schedule),
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
