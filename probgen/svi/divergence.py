"""Finds where a number that is not finite came from, once a loss or a gradient is not."""

import math
from typing import Any, NoReturn

from torch import Tensor

from probgen.errors import DivergedError
from probgen.objectives import PairLoss
from probgen.programs.nonfinite import bad_parameter, bad_site, first_nonfinite, large_value
from probgen.programs.run import trial
from probgen.svi.fetch import Fetched
from probgen.svi.players import Gradient


def refuse_step(
    pair: PairLoss, parameters: dict[str, Tensor], gradient: Gradient, fetched: Fetched, *, first: bool
) -> NoReturn:
    """Gives up on a step that has not been applied.

    Args:
        pair: what trains.
        parameters: by name.
        gradient: that of the step.
        fetched: what it reports.
        first: whether this is the first turn of the step.

    Raises:
        DivergedError: always.
    """
    kept = f"are those after step {fetched.step - 1}"
    if not first:
        kept += ", but for the earlier turns of this step"
    if bad_parameter(parameters) is not None:
        kept = "are not finite"
    raise _diverged(_cause(pair, parameters, gradient, fetched), kept)


def require_finite_late(fetched: Fetched, step: int) -> None:
    """Raises if a step that has been applied was not finite; ``step`` is where the parameters are by now.

    Raises:
        DivergedError: the parameters are of no use any more.
    """
    if not fetched.finite:
        where = "`accelerator='cpu'` stops before the step and tells where it comes from"
        raise _diverged(_late_cause(fetched), f"are those of a later step ({step}) and not to be used; {where}")


def require_finite(parameters: dict[str, Tensor], step: int) -> None:
    """Raises if the last step has left a parameter that is not finite.

    Raises:
        DivergedError: names the first bad parameter.
    """
    if (where := bad_parameter(parameters)) is not None:
        raise _diverged(f"step {step} left parameters that are not finite: {where}", "are not finite")


def _diverged(what: str, kept: str) -> DivergedError:
    return DivergedError(
        f"{what}. The parameters {kept}. Try a smaller learning rate, `max_grad_norm=`, or a larger minimum scale"
    )


def _cause(pair: PairLoss, parameters: dict[str, Tensor], gradient: Gradient, fetched: Fetched) -> str:
    """What is not finite about a step that has not been applied, in words.

    The first bad parameter, or else the first bad site where the loss is bad, the first bad gradient where it is not.
    """
    where = bad_parameter(parameters)
    if not math.isfinite(fetched.total):
        where = where or _bad_site(pair, fetched.args, fetched.kwargs) or "on other noise every site is finite"
        if (large := large_value(fetched.args, fetched.kwargs)) is not None:
            where = f"{where}; {large}"
        return f"the loss is {fetched.total} at step {fetched.step}: {where}"
    if where is not None:
        return f"the gradient is not finite at step {fetched.step}: {where}"
    for name, value in gradient.tensors.items():
        if value is not None and (index := first_nonfinite(value)) is not None:
            what = f"the gradient of parameter '{name}' is {value[index].item()} at index {index}"
            return f"{what}, step {fetched.step}; the loss itself is finite"
    return f"the norm of the gradient overflows at step {fetched.step}; the loss itself is finite"


def _late_cause(fetched: Fetched) -> str:
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
