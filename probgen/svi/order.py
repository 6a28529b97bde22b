"""The order in which batches come, and where in it a run stands."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from torch import Tensor

from probgen.data.batches import Batches, Stream
from probgen.errors import ArgumentError, CheckpointError, DataError
from probgen.seeding import MAX_SEED, preserved_rng, rng_tensors, set_rng_tensors
from probgen.svi.parallel import Alone

_END = object()


class Order:
    """Epochs over a source of batches, which can be gone on with in the middle.

    An epoch's order follows from the generators as they stood when it began. To go on with one, they are set back to
    there, the epoch begins again, and the batches that have been seen are skipped: the draws of skipped batches, such
    as fresh binarizations, are made again, so that what follows is bitwise the same.

    Args:
        source: where batches come from.
        device: where they lie.
        group: the processes that share the batches.

    Attributes:
        cursor: batches of this epoch that have been seen.
    """

    def __init__(self, source: Batches | Stream, device: torch.device, group: Alone) -> None:
        self.cursor = 0
        self._source, self._group = source, group
        self._own = torch.Generator(device)
        self._began: dict[str, Tensor] | None = None  # the generators at the start of the epoch that is under way
        self._now: dict[str, Tensor] | None = None  # the global ones where a resumed run goes on

    def seed(self) -> None:
        """Draws the seed of the order from the global generator; several processes share it, but not their noise."""
        seed = torch.randint(2**62, ()).to(self._own.device)
        self._group.same([seed])
        self._own.manual_seed(int(seed.item()))
        if self._group.rank > 0:
            pyro.set_rng_seed((int(seed.item()) + self._group.rank) % MAX_SEED)

    def epoch(self, number: int) -> Iterator[Any]:
        """The batches of an epoch, or of its rest after :meth:`restore`.

        Args:
            number: how many epochs there were before; samplers that shuffle by it, as ``DistributedSampler``, are told.
        """
        for sampler in _samplers_of(self._source):
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(number)
        if self._began is not None:
            self._set(self._began)
        else:
            self._began = self._generators()
        batches = iter(self._source.epoch(self._own))
        for _ in range(self.cursor):
            if next(batches, _END) is _END:
                raise CheckpointError(f"`data` ended before its batch {self.cursor}, where the run to resume stood")
        if self._now is not None:
            set_rng_tensors(self._now)
            self._now = None
        for batch in self._together(batches):
            self.cursor += 1  # seen from here on: who saves does so after the step
            yield batch if isinstance(self._source, Stream) else self._group.share(batch)
        self.end()

    def _together(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The batches; of several processes with streams of their own, only as long as each has another one.

        Raises:
            DataError: one process's stream has ended before another's.
        """
        if self._group.size == 1 or not isinstance(self._source, Stream):
            yield from batches
            return
        while True:
            batch = next(batches, _END)
            some, ended = self._group.any(batch is not _END, batch is _END)
            if some and ended:
                raise DataError(
                    f"the processes' streams differ in length: some have ended after {self.cursor} batches; give each "
                    "as many, as `DistributedSampler` does"
                )
            if ended:
                return
            yield batch

    def end(self) -> None:
        """The epoch is over, also where steps have run out."""
        self.cursor, self._began = 0, None

    def tensors(self) -> dict[str, Tensor]:
        """The generators now, and at the start of the epoch that is under way."""
        began = self._generators() if self._began is None else self._began
        return {f"now/{k}": v for k, v in rng_tensors().items()} | {f"began/{k}": v for k, v in began.items()}

    def restore(self, tensors: dict[str, Tensor], cursor: int) -> None:
        """Goes back to what :meth:`tensors` returned; the next :meth:`epoch` goes on from there.

        Raises:
            CheckpointError: a state is missing or is none; no generator has been set.
            ArgumentError: the data have another number of generators of their own.
        """
        began, now = (
            {name.partition("/")[2]: v for name, v in tensors.items() if name.startswith(f"{when}/")}
            for when in ("began", "now")
        )
        own, count = self._all_own(), sum(name.startswith("own.") for name in began)
        if count != len(own):
            raise ArgumentError(
                f"`data` has {len(own) - 1} generators of its own, but the run to resume had {count - 1}; pass the same"
            )
        before = [generator.get_state() for generator in own]
        try:
            with preserved_rng():
                self._set(began)
                set_rng_tensors(now)
        finally:
            for generator, state in zip(own, before, strict=True):
                generator.set_state(state)
        self.cursor, self._began, self._now = cursor, began, now

    def _generators(self) -> dict[str, Tensor]:
        return rng_tensors() | {f"own.{i}": generator.get_state() for i, generator in enumerate(self._all_own())}

    def _all_own(self) -> list[torch.Generator]:
        return [self._own, *_generators_of(self._source)]

    def _set(self, states: dict[str, Tensor]) -> None:
        set_rng_tensors(states)
        try:
            for i, generator in enumerate(self._all_own()):
                generator.set_state(states[f"own.{i}"])
        except (KeyError, TypeError, RuntimeError) as error:
            raise CheckpointError(f"the states of the data's generators are damaged: {error!r}") from error


@contextmanager
def reseeded(source: Batches | Stream) -> Iterator[None]:
    """Runs its body with the source's own generators at seed 0, and puts them back."""
    own = _generators_of(source)
    before = [generator.get_state() for generator in own]
    for generator in own:
        generator.manual_seed(0)
    try:
        yield
    finally:
        for generator, state in zip(own, before, strict=True):
            generator.set_state(state)


def _samplers_of(source: Batches | Stream) -> list[Any]:
    """A DataLoader's samplers; none of data in memory."""
    if isinstance(source, Batches):
        return []
    batches = getattr(source.data, "batch_sampler", None)
    found = (getattr(source.data, "sampler", None), batches, getattr(batches, "sampler", None))
    return [sampler for sampler in found if sampler is not None]


def _generators_of(source: Batches | Stream) -> list[torch.Generator]:
    """The generators of a DataLoader and its samplers, where they have one of their own."""
    if isinstance(source, Batches):
        return []
    holders = (source.data, *_samplers_of(source))
    found = (getattr(holder, "generator", None) for holder in holders)
    unique = {id(generator): generator for generator in found if isinstance(generator, torch.Generator)}
    return list(unique.values())
