"""What a figure is about: a pair, some data, and how both are looked at without leaving a trace."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from torch import Tensor

from probgen.arguments import positive_int
from probgen.data import Dataset, is_in_memory
from probgen.data.batches import Batches, Stream, as_call, open_batches, to_device
from probgen.data.memory import named, tensors
from probgen.errors import DataError, ProbgenError, ProgramError
from probgen.programs import PairTerms, run_pair
from probgen.programs.modules import mode, modules_of, untrained
from probgen.programs.param_scope import Program, owner_of, preserved_buffers
from probgen.seeding import seeded

AT_ONCE = 250  # data of one run
WHOLE = 20_000  # the most data of one run, where a guide has parameters for each datum


@dataclass(frozen=True)
class Batch:
    """Data as the programs take them.

    Attributes:
        args: positional arguments.
        kwargs: keyword arguments.
        size: the number of data.
        index: their numbers in the data that were given, ``[size]``.
        labels: of a data set that has some, ``[size]``; otherwise None.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    size: int
    index: Tensor
    labels: Tensor | None = None

    @property
    def tensors(self) -> list[Tensor]:
        """The arguments that hold one entry for each datum."""
        values = (*self.args, *self.kwargs.values())
        return [v for v in values if isinstance(v, Tensor) and v.dim() and len(v) == self.size]

    def rows(self, rows: Tensor) -> "Batch":
        """The data in some rows, also repeated; other arguments stay as they are."""

        def taken(value: Any) -> Any:
            by_datum = isinstance(value, Tensor) and value.dim() and len(value) == self.size
            return value[rows.to(value.device)] if by_datum else value

        labels = None if self.labels is None else taken(self.labels)
        args, kwargs = tuple(map(taken, self.args)), {name: taken(value) for name, value in self.kwargs.items()}
        return Batch(args, kwargs, len(rows), self.index[rows], labels)

    def chunks(self, size: int) -> Iterator["Batch"]:
        """The data in parts of at most ``size``, in order."""
        for rows in torch.arange(self.size).split(size):
            yield self.rows(rows)


@dataclass(frozen=True)
class Subject:
    """A pair and the data that a figure is made from.

    Attributes:
        model: a Pyro program.
        guide: a Pyro program, or None.
        batch: the data.
        at_once: how many data a run can have; all of them where the guide has parameters for each datum.
        terms: of a first run, on the first ``at_once`` data.
    """

    model: Program
    guide: Program | None
    batch: Batch
    at_once: int
    terms: PairTerms

    @property
    def chunks(self) -> Iterator[Batch]:
        """The data, in parts that the pair can run on."""
        return self.batch.chunks(self.at_once)

    @property
    def first(self) -> Batch:
        """The data that :attr:`terms` are about."""
        return next(self.chunks)


@contextmanager
def looking(model: Program, guide: Program | None, seed: int | None) -> Iterator[None]:
    """Runs its body under ``seed``, in eval mode and without gradients, and leaves everything as it was.

    Generators, train and eval modes, buffers, which parameters want gradients, and Pyro's store are put back.
    """
    modules, store = modules_of(model, guide), pyro.get_param_store()
    with ExitStack() as contexts:
        contexts.enter_context(seeded(seed))
        contexts.enter_context(torch.no_grad())
        contexts.enter_context(mode(modules, training=False))
        contexts.enter_context(preserved_buffers(*modules))
        contexts.enter_context(untrained(modules))
        contexts.enter_context(store.scope(store.get_state()))
        contexts.enter_context(poutine.block())
        yield


def read(
    model: Program, guide: Program | None, data: Any, count: int, *, spread: bool = False, name: str = "count"
) -> Subject:
    """Takes data and runs the pair on them once; call it inside :func:`looking`.

    A pair that fails on some of the data in memory, but not on all of them, has parameters for each datum: it is then
    run on all.

    Args:
        model: a Pyro program.
        guide: a Pyro program, or None.
        data: what :func:`probgen.evaluate` takes.
        count: the most data to take.
        spread: take them from everywhere, at random, instead of the first.
        name: of the argument ``count``, for messages.

    Raises:
        ArgumentError: a count below 1.
        ArgumentTypeError, DataError: the data are none.
        ProgramError: the pair fails on them.
    """
    count = positive_int(name, count)
    _check_set_up(guide)
    source = open_batches(data, count, device_of(model, guide, data), shuffle=False)
    generator = torch.Generator(source.device).manual_seed(int(torch.randint(2**62, ())))
    if isinstance(source, Stream):
        return _subject(model, guide, _streamed(source, count, generator))
    total = len(source.data)
    rows = torch.randperm(total)[:count].sort().values if spread and count < total else torch.arange(min(count, total))
    try:
        return _subject(model, guide, _stored(source, rows, generator))
    except DataError:
        raise
    except ProbgenError:
        if total <= min(len(rows), AT_ONCE) or total > WHOLE:
            raise
        batch = _stored(source, torch.arange(total), generator)
        return Subject(model, guide, batch, total, run(model, guide, batch))


def _subject(model: Program, guide: Program | None, batch: Batch) -> Subject:
    first = next(batch.chunks(AT_ONCE))
    terms = run(model, guide, first)
    if terms.batch_shape not in ((), (first.size,)):
        raise ProgramError(
            f"plates of sizes {terms.batch_shape} enclose every site, for {first.size} data: a figure needs one plate "
            "over the data, of their number"
        )
    return Subject(model, guide, batch, AT_ONCE, terms)


def _check_set_up(guide: Program | None) -> None:
    """Refuses an autoguide that has never run, since looking at it would fix its shapes."""
    owner = owner_of(guide)
    if isinstance(owner, AutoGuide) and owner.prototype_trace is None:
        raise ProgramError(
            f"the guide ({type(owner).__name__}) has not run yet, so it has no parameters; train the pair, or call the "
            "guide once on all data"
        )


def run(model: Program, guide: Program | None, batch: Batch) -> PairTerms:
    """Runs a pair once on some data.

    Raises:
        ProgramError: it fails on them.
    """
    try:
        return run_pair(model, guide, *batch.args, **batch.kwargs)
    except ProbgenError:
        raise
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise ProgramError(f"the pair fails on {batch.size} data: {error}") from error


def device_of(model: Program, guide: Program | None, data: Any = None) -> torch.device:
    """Where the programs' parameters lie; without modules, where the data do."""
    found: list[Tensor] = [parameter for module in modules_of(model, guide) for parameter in module.parameters()]
    if not found and is_in_memory(data) and not hasattr(data, "batch"):
        found = list(named(tensors(data)).values())
    return found[0].device if found else torch.device("cpu")


def _stored(source: Batches, rows: Tensor, generator: torch.Generator) -> Batch:
    data, rows_there = source.data, rows.to(source.device)
    args, kwargs = as_call(data.batch(rows_there, generator))
    labels = data.y[rows_there] if isinstance(data, Dataset) and data.y is not None else None
    return Batch(args, kwargs, len(rows), rows, labels)


def _streamed(source: Stream, count: int, generator: torch.Generator) -> Batch:
    """The first data of a stream."""
    calls, total = [], 0
    for batch in source.epoch(generator):
        calls.append(as_call(batch))
        total += _length(calls[-1])
        if total >= count:
            break
    (args, kwargs), total = calls[0], min(count, total)
    joined = tuple(_joined([call[0][i] for call in calls], total) for i in range(len(args)))
    by_name = {name: _joined([call[1][name] for call in calls], total) for name in kwargs}
    return Batch(joined, by_name, total, torch.arange(total))


def _length(call: tuple[tuple[Any, ...], dict[str, Any]]) -> int:
    values = (*call[0], *call[1].values())
    length = next((len(value) for value in values if isinstance(value, Tensor) and value.dim()), None)
    if length is None:
        raise DataError("a minibatch must hold a tensor [batch, ...], and this stream's hold none")
    return length


def _joined(parts: list[Any], count: int) -> Any:
    by_datum = all(isinstance(part, Tensor) and part.dim() for part in parts)
    return torch.cat(parts)[:count] if by_datum else parts[0]


def run_arguments(args: tuple[Any, ...], kwargs: dict[str, Any], device: torch.device) -> Batch:
    """Arguments of a program as a batch, whose size is the length of the first tensor.

    Raises:
        DataError: no tensor among them.
    """
    args, kwargs = to_device(args, device), to_device(kwargs, device)
    size = _length((args, kwargs))
    return Batch(args, kwargs, size, torch.arange(size))
