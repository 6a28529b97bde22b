"""The loop: players take turns, and the loop knows nothing of what they play."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import pyro
import torch
from torch import Tensor

from probgen.arguments import choice, positive_int
from probgen.checkpoints import Checkpoints
from probgen.data.batches import Batches, Call, Stream, as_call, open_batches, size_of, to_device
from probgen.errors import ArgumentError
from probgen.objectives import Objective
from probgen.programs import PairTerms
from probgen.programs.modules import mode, modules_of, untrained
from probgen.programs.param_scope import Program
from probgen.seeding import check_seed, seeded
from probgen.svi import parameters as params
from probgen.svi.arguments import check_callable, check_number, check_objective, device_of
from probgen.svi.boarding import board, settings_of
from probgen.svi.capture import CapturedSeat
from probgen.svi.divergence import refuse_step
from probgen.svi.fetch import Fetched
from probgen.svi.keeping import keeper_of
from probgen.svi.order import reseeded
from probgen.svi.parallel import local_device, processes
from probgen.svi.plan import Callback, Plan
from probgen.svi.players import OptimFactory, Seat, check_optim, seat
from probgen.svi.precision import PRECISIONS, Reduced, check_densities
from probgen.svi.preflight import BatchCheck, preflight, rehearsal
from probgen.svi.schedules import Schedule
from probgen.svi.state import SVIResult, SVIState
from probgen.svi.training import Training


class SVI:
    """Trains a (model, guide) pair on an objective.

    Args:
        model: a Pyro program.
        guide: a Pyro program that takes the same arguments, or None for a model without latent sites.
        optim: a callable from parameters to a torch optimizer, such as ``functools.partial(torch.optim.Adam,
            lr=1e-3)``; or one such callable by player.
        loss: the objective, of :mod:`probgen.objectives`.
        schedule: multiplies the learning rate each step, such as :func:`probgen.svi.warmup_cosine`; a function of the
            step (from 0, over all runs) and of the number of steps at the end of the run.
        max_grad_norm: clips the norm of each player's gradient (of a loss summed over the batch, as in Pyro).
        ema_decay: keeps a moving average of the parameters, used for held-out bounds; see
            :meth:`averaged_parameters`.
        precision: ``"full"``, or ``"bfloat16"``: networks that are parts of the programs train under autocast, which
            is faster where the hardware multiplies bfloat16 and the networks are large; parameters, samples and
            densities stay float32, and held-out bounds are in full precision. Programs themselves and ``PyroModule``
            layers compute as before.
        accelerator: ``"auto"`` (CUDA where it is), or a device name such as ``"cpu"`` or ``"cuda:1"``. Programs that
            are modules, or methods of modules, are moved there at once; what a function uses stays where it is.
        devices: how many processes train together, each on its share of every minibatch: start the script by
            ``torchrun --nproc-per-node N``, and call ``torch.distributed.init_process_group()`` in it. Data in memory
            are shared out; a stream gives each process its own share. The first process shows progress, calls
            callbacks, and keeps the ``run_dir``.
        capture: capture each step once per batch shape as one graph of tensor operations, without Pyro's handlers:
            the same numbers, faster for small networks. Programs must not read tensors' values, nor keep state in
            Python between calls.

    Raises:
        ArgumentError: an argument out of range.
        ArgumentTypeError: an argument of the wrong kind.

    Example:
        >>> import functools
        >>> from probgen.guides import AmortizedNormal
        >>> from probgen.models import VAE
        >>> from probgen.objectives import IWAE
        >>> model, guide = VAE((4,), latent_dim=2, hidden=(8,)), AmortizedNormal((4,), latent_dim=2, hidden=(8,))
        >>> svi = SVI(model, guide, functools.partial(torch.optim.Adam, lr=1e-2), IWAE(num_particles=5))
        >>> result = svi.run(torch.ones(20, 4), batch_size=10, num_epochs=3, seed=0, progress=False)
        >>> len(result.losses)
        6
    """

    def __init__(
        self,
        model: Program,
        guide: Program | None,
        optim: OptimFactory | Mapping[str, OptimFactory],
        loss: Objective,
        *,
        schedule: Schedule | None = None,
        max_grad_norm: float | None = None,
        ema_decay: float | None = None,
        precision: str = "full",
        accelerator: str = "auto",
        devices: int = 1,
        capture: bool = False,
    ) -> None:
        check_objective(loss)
        check_callable("model", model, optional=False)
        check_callable("guide", guide, optional=True)
        check_callable("schedule", schedule, optional=True)
        check_optim(optim)
        check_number("max_grad_norm", max_grad_norm, below=math.inf)
        check_number("ema_decay", ema_decay, below=1.0)
        choice("precision", precision, PRECISIONS)
        self.device = local_device(device_of(accelerator), positive_int("devices", devices))
        self.group = processes(devices, self.device)
        self.model, self.guide, self.objective = model, guide, loss
        self.pair = loss(model, guide)
        self.state = SVIState()
        self.parameters: dict[str, Tensor] = {}
        self._optim, self.schedule, self.max_grad_norm = optim, schedule, max_grad_norm
        self.ema_decay, self.precision, self._capture = ema_decay, precision, capture
        self._average: params.MovingAverage | None = None
        self.seats: list[Seat] = []
        self.modules = modules_of(model, guide)
        self._reduced = Reduced(self.modules, self.device) if precision == "bfloat16" else None
        for module in self.modules:
            module.to(self.device)

    def step(self, *args: Any, **kwargs: Any) -> float:
        """One step of every player on one minibatch; tensors and arrays are moved to the device.

        Returns:
            The loss of the last player, summed over the batch as in Pyro.

        Raises:
            DivergedError: a loss or a gradient that is not finite; the parameters and the optimizer are as before the
                turn of the player whose it is.
            DataError: values that are outside the support of their site.
            ProgramError: model and guide do not fit each other or the batch; seen on the first call.
            ProbgenError: on the first call, everything else that :meth:`run` refuses.
        """
        args, kwargs = to_device(args, self.device), to_device(kwargs, self.device)
        with self._at_work(), mode(self.modules, training=True):
            if not self.seats:
                with rehearsal(self.modules):
                    terms = preflight(self.pair, args, kwargs)
                    self.check_pair(terms, (args, kwargs))
                    self.prepare((args, kwargs))
                self.group.same(self.held().values())
                self._check = BatchCheck(self.pair, terms, args, kwargs, self.device)
            else:
                self._check(args, kwargs)
            fetched = self.turns(args, kwargs, None, late=False)
        return fetched.total

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """With gradients and without Pyro's validation, whose flags come back as they were, torch's among them."""
        default = torch.distributions.Distribution._validate_args
        try:
            with (
                pyro.validation_enabled(False),
                torch.enable_grad(),
                untrained(self.modules),
                nullcontext() if self._reduced is None else self._reduced.at_work(),
            ):
                yield
        finally:
            torch.distributions.Distribution.set_default_validate_args(default)

    def check_pair(self, terms: PairTerms, call: Call) -> None:
        """Refuses what this precision and these processes cannot do right."""
        if self._reduced is not None:
            check_densities(terms)
        self.group.check(self.pair, terms, call)

    def prepare(self, call: Call) -> None:
        """Finds the parameters, which programs may create on first use, and seats the players."""
        args, kwargs = call
        self.parameters = params.trained_parameters(self.model, self.guide, args, kwargs)
        players = self.objective.players(self.pair, self.parameters)
        self.group.check_players(players)
        seats = seat(players, self._optim, self.schedule, self.max_grad_norm)
        captured = [CapturedSeat(s, self.modules) for s in seats] if self._capture else []
        for member in captured:
            member.graph(args, kwargs)
        if self.ema_decay is not None:
            self._average = params.MovingAverage(self.parameters, self.ema_decay)
            self.state.averaged = self._average.values
        self._differentiate = [member.differentiate for member in captured or seats]
        self.seats = seats

    def moved(self) -> dict[str, Tensor]:
        """What a step moves in place, beside the optimizers: parameters, their averages, buffers of modules."""
        found = {f"parameter/{name}": value for name, value in self.parameters.items()}
        found |= {f"average/{name}": value for name, value in self.state.averaged.items()}
        return found | params.owned_tensors(self.model, self.guide, {id(value) for value in found.values()}, "buffer")

    def held(self) -> dict[str, Tensor]:
        """What a checkpoint holds of the pair: what moves, and the parameters of its modules that are not trained."""
        moved = self.moved()
        return moved | params.owned_tensors(self.model, self.guide, {id(value) for value in moved.values()}, "frozen")

    def turns(self, args: tuple[Any, ...], kwargs: dict[str, Any], total_steps: int | None, *, late: bool) -> Fetched:
        """Every player's turn on one minibatch; what the last one reports.

        With ``late`` numbers on another device are left for the caller to look at, so that it need not stop.

        Raises:
            DivergedError: a loss or a gradient is not finite; seen before the optimizer moves.
        """
        fetched = None
        self.objective.at_step(self.state.step)
        for player, differentiate in zip(self.seats, self._differentiate, strict=True):
            for _ in range(player.player.steps):
                total, report, gradients = self.group.summed(
                    differentiate(*args, **kwargs), player.parameters, args, kwargs
                )
                gradient = player.measure(gradients)
                first = fetched is None
                fetched = Fetched(total, gradient, report, self.state.step + 1, args, kwargs)
                if (fetched.here or not late) and not fetched.finite:
                    refuse_step(self.pair, self.parameters, gradient, fetched, first=first)
                player.apply(gradient, self.state.step, total_steps)
        self.state.step += 1
        if self.group.size > 1:
            self.group.same(params.owned_tensors(self.model, self.guide, set(), "buffer").values())
        if self._average is not None:
            self._average.update()
        return fetched  # type: ignore[return-value]  # there is always a player

    def run(
        self,
        data: Any,
        *,
        batch_size: int = 100,
        num_epochs: int | None = None,
        num_steps: int | None = None,
        seed: int | None = None,
        eval_data: Any = None,
        patience: int | None = None,
        callbacks: Sequence[Callback] = (),
        progress: bool | str = True,
        run_dir: str | os.PathLike[str] | Checkpoints | None = None,
        resume: bool | int = False,
    ) -> SVIResult:
        """Trains on data for a number of epochs or of steps.

        Args:
            data: a tensor, array, tuple or dict of equal lengths, or :class:`probgen.data.Dataset`, which stay on the
                device; or an iterable of batches that can be gone through again, such as a DataLoader or a list. A
                batch that is a tensor becomes ``model(b)``, a tuple or list ``model(*b)``, a dict ``model(**b)``. The
                first batch of an iterable is also tried out, so that one more pass over it is begun.
            batch_size: data per step, for data in memory.
            num_epochs: passes over the data; either this or ``num_steps``.
            num_steps: optimizer steps.
            seed: seeds noise, order and binarization, and restores the generators; None draws from the global ones. A
                DataLoader or sampler with a generator of its own keeps it.
            eval_data: held-out data, whose bound is measured after each epoch; in one batch where weights are joint.
            patience: ends the run after this many epochs without a better held-out bound, and goes back to the
                parameters of the best one, with their average and the modules' buffers.
            callbacks: called with an :class:`probgen.svi.EpochReport` after each epoch; one that returns True ends
                the run.
            progress: whether to show progress on standard error; a string is shown in front.
            run_dir: a folder for checkpoints and ``metrics.jsonl``, a line an epoch; or
                :class:`probgen.checkpoints.Checkpoints` in one, which says how often to save and how many to keep.
                Ctrl-C and SIGTERM then save before they end the run.
            resume: go on with the run in ``run_dir``, to bitwise the same end as if it had not been interrupted; a
                number goes on from the checkpoint of that step. Pass the same pair, data, optimizer and options; a
                larger ``num_epochs`` or ``num_steps`` makes the run longer. Where there is no run yet, it begins. A
                stream is skipped to where it stood; its order must follow from the global generators, from those of
                a DataLoader and its samplers, or from ``set_epoch``: what workers keep between epochs is not seen.

        Returns:
            ``(params, state, losses)``; of a run that was resumed, the losses of all its steps.

        Raises:
            ArgumentError: an argument out of range, or both or neither of ``num_epochs`` and ``num_steps``.
            DataError: empty data, values that are not finite or outside the support of their site.
            ProgramError: model and guide do not fit each other or the data.
            UnsupportedObjective: the objective would be wrong for this pair.
            CheckpointError: a checkpoint is damaged or cannot be saved; those before are as they were.
            DivergedError: a loss or a gradient that is not finite; names the first bad parameter or site. On the CPU
                the step is not applied; elsewhere it is seen one step late, and the parameters are of no use.
        """
        shown = progress is not False and self.group.rank == 0  # one process of several
        label = (progress if isinstance(progress, str) else repr(self.objective)) if shown else None
        plan = Plan(num_epochs=num_epochs, num_steps=num_steps, patience=patience, callbacks=callbacks, label=label)
        check_seed(seed)
        if patience is not None and eval_data is None:
            raise ArgumentError("`patience` counts epochs without a better held-out bound; pass `eval_data` too")
        keeper = keeper_of(run_dir, resume)
        batches = open_batches(data, batch_size, self.device)
        held_out = None if eval_data is None else open_batches(eval_data, batch_size, self.device, shuffle=False)
        with seeded(seed), self._at_work():
            settings = {} if keeper is None else settings_of(self, batch_size, seed, batches, held_out)
            training = Training(self, plan, batches, held_out, keeper, settings)
            with rehearsal(self.modules):
                self._check = board(self, batches, held_out, training)
            self.group.same(self.held().values())
            losses = training.go()
        state = replace(self.state, averaged={name: v.clone() for name, v in self.state.averaged.items()})
        return SVIResult(params.constrained(self.parameters), state, torch.tensor(losses, dtype=torch.float64))

    def held_out_bound(self, held_out: Batches | Stream) -> float:
        """The mean bound per element of the batch plates on held-out batches, always on the same noise.

        The total where weights are joint, which takes one batch alone. Data in memory have been checked before.
        """
        total, count = 0.0, 0.0
        exact = nullcontext() if self._reduced is None else self._reduced.suspended()
        fixed = reseeded(held_out)
        with seeded(0), fixed, mode(self.modules, training=False), self.averaged_parameters(), torch.no_grad(), exact:
            generator = torch.Generator(self.device).manual_seed(0)
            for batch in held_out.epoch(generator):
                args, kwargs = as_call(batch)
                size = size_of(batch)
                bound = self.pair.estimate_from(args, kwargs, validate=isinstance(held_out, Stream)).bound
                total += bound.mean().item() * size
                count += size
        if isinstance(held_out, Stream):  # of which each process has its share; data in memory each has all of
            total, count = self.group.added(total, count)
        return self.group.number(total / count)

    @contextmanager
    def averaged_parameters(self) -> Iterator[None]:
        """Runs its body with the moving average in place of the parameters, where ``ema_decay`` keeps one."""
        if self._average is None:
            yield
            return
        with self._average.swapped_in():
            yield
