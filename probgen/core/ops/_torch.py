"""The torch side of the shim; :class:`probgen.core.ops.Ops` says what each function does."""

import torch
from torch import Tensor

exp = torch.exp
expm1 = torch.expm1
log = torch.log
log1p = torch.log1p
where = torch.where


def sum(array: Tensor, axis: int = 0) -> Tensor:
    return array.sum(axis)


def mean(array: Tensor, axis: int = 0) -> Tensor:
    return array.mean(axis)


def max(array: Tensor, axis: int = 0) -> Tensor:
    return array.amax(axis)


def logsumexp(array: Tensor, axis: int = 0) -> Tensor:
    return array.logsumexp(axis)


def softmax(array: Tensor, axis: int = 0) -> Tensor:
    return array.softmax(axis)


def largest(array: Tensor, count: int) -> Tensor:
    return array.topk(count, dim=0).values.flip(0)


def stack(arrays: list[Tensor]) -> Tensor:
    return torch.stack(arrays)


def arange(count: int, like: Tensor) -> Tensor:
    return torch.arange(count, dtype=like.dtype, device=like.device)


def stop_gradient(array: Tensor) -> Tensor:
    return array.detach()


def double(array: Tensor) -> Tensor:
    return array.float() if array.device.type == "mps" else array.double()


def cast(array: Tensor, like: Tensor) -> Tensor:
    return array.to(like.dtype)


def is_floating(array: Tensor) -> bool:
    return array.dtype.is_floating_point


def limits(array: Tensor) -> tuple[float, float]:
    info = torch.finfo(array.dtype)
    return info.eps, info.tiny
