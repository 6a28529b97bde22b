"""What is trained in a comparison, and how."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from probgen import registry
from probgen.errors import ArgumentError, ArgumentTypeError
from probgen.objectives import Objective
from probgen.programs.param_scope import Program
from probgen.seeding import seeded
from probgen.svi import SVI
from probgen.svi.players import OptimFactory
from probgen.svi.schedules import Schedule


@dataclass(frozen=True)
class RunSpec:
    """What is trained, and how.

    Attributes:
        model: a callable without arguments that builds the model, so that every run has weights of its own.
        guide: likewise the guide; None for models without latent sites.
        optim: a callable from parameters to a torch optimizer; see :class:`probgen.SVI`.
        objective: what is optimised.
        schedule: multiplies the learning rate; see :func:`probgen.svi.warmup_cosine`.
        max_grad_norm: clips the norm of the gradient.
        ema_decay: keeps a moving average of the parameters, which is then what is evaluated.
        precision: ``"full"``, or ``"bfloat16"`` for the networks; see :class:`probgen.SVI`.
        capture: capture the step as one graph; see :class:`probgen.SVI`.
    """

    model: Callable[[], Program]
    guide: Callable[[], Program | None] | None
    optim: OptimFactory
    objective: Objective
    schedule: Schedule | None = None
    max_grad_norm: float | None = None
    ema_decay: float | None = None
    precision: str = "full"
    capture: bool = False

    def build(self, seed: int, accelerator: str = "auto") -> SVI:
        """A fresh pair, its weights drawn under ``seed``, in a loop that has not run yet."""
        with seeded(seed):
            model, guide = self.model(), None if self.guide is None else self.guide()
        return SVI(
            model,
            guide,
            self.optim,
            self.objective,
            schedule=self.schedule,
            max_grad_norm=self.max_grad_norm,
            ema_decay=self.ema_decay,
            precision=self.precision,
            accelerator=accelerator,
            capture=self.capture,
        )


def grid(
    model: Callable[[], Program],
    guide: Callable[[], Program | None] | None,
    objectives: Mapping[str, Objective | str] | Sequence[Objective | str],
    optim: OptimFactory,
    **options: Any,
) -> dict[str, RunSpec]:
    """One :class:`RunSpec` for each objective, alike in everything else; :func:`compare` adds the seeds.

    Args:
        model: builds the model.
        guide: builds the guide, or None.
        objectives: by label; or a list, whose specs are the labels. Each is an objective or its spec, such as
            ``"iwae:num_particles=50"``.
        optim: a callable from parameters to a torch optimizer.
        **options: further fields of :class:`RunSpec`.

    Example:
        >>> import functools, torch
        >>> from probgen.guides import AmortizedNormal
        >>> from probgen.models import VAE
        >>> from probgen.objectives import ELBO, IWAE
        >>> adam = functools.partial(torch.optim.Adam, lr=1e-3)
        >>> list(grid(VAE, AmortizedNormal, {"elbo": ELBO(), "iwae": IWAE(num_particles=5)}, adam))
        ['elbo', 'iwae']
        >>> list(grid(VAE, AmortizedNormal, ["elbo:beta=2.0", "iwae:num_particles=5,gradient=dreg"], adam))
        ['elbo:beta=2.0', 'iwae:num_particles=5,gradient=dreg']
    """
    found = named_objectives(objectives)
    return {label: RunSpec(model, guide, optim, objective, **options) for label, objective in found.items()}


def named_objectives(objectives: Any) -> dict[str, Objective]:
    """Objectives by label, from objectives or their specs, with labels or as a list.

    Raises:
        ArgumentError: none, a label twice, or a spec that is none.
        ArgumentTypeError: something else.

    Example:
        >>> named_objectives(["elbo", "iwae:num_particles=5"])["iwae:num_particles=5"].num_particles
        5
    """
    if isinstance(objectives, str | Objective) or not isinstance(objectives, Mapping | Sequence):
        raise ArgumentTypeError(
            "`objectives` must be a list of objectives or specs, or a dictionary from labels to them, got "
            f"{type(objectives).__name__}"
        )
    pairs = objectives.items() if isinstance(objectives, Mapping) else [(_label(o), o) for o in objectives]
    found: dict[str, Objective] = {}
    for label, objective in pairs:
        if label in found:
            raise ArgumentError(f"`objectives` names '{label}' twice; use a dictionary with labels of your own")
        found[str(label)] = as_objective(objective)
    if not found:
        raise ArgumentError("`objectives` is empty: at least one objective is required")
    return found


def as_objective(value: Any) -> Objective:
    """An objective, or what its spec says.

    Raises:
        ArgumentTypeError: neither.
    """
    made = registry.parse("objective", value) if isinstance(value, str) else value
    if not isinstance(made, Objective):
        raise ArgumentTypeError(
            "an objective must be one of `probgen.objectives`, such as `IWAE(num_particles=5)`, or its spec, such as "
            f"'iwae:num_particles=5', got {made!r}"
        )
    return made


def _label(objective: Any) -> str:
    return objective if isinstance(objective, str) else repr(objective)
