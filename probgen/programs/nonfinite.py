"""Finds where a number that is not finite came from."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from probgen.arguments import first_index
from probgen.errors import DataError, DivergedError
from probgen.programs.param_scope import Program, declared_by, owner_of
from probgen.programs.terms import PairTerms
from probgen.validation import stands_alone

LARGEST = math.sqrt(torch.finfo(torch.float32).max)  # the largest number whose square float32 can hold


def first_nonfinite(value: Tensor) -> tuple[int, ...] | None:
    """The index of the first entry that is NaN or infinite, or None."""
    bad = ~torch.isfinite(value)
    return first_index(bad) if bool(bad.any()) else None


def bad_parameter(parameters: Mapping[str, Tensor]) -> str | None:
    """The first parameter that is not finite, in words, or None."""
    for name, value in parameters.items():
        if (index := first_nonfinite(value)) is not None:
            return f"parameter '{name}' is {value[index].item()} at index {index}"
    return None


def bad_site(terms: PairTerms) -> str | None:
    """The first site whose value or log-density is not finite, in words, or None."""
    for site in terms.sites:
        for what, value in (("value", site.value), ("log q", site.log_q), ("log p", site.log_p)):
            if value is not None and value.is_floating_point() and (index := first_nonfinite(value)) is not None:
                return f"site '{site.name}' has {what} {value[index].item()} at index {index}"
    return None


def large_value(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """The first number among the arguments whose square float32 cannot hold, in words, or None."""
    for name, value in (*enumerate(args), *kwargs.items()):
        if isinstance(value, Tensor) and value.is_floating_point():
            large = torch.isfinite(value) & (value.abs() > LARGEST)
            if bool(large.any()):
                index = first_index(large)
                return f"argument {name!r} holds {value[index].item():g} at index {index}, whose square overflows"
    return None


def parameters_of(*programs: Program | None) -> dict[str, Tensor]:
    """The unconstrained parameters of a model and a guide, of their modules and of their ``pyro.param`` statements."""
    return dict(_named_parameters(*programs))


def _named_parameters(*programs: Program | None) -> Iterator[tuple[str, Tensor]]:
    for side, program in zip(("model", "guide"), programs, strict=False):
        if isinstance(owner := owner_of(program), nn.Module):
            yield from ((f"{side}.{name}", value) for name, value in owner.named_parameters())
    owners = [owner_of(program) for program in programs if program is not None]
    for name, value in pyro.get_param_store()._params.items():
        if not isinstance(value, nn.Parameter) and any(declared_by(value) is owner for owner in owners):
            yield name, value


def require_finite_parameters(module: nn.Module) -> None:
    """Refuses to compute with parameters that are not finite, where nobody else will: outside runs of a pair.

    Raises:
        DivergedError: naming the first bad parameter.
    """
    if not stands_alone():
        return
    parameters = dict(module.named_parameters())
    if not parameters:
        return
    largest = torch.stack(torch._foreach_norm([value.detach() for value in parameters.values()], math.inf))
    if not bool(torch.isfinite(largest).all()):
        where = bad_parameter(parameters)
        cure = "start from finite values, or train with a smaller learning rate"
        raise DivergedError(f"{type(module).__name__} cannot compute: {where}; {cure}")


def require_finite_evidence(module: nn.Module, x: Tensor, log_prob: Tensor) -> None:
    """Refuses log p(x) that is not finite, where nobody else will.

    Raises:
        DataError: the data are too large; DivergedError: anything else.
    """
    if stands_alone():
        require_defined(log_prob, module, None, (x,), {})


def require_defined(
    values: Tensor,
    model: Program,
    guide: Program | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    terms: PairTerms | None = None,
) -> None:
    """Refuses log-weights or bounds that are NaN or +inf, or -inf because numbers are too large.

    Raises:
        DataError: the data are too large; DivergedError: anything else. Both name the first bad entry and its cause.
    """
    bad = ~torch.isfinite(values)
    if not bool(bad.any()):
        return
    wrong = torch.isnan(values) | (values == math.inf)
    if bool(wrong.any()) or large_value(args, kwargs) is not None:
        index = first_index(wrong if bool(wrong.any()) else bad)
        what = f"log p(x) or its bound is {values[index].item()} at index {index}"
        raise not_finite(what, model, guide, args, kwargs, terms)


def not_finite(
    what: str,
    model: Program,
    guide: Program | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    terms: PairTerms | None = None,
) -> DataError | DivergedError:
    """The error that says what is not finite and where that came from: a parameter, the data, or a site."""
    if (parameter := bad_parameter(parameters_of(model, guide))) is not None:
        return DivergedError(f"{what}: {parameter}; start from finite values, or train with a smaller learning rate")
    site = None if terms is None else bad_site(terms)
    where = f"{what}: {site}" if site else what
    if (large := large_value(args, kwargs)) is not None:
        return DataError(f"{where}; {large}: scale the data")
    return DivergedError(f"{where}; the parameters may have diverged: try a smaller learning rate or a larger scale")
