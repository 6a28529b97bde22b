"""Which data a trained run is used on, and where."""

from dataclasses import replace

from probgen.data import Dataset
from probgen.errors import ArgumentError
from probgen.programs.modules import modules_of
from probgen.programs.param_scope import Program
from probgen.runs.building import EVAL_SEED, load_split
from probgen.runs.saved import SavedRun
from probgen.svi.arguments import device_of


def data_for(run: SavedRun, data: str | None, split: str, binarize: str | None) -> Dataset:
    """Data in the form that a run's pair takes; of dynamically binarized ones a fixed draw.

    Args:
        run: whose pair.
        data: name or path; None for the data of the run.
        split: which part.
        binarize: as :func:`probgen.data.load`; None as in training.

    Raises:
        ArgumentError: an unknown name or part, or data of another shape.
        DataError: what :func:`probgen.data.load` refuses.
    """
    settings = replace(run.settings, event_shape=run.record.event_shape)
    if data is not None:
        settings = replace(settings, data=data)
    if binarize is not None:
        settings = replace(settings, binarize=binarize)  # type: ignore[arg-type]  # checked by the loader
    try:
        found = load_split(settings, split)
    except ArgumentError as error:
        if "event_shape" not in str(error):
            raise
        raise ArgumentError(
            f"`--data {settings.data}` is of another shape than that of '{run.path}': {error}"
        ) from error
    return found.fixed(EVAL_SEED) if found.binarize == "dynamic" else found


def placed(pair: tuple[Program, Program | None], accelerator: str) -> tuple[Program, Program | None]:
    """The pair on a device.

    Raises:
        ArgumentError: no such device.
    """
    device = device_of(accelerator)
    for module in modules_of(*pair):
        module.to(device)
    return pair
