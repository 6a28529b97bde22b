"""Gradient estimators side by side: noise, signal, bias and cost of each, on one minibatch of one pair."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor

from probgen.arguments import positive_int
from probgen.comparison.gradient_result import GradientReport, GradientRow
from probgen.comparison.moments import GROUPS, Moments, exactly
from probgen.comparison.replicates import Measured, flat, measure, sides
from probgen.comparison.spec import as_objective, named_objectives
from probgen.data import Dataset
from probgen.data.batches import Call, as_call, size_of, to_device
from probgen.errors import ArgumentError, nearest
from probgen.objectives import Objective
from probgen.programs.modules import kept_buffers, mode, modules_of, untrained
from probgen.programs.param_scope import Program
from probgen.seeding import seeded
from probgen.svi.parameters import trained_parameters

Reference = Objective | str | Mapping[str, Tensor]


def gradient_report(
    model: Program,
    guide: Program | None,
    data: Any,
    objectives: Mapping[str, Objective | str] | Sequence[Objective | str],
    *,
    seed: int | None = None,
    num_replicates: int = 200,
    reference: Reference | None = None,
    reference_replicates: int = 1000,
    capture: bool = False,
) -> GradientReport:
    r"""Measures gradient estimators on one minibatch, apart for the model's parameters and the guide's.

    With the gradient :math:`g` of one step, as an optimizer sees it (of the loss summed over the batch),

    .. math::
        V = \operatorname{tr} \operatorname{Cov}(g), \quad
        \mathrm{SNR} = \frac{\lVert E[g] \rVert}{\sqrt V}, \quad
        \mathrm{bias} = \lVert E[g] - g^* \rVert

    The squared norms are estimated without bias, as products of independent replicates; errors are of the jackknife
    over groups of replicates. The noise is that of the particles alone: the minibatch is always the same.

    Args:
        model: a Pyro program.
        guide: a Pyro program that takes the same arguments, or None for a model without latent sites.
        data: one minibatch: a tensor becomes ``model(b)``, a tuple ``model(*b)``, a dict ``model(**b)``; of a
            :class:`probgen.data.Dataset`, all of it, and of dynamically binarized data one fixed draw.
        objectives: by label; or a list, whose specs are the labels. Each is an objective or its spec, such as
            ``"iwae:num_particles=50,gradient=dreg"``.
        seed: seeds the report and restores the generators; None draws from the global ones.
        num_replicates: gradients per objective, at least 40.
        reference: what bias is measured against: an objective or its spec, or the exact gradient of the loss by the
            parameter's name (as ``objective(model, guide)(data).backward()`` would leave it in ``.grad``), of all
            parameters of the model, of the guide, or of both. None measures no bias.
        reference_replicates: gradients of a reference that is an objective.
        capture: capture each step as one graph first; see :class:`probgen.SVI`. Times are then those of the graph.

    Returns:
        A :class:`probgen.comparison.GradientReport`: a row per objective and player, and the mean gradients.

    Raises:
        ArgumentError: no objectives, too few replicates, a reference of other names or shapes.
        ArgumentTypeError: something that is no objective.
        DivergedError: a gradient is not finite.
        ProbgenError: whatever :meth:`probgen.SVI.run` refuses about pair, data and objective.

    Source:
        Rainforth et al. (2018), Tighter variational bounds are not necessarily better, arXiv 1802.04537, for the
        signal-to-noise ratio (there of each parameter); Tucker et al. (2019), arXiv 1810.04152.

    Example:
        >>> from probgen.guides import AmortizedNormal
        >>> from probgen.models import PPCA
        >>> model, guide = PPCA(3, 1), AmortizedNormal((3,), 1, (4,))
        >>> specs = ["iwae:num_particles=20", "iwae:num_particles=20,gradient=dreg"]
        >>> report = gradient_report(model, guide, torch.ones(5, 3), specs, seed=0)
        >>> [row.player for row in report.rows]
        ['model', 'guide', 'model', 'guide']
    """
    named = named_objectives(objectives)
    positive_int("num_replicates", num_replicates, at_least=2 * GROUPS)
    positive_int("reference_replicates", reference_replicates, at_least=2 * GROUPS)
    call = _minibatch(model, guide, data, seed)
    with _at_rest(model, guide), seeded(seed):
        target = _target(model, guide, call, reference, reference_replicates, capture)
        measured = {
            label: measure(label, model, guide, call, objective, num_replicates, capture)
            for label, objective in named.items()
        }
    rows = [row for label, found in measured.items() for row in _rows(label, found, target)]
    settings = {"num_replicates": num_replicates, "num_data": size_of(call[0] or call[1]), "seed": seed}
    return GradientReport(tuple(rows), {label: found.gradients for label, found in measured.items()}, settings)


def _minibatch(model: Program, guide: Program | None, data: Any, seed: int | None) -> Call:
    """One minibatch as arguments, where the programs' parameters lie."""
    if isinstance(data, Dataset):
        if data.binarize == "dynamic":
            data = data.fixed(seed if seed is not None else int(torch.randint(2**32, ())))
        data = data.batch(slice(None), torch.Generator().manual_seed(0))
    parameter = next((p for module in modules_of(model, guide) for p in module.parameters()), None)
    return as_call(to_device(data, torch.device("cpu") if parameter is None else parameter.device))


@contextmanager
def _at_rest(model: Program, guide: Program | None) -> Iterator[None]:
    """Training mode, with gradients and without validation; modules, buffers and Pyro's store are left as they were."""
    modules = modules_of(model, guide)
    store = pyro.get_param_store()
    default = torch.distributions.Distribution._validate_args
    with ExitStack() as contexts:
        contexts.callback(torch.distributions.Distribution.set_default_validate_args, default)
        contexts.enter_context(store.scope(store.get_state()))
        contexts.enter_context(pyro.validation_enabled(False))
        contexts.enter_context(torch.enable_grad())
        for context in (kept_buffers(modules), untrained(modules), mode(modules, training=True)):
            contexts.enter_context(context)
        yield


# --- against a reference -------------------------------------------------------------------------------------


def _target(
    model: Program,
    guide: Program | None,
    call: Call,
    reference: Reference | None,
    replicates: int,
    capture: bool,
) -> dict[str, Moments]:
    """The reference's moments by player; of an exact gradient, without noise."""
    if reference is None:
        return {}
    if not isinstance(reference, Mapping):
        found = measure("reference", model, guide, call, as_objective(reference), replicates, capture)
        return found.moments
    parameters = trained_parameters(model, guide, *call)
    for name, value in reference.items():
        if name not in parameters:
            raise ArgumentError(f"`reference` names an unknown parameter '{name}'; {nearest(name, list(parameters))}")
        if not isinstance(value, Tensor) or value.shape != parameters[name].shape:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ArgumentError(f"`reference['{name}']` must be {tuple(parameters[name].shape)}, got {got}")
    by_side = sides(model, guide, call, parameters).items()
    complete = {side: names for side, names in by_side if all(name in reference for name in names)}
    if not complete:
        raise ArgumentError(
            f"`reference` must have a gradient for every parameter of the model or of the guide: {list(parameters)}"
        )
    return {
        side: exactly(flat([reference[n] for n in names], [parameters[n] for n in names]))
        for side, names in complete.items()
    }


def _rows(label: str, found: Measured, target: Mapping[str, Moments]) -> Iterator[GradientRow]:
    for side, moments in found.moments.items():
        variance, snr, aim = moments.variance(), moments.snr(), target.get(side)
        yield GradientRow(
            label=label,
            player=side,
            num_parameters=moments.mean.numel(),
            bound=found.bound,
            norm=math.sqrt(max(moments.signal(), 0.0)),
            variance=variance.value,
            variance_error=variance.error,
            snr=snr.value,
            snr_error=snr.error,
            bias=math.nan if aim is None else math.sqrt(max(moments.distance(aim), 0.0)),
            bias_score=math.nan if aim is None else max(moments.distance_score(aim), 0.0),
            ess=found.ess,
            ms_per_step=found.ms_per_step,
            variance_time=variance.value * found.ms_per_step,
        )
