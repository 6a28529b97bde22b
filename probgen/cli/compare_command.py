"""``probgen compare``: its options. What they do is in :mod:`probgen.cli.comparing`, which imports torch."""

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, arg

from probgen.cli.names import check_pair, check_specs
from probgen.registry import names
from probgen.runs.settings import PairSettings

OBJECTIVES = (
    "elbo",
    "elbo:kl=analytic",
    "elbo:beta=2.0",
    "iwae:num_particles=5",
    "iwae:num_particles=50",
    "renyi:alpha=0.5",
)


def _names(kind: str) -> str:
    return ", ".join(names(kind))


@dataclass(frozen=True, kw_only=True)
class Compare(PairSettings):
    """Train one model with several objectives and compare their bounds on held-out data.

    Models, guides and objectives are written as specs: a name, then arguments as Python literals, such as
    vae:latent_dim=8,hidden=(100,50) or iwae:num_particles=50,gradient=dreg. Quote what the shell would read. The
    comparison of the defaults takes one to two minutes on two cores.
    """

    eval_split: str = "test"
    """What is evaluated on."""

    model: Annotated[
        str,
        arg(
            help="Spec of the model; event_shape is that of the data. One of "
            f"{_names('model')}; or path.py:Name, a program of your own."
        ),
    ] = PairSettings.model

    guide: Annotated[
        str,
        arg(
            help="Spec of the guide, which takes over the model's sizes; auto for one that fits, or none. One of "
            f"{_names('guide')}; or path.py:Name."
        ),
    ] = "auto"

    objectives: Annotated[
        tuple[str, ...], arg(help=f"Specs of the objectives, of {_names('objective')}.", metavar="SPEC [SPEC ...]")
    ] = OBJECTIVES

    num_epochs: int | None = None
    """Passes over the data; 100 where neither this nor num_seconds is given."""

    num_seconds: float | None = None
    """Train each objective for as many steps as fit into these seconds, in place of num_epochs."""

    batch_size: int = 100
    """Data per step, and per minibatch of the evaluation."""

    learning_rate: float = 5e-3
    """Of Adam."""

    schedule: Literal["cosine", "constant"] = "cosine"
    """How the learning rate goes on: half a cosine down to 0, or constant."""

    capture: bool = True
    """Capture the training step as one graph: the same numbers, faster for small networks."""

    seeds: tuple[int, ...] = (0,)
    """Of weights and training; each one trains all objectives again."""

    num_particles: int = 1000
    """Of the evaluation, per datum."""

    accelerator: str = "auto"
    """auto, or a device such as cpu or cuda."""

    run_dir: str = "runs/compare"
    """Folder for config.json, config.toml, metrics.jsonl, comparison.csv and comparison.png."""

    config: str | None = None
    """TOML file of options, such as the config.toml of an earlier comparison; what is given here goes before it."""

    overwrite: FlagCreatePairsOff[bool] = False
    """Replace an earlier comparison in that folder."""

    debug: FlagCreatePairsOff[bool] = False
    """Show the traceback of an error."""

    def run(self) -> None:
        """Trains, evaluates, prints the table.

        Raises:
            ProbgenError: whatever is wrong with the options, before anything is trained; names first, before torch
                is imported.
        """
        check_pair(self.model, self.guide, self.config)
        check_specs("objective", self.objectives)
        from probgen.cli.comparing import run

        run(self)
