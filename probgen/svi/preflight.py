"""Everything that can be refused is refused here, before the first step, with parameters and generators untouched."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.util import detach
from torch import Tensor, nn
from torch.distributions.constraints import Constraint

from probgen.data import Dataset
from probgen.data.batches import Batches, Call, Stream, as_call, to_device
from probgen.data.memory import Arrays, named
from probgen.errors import DataError, ProbgenError
from probgen.objectives import PairLoss
from probgen.objectives.pair import require_finite_loss
from probgen.programs import PairTerms, RunOptions, SiteTerm, trace_pair
from probgen.programs.checks import check_values
from probgen.programs.guard import failure
from probgen.programs.modules import kept_buffers, modules_of, untrained
from probgen.programs.nonfinite import bad_site, large_value, not_finite, require_defined
from probgen.programs.run import trial
from probgen.seeding import preserved_rng


@contextmanager
def rehearsal(modules: list[nn.Module]) -> Iterator[None]:
    """Runs its body and leaves generators and buffers as they were; Pyro's store too if the body raises."""
    store = pyro.get_param_store()
    saved = store.get_state()
    with preserved_rng(), kept_buffers(modules), untrained(modules), poutine.block():
        try:
            yield
        except BaseException:
            store.clear()
            store.set_state(saved)
            raise


def try_out(
    pair: PairLoss, source: Batches | Stream, steps: int | None, *, held_out: bool = False
) -> tuple[Call, PairTerms]:
    """Tries the first batch, the smaller one at the end if ``steps`` reach it, and checks all data in memory.

    Returns:
        The first batch, and its terms.

    Raises:
        ProbgenError: as :func:`preflight` and :func:`check_data`.
    """
    first = as_call(first_batch(source))
    terms = preflight(pair, *first, held_out=held_out)
    if isinstance(source, Batches):
        check_data(pair, source, terms)
        last = _last_batch(source)
        if last is not None and (steps is None or steps >= len(source)):
            preflight(pair, *as_call(last), held_out=held_out)
    return first, terms


def preflight(pair: PairLoss, args: tuple[Any, ...], kwargs: dict[str, Any], *, held_out: bool = False) -> PairTerms:
    """Runs the objective once on a batch and returns its terms; one that is ``held_out`` may be impossible.

    Raises:
        ProgramError: the pair does not fit together or fails on the batch; DataError, UnsupportedObjective: as named.
        DivergedError: the loss is not finite before any step.
    """
    with rehearsal(modules_of(pair.model, pair.guide)):
        try:
            estimate = pair.estimate_from(args, kwargs)
            terms = estimate.terms
            _check_real(terms)
            if held_out:
                require_defined(estimate.bound, pair.model, pair.guide, args, kwargs, terms)
            else:
                require_finite_loss(pair, estimate.loss, args, kwargs, terms)
        except ProbgenError:
            raise
        except Exception as error:
            raise failure(pair.model, pair.guide, args, kwargs, error) from error
    return terms


def check_data(pair: PairLoss, batches: Batches, terms: PairTerms) -> None:
    """Checks all data in memory against the supports of the observed sites, of which ``terms`` know the first batch.

    Where a site observes the data themselves its support is asked directly; where it observes something made of
    them, or refuses what a program may yet mend, or where numbers are too large to be squared, the pair runs once
    over all batches.

    Raises:
        DataError: naming the site, the first bad index and value, and the support, or the number that is too large.
        ProgramError: the pair fails on a later batch.
    """
    refusal: DataError | None = None
    try:
        covered = all(any(_covers(site, *part) for part in _parts(batches)) for site in terms.sites if site.observed)
        if covered and large_value(tuple(values for _, values in _parts(batches)), {}) is None:
            return
    except DataError as error:
        refusal = error
    try:
        _run_over(pair, batches)
    except DataError as error:
        raise refusal or error from None


def _run_over(pair: PairLoss, batches: Batches) -> None:
    """Runs the pair once over all data, in their order."""
    generator = torch.Generator(batches.device).manual_seed(0)
    in_order = Batches(batches.data, batches.batch_size, batches.device, shuffle=False)
    with trial(pair.model, pair.guide or pair.model):
        for i, batch in enumerate(in_order.epoch(generator)):
            try:
                args, kwargs = as_call(batch)
                terms = _run_once(pair, args, kwargs)
                if large_value(args, kwargs) is not None and bad_site(terms) is not None:
                    raise not_finite("the log-density is not finite", pair.model, pair.guide, args, kwargs, terms)
            except DataError as error:
                raise DataError(f"{error} (in the batch from datum {i * batches.batch_size} on)") from error


def _run_once(pair: PairLoss, args: tuple[Any, ...], kwargs: dict[str, Any]) -> PairTerms:
    """Runs the pair on a batch with validation."""
    try:
        return trace_pair(pair.model, pair.guide, args, kwargs, RunOptions())
    except ProbgenError:
        raise
    except Exception as error:
        raise failure(pair.model, pair.guide, args, kwargs, error) from error


class BatchCheck:
    """Checks batches that nobody has seen before training against the supports of the observed sites.

    Where a site observes an argument its support is asked directly; where it observes something made of the
    arguments, its support depends on the batch or on parameters, or it refuses what a program may yet mend, the
    pair runs once on trial.

    Args:
        pair: what trains.
        terms: those of the first batch.
        args: the first batch.
        kwargs: likewise.
        device: where the pair runs.
    """

    def __init__(
        self, pair: PairLoss, terms: PairTerms, args: tuple[Any, ...], kwargs: dict[str, Any], device: torch.device
    ) -> None:
        self._pair, self._device = pair, device
        self._kind = _kind(args, kwargs)
        self._direct: list[tuple[str, Any, torch.dtype, list[int | str]]] = []
        self._always_runs = False
        for site in terms.sites:
            if not site.observed or isinstance(site.p, dist.Unit):  # pyro.factor observes nothing
                continue
            keys = [key for key, value in _named(args, kwargs) if _observes(site, value)]
            if not keys or _holds_tensors(site.p):
                self._always_runs = True
                return
            self._direct.append((site.name, detach(site.p), site.value.dtype, keys))

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Checks another batch, on whichever device.

        Raises:
            DataError: naming the site, the first bad index and value, and the support.
            ProgramError: the pair fails on the batch.
        """
        refusal: DataError | None = None
        if not self._always_runs and _kind(args, kwargs) == self._kind:
            values = dict(_named(args, kwargs))
            try:
                for name, p, dtype, keys in self._direct:
                    for key in keys:
                        check_values(name, p, values[key].to(dtype))
                return
            except DataError as error:
                refusal = error
            except RuntimeError:  # a support that depends on the batch
                pass
        try:
            with trial(self._pair.model, self._pair.guide or self._pair.model):
                _run_once(self._pair, to_device(args, self._device), to_device(kwargs, self._device))
        except DataError as error:
            raise refusal or error from None


def _named(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[tuple[int | str, Any]]:
    yield from enumerate(args)
    yield from kwargs.items()


def _kind(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[int | str, Any]:
    """What decides which sites a program has: which arguments there are, and those that are no tensors."""
    return {
        key: Tensor if isinstance(v, Tensor) else v if isinstance(v, int | float | str) else type(v)
        for key, v in _named(args, kwargs)
    }


def _holds_tensors(p: Any) -> bool:
    """Whether the support of a distribution is made of numbers that may differ in another batch."""
    try:
        pending = [p.support]
    except NotImplementedError:
        return False
    while pending:
        item = pending.pop()
        if isinstance(item, Tensor):
            return True
        if isinstance(item, Constraint):
            pending.extend(vars(item).values())
        elif isinstance(item, list | tuple):
            pending.extend(item)
    return False


def first_batch(batches: Batches | Stream) -> Any:
    """The batch that is tried: the first of the data, in their own order."""
    generator = torch.Generator(batches.device).manual_seed(0)
    if isinstance(batches, Stream):
        return next(iter(batches.epoch(generator)))
    return batches.data.batch(slice(0, batches.batch_size), generator)


def _last_batch(batches: Batches) -> Any:
    """The batch at the end if it is smaller than the others, or None."""
    rest = len(batches.data) % batches.batch_size
    if rest == 0:
        return None
    generator = torch.Generator(batches.device).manual_seed(0)
    return batches.data.batch(slice(len(batches.data) - rest, len(batches.data)), generator)


def _parts(batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    """(what the first batch has of it, all values that it takes) for every part of the data."""
    data = batches.data
    if isinstance(data, Arrays):
        for values in named(data.values).values():
            yield values[: batches.batch_size], values
    elif isinstance(data, Dataset):
        if data.binarize == "dynamic":
            bits = as_call(first_batch(batches))[0][0]
            yield bits, torch.cat([torch.zeros_like(bits[:1]), torch.ones_like(bits[:1])])
        else:
            yield data.x[: batches.batch_size], data.x
        if data.y is not None:
            yield data.y[: batches.batch_size], data.y


def _covers(site: SiteTerm, head: Tensor, values: Tensor) -> bool:
    """Whether the site observes these data, in which case all of them have been checked."""
    observed = site.value
    if not _observes(site, head):
        return False
    if len(head) == 1 < len(values):  # the support of one datum would be taken for that of all
        return False
    try:
        check_values(site.name, site.p, values.to(observed.dtype))
    except RuntimeError:  # a support that depends on the batch
        return False
    return True


def _observes(site: SiteTerm, values: Any) -> bool:
    """Whether the site's value is these, up to a cast."""
    observed = site.value
    if not isinstance(values, Tensor) or values.shape != observed.shape or values.device != observed.device:
        return False
    return torch.equal(values.to(observed.dtype), observed)


def _check_real(terms: PairTerms) -> None:
    for site in terms.sites:
        if site.observed and site.value.is_complex():
            raise DataError(f"site '{site.name}' observes {site.value.dtype} values; densities are of real numbers")
