"""What is trained in a comparison, and how."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

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
    objectives: Mapping[str, Objective],
    optim: OptimFactory,
    **options: Any,
) -> dict[str, RunSpec]:
    """One :class:`RunSpec` for each objective, alike in everything else; :func:`compare` adds the seeds.

    Args:
        model: builds the model.
        guide: builds the guide, or None.
        objectives: by label.
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
    """
    return {label: RunSpec(model, guide, optim, objective, **options) for label, objective in objectives.items()}
