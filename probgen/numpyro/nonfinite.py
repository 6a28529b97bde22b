"""Finds where a number that is not finite came from; outside ``jax.jit``, where numbers are known."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.core import Tracer

from probgen.errors import DivergedError
from probgen.numpyro.checks import first_index
from probgen.numpyro.terms import PairTerms


def is_traced(*values: Any) -> bool:
    """Whether some leaf is an abstract value of a tracer."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(values))


def bad_parameter(params: Mapping[str, Any]) -> str | None:
    """The first parameter that is not finite, in words, or None."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(dict(params)):
        if isinstance(leaf, Array | np.ndarray) and (where := _first_bad(leaf)) is not None:
            name = str(path[0].key) + jax.tree_util.keystr(path[1:])
            return f"parameter '{name}' is {where}"
    return None


def bad_site(terms: PairTerms) -> str | None:
    """The first site whose value or log-density is not finite, in words, or None."""
    for site in terms.sites:
        for what, value in (("value", site.value), ("log q", site.log_q), ("log p", site.log_p)):
            if value is not None and (where := _first_bad(value)) is not None:
                return f"site '{site.name}' has {what} {where}"
    return None


def require_defined(weights: Array, params: Mapping[str, Any], terms: PairTerms) -> None:
    """Refuses log-weights that are NaN or +inf; says nothing of traced ones.

    Raises:
        DivergedError: naming the first bad entry and its cause.
    """
    if is_traced(weights, params, terms):
        return
    values = np.asarray(weights)
    wrong = np.isnan(values) | (values == math.inf)
    if wrong.any():
        index = first_index(wrong)
        raise not_finite(f"log p(x) or its bound is {values[index]} at index {index}", params, terms)


def not_finite(what: str, params: Mapping[str, Any], terms: PairTerms | None = None) -> DivergedError:
    """The error that says what is not finite and where that came from: a parameter or a site."""
    if (parameter := bad_parameter(params)) is not None:
        return DivergedError(f"{what}: {parameter}; start from finite values, or train with a smaller learning rate")
    site = None if terms is None else bad_site(terms)
    where = f"{what}: {site}" if site else what
    return DivergedError(f"{where}; the parameters may have diverged: try a smaller learning rate or a larger scale")


def _first_bad(value: Any) -> str | None:
    array = np.asarray(value)
    if not np.issubdtype(array.dtype, np.inexact):
        return None
    bad = ~np.isfinite(array)
    if not bad.any():
        return None
    index = first_index(bad)
    return f"{array[index]} at index {index}"
