"""Finds where a number that is not finite came from, once a loss is not."""

from typing import Any

import torch
from torch import Tensor

from probgen.objectives import PairLoss
from probgen.programs.run import trial
from probgen.svi.fetch import Fetched


def cause(pair: PairLoss, parameters: dict[str, Tensor], fetched: Fetched) -> str:
    """Why a loss is not finite, in words: the first bad parameter, or else the first bad site."""
    found = bad_parameter(parameters) or _bad_site(pair, fetched.args, fetched.kwargs)
    return found or "on other noise every site is finite"


def bad_parameter(parameters: dict[str, Tensor]) -> str | None:
    """The first parameter that is not finite, in words, or None."""
    for name, value in parameters.items():
        if (index := first_nonfinite(value)) is not None:
            return f"parameter '{name}' is {value[index].item()} at index {index}"
    return None


def _bad_site(pair: PairLoss, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    with trial(pair.model, pair.guide or pair.model):
        try:
            terms = pair.terms(*args, validate=False, **kwargs)
        except Exception as error:
            return f"running the pair again fails ({error})"
    for site in terms.sites:
        for what, value in (("value", site.value), ("log q", site.log_q), ("log p", site.log_p)):
            if value is not None and value.is_floating_point() and (index := first_nonfinite(value)) is not None:
                return f"site '{site.name}' has {what} {value[index].item()} at index {index}"
    return None


def first_nonfinite(value: Tensor) -> tuple[int, ...] | None:
    """The index of the first entry that is NaN or infinite, or None."""
    bad = ~torch.isfinite(value)
    return tuple(int(i) for i in bad.nonzero()[0]) if bool(bad.any()) else None
