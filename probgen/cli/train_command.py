"""``probgen train`` and ``probgen resume``: their options. What they do is in :mod:`probgen.cli.training`."""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from probgen.cli.names import check_pair, check_specs
from probgen.errors import ArgumentError
from probgen.runs.settings import MODEL, TrainSettings


@dataclass(frozen=True, kw_only=True)
class Train(TrainSettings):
    """Train a model; checkpoints, metrics and figures go to a folder of their own.

    Models, guides and objectives are written as specs: a name, then arguments as Python literals, such as
    vae:latent_dim=8,hidden=(100,50) or iwae:num_particles=5,gradient=dreg. Quote what the shell would read.
    `probgen list` shows the names, `probgen list vae` the arguments. A program of your own is path.py:Name.
    """

    model: Annotated[Positional[str], arg(metavar="MODEL")] = MODEL
    """Spec of the model, such as vae:latent_dim=8; or path.py:Name: a class, or a function that makes or is a Pyro
    program."""

    run_dir: str = "runs/train"
    """Folder for config.toml, metrics.jsonl, checkpoints/ and figures/."""

    config: str | None = None
    """TOML file of options, such as the config.toml of an earlier run; what is given here goes before it."""

    resume: FlagCreatePairsOff[bool] = False
    """Go on with the run in that folder, to the same end as if it had not been interrupted."""

    overwrite: FlagCreatePairsOff[bool] = False
    """Replace an earlier run in that folder."""

    allow_changed: FlagCreatePairsOff[bool] = False
    """With --resume: take programs from files that have changed since."""

    debug: FlagCreatePairsOff[bool] = False
    """Show the traceback of an error."""

    def run(self) -> None:
        """Trains, writes figures, prints a summary.

        Raises:
            ProbgenError: whatever is wrong with the options, before anything is trained; names first, before torch
                is imported.
        """
        if not self.run_dir.strip():
            raise ArgumentError("`--run-dir` must name a folder, such as runs/a")
        if self.resume and self.overwrite:
            raise ArgumentError("`--resume` goes on with a run and `--overwrite` replaces it; give one of them")
        if self.allow_changed and not self.resume:
            raise ArgumentError(
                "`--allow-changed` is for a run that goes on, and a new one takes any file; leave it out"
            )
        check_pair(self.model, self.guide, self.config)
        check_specs("objective", (self.objective,))
        from probgen.cli.training import run

        run(self)


@dataclass(frozen=True, kw_only=True)
class Resume:
    """Go on with an interrupted run, or train a finished one for longer."""

    run_dir: Annotated[Positional[str], arg(metavar="RUN")]
    """Folder of the run."""

    num_epochs: int | None = None
    """Passes over the data, those that are done included; None for as many as the run was to have."""

    step: int | None = None
    """Go on from the checkpoint of this step instead of the last one; those of later steps are removed."""

    model: str | None = None
    """path.py:Name, for a run whose model is from a file."""

    guide: str | None = None
    """path.py:Name, for a run whose guide is from a file."""

    allow_changed: FlagCreatePairsOff[bool] = False
    """Take programs from files that have changed since."""

    debug: FlagCreatePairsOff[bool] = False
    """Show the traceback of an error."""

    def run(self) -> None:
        """Trains on, writes figures, prints a summary.

        Raises:
            ProbgenError: no run is there, or it cannot go on.
        """
        from probgen.runs.saved import read_run, require_resumable

        require_resumable(read_run(self.run_dir))  # before torch is imported
        from probgen.cli.training import resume

        resume(self)


EXCLUDED = ("config", "resume", "overwrite", "allow_changed", "debug")  # of a file of settings
