"""Arguments of networks with several stochastic layers."""

from collections.abc import Sequence

from probgen.arguments import sizes
from probgen.errors import ArgumentError

Hidden = Sequence[int] | Sequence[Sequence[int]]


def hidden_per_layer(hidden: Hidden, num_layers: int) -> tuple[tuple[int, ...], ...]:
    """Hidden widths for each stochastic layer, from the data upwards.

    Args:
        hidden: one tuple of widths for all layers, or one tuple for each.
        num_layers: how many stochastic layers there are.

    Raises:
        ArgumentError: neither of the two, or of another length.

    Example:
        >>> hidden_per_layer((200, 200), 2)
        ((200, 200), (200, 200))
        >>> hidden_per_layer(((200, 200), (100, 100)), 2)
        ((200, 200), (100, 100))
    """
    nested = isinstance(hidden, Sequence) and not isinstance(hidden, str) and len(hidden) > 0
    if not nested or not all(isinstance(h, Sequence) for h in hidden):
        return (sizes("hidden", hidden),) * num_layers
    if len(hidden) != num_layers:
        raise ArgumentError(
            f"`hidden` must be one tuple of widths, or one for each of {num_layers} stochastic layers; got {hidden!r}"
        )
    return tuple(sizes(f"hidden[{i}]", widths) for i, widths in enumerate(hidden))
