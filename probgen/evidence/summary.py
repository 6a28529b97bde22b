"""Several evaluations of one thing, over seeds, as one line of a table."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probgen.evidence.result import Evidence, standard_error


@dataclass(frozen=True)
class Row:
    """One line of a comparison: means over held-out data and seeds, in nats per datum where not said otherwise.

    Attributes:
        label: of the spec.
        kind: ``"exact"``, ``"lower"`` or ``"none"``; see :class:`probgen.Evidence`.
        num_seeds: the number of runs.
        log_prob: log p(x).
        standard_error: of ``log_prob``, over the data.
        monte_carlo_error: of ``log_prob``, over the particles.
        seed_error: of ``log_prob``, over the seeds; NaN for one.
        behind: how far ``log_prob`` is behind the best row's.
        behind_error: standard error of ``behind`` over the data, in pairs: both rows saw the same data.
        elbo: evidence lower bound.
        gap: ``log_prob - elbo``.
        kl: KL of the guide from the prior.
        active_units: latent dimensions that vary with the data, or None.
        ess: effective sample size.
        khat_share: share of the data whose Pareto k-hat is over the threshold.
        ms_per_step: median time of a training step, in milliseconds.
        num_particles: of the evaluation.
        num_steps: optimizer steps of the training of each seed, or None.
    """

    label: str
    kind: str
    num_seeds: int
    log_prob: float
    standard_error: float
    monte_carlo_error: float
    seed_error: float
    behind: float
    behind_error: float
    elbo: float
    gap: float
    kl: float
    active_units: float | None
    ess: float
    khat_share: float
    ms_per_step: float
    num_particles: int
    num_steps: int | None = None


def summarize(
    evidences: Mapping[str, Sequence[Evidence]],
    ms_per_step: Mapping[str, Sequence[float]],
    num_steps: Mapping[str, int] | None = None,
) -> list[Row]:
    """One :class:`Row` for each label.

    Args:
        evidences: one per seed, by label; all on the same data.
        ms_per_step: likewise, in milliseconds.
        num_steps: of the training, by label.
    """
    steps = num_steps or {}
    log_prob = {label: _per_datum(members) for label, members in evidences.items()}
    best = max(log_prob, key=lambda label: _mean_or_least(log_prob[label]))
    return [
        _row(label, members, ms_per_step[label], log_prob[best] - log_prob[label], steps.get(label))
        for label, members in evidences.items()
    ]


def _per_datum(evidences: Sequence[Evidence]) -> Tensor:
    """The mean over seeds of log p(x) of every datum, ``[N]``."""
    return torch.stack([evidence.log_prob for evidence in evidences]).mean(0)


def _mean_or_least(log_prob: Tensor) -> float:
    mean = float(log_prob.mean())
    return -math.inf if math.isnan(mean) else mean


def _row(
    label: str, evidences: Sequence[Evidence], ms_per_step: Sequence[float], behind: Tensor, num_steps: int | None
) -> Row:
    count = len(evidences)
    over_seeds = torch.tensor([evidence.mean for evidence in evidences], dtype=torch.float64)
    active = [units for evidence in evidences if (units := evidence.active_units) is not None]
    return Row(
        label=label,
        kind=evidences[0].kind,
        num_seeds=count,
        num_particles=evidences[0].num_particles,
        log_prob=float(over_seeds.mean()),
        standard_error=standard_error(_per_datum(evidences)),
        monte_carlo_error=math.hypot(*(evidence.mean_monte_carlo_error for evidence in evidences)) / count,
        seed_error=standard_error(over_seeds),
        behind=float(behind.mean()),
        behind_error=standard_error(behind),
        elbo=sum(float(evidence.elbo.mean()) for evidence in evidences) / count,
        gap=sum(evidence.gap for evidence in evidences) / count,
        kl=sum(float(evidence.kl.mean()) for evidence in evidences) / count,
        active_units=sum(active) / count if len(active) == count else None,
        ess=sum(float(evidence.ess.mean()) for evidence in evidences) / count,
        khat_share=sum(evidence.khat_share for evidence in evidences) / count,
        ms_per_step=sum(ms_per_step) / count,
        num_steps=num_steps,
    )
