"""Finds where a number that is not finite came from, once a loss or a gradient is not."""

import math
from typing import Any

from torch import Tensor

from probgen.objectives import PairLoss
from probgen.programs.nonfinite import bad_parameter, bad_site, first_nonfinite
from probgen.programs.run import trial
from probgen.svi.fetch import Fetched
from probgen.svi.players import Gradient


def cause(pair: PairLoss, parameters: dict[str, Tensor], gradient: Gradient, fetched: Fetched) -> str:
    """What is not finite about a step that has not been applied, in words.

    The first bad parameter, or else the first bad site where the loss is bad, the first bad gradient where it is not.
    """
    where = bad_parameter(parameters)
    if not math.isfinite(fetched.total):
        where = where or _bad_site(pair, fetched.args, fetched.kwargs) or "on other noise every site is finite"
        return f"the loss is {fetched.total} at step {fetched.step}: {where}"
    if where is not None:
        return f"the gradient is not finite at step {fetched.step}: {where}"
    for name, value in gradient.tensors.items():
        if value is not None and (index := first_nonfinite(value)) is not None:
            what = f"the gradient of parameter '{name}' is {value[index].item()} at index {index}"
            return f"{what}, step {fetched.step}; the loss itself is finite"
    return f"the norm of the gradient overflows at step {fetched.step}; the loss itself is finite"


def late_cause(fetched: Fetched) -> str:
    """What is not finite about a step that has been applied already, in words, from the norms of its gradients."""
    if not math.isfinite(fetched.total):
        return f"the loss is {fetched.total} at step {fetched.step}"
    names, norms = fetched.gradients
    bad = first_nonfinite(norms)
    which = "norm of the gradient" if bad is None else f"gradient of parameter '{names[bad[0]]}'"
    return f"the {which} is not finite at step {fetched.step}; the loss itself is finite"


def _bad_site(pair: PairLoss, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    with trial(pair.model, pair.guide or pair.model):
        try:
            return bad_site(pair.terms_from(args, kwargs, validate=False))
        except Exception as error:
            return f"running the pair again fails ({error})"
