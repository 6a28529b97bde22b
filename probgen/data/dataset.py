"""A data set: values, labels, and how the values become bits."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from probgen.data.binarization import check_mode, check_seed, fixed_draw, fresh_draw
from probgen.data.memory import Indices, check_lengths
from probgen.data.values import check_finite, check_unit
from probgen.errors import DataError


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Data in memory; :func:`probgen.data.load` makes them, and a tensor of your own does as well.

    Attributes:
        x: values ``[N, *event_shape]``; those of :func:`probgen.data.load` are float32. With ``binarize="dynamic"``
            they are the probabilities of the bits.
        y: labels ``[N]``, or None.
        name: what the data are called.
        split: which part of the source they are.
        binarize: None, ``"threshold"`` or ``"fixed"`` (``x`` has been binarized so), or ``"dynamic"`` (each batch is).
        seed: of the fixed draw, or None.
        rows: numbers of the data in the source, ``[N]``, from which the fixed draw starts; None means 0 to N - 1.
        file_rows: where each datum stands in its file ``[N]``, where that is one array, which is split in a fixed order
            of its own; else None.
        with_labels: whether batches are ``(x, y)``; see :meth:`labelled`.

    Raises:
        DataError: lengths differ, or values that cannot be probabilities are to be binarized dynamically.
        ArgumentError: an unknown ``binarize``.

    Example:
        >>> data = Dataset(torch.full((4, 2), 0.5), binarize="dynamic")
        >>> data.batch(slice(0, 3), torch.Generator().manual_seed(0)).shape
        torch.Size([3, 2])
    """

    x: Tensor
    y: Tensor | None = None
    name: str = "data"
    split: str = "all"
    binarize: str | None = None
    seed: int | None = None
    rows: Tensor | None = None
    file_rows: Tensor | None = field(default=None, kw_only=True)
    with_labels: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        check_mode(self.binarize)
        members = {"x": self.x, "y": self.y, "rows": self.rows}
        check_lengths({label: values for label, values in members.items() if values is not None})
        if self.binarize == "dynamic" and not self.x.is_floating_point():
            raise DataError(
                f"`x` has dtype {self.x.dtype}: dynamic binarization needs floating-point values in [0, 1]: scale and "
                "cast the data"
            )

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        labels = "with labels" if self.y is not None else "without labels"
        return f"Dataset({self.name} {self.split}: {len(self)} x {self.event_shape} {labels}, binarize={self.binarize})"

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one datum."""
        return tuple(self.x.shape[1:])

    @property
    def mean(self) -> Tensor:
        """The mean of each dimension, ``[*event_shape]``; of dynamic data, their expectation."""
        return self.x.mean(0) if self.x.is_floating_point() else self.x.float().mean(0)

    def to(self, device: torch.device | str) -> "Dataset":
        """The same data on ``device``."""
        return replace(self, x=self.x.to(device), y=None if self.y is None else self.y.to(device))

    def labelled(self) -> "Dataset":
        """The same data with batches ``(x, y)``, for conditional models.

        Raises:
            DataError: the data have no labels.
        """
        if self.y is None:
            raise DataError(f"`{self.name}` has no labels: load data that have, or use an unconditional model")
        return replace(self, with_labels=True)

    def fixed(self, seed: int) -> "Dataset":
        """The same data with one fixed Bernoulli draw of ``x``, to evaluate dynamic data reproducibly.

        It is the draw of ``load(..., binarize="fixed", seed=seed)``. Data that are binarized already, by a threshold or
        a fixed draw, come back as they are.

        Args:
            seed: 0 to 2**64 - 1; the same one gives the same bits on every machine and device.

        Raises:
            DataError: a value that is not finite or outside [0, 1].
        """
        if self.binarize in ("threshold", "fixed"):
            return self
        check_finite(self.x, "x")
        check_unit(self.x, "x")
        rows = torch.arange(len(self)) if self.rows is None else self.rows
        bits = fixed_draw(self.x, rows, check_seed(seed))
        return replace(self, x=bits, binarize="fixed", seed=seed)

    def batch(self, indices: Indices, generator: torch.Generator | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """The data at ``indices``; dynamic ones are drawn afresh, on the device where they lie.

        Args:
            indices: integers ``[B]`` or a slice.
            generator: where the draw of dynamic data comes from, on their device; others ignore it.

        Returns:
            Values ``[B, *event_shape]``; of labelled data, with the labels ``[B]``.

        Raises:
            ArgumentError: dynamic data without a generator, or with one on another device.
        """
        x = self.x[indices]
        if self.binarize == "dynamic":
            x = fresh_draw(x, generator)
        return (x, self.y[indices]) if self.with_labels and self.y is not None else x
