"""What a comparison returns: its runs, and one table of what came out."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyro
from torch import Tensor

from probgen.errors import MissingExtra
from probgen.evidence import Evidence, Row, summarize
from probgen.plots.folder import write_atomically
from probgen.plots.table import Column, to_csv, to_markdown, to_text
from probgen.programs.param_scope import Program, StoreState


@dataclass(frozen=True, eq=False)
class Run:
    """One trained pair and its evaluation.

    Attributes:
        label: of the spec.
        seed: of weights and training.
        model: as trained; of parameters with a moving average, the average.
        guide: likewise, or None.
        evidence: on the held-out data.
        losses: ``[num_steps]``, nats per datum.
        ms_per_step: median time of a training step, in milliseconds.
    """

    label: str
    seed: int
    model: Program = field(repr=False)
    guide: Program | None = field(repr=False)
    evidence: Evidence
    losses: Tensor = field(repr=False)
    ms_per_step: float
    _store: StoreState = field(repr=False)

    @property
    def num_steps(self) -> int:
        """Optimizer steps of the training."""
        return len(self.losses)

    @contextmanager
    def parameters(self) -> Iterator[None]:
        """Runs its body with this run's ``pyro.param`` statements in Pyro's store, as its programs need."""
        with pyro.get_param_store().scope(self._store):  # type: ignore[arg-type]
            yield


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """What :func:`compare` returns.

    Attributes:
        runs: every run, seeds outermost, in the order in which they ran.
        eval_data: the held-out data as they were evaluated.
        settings: what is in ``config.json``.
    """

    runs: tuple[Run, ...]
    eval_data: Any
    settings: dict[str, Any]

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in their order."""
        return tuple(dict.fromkeys(run.label for run in self.runs))

    @property
    def rows(self) -> list[Row]:
        """One :class:`probgen.evidence.Row` for each label."""
        runs = {label: [run for run in self.runs if run.label == label] for label in self.labels}
        return summarize(
            {label: [run.evidence for run in members] for label, members in runs.items()},
            {label: [run.ms_per_step for run in members] for label, members in runs.items()},
            {label: members[0].num_steps for label, members in runs.items()},
        )

    @property
    def best(self) -> Row:
        """The row with the highest log p(x); rows without one come last."""
        return max(self.rows, key=lambda row: -math.inf if math.isnan(row.log_prob) else row.log_prob)

    def to_text(self) -> str:
        """An aligned table for the terminal, with a line that says what the columns are."""
        return f"{to_text(self._columns(), self.rows)}\n\n{self._caption()}"

    def to_markdown(self) -> str:
        """The table in Markdown."""
        return to_markdown(self._columns(), self.rows)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes all fields of the rows, at full precision."""
        write_atomically(Path(path), to_csv(self.rows).encode())

    def to_dataframe(self) -> Any:
        """The rows as a ``pandas.DataFrame``, indexed by label.

        Raises:
            MissingExtra: pandas is not installed.
        """
        try:
            import pandas as pd  # type: ignore[import-untyped]
        except ImportError as error:
            raise MissingExtra("`to_dataframe` needs pandas: pip install pandas") from error
        return pd.DataFrame([asdict(row) for row in self.rows]).set_index("label")

    def __repr__(self) -> str:
        return f"Comparison(\n{self.to_text()}\n)"

    def _columns(self) -> list[Column]:
        several = len(self.runs) > len(self.labels)
        threshold = max(run.evidence.khat_threshold for run in self.runs)  # that of one draw, if exact, is -inf
        columns = [
            Column("objective", "label"),
            Column("log p(x)", "log_prob", ".3f"),
            Column("s.e.", "standard_error", ".3f"),
            Column("MC s.e.", "monte_carlo_error", ".3f"),
            Column("seed s.e.", "seed_error", ".3f"),
            Column("behind", "behind", ".3f"),
            Column("s.e.", "behind_error", ".3f"),
            Column("ELBO", "elbo", ".3f"),
            Column("gap", "gap", ".3f"),
            Column("KL", "kl", ".3f"),
            Column("active", "active_units", ".3g"),
            Column("ESS", "ess", ".1f"),
            Column(f"k-hat>{max(threshold, 0.0):.2f}", "khat_share", ".1%"),
            Column("steps", "num_steps", "d"),
            Column("ms/step", "ms_per_step", ".2f"),
            Column("kind", "kind"),
        ]
        hidden = {"seed_error"} if not several else set()
        hidden |= {"num_steps"} if "num_seconds" not in self.settings else set()  # else they are the same for all
        return [column for column in columns if column.field not in hidden]

    def _caption(self) -> str:
        evidence = self.runs[0].evidence
        seeds = len({run.seed for run in self.runs})
        time = f"; {self.settings['num_seconds']:g} s of training each" if "num_seconds" in self.settings else ""
        return (
            f"Nats per datum on {len(evidence.log_prob)} held-out data; {evidence.num_particles} particles; "
            f"{seeds} seed{'s' if seeds > 1 else ''}{time}. s.e.: standard error over the data, MC: over the "
            "particles; behind: the best, in pairs."
        )
