"""What is refused about a pair before it is evaluated."""

from typing import Any

import pyro.distributions as dist
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample

from probgen.errors import ProgramError
from probgen.programs import PairTerms


def discrete_dims(terms: PairTerms, size: int) -> int | None:
    """Entries of a datum, if all observed sites are discrete and unmasked."""
    total = 0
    for site in terms.sites:
        if site.observed and not isinstance(site.p, dist.Unit):  # Unit: pyro.factor
            if site.layout.mask is not None or not _is_discrete(site.p):
                return None
            total += site.value.numel()
    return total // (1 if terms.batch_shape == () else size) or None


def _is_discrete(fn: Any) -> bool:
    try:
        return bool(fn.support.is_discrete)
    except NotImplementedError:
        return False


def check_batch(terms: PairTerms, size: int) -> None:
    """Refuses a pair whose log-weights are not one per datum of a minibatch of ``size``, nor joint.

    Raises:
        ProgramError: nothing is observed, or the plate over the data is ambiguous or of another size.
    """
    if not any(site.observed for site in terms.sites):
        raise ProgramError("the model observes nothing, so there is no log p(x); pass the data to a site by `obs=`")
    if len(terms.batch_shape) > 1:
        raise ProgramError(
            f"several plates, of sizes {terms.batch_shape}, enclose every site; name the one over the data: "
            "`batch_plate=`"
        )
    if terms.batch_shape not in ((), (size,)):
        raise ProgramError(
            f"the plate over the data has size {terms.batch_shape[0]} for a minibatch of {size} data, so that the "
            "estimates are not one per datum; give the plate the size of the minibatch, or name another: `batch_plate=`"
        )


def joint_message(total: int | None) -> str:
    """What to say when joint weights would be needed for several minibatches."""
    cure = "`batch_size=len(data)`" if total is None else f"`batch_size={total}`"
    return (
        "a site lies outside the plate over the data (or there is no such plate), so that all data share it and have "
        f"one joint weight; evaluate them in one minibatch: {cure}"
    )


class Subsampling(Messenger):
    """Collects the plates that choose a part of their range at random."""

    def __init__(self) -> None:
        super().__init__()
        self.plates: list[str] = []

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg) and msg["value"] is None:
            part, whole = msg["fn"].subsample_size, msg["fn"].size
            if part is not None and part < whole:
                self.plates.append(msg["name"])
