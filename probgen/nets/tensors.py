"""Small functions of tensors that networks, models and guides share."""

import torch
import torch.nn.functional as F
from torch import Tensor


def concatenate(*tensors: Tensor) -> Tensor:
    """Joins features along the last dimension and broadcasts the leading ones.

    A latent under a particle plate is ``[K, B, D]`` while features of the data stay ``[B, H]``.

    Returns:
        ``[*leading, D + H + ...]``.

    Example:
        >>> tuple(concatenate(torch.ones(3, 2, 4), torch.ones(2, 5)).shape)
        (3, 2, 9)
    """
    leading = torch.broadcast_shapes(*(t.shape[:-1] for t in tensors))
    return torch.cat([t.expand(*leading, t.shape[-1]) for t in tensors], dim=-1)


def at_least_single(raw: Tensor) -> Tensor:
    """Half-precision network outputs (autocast) as float32; densities need the digits.

    Example:
        >>> at_least_single(torch.zeros(1, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    return raw.float() if raw.dtype in (torch.float16, torch.bfloat16) else raw


def loc_and_scale(raw: Tensor, min_scale: float) -> tuple[Tensor, Tensor]:
    """Splits outputs into a location and a positive scale, ``softplus(raw) + min_scale``.

    A scale that may reach zero makes a log-density, and so a log-weight, infinite.

    Args:
        raw: ``[..., 2 D]``, locations first.
        min_scale: the lower bound of the scale.

    Returns:
        Two tensors ``[..., D]``.

    Example:
        >>> loc, scale = loc_and_scale(torch.zeros(3, 4), 0.5)
        >>> tuple(loc.shape), round(float(scale[0, 0]), 4)
        ((3, 2), 1.1931)
    """
    loc, raw_scale = at_least_single(raw).chunk(2, dim=-1)
    return loc, F.softplus(raw_scale) + min_scale
