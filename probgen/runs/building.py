"""From settings to data, programs and an objective: what ``train`` and ``compare`` share."""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from probgen import registry
from probgen.arguments import positive_float
from probgen.config import canonical, parameters, parse_spec
from probgen.data import Dataset, load
from probgen.errors import ArgumentError
from probgen.programs.param_scope import Program
from probgen.runs.program_files import ProgramFiles, is_file_spec, parse_file_spec, program_factory
from probgen.runs.settings import FROM_FILE, PairSettings
from probgen.seeding import seeded
from probgen.svi import warmup_cosine
from probgen.svi.players import OptimFactory
from probgen.svi.schedules import Schedule

EVAL_SEED = 0  # of the draw of held-out data that are binarized dynamically

# What a guide takes over from the model's spec; its minimum scale, say, is another thing than the model's.
SHARED = ("latent_dim", "latent_dims", "hidden", "network", "activation", "num_classes")

GUIDES = {
    "conditional-vae": "amortized-normal",
    "gaussian-mixture": "none",
    "hierarchical-vae": "amortized-hierarchical",
    "ppca": "amortized-normal",
    "vae": "amortized-normal",
}


@dataclass(frozen=True)
class Shape:
    """What programs must know of the data.

    Attributes:
        event_shape: the shape of one datum.
        num_classes: of the labels, or None where the model takes none.
    """

    event_shape: tuple[int, ...]
    num_classes: int | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """As arguments of models and guides, which take those that they name."""
        known: dict[str, Any] = {"event_shape": self.event_shape, "data_dim": math.prod(self.event_shape)}
        return known if self.num_classes is None else known | {"num_classes": self.num_classes}


@dataclass(frozen=True)
class Recipe:
    """How a pair is made, afresh at every call.

    Attributes:
        model: makes the model.
        guide: makes the guide, or None.
    """

    model: Callable[[], Program]
    guide: Callable[[], Program] | None

    def pair(self, seed: int) -> tuple[Program, Program | None]:
        """A fresh pair, its weights drawn under ``seed``."""
        with seeded(seed):
            return self.model(), None if self.guide is None else self.guide()


def load_data(settings: PairSettings, *, held_out: bool = True) -> tuple[Dataset, Dataset | None]:
    """The data that are trained on, and those that are held out.

    Raises:
        ArgumentError: the parts overlap, or an unknown name.
        DataError: what :func:`probgen.data.load` refuses.
    """
    data = load_split(settings, settings.split)
    if not held_out:
        return data, None
    require_held_out(settings.split, settings.eval_split)
    return data, load_split(settings, settings.eval_split)


def load_split(settings: PairSettings, split: str) -> Dataset:
    """One part of the data, with labels for a model that takes them."""
    data = load(settings.data, split=split, binarize=settings.binarize, event_shape=settings.event_shape or None)
    return data.labelled() if takes_labels(settings.model) else data


def require_held_out(split: str, eval_split: str) -> None:
    """Raises if what is trained on is also evaluated on.

    Raises:
        ArgumentError: the parts overlap.
    """
    parts, eval_parts = set(split.split("+")), set(eval_split.split("+"))
    if parts & eval_parts or "all" in parts | eval_parts:
        raise ArgumentError(
            f"`--split {split}` and `--eval-split {eval_split}` overlap; what is evaluated must be held out of training"
        )


def takes_labels(spec: str) -> bool:
    """Whether a model of the registry is conditional on labels."""
    return is_registered(spec) and "num_classes" in (parameters(registry.get("model", parse_spec(spec)[0])) or {})


def is_registered(spec: str) -> bool:
    """Whether a spec is one of the registry's, not of a file."""
    return spec != FROM_FILE and not is_file_spec(spec)


def shape_of(settings: PairSettings, data: Dataset) -> Shape:
    """What the data decide."""
    if not takes_labels(settings.model) or data.y is None:
        return Shape(data.event_shape)
    return Shape(data.event_shape, parse_spec(settings.model)[1].get("num_classes", int(data.y.max()) + 1))


def recipe(settings: PairSettings, shape: Shape, data_mean: Any = None, files: ProgramFiles | None = None) -> Recipe:
    """How the pair of some settings is made; everything that specs say is parsed here.

    Args:
        settings: with the specs.
        shape: of the data.
        data_mean: where the output's bias starts, for bits (Burda et al. 2016); None where weights are loaded.
        files: those of programs from files, each of which is run once.

    Raises:
        ArgumentError: a spec that cannot work.
        ProgramError: a program's file fails.
    """
    files = ProgramFiles() if files is None else files
    return Recipe(model_factory(settings, shape, data_mean, files), guide_factory(settings, shape, files))


def model_factory(settings: PairSettings, shape: Shape, data_mean: Any, files: ProgramFiles) -> Callable[[], Program]:
    """Makes the model; see :func:`recipe`."""
    defaults = shape.arguments
    if data_mean is not None and _likelihood(settings.model) == "bernoulli":
        defaults["data_mean"] = data_mean
    return _factory("model", settings.model, defaults, files)


def guide_factory(settings: PairSettings, shape: Shape, files: ProgramFiles) -> Callable[[], Program] | None:
    """Makes the guide, which takes over the model's sizes, or None; see :func:`recipe`."""
    spec = guide_spec(settings)
    if spec == "none":
        return None
    return _factory("guide", spec, guide_defaults(settings, shape), files)


def guide_defaults(settings: PairSettings, shape: Shape) -> dict[str, Any]:
    """What the guide takes over from the data and from the model's spec."""
    sizes = parse_spec(settings.model)[1] if is_registered(settings.model) else {}
    return shape.arguments | {name: value for name, value in sizes.items() if name in SHARED}


def guide_spec(settings: PairSettings) -> str:
    """The guide's spec, with ``auto`` resolved.

    Raises:
        ArgumentError: no guide is known to fit.
    """
    if settings.guide != "auto":
        return settings.guide
    if not is_registered(settings.model):
        raise ArgumentError(
            f"no guide is known to fit '{settings.model}': give one by --guide, as path.py:Name, a spec such as "
            "amortized-normal:latent_dim=2, or none for a model without latent sites"
        )
    return GUIDES[parse_spec(settings.model)[0]]


def _factory(kind: str, spec: str, defaults: Mapping[str, Any], files: ProgramFiles) -> Callable[[], Program]:
    if not is_file_spec(spec):
        return functools.partial(registry.parse, kind, spec, **defaults)
    named = parse_file_spec(spec)
    return program_factory(files.open(named.path), named, defaults)


def _likelihood(spec: str) -> str:
    """The name of the model's likelihood; empty if it is none that has a name."""
    if not is_registered(spec):
        return ""
    name, arguments = parse_spec(spec)
    known = parameters(registry.get("model", name)) or {}
    default = known["likelihood"].default if "likelihood" in known else ""
    value = arguments.get("likelihood", default)
    return canonical(value.partition(":")[0]) if isinstance(value, str) else ""


def adam(learning_rate: float) -> OptimFactory:
    """Makes the optimizer.

    Raises:
        ArgumentError: the rate is not finite or not above 0.
    """
    return functools.partial(torch.optim.Adam, lr=positive_float("--learning-rate", learning_rate))


def schedule_of(name: str, warmup_steps: int = 0) -> Schedule | None:
    """The schedule of a name.

    Raises:
        ArgumentError: warm-up below 0, or beside a constant rate.
    """
    if name == "cosine":
        return warmup_cosine(warmup_steps)
    return None if warmup_steps == 0 else warmup_constant(warmup_steps)


def warmup_constant(warmup_steps: int) -> Schedule:
    """Linear warm-up to 1, which stays; see :func:`probgen.svi.warmup_cosine`.

    Example:
        >>> [warmup_constant(1)(step, None) for step in range(3)]
        [0.5, 1.0, 1.0]
    """
    rise = warmup_cosine(warmup_steps, final=1.0)
    return lambda step, total_steps: rise(step, warmup_steps + 1) if step < warmup_steps else 1.0
