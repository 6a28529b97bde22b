"""One run on several devices: a process for each, every one with its share of each batch, and gradients summed.

The processes are ``torchrun``'s, and the process group is torch's. Each computes its player's gradient on its own share
of the minibatch; the sum over the shares is that of the minibatch, so that all take the same step.
"""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import safetensors.torch
import torch
import torch.distributed as distributed
from torch import Tensor

from probgen.data.batches import Batches, Call, Stream, size_of
from probgen.errors import ArgumentError, DataError, UnsupportedObjective
from probgen.objectives import PairLoss, Player
from probgen.programs import PairTerms
from probgen.svi.players import Differentiated


class Alone:
    """One process: everything is here, and there is nobody to ask."""

    rank, size = 0, 1

    def same(self, tensors: Iterable[Tensor]) -> None:
        """Takes over the tensors of the first process."""

    def number(self, value: float) -> float:
        """The number of the first process."""
        return value

    def added(self, *numbers: float) -> tuple[float, ...]:
        """The sums of numbers over the processes."""
        return numbers

    def any(self, *wishes: bool) -> tuple[bool, ...]:
        """Which wishes some process has."""
        return wishes

    def check_lengths(self, batches: Batches | Stream) -> None:
        """Refuses streams of different lengths."""

    def gathered(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of all processes, under their ranks."""
        return {f"0/{name}": value for name, value in tensors.items()}

    def share(self, batch: Any) -> Any:
        """This process's part of a batch."""
        return batch

    def summed(
        self, result: Differentiated, parameters: list[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Differentiated:
        """Loss, report and gradient of the whole minibatch from those of this process's share of it."""
        return result

    def check(self, pair: PairLoss, terms: PairTerms, call: Call) -> None:
        """Refuses a pair whose shares do not add up."""

    def check_players(self, players: Sequence[Player]) -> None:
        """Refuses players whose losses may not be sums over the data."""

    def check_shares(self, batches: Batches | Stream) -> None:
        """Refuses minibatches of which some process would have nothing."""


class Together(Alone):
    """One of several processes that train together.

    Args:
        device: where this process trains.

    Attributes:
        rank: the number of this process.
        size: how many there are.
        subsampled: whether the programs scale a minibatch up to all data, so that the shares are averaged.
    """

    def __init__(self, device: torch.device) -> None:
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()
        self.subsampled = False
        self._device = device

    @torch.no_grad()
    def same(self, tensors: Iterable[Tensor]) -> None:
        """Takes over the tensors of the first process."""
        for tensor in tensors:
            whole = tensor.detach().contiguous()
            distributed.broadcast(whole, 0)
            tensor.copy_(whole)

    def number(self, value: float) -> float:
        """The number of the first process."""
        tensor = torch.tensor(value, dtype=torch.float64, device=self._device)
        distributed.broadcast(tensor, 0)
        return tensor.item()

    def added(self, *numbers: float) -> tuple[float, ...]:
        """The sums of numbers over the processes."""
        total = torch.tensor(numbers, dtype=torch.float64, device=self._device)
        distributed.all_reduce(total)
        return tuple(total.tolist())

    def check_lengths(self, batches: Batches | Stream) -> None:
        """Refuses streams of different lengths, where they know it.

        Raises:
            DataError: they differ.
        """
        if isinstance(batches, Stream):
            length = len(batches) if hasattr(batches.data, "__len__") else 0
            if self.any(self.number(length) != length)[0]:
                raise DataError(
                    f"the processes' streams differ in length, this one has {length} batches; give each as many, as "
                    "`DistributedSampler` does"
                )

    def any(self, *wishes: bool) -> tuple[bool, ...]:
        """Which wishes some process has."""
        votes = torch.tensor(wishes, dtype=torch.int32, device=self._device)
        distributed.all_reduce(votes)
        return tuple(vote > 0 for vote in votes.tolist())

    def gathered(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of all processes, under their ranks."""
        content = safetensors.torch.save({name: value.cpu().clone() for name, value in tensors.items()})
        own = torch.frombuffer(bytearray(content), dtype=torch.uint8).to(self._device)
        lengths = [torch.zeros(1, dtype=torch.int64, device=self._device) for _ in range(self.size)]
        distributed.all_gather(lengths, torch.tensor([len(own)], device=self._device))
        longest = max(int(length) for length in lengths)
        padded = torch.cat([own, own.new_zeros(longest - len(own))])
        everyone = [torch.empty_like(padded) for _ in range(self.size)]
        distributed.all_gather(everyone, padded)
        found: dict[str, Tensor] = {}
        for rank, (values, length) in enumerate(zip(everyone, lengths, strict=True)):
            members = safetensors.torch.load(values[: int(length)].cpu().numpy().tobytes())
            found |= {f"{rank}/{name}": value for name, value in members.items()}
        return found

    def share(self, batch: Any) -> Any:
        """Every ``size``-th datum of a batch in memory, from ``rank`` on."""
        if isinstance(batch, dict):
            return {name: value[self.rank :: self.size] for name, value in batch.items()}
        if isinstance(batch, tuple):
            return tuple(value[self.rank :: self.size] for value in batch)
        return batch[self.rank :: self.size]

    @torch.no_grad()
    def summed(
        self, result: Differentiated, parameters: list[Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Differentiated:
        """Loss, report and gradient of the whole minibatch from those of this process's share of it.

        With ``l_r`` the loss on the ``b_r`` data of process r: the sum of ``l_r``; or that of ``b_r l_r`` over that of
        ``b_r`` where each is scaled up to all data already. What is reported is per datum, and so always averaged.
        """
        total, report, gradients = result
        count = size_of((*args, *kwargs.values()))
        weight = count if self.subsampled else 1
        numbers = torch.stack([total * weight, *(value.to(total) * count for value in report.values())])
        used = total.new_tensor([gradient is not None for gradient in gradients])  # a share may leave some out
        filled = [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, parameters, strict=True)]
        packed = [numbers, total.new_full((1,), count), used, *(gradient.flatten() * weight for gradient in filled)]
        for dtype in {tensor.dtype for tensor in packed}:  # one message for each dtype; mostly one in all
            members = [i for i, tensor in enumerate(packed) if tensor.dtype == dtype]
            flat = torch.cat([packed[i] for i in members])
            distributed.all_reduce(flat)
            for i, part in zip(members, flat.split([packed[i].numel() for i in members]), strict=True):
                packed[i] = part
        numbers, counts, used, *flats = packed
        share = counts if self.subsampled else torch.ones_like(counts)
        sums = [flat / share.to(flat) if self.subsampled else flat for flat in flats]
        whole = tuple(s.view_as(p) if u > 0 else None for s, p, u in zip(sums, parameters, used.tolist(), strict=True))
        means = dict(zip(report, (numbers[1:] / counts).unbind(), strict=True))
        return (numbers[:1] / share).squeeze(0), means, whole

    def check(self, pair: PairLoss, terms: PairTerms, call: Call) -> None:
        """Finds out how shares add up.

        Raises:
            ArgumentError: a minibatch of fewer than two data.
            UnsupportedObjective: the weights are joint, or scaled by something that does not follow the minibatch.
        """
        if terms.batch_shape == ():
            raise UnsupportedObjective(
                "the weights of this pair are joint over the data, so that shares of a minibatch do not add up: train "
                "with `devices=1`, or put the data into a plate that encloses all latents"
            )
        args, kwargs = call
        count = size_of((*args, *kwargs.values()))
        if count < 2:
            raise ArgumentError(f"`devices` needs at least 2 data in the first minibatch, got {count}")
        half = [value[: count // 2] if _follows(value, count) else value for value in (*args, *kwargs.values())]
        named = dict(zip(kwargs, half[len(args) :], strict=True))
        smaller = pair.terms_from(tuple(half[: len(args)]), named, validate=False)
        before, after = (float(torch.as_tensor(t.scale).double().mean()) for t in (terms, smaller))
        if before == after == 1.0:
            self.subsampled = False
        elif abs(after / before - count / (count // 2)) < 1e-6 * count:
            self.subsampled = True
        else:
            raise UnsupportedObjective(
                f"the scale of the data is {before:g} for {count} of them and {after:g} for {count // 2}: with "
                "`devices` it must be 1, or the size of all data over that of the minibatch"
            )

    def check_players(self, players: Sequence[Player]) -> None:
        """Refuses players whose losses may not be sums over the data.

        Raises:
            UnsupportedObjective: there are several players.
        """
        if len(players) > 1:
            raise UnsupportedObjective(f"an objective with {len(players)} players trains with `devices=1` only")

    def check_shares(self, batches: Batches | Stream) -> None:
        """Refuses minibatches of which some process would have nothing.

        Raises:
            ArgumentError: fewer data than processes in a minibatch.
        """
        if isinstance(batches, Batches):
            smallest = len(batches.data) % batches.batch_size or batches.batch_size
            if smallest < self.size:
                raise ArgumentError(
                    f"a minibatch of {smallest} data cannot be shared by {self.size} processes: choose a `batch_size` "
                    "that divides the number of data, or another one"
                )


def _follows(value: Any, count: int) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0 and len(value) == count


def processes(devices: int, device: torch.device) -> Alone:
    """The processes that train together.

    Raises:
        ArgumentError: there are not as many as ``devices``.
    """
    if devices == 1:
        return Alone()
    ready = distributed.is_available() and distributed.is_initialized()
    if not ready or distributed.get_world_size() != devices:
        found = f"there are {distributed.get_world_size()}" if ready else "there is no process group"
        raise ArgumentError(
            f"`devices={devices}` needs as many processes, but {found}: start the script by `torchrun --nproc-per-node "
            f"{devices} script.py`, which calls `torch.distributed.init_process_group()` first"
        )
    return Together(device)


def local_device(device: torch.device, devices: int) -> torch.device:
    """The device of this process: CUDA devices without a number are shared out by ``torchrun``'s ``LOCAL_RANK``."""
    if devices == 1 or device.type != "cuda" or device.index is not None:
        return device
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
