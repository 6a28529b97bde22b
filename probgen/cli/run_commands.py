"""The commands on a trained run: their options. What they do is in :mod:`probgen.cli.evaluating` and ``drawing``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from probgen.errors import ArgumentError


@dataclass(frozen=True, kw_only=True)
class OnRun:
    """What every command on a run takes."""

    run_dir: Annotated[Positional[str], arg(metavar="RUN")]
    """Folder of the run."""

    which: Literal["result", "last", "best"] = "result"
    """Which parameters: what the run gave back, those of its last step, or of the best held-out bound."""

    model: str | None = None
    """path.py:Name, for a run whose model is from a file."""

    guide: str | None = None
    """path.py:Name, for a run whose guide is from a file."""

    allow_changed: FlagCreatePairsOff[bool] = False
    """Take programs from files that have changed since."""

    seed: int = 0
    """Of the draws."""

    accelerator: str = "auto"
    """auto, or a device such as cpu or cuda."""

    overwrite: FlagCreatePairsOff[bool] = False
    """Replace files that are there."""

    debug: FlagCreatePairsOff[bool] = False
    """Show the traceback of an error."""

    def check(self, *outputs: Path) -> None:
        """Refuses, before torch is imported, a folder without run and files that would be overwritten.

        Raises:
            ArgumentError: no run, or a file that is there.
            DataFileError: the run's settings are damaged.
        """
        from probgen.runs.saved import read_run

        read_run(self.run_dir)
        require_new(outputs, overwrite=self.overwrite)


def require_new(outputs: tuple[Path, ...], *, overwrite: bool) -> None:
    """Raises if a file would be overwritten, or cannot be written.

    Raises:
        ArgumentError: it is there, or its folder is not.
    """
    for path in outputs:
        if path.is_dir():
            raise ArgumentError(f"'{path}' is a folder; name a file")
        if not overwrite and path.exists():
            raise ArgumentError(f"'{path}' exists already; pass `--overwrite` to replace it, or name another file")
        if path.parent.exists() and not path.parent.is_dir():
            raise ArgumentError(f"'{path}' cannot be written: '{path.parent}' is a file")


def output_file(text: str, suffix: str) -> Path:
    """The file that an option names.

    Raises:
        ArgumentError: it has another suffix.
    """
    path = Path(text)
    if path.suffix != suffix:
        raise ArgumentError(f"`--output` must end in {suffix}, got '{text}'")
    return path


@dataclass(frozen=True, kw_only=True)
class OnData(OnRun):
    """What commands take that need data beside the run."""

    data: str | None = None
    """Name of a data set, or a path to IDX, .npz or .npy files; None for that of the run."""

    split: str = "test"
    """Which part: train, valid, test, parts joined by +, or all."""

    binarize: Literal["threshold", "fixed", "dynamic", "none"] | None = None
    """Grey values to bits; None as in training."""


@dataclass(frozen=True, kw_only=True)
class Evaluate(OnData):
    """Estimate log p(x) of held-out data under a trained model, with standard errors and diagnostics.

    Writes evidence.csv, with a line for each datum, evidence.json and figures/evidence.png to the run's folder.
    """

    num_particles: int = 5000
    """Samples of the guide per datum."""

    batch_size: int = 100
    """Data per minibatch."""

    def run(self) -> None:
        """Evaluates, prints a table, writes the files.

        Raises:
            ProbgenError: no run is there, or it cannot be evaluated.
        """
        folder = Path(self.run_dir)
        self.check(folder / "evidence.csv", folder / "evidence.json")
        from probgen.cli.evaluating import evaluate_run

        evaluate_run(self)


@dataclass(frozen=True, kw_only=True)
class Score(OnData):
    """Estimate log p(x) of each datum, as a table: in nats, with its Monte Carlo error, ESS and Pareto k-hat."""

    split: str = "all"
    """Which part: train, valid, test, parts joined by +, or all."""

    num_particles: int = 5000
    """Samples of the guide per datum."""

    batch_size: int = 100
    """Data per minibatch."""

    output: str = "scores.csv"
    """The table."""

    def run(self) -> None:
        """Evaluates and writes the table.

        Raises:
            ProbgenError: no run is there, or it cannot be evaluated.
        """
        self.check(output_file(self.output, ".csv"))
        from probgen.cli.evaluating import score

        score(self)


@dataclass(frozen=True, kw_only=True)
class Sample(OnRun):
    """Draw from a trained model: an .npz with every site, and a figure beside it, a .png."""

    num_samples: int = 64
    """How many."""

    label: int | None = None
    """The class to draw, of a conditional model; None for every class in turn."""

    output: str = "samples.npz"
    """The file; arrays x, the latent sites, and mean, which is E[x | z], or of categories their mode; left out where it
    is not known."""

    def run(self) -> None:
        """Draws and writes.

        Raises:
            ProbgenError: no run is there, or it cannot generate.
        """
        path = output_file(self.output, ".npz")
        self.check(path, path.with_suffix(".png"))
        from probgen.cli.drawing import sample

        sample(self)


@dataclass(frozen=True, kw_only=True)
class Reconstruct(OnData):
    """Encode data with a trained pair, and decode them: an .npz, and a figure beside it, a .png."""

    num_data: int = 16
    """How many of the data, from the first."""

    output: str = "reconstructions.npz"
    """The file; arrays x, the latent sites as drawn by the guide, and mean, which is E[x | z], or of categories their
    mode."""

    def run(self) -> None:
        """Draws and writes.

        Raises:
            ProbgenError: no run is there, or its pair has no latent sites.
        """
        path = output_file(self.output, ".npz")
        self.check(path, path.with_suffix(".png"))
        from probgen.cli.drawing import reconstruct

        reconstruct(self)


@dataclass(frozen=True, kw_only=True)
class Interpolate(OnData):
    """Go from one datum to another through the latent space: an .npz, and a figure beside it, a .png."""

    pairs: int = 4
    """How many pairs of data."""

    steps: int = 10
    """Points on each way, the two ends included."""

    output: str = "interpolation.npz"
    """The file; arrays x, which are means of p(x | z) or of categories modes, and for each of its rows pair, from, to
    and the place t."""

    def run(self) -> None:
        """Draws and writes.

        Raises:
            ProbgenError: no run is there, or its pair has no continuous latent sites.
        """
        path = output_file(self.output, ".npz")
        self.check(path, path.with_suffix(".png"))
        from probgen.cli.drawing import interpolate

        interpolate(self)


@dataclass(frozen=True, kw_only=True)
class Plot:
    """Draw the figures of a run again, and the training curves of several runs together.

    Figures of a run go to its own folder, where they are drawn again, or to --output; curves of several, and of
    comparisons, to --output.
    """

    run_dirs: Annotated[Positional[tuple[str, ...]], arg(metavar="RUN [RUN ...]")]
    """Folders of runs or comparisons."""

    output: str | None = None
    """Folder for the figures of one run, or for training.png and training.csv of several; None for figures/ in the
    folder of the one, or here for those of several."""

    model: str | None = None
    """path.py:Name, for runs whose model is from a file."""

    guide: str | None = None
    """path.py:Name, for runs whose guide is from a file."""

    allow_changed: FlagCreatePairsOff[bool] = False
    """Take programs from files that have changed since."""

    curves_only: FlagCreatePairsOff[bool] = False
    """Draw the training curves alone."""

    seed: int | None = None
    """Of the draws; None for 0."""

    overwrite: FlagCreatePairsOff[bool] = False
    """Replace files that are there, in --output."""

    debug: FlagCreatePairsOff[bool] = False
    """Show the traceback of an error."""

    @property
    def of_pairs(self) -> tuple[str, ...]:
        """The options that are given and mean nothing to training curves."""
        given = {"--model": self.model, "--guide": self.guide, "--seed": self.seed}
        named = tuple(name for name, value in given.items() if value is not None)
        return (*named, "--allow-changed") if self.allow_changed else named

    def run(self) -> None:
        """Draws and writes.

        Raises:
            ProbgenError: a folder without metrics, or options of no use.
        """
        if not self.run_dirs:
            raise ArgumentError("`probgen plot` needs the folder of a run, such as `probgen plot runs/a runs/b`")
        if self.curves_only and self.of_pairs:
            raise ArgumentError(
                f"`{self.of_pairs[0]}` is for the figures of a pair, which `--curves-only` leaves out; give one of them"
            )
        from probgen.cli.plotting import plot

        plot(self)
