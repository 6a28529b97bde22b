"""What the arguments of the loop must be."""

import math
from typing import Any

import torch

from probgen.errors import ArgumentError, ArgumentTypeError
from probgen.objectives import Objective


def check_number(name: str, value: Any, below: float) -> None:
    """Raises unless ``value`` is None or a number between 0 and ``below``, both excluded.

    Raises:
        ArgumentError: it is not.
    """
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < below:
        limit = "finite and above 0" if math.isinf(below) else f"between 0 and {below:g}"
        raise ArgumentError(f"`{name}` must be a number {limit}, got {value!r}")


def check_callable(name: str, value: Any, *, optional: bool) -> None:
    """Raises unless ``value`` can be called, or is None where that is allowed.

    Raises:
        ArgumentTypeError: it cannot.
    """
    if not callable(value) and not (optional and value is None):
        raise ArgumentTypeError(f"`{name}` must be callable, got {type(value).__name__}")


def check_objective(loss: Any) -> None:
    """Raises unless ``loss`` is an objective of ours.

    Raises:
        ArgumentTypeError: it is not.
    """
    if not isinstance(loss, Objective):
        kind = loss if isinstance(loss, type) else type(loss)
        raise ArgumentTypeError(
            "`loss` must be an objective of probgen.objectives, such as `ELBO()`, got "
            f"{'the class ' if kind is loss else ''}{kind.__module__}.{kind.__name__}"
        )


def device_of(accelerator: Any) -> torch.device:
    """The device that a name means; ``"auto"`` is CUDA where it is.

    Raises:
        ArgumentError: an unknown device, or one that is not here.
    """
    if accelerator == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(accelerator)
    except (RuntimeError, TypeError):
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ArgumentError(f"`accelerator` must be 'auto' or a device such as 'cpu' or 'cuda', got {accelerator!r}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ArgumentError(
            f"`accelerator={accelerator!r}`: no such CUDA device is available here; use 'auto' or 'cpu'"
        )
    return device
