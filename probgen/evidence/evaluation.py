"""``evaluate``: the loop over data; what is done with a minibatch is in :mod:`probgen.evidence.estimator`."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from probgen.arguments import positive_int
from probgen.data import Dataset, is_in_memory
from probgen.data.batches import Batches, Stream, as_call, open_batches, size_of
from probgen.data.memory import named, tensors
from probgen.errors import DataError
from probgen.evidence.estimator import Estimator, Minibatch
from probgen.evidence.result import Evidence
from probgen.programs import RunOptions
from probgen.programs.guard import typed, untouched_on_error
from probgen.programs.modules import mode, modules_of, untrained
from probgen.programs.param_scope import Program
from probgen.programs.run import check_num_particles
from probgen.seeding import seeded

ROWS_AT_ONCE = 1 << 12  # data x particles of one run, by default: more falls out of a CPU's cache


def evaluate(
    model: Program,
    guide: Program | None,
    data: Any,
    *,
    num_particles: int = 5000,
    batch_size: int = 100,
    seed: int | None = 0,
    max_particles_at_once: int | None = None,
    batch_plate: str | None = None,
    progress: bool = False,
) -> Evidence:
    r"""Estimates log p(x) of every datum by importance weighting.

    .. math::
        \log p(x) \approx \log \frac1K \sum_{k=1}^K \frac{p(x, z_k)}{q(z_k \mid x)}, \quad z_k \sim q(\cdot \mid x)

    In expectation this is a lower bound that rises to log p(x) with K. Particles come in chunks and data in
    minibatches; of the log-weights only running sums and the tail that k-hat needs are kept. Both programs run in eval
    mode and without gradients. A ``poutine.scale`` and the N/B of whole data are left out: the result is log p of one
    datum under the model that the program declares.

    - A model without latent sites gives its exact likelihood. With ``guide=None``, a method ``log_evidence`` of the
      model is taken at its word.
    - A guide with point masses (AutoDelta) gives no evidence: ``kind`` is ``"none"``, and ``elbo`` is log p(x, z).
    - A latent site outside the plate over the data makes the weights joint. The result is then one estimate of log p of
      all data together, and they must fit into one minibatch.

    Args:
        model: a Pyro program.
        guide: a Pyro program that takes the same arguments, or None for a model without latent sites.
        data: a tensor or array ``[N, ...]``, a tuple or dictionary of them, a :class:`probgen.data.Dataset`, or a
            stream of minibatches such as a DataLoader. Of dynamically binarized data one fixed draw is evaluated, that
            of ``data.fixed(seed)``.
        num_particles: K samples of the guide per datum.
        batch_size: data per minibatch; streams have their own.
        seed: seeds the evaluation and restores every generator; None draws from the global ones. The same seed gives
            the same numbers only for the same ``batch_size`` and ``max_particles_at_once``; others may draw other
            particles.
        max_particles_at_once: particles per run of the pair, which bounds memory; by default about 4,000 samples
            (data times particles) a run.
        batch_plate: name of the plate over data, where more than one encloses every site.
        progress: show a bar over the data.

    Returns:
        An :class:`Evidence`, in the order of the data.

    Raises:
        ArgumentError: a number below 1.
        ArgumentTypeError: ``data`` is nothing of the above.
        DataError: no data, or values outside the support of their site or too large for its density.
        DivergedError: a log-weight is NaN or +inf; names the parameter, or the datum and the site.
        ProgramError: the pair does not fit, draws a minibatch of its own, or has joint weights for several minibatches.
        UnsupportedObjective: the weights are no importance weights.

    Source:
        Burda, Grosse, Salakhutdinov (2016), Importance weighted autoencoders, arXiv 1509.00519.

    Example:
        >>> from probgen.guides import AmortizedNormal
        >>> from probgen.models import PPCA
        >>> x = torch.zeros(10, 3)
        >>> evidence = evaluate(PPCA(3, 2), AmortizedNormal((3,), 2, (4,)), x, num_particles=50)
        >>> evidence.kind, tuple(evidence.log_prob.shape)
        ('lower', (10,))
        >>> evaluate(PPCA(3, 2), None, x).kind
        'exact'
    """
    check_num_particles(num_particles)
    positive_int("batch_size", batch_size)
    batches = _open(model, guide, data, batch_size, seed)
    total = len(batches.data) if isinstance(batches, Batches) else None
    chunk = max(1, ROWS_AT_ONCE // min(batch_size, total or batch_size))
    if max_particles_at_once is not None:
        chunk = positive_int("max_particles_at_once", max_particles_at_once)
    options = RunOptions(batch_plate=batch_plate)
    estimator = Estimator(model, guide, options, num_particles=num_particles, chunk=chunk, total=total)
    with ExitStack() as contexts:
        contexts.enter_context(untouched_on_error(model, guide))
        contexts.enter_context(seeded(seed))
        contexts.enter_context(torch.no_grad())
        contexts.enter_context(mode(modules_of(model, guide), training=False))
        contexts.enter_context(untrained(modules_of(model, guide)))
        show = contexts.enter_context(_progress(progress, total))
        for batch in _minibatches(batches):
            with typed(model, guide, batch.args, batch.kwargs):
                estimator.add(batch)
            show(batch.size)
    return estimator.evidence()


def _open(model: Program, guide: Program | None, data: Any, batch_size: int, seed: int | None) -> Batches | Stream:
    """Minibatches in the order of the data, on the device of the programs."""
    if isinstance(data, Dataset) and data.binarize == "dynamic":
        data = data.fixed(seed if seed is not None else int(torch.randint(2**62, ())))
    return open_batches(data, batch_size, _device(model, guide, data), shuffle=False)


def _device(model: Program, guide: Program | None, data: Any) -> torch.device:
    """Where the programs' parameters lie; without modules, where the data do."""
    candidates: list[Tensor] = [p for module in modules_of(model, guide) for p in module.parameters()]
    if not candidates and is_in_memory(data) and not hasattr(data, "batch"):
        candidates = list(named(tensors(data)).values())
    return candidates[0].device if candidates else torch.device("cpu")


def _minibatches(batches: Batches | Stream) -> Iterator[Minibatch]:
    generator = torch.Generator(batches.device).manual_seed(0)  # for data that draw; ours have been fixed
    for batch in batches.epoch(generator):
        args, kwargs = as_call(batch)
        if not any(isinstance(value, Tensor) and value.dim() for value in (*args, *kwargs.values())):
            raise DataError(f"a minibatch must hold a tensor [batch, ...], got {type(batch).__name__}")
        yield Minibatch(args, kwargs, size_of(batch))


@contextmanager
def _progress(show: bool, total: int | None) -> Iterator[Callable[[int], Any]]:
    """A bar on a terminal; elsewhere one line every 5 %, where the number of data is known."""
    if show and sys.stderr.isatty():
        from tqdm.auto import tqdm

        with tqdm(total=total, unit=" data", desc="log p(x)", dynamic_ncols=True) as bar:
            yield bar.update
    else:
        yield _lines(total) if show and total is not None else lambda count: None


def _lines(total: int) -> Callable[[int], None]:
    """Prints how far an evaluation is, each time another 5 % of the data are through."""
    done = 0

    def update(count: int) -> None:
        nonlocal done
        before, done = done, done + count
        if 20 * done // total > 20 * before // total:
            print(f"log p(x) {done}/{total} data", file=sys.stderr, flush=True)

    return update
