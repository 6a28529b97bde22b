"""Draws of a trained model, and data that a trained pair encodes and decodes, as arrays by site."""

import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from probgen.arguments import positive_int
from probgen.data.batches import size_of, to_device
from probgen.errors import ProgramError
from probgen.plots.decoding import AT_ONCE, Unobserved, centre, observed_site
from probgen.plots.subject import Batch, device_of, looking, read, run
from probgen.programs import SiteTerm
from probgen.programs.param_scope import Program

Arrays = dict[str, npt.NDArray[Any]]


def generate(model: Program, count: int, *args: Any, seed: int | None = 0, **kwargs: Any) -> Arrays:
    """Draws from a model.

    Args:
        model: a Pyro program.
        count: how many.
        *args: arguments as the program takes them, such as data or labels: what it observes is drawn anew, and they
            are repeated as often as ``count`` needs. Without any the model is asked for ``num_samples``.
        seed: of the draws; None draws from Pyro's global generator.
        **kwargs: likewise, by name.

    Returns:
        Every site with one entry for each draw, by name, and the centre of p(x | z) where it is known, as ``mean`` or,
        of a categorical distribution, ``mode``; ``[count, ...]``. A site of that name keeps it: then it is ``mean_``.

    Raises:
        ArgumentError: a count below 1.
        ProgramError: the model fails, or needs arguments that were not given.

    Example:
        >>> from probgen.models import PPCA
        >>> {name: values.shape for name, values in generate(PPCA(3, 2), 5).items()}
        {'z': (5, 2), 'x': (5, 3), 'mean': (5, 3)}
    """
    positive_int("num_samples", count)
    with looking(model, None, seed):
        given = _given(args, kwargs, device_of(model, None))
        return _joined(_draw(model, _batch(given, rows)) for rows in torch.arange(count).split(AT_ONCE))


def _given(args: tuple[Any, ...], kwargs: dict[str, Any], device: torch.device) -> Batch | None:
    if not args and not kwargs:
        return None
    args, kwargs = to_device(args, device), to_device(kwargs, device)
    size = size_of(kwargs if kwargs and not any(isinstance(value, Tensor) for value in args) else args)
    return Batch(args, kwargs, size, torch.arange(size))


def _batch(given: Batch | None, rows: Tensor) -> Batch:
    if given is None:
        return Batch((), {"num_samples": len(rows)}, len(rows), rows)
    return given.rows(rows % given.size)


def _draw(model: Program, batch: Batch) -> Arrays:
    """One run of the model, with what it observes drawn anew."""
    unobserved = Unobserved()
    program = unobserved(model)
    terms = run(program, program, batch)
    sites = {site.name: site for site in terms.sites}
    drawn = [sites[name] for name in terms.model_order]
    if not drawn:
        raise ProgramError("the model has no sample site, so there is nothing to draw")
    shown = next((site for site in drawn if site.name in unobserved.names), drawn[-1])
    arrays = _arrays(drawn, shown, batch.size)
    with suppress(ProgramError):  # its centre is not known
        arrays |= _centre(shown, arrays)
    return arrays


def reconstruct(model: Program, guide: Program, data: Any, count: int, *, seed: int | None = 0) -> Arrays:
    """Encodes data with a guide, and decodes them.

    Args:
        model: a Pyro program.
        guide: a Pyro program that takes the same arguments.
        data: what :func:`probgen.evaluate` takes.
        count: how many of the first data.
        seed: of the draws from the guide; None draws from Pyro's global generator.

    Returns:
        The data under the name of their site, the latent sites as drawn by the guide, and the centre of p(x | z) as in
        :func:`generate`, each ``[count, ...]``.

    Raises:
        ArgumentError: a count below 1.
        ProgramError: the pair has no latent site, fails, or the centre of p(x | z) is not known.
    """
    with looking(model, guide, seed):
        subject = read(model, guide, data, count, name="num_data")
        if not subject.terms.latents:
            raise ProgramError("the model has no latent site, so there is nothing to encode data into")
        parts = []
        for chunk in subject.chunks:
            terms = run(model, guide, chunk)
            shown = observed_site(terms, chunk)
            arrays = _arrays([shown, *terms.latents], shown, chunk.size)
            parts.append(arrays | _centre(shown, arrays))
        return {name: values[:count] for name, values in _joined(parts).items()}


def _arrays(sites: Iterable[SiteTerm], shown: SiteTerm, size: int) -> Arrays:
    """The sites with an entry for each datum, of which the one that is shown must be one."""
    arrays = {site.name: site.value for site in sites if site.value.dim() and len(site.value) == size}
    if shown.name not in arrays:
        raise ProgramError(
            f"site '{shown.name}' has shape {tuple(shown.value.shape)} for {size} data: the first axis must be theirs"
        )
    return {name: value.detach().cpu().numpy() for name, value in arrays.items()}


def _centre(shown: SiteTerm, taken: Arrays) -> Arrays:
    """The mean or mode of p(x | z), under a name that no site has.

    Raises:
        ProgramError: neither is known.
    """
    values, name = centre(shown.p, shown.name)
    while name in taken:
        name += "_"
    return {name: values.expand(shown.value.shape).detach().cpu().numpy()}


def _joined(parts: Iterable[Arrays]) -> Arrays:
    listed = list(parts)
    return {name: np.concatenate([part[name] for part in listed]) for name in listed[0]}


def grouped(columns: Mapping[str, npt.NDArray[Any]]) -> Arrays:
    """Columns ``x[0]``, ``x[1]``, ... of a figure as one array ``x``, ``[rows, D]``; others as they are.

    Example:
        >>> {k: v.shape for k, v in grouped({"step": np.zeros(3), "x[0]": np.ones(3), "x[1]": np.ones(3)}).items()}
        {'step': (3,), 'x': (3, 2)}
    """
    found: dict[str, list[npt.NDArray[Any]]] = {}
    for name, values in columns.items():
        found.setdefault(re.sub(r"\[\d+\]$", "", name), []).append(values)
    return {name: np.stack(v, 1) if len(v) > 1 or f"{name}[0]" in columns else v[0] for name, v in found.items()}
