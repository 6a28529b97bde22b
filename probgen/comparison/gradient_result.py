"""What a gradient report returns: a row per objective and player, and the mean gradients."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from probgen.errors import ArgumentError, MissingExtra, nearest
from probgen.plots.folder import write_atomically
from probgen.plots.table import Column, to_csv, to_markdown, to_text

COLUMNS = (
    Column("objective", "label"),
    Column("player", "player"),
    Column("bound", "bound", ".3f"),
    Column("|E g|", "norm", ".3g"),
    Column("variance", "variance", ".3g"),
    Column("s.e.", "variance_error", ".1g"),
    Column("SNR", "snr", ".3g"),
    Column("s.e.", "snr_error", ".1g"),
    Column("bias", "bias", ".2g"),
    Column("in s.e.", "bias_score", ".1f"),
    Column("ESS", "ess", ".1f"),
    Column("ms/step", "ms_per_step", ".2f"),
    Column("variance x ms", "variance_time", ".3g"),
)


@dataclass(frozen=True)
class GradientRow:
    """The gradient of one objective for one player's parameters; of the loss summed over the batch.

    Attributes:
        label: of the objective.
        player: ``"model"`` or ``"guide"``: whose parameters.
        num_parameters: entries of the gradient.
        bound: mean of the bound, in nats per datum.
        norm: norm of the expected gradient.
        variance: sum of the variances of all entries.
        variance_error: standard error of ``variance``.
        snr: signal-to-noise ratio, ``norm / sqrt(variance)``.
        snr_error: standard error of ``snr``.
        bias: norm of the difference between the expected gradient and the reference; NaN without one.
        bias_score: how many standard errors expected gradient and reference are apart, at least 0; where there is no
            bias, like the positive part of a standard normal number.
        ess: mean effective sample size of the objective's particles, per datum; NaN where it has no weights.
        ms_per_step: median time of loss and gradient, in milliseconds, without the optimizer.
        variance_time: ``variance * ms_per_step``: what noise costs, the less the better.
    """

    label: str
    player: str
    num_parameters: int
    bound: float
    norm: float
    variance: float
    variance_error: float
    snr: float
    snr_error: float
    bias: float
    bias_score: float
    ess: float
    ms_per_step: float
    variance_time: float


@dataclass(frozen=True, eq=False, repr=False)
class GradientReport:
    """What :func:`probgen.gradient_report` returns; printed, it is a table.

    Attributes:
        rows: one for each objective and player.
        gradients: the mean gradient by label and parameter, in the shape of the parameter.
        settings: ``num_replicates``, ``num_data`` and ``seed``.
    """

    rows: tuple[GradientRow, ...]
    gradients: Mapping[str, Mapping[str, Tensor]]
    settings: Mapping[str, Any]

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in their order."""
        return tuple(dict.fromkeys(row.label for row in self.rows))

    @property
    def players(self) -> tuple[str, ...]:
        """Whose parameters there are, in their order."""
        return tuple(dict.fromkeys(row.player for row in self.rows))

    def row(self, label: str, player: str) -> GradientRow:
        """The row of an objective and a player.

        Raises:
            ArgumentError: there is no such row; names the nearest label.
        """
        if label not in self.labels:
            raise ArgumentError(f"no objective '{label}' in this report; {nearest(label, self.labels)}")
        if player not in self.players:
            raise ArgumentError(f"no player '{player}' in this report; {nearest(player, self.players)}")
        return next(row for row in self.rows if (row.label, row.player) == (label, player))

    def to_text(self) -> str:
        """An aligned table for the terminal, with lines that say what the columns are."""
        return f"{to_text(self._columns(), self.rows)}\n\n{self._caption()}"

    def to_markdown(self) -> str:
        """The table in Markdown."""
        return to_markdown(self._columns(), self.rows)

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Writes all fields of the rows, at full precision."""
        write_atomically(Path(path), to_csv(self.rows).encode())

    def to_dataframe(self) -> Any:
        """The rows as a ``pandas.DataFrame``, indexed by label and player.

        Raises:
            MissingExtra: pandas is not installed.
        """
        try:
            import pandas as pd  # type: ignore[import-untyped]
        except ImportError as error:
            raise MissingExtra("`to_dataframe` needs pandas: pip install pandas") from error
        return pd.DataFrame([asdict(row) for row in self.rows]).set_index(["label", "player"])

    def __repr__(self) -> str:
        return f"GradientReport(\n{self.to_text()}\n)"

    def __str__(self) -> str:
        return self.to_text()

    def _columns(self) -> list[Column]:
        known = any(row.bias == row.bias for row in self.rows)
        return [column for column in COLUMNS if known or column.field not in ("bias", "bias_score")]

    def _caption(self) -> str:
        lines = [
            f"Gradients of the loss summed over {self.settings['num_data']} data; {self.settings['num_replicates']} "
            "replicates. Variance: summed over the parameters; SNR: |E g| / sqrt(variance)."
        ]
        if any(row.bias == row.bias for row in self.rows):
            lines.append("Bias: |E g - reference|, and how many standard errors that is: below 3, none is seen.")
        return "\n".join(lines)
