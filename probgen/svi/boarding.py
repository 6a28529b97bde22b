"""Before a run: everything that can be refused is refused, and then the parameters are found."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from probgen.config import describe
from probgen.data.batches import Batches, Stream
from probgen.errors import ArgumentError
from probgen.programs.modules import mode
from probgen.svi.preflight import BatchCheck, try_out
from probgen.svi.schedules import multiplier
from probgen.svi.snapshot import fingerprint
from probgen.svi.training import Training, length_of

if TYPE_CHECKING:
    from probgen.svi.loop import SVI


def board(svi: SVI, batches: Batches | Stream, held_out: Batches | Stream | None, training: Training) -> BatchCheck:
    """Tries out the data, and seats the players if this is the first run.

    Returns:
        The check of batches that nobody has seen.

    Raises:
        ProbgenError: whatever is wrong with pair, data or options.
    """
    with mode(svi.modules, training=True):
        first, terms = try_out(svi.pair, batches, training.num_steps)
    svi.check_pair(terms, first)
    check = BatchCheck(svi.pair, terms, *first, svi.device)
    svi.group.check_shares(batches)
    svi.group.check_lengths(batches)
    if held_out is not None:
        _try_held_out(svi, held_out)
    if svi.schedule is not None:
        multiplier(svi.schedule, svi.state.step, training.total_steps)
    if not svi.seats:
        with mode(svi.modules, training=True):
            svi.prepare(first)
    if isinstance(batches, Stream):
        batches.check = check
    return check


def _try_held_out(svi: SVI, held_out: Batches | Stream) -> None:
    with mode(svi.modules, training=False):
        _, terms = try_out(svi.pair, held_out, None, held_out=True)
    if terms.batch_shape == () and _has_several(held_out):
        raise ArgumentError(
            "the weights of this pair are joint, so that the bound of a minibatch is no share of that of all data: "
            "pass a `batch_size` that holds all of `eval_data` (one batch, if it is a stream), or leave `eval_data` out"
        )


def _has_several(batches: Batches | Stream) -> bool:
    """Whether there is more than one batch; a stream that does not know its length is asked for two."""
    count = length_of(batches)
    if count is None:
        count = len(list(islice(batches.epoch(torch.Generator(batches.device)), 2)))
    return count > 1


def settings_of(
    svi: SVI, batch_size: int, seed: int | None, batches: Batches | Stream, held_out: Batches | Stream | None
) -> dict[str, Any]:
    """What must be the same where a run goes on, as JSON values."""
    return {
        "objective": repr(svi.objective),
        "batch_size": int(batch_size) if isinstance(batches, Batches) else None,
        "seed": None if seed is None else int(seed),
        "schedule": describe(svi.schedule),
        "max_grad_norm": svi.max_grad_norm,
        "ema_decay": svi.ema_decay,
        "device": svi.device.type,
        "devices": svi.group.size,
        "precision": svi.precision,
        "data": fingerprint(batches),
        "eval_data": fingerprint(held_out),
    }
