"""What a run is made of, as plain values; no torch, so that the command line reads them at once."""

import types
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from probgen.errors import DataFileError, nearest

T = TypeVar("T")

FROM_FILE = ""  # stands for a program from a file, which settings in files never name
# What a digit's 64 pixels need and 1,437 training data support.
MODEL = "vae:hidden=(200,100),latent_dim=16"


@dataclass(frozen=True, kw_only=True)
class PairSettings:
    """The data, and the pair that is made for them."""

    data: str = "digits"
    """Name of a data set (digits, mnist, mnist_fixed_binarized, omniglot), or a path to IDX, .npz or .npy files."""

    split: str = "train"
    """What is trained on: train, valid, test, parts joined by +, or all."""

    eval_split: str = "valid"
    """What is held out."""

    binarize: Literal["threshold", "fixed", "dynamic", "none"] = "threshold"
    """Grey values to bits: x > 0.5, one random draw, a fresh one in every batch, or not at all."""

    event_shape: tuple[int, ...] = ()
    """Shape of one datum, such as 1 28 28; flat if it is not given."""

    model: str = MODEL
    """Spec of the model, such as vae:latent_dim=8; or path.py:Name, a program of your own. See probgen list."""

    guide: str = "auto"
    """Spec of the guide, which takes over the model's sizes; auto for one that fits, none, or path.py:Name."""


@dataclass(frozen=True, kw_only=True)
class TrainSettings(PairSettings):
    """One training run: what its ``config.toml`` holds."""

    objective: str = "elbo"
    """Spec of the objective, such as iwae:num_particles=5. See probgen list."""

    backend: Literal["pyro", "numpyro"] = "pyro"
    """What trains: Pyro, or NumPyro, for vae, hierarchical-vae and ppca with their guides; a run that it makes is
    loaded, evaluated and drawn from with Pyro, and cannot be resumed."""

    num_epochs: int = 100
    """Passes over the data."""

    batch_size: int = 100
    """Data per step."""

    learning_rate: float = 5e-3
    """Of Adam."""

    schedule: Literal["cosine", "constant"] = "cosine"
    """How the learning rate goes on: half a cosine down to 0, or constant."""

    warmup_steps: int = 0
    """Steps in which the learning rate rises to its full size."""

    max_grad_norm: float | None = None
    """Clips the norm of the gradient of the loss, which is summed over the batch."""

    ema_decay: float | None = None
    """Keeps a moving average of the parameters, such as 0.999, which is then what is evaluated."""

    patience: int | None = None
    """Ends the run after so many epochs without a better held-out bound, and goes back to the best one."""

    capture: bool = True
    """Capture the training step as one graph: the same numbers, faster for small networks."""

    precision: Literal["full", "bfloat16"] = "full"
    """Of the networks in training; everything else is in full precision."""

    seed: int = 0
    """Of weights, noise, and order of the data."""

    accelerator: str = "auto"
    """auto, or a device such as cpu or cuda."""

    checkpoint_every: float = 30.0
    """Seconds between checkpoints; the last step always has one."""

    keep_checkpoints: int = 2
    """How many of the newest checkpoints are kept, beside the best."""

    tensorboard: bool = False
    """Also write the metrics for TensorBoard, to <run>/tensorboard."""


def read_settings(cls: type[T], table: Mapping[str, Any], source: str, *, excluded: tuple[str, ...] = ()) -> T:
    """Settings from the table of a TOML file; what it leaves out has its default.

    Args:
        cls: a dataclass whose fields have plain types.
        table: keys to values.
        source: the file's name, for messages.
        excluded: fields that no file may hold.

    Raises:
        DataFileError: an unknown key, with the nearest right one, or a value of another type.

    Example:
        >>> read_settings(TrainSettings, {"learning_rate": 1, "event_shape": [1, 8, 8]}, "run.toml").event_shape
        (1, 8, 8)
        >>> read_settings(TrainSettings, {"num_epochs": "20"}, "run.toml")
        Traceback (most recent call last):
        probgen.errors.DataFileError: 'run.toml': `num_epochs` must be a whole number, got the string '20'
    """
    hints = get_type_hints(cls)
    known = [f.name for f in fields(cls) if f.name not in excluded]  # type: ignore[arg-type]  # a dataclass
    values = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name in excluded:
            raise DataFileError(f"'{source}': `{key}` cannot stand in a file; give --{name.replace('_', '-')} itself")
        if name not in known:
            raise DataFileError(f"'{source}' has an unknown key `{_short(key)}`; {nearest(name, known)}")
        if name in values:
            raise DataFileError(f"'{source}' has `{name}` twice, with - and with _")
        values[name] = _checked(value, hints[name], source, key)
    return cls(**values)


def _checked(value: Any, kind: Any, source: str, key: str) -> Any:
    """The value as a field of this type, or an error that says what it must be."""
    label = f"'{source}': `{key}`"
    options = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    kind = next(option for option in options if option is not type(None))
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise DataFileError(f"{label} must be one of {', '.join(get_args(kind))}, got {_described(value)}")
        return value
    if get_origin(kind) is tuple:
        (entry, _) = get_args(kind)
        if not isinstance(value, list):
            raise DataFileError(f"{label} must be a list, got {_described(value)}")
        return tuple(_checked(member, entry, source, f"{key}[{i}]") for i, member in enumerate(value))
    if type(value) is int and value.bit_length() > 63:
        raise DataFileError(f"{label} is a whole number of more than 64 bits")
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise DataFileError(f"{label} must be {_WORDS[kind]}, got {_described(value)}")
    return value


_WORDS = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}


def _described(value: Any) -> str:
    words = {str: "the string", int: "the whole number", float: "the number", list: "the list", dict: "a table"}
    if isinstance(value, bool):
        return "true" if value else "false"
    shown = "" if isinstance(value, dict) else f" {_short(repr(value))}"
    return f"{words.get(type(value), type(value).__name__)}{shown}"


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
