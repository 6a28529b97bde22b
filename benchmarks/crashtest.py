"""Kills training at random moments, resumes it, and compares the end bit for bit with that of a run nobody disturbed.

A warm process forks children. Each trains a small pair on digits, saves after every step, and is killed by SIGKILL at a
random moment; the next child resumes from what is on the disk, and may be killed as well, until the run is at its end.
The sha256 of parameters, buffers, averages, the best parameters, optimizers, losses and metrics must be that of the
undisturbed run. A second part measures what saving costs where it is done as often as may be.
"""

import argparse
import functools
import hashlib
import json
import os
import random
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import record
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import probgen
from probgen.checkpoints import Checkpoints
from probgen.data import Dataset, load
from probgen.guides import AmortizedNormal
from probgen.models import VAE
from probgen.objectives import ELBO, IWAE, Objective, Player
from probgen.seeding import seeded
from probgen.svi import SVIResult, warmup_cosine
from probgen.svi.keeping import Keeper

BATCH_SIZE, EPOCHS, DATA = 100, 3, 600
KILLS_A_RUN = 8  # at most; then the run may end
LIMIT = 0.05  # of the time, for saving
ADAM = functools.partial(torch.optim.Adam, lr=5e-3)


class EveryStep(Checkpoints):
    """Saves after every step, whatever it costs, so that many kills fall into a save."""

    due = True


class TwoPlayers(ELBO):
    """The ELBO of a pair whose sides take turns, each with its own optimizer."""

    def players(self, pair: Any, parameters: dict[str, Tensor]) -> list[Player]:
        """The guide twice, then the model."""
        own = {side: {n: p for n, p in parameters.items() if n.startswith(side)} for side in ("guide", "model")}
        return [Player(side, pair.player_loss, own[side], steps) for side, steps in (("guide", 2), ("model", 1))]


@dataclass(frozen=True)
class Scenario:
    """One way to train: what is passed to :class:`probgen.SVI` and to its ``run``."""

    objective: Callable[[], Objective] = ELBO
    optim: Any = ADAM
    options: dict[str, Any] = field(default_factory=dict)
    stream: bool = False
    held_out: bool = False
    run: dict[str, Any] = field(default_factory=lambda: {"num_epochs": EPOCHS})


SCENARIOS = {
    "data in memory, binarized afresh": Scenario(),
    "DataLoader that shuffles": Scenario(stream=True),
    "moving average, schedule, clipped": Scenario(
        functools.partial(IWAE, num_particles=3),
        options={"ema_decay": 0.9, "max_grad_norm": 50.0, "schedule": warmup_cosine(5)},
    ),
    "patience": Scenario(
        optim=functools.partial(torch.optim.RMSprop, lr=0.02, momentum=0.9),
        options={"ema_decay": 0.9},
        held_out=True,
        run={"num_epochs": 2 * EPOCHS, "patience": 1},
    ),
    "captured, a number of steps": Scenario(options={"capture": True}, run={"num_steps": 5 * EPOCHS}),
    "two players": Scenario(
        TwoPlayers, {"guide": ADAM, "model": functools.partial(torch.optim.SGD, lr=1e-3, momentum=0.9)}
    ),
    "without a seed": Scenario(run={"num_epochs": EPOCHS, "seed": None}),
}


# --- one run -------------------------------------------------------------------------------------------------


def pair_of(data_dim: int, hidden: int, seed: int) -> tuple[VAE, AmortizedNormal]:
    """A model and a guide whose weights depend on the seed alone."""
    with seeded(seed):
        model = VAE((data_dim,), latent_dim=2, hidden=(hidden,))
        return model, AmortizedNormal((data_dim,), latent_dim=2, hidden=(hidden,))


def train(scenario: Scenario, seed: int, run_dir: Path | None) -> str:
    """Trains to the end, from where the folder stands, and returns the sum of all that is left."""
    digits = load("digits", split="train", binarize="dynamic")
    x = digits.x[:DATA]
    data: Any = Dataset(x, binarize="dynamic")
    if scenario.stream:
        data = DataLoader(TensorDataset((x > 0.5).float()), BATCH_SIZE, shuffle=True)
    svi = probgen.SVI(
        *pair_of(x.shape[-1], 16, seed), scenario.optim, scenario.objective(), accelerator="cpu", **scenario.options
    )
    held_out = (digits.x[DATA : DATA + 200] > 0.5).float() if scenario.held_out else None
    torch.manual_seed(seed)
    options: dict[str, Any] = {"seed": seed, "batch_size": BATCH_SIZE, "eval_data": held_out, "progress": False}
    if run_dir is not None:
        options |= {"run_dir": EveryStep(run_dir), "resume": run_dir.is_dir()}
    result = svi.run(data, **(options | scenario.run))
    return digest(svi, result, run_dir)


def digest(svi: probgen.SVI, result: SVIResult, run_dir: Path | None) -> str:
    """The sha256 of everything that training has moved."""
    total = hashlib.sha256()
    tensors = dict(svi.held()) | {f"result/{name}": value for name, value in result.params.items()}
    for seat in svi.seats:
        for index, state in seat.optimizer.state_dict()["state"].items():
            tensors |= {f"{seat.player.name}/{index}/{k}": torch.as_tensor(v) for k, v in state.items()}
    for name, value in sorted((tensors | {"losses": result.losses}).items()):
        total.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        total.update(value.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    state = result.state
    total.update(repr((state.step, state.epoch, state.best_bound, state.best_step, state.stopped)).encode())
    if run_dir is not None:
        rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
        total.update(repr([{k: v for k, v in row.items() if k != "seconds"} for row in rows]).encode())
    return total.hexdigest()


# --- children ------------------------------------------------------------------------------------------------


def forked(work: Callable[[], str], answer: Path) -> int:
    """The process of a child that writes what ``work`` returns into a file."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        answer.write_text(work())
        status = 0
    except BaseException as error:
        print(f"\nchild: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(status)  # nothing of the parent's is to be cleaned up


def killed(child: int, after: float) -> bool:
    """Whether a child was still running when it was killed after so many seconds."""
    time.sleep(after)
    os.kill(child, signal.SIGKILL)  # not waited for yet, so that the number is still its own
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    if os.WEXITSTATUS(status) != 0:
        raise SystemExit("crashtest.py: a child has failed; see its message above")
    return False


def within_a_save(run_dir: Path) -> bool:
    """Whether what a killed process has left shows that it was saving."""
    folder = run_dir / "checkpoints"
    if not (folder / "latest.json").exists():
        return folder.exists()
    latest = json.loads((folder / "latest.json").read_text())["checkpoint"]
    names = sorted(path.name for path in folder.glob("step-*"))
    aside = [*folder.glob(".saving"), *folder.glob(".latest*"), *run_dir.glob(".metrics*")]
    return bool(aside) or names[-1] != latest or len(names) > 2


@dataclass
class Tally:
    """What has come of the kills of one scenario."""

    runs: int = 0
    kills: int = 0
    equal: int = 0
    in_a_save: int = 0


def run_once(
    scenario: Scenario, seed: int, expected: tuple[str, float], tally: Tally, left: int, moments: random.Random
) -> None:
    """One run, killed up to ``left`` times on its way to its end."""
    with tempfile.TemporaryDirectory(prefix="crashtest-") as folder:
        run_dir, answer = Path(folder) / "run", Path(folder) / "answer"
        kills, wanted = 0, min(left, moments.randint(1, KILLS_A_RUN))
        while not answer.exists() or not answer.read_text():
            child = forked(functools.partial(train, scenario, seed, run_dir), answer)
            if kills == wanted:
                _, status = os.waitpid(child, 0)
                if status != 0:
                    shutil.copytree(run_dir, Path(tempfile.mkdtemp(prefix="crashtest-failed-")) / "run")
                    raise SystemExit(f"crashtest.py: a run could not be resumed (seed {seed}); see above")
            elif killed(child, moments.uniform(0.0, expected[1])):
                kills += 1
                tally.in_a_save += within_a_save(run_dir)
        tally.runs, tally.kills = tally.runs + 1, tally.kills + kills
        tally.equal += kills if answer.read_text() == expected[0] else 0


def undisturbed(scenario: Scenario, seed: int) -> tuple[str, float]:
    """The sum that a run must end with, and the seconds that it takes."""
    with tempfile.TemporaryDirectory(prefix="crashtest-") as folder:
        run_dir, answer = Path(folder) / "run", Path(folder) / "answer"
        begin = time.perf_counter()
        _, status = os.waitpid(forked(functools.partial(train, scenario, seed, run_dir), answer), 0)
        if status != 0:
            raise SystemExit("crashtest.py: the undisturbed run has failed; see above")
        return answer.read_text(), time.perf_counter() - begin


def crash(kills: int, seed: int, names: Sequence[str]) -> dict[str, Tally]:
    """Kills ``kills`` times in all, the scenarios in turn."""
    moments, expected = random.Random(seed), {}
    tallies = {name: Tally() for name in names}
    done = turn = 0
    while done < kills:
        name = names[turn % len(names)]
        if name not in expected:
            expected[name] = undisturbed(SCENARIOS[name], seed)
        tally = tallies[name]
        run_once(SCENARIOS[name], seed, expected[name], tally, kills - done, moments)
        turn, done = turn + 1, sum(t.kills for t in tallies.values())
        equal, saving = (sum(getattr(t, what) for t in tallies.values()) for what in ("equal", "in_a_save"))
        print(f"{done}/{kills} kills, {equal} bitwise equal, {saving} within a save   ({name})", flush=True)
    return tallies


def crash_figures(tallies: dict[str, Tally]) -> list[record.Figure]:
    """How many kills there were, and after how many the end was the same."""
    kills, equal, saving, runs = (
        sum(getattr(t, what) for t in tallies.values()) for what in ("kills", "equal", "in_a_save", "runs")
    )
    figures = [
        record.figure("kills with bitwise the same end", equal, "kills", goal=f">= {kills}", kills=kills, runs=runs),
        record.figure("kills within a save", saving, "kills", kills=kills),
    ]
    for name, tally in tallies.items():
        if tally.kills:
            details = {"kills": tally.kills, "runs": tally.runs, "within_a_save": tally.in_a_save}
            goal = f">= {tally.kills}"
            figures.append(
                record.figure(f"{name}: kills with bitwise the same end", tally.equal, "kills", goal=goal, **details)
            )
    return figures


# --- what saving costs ---------------------------------------------------------------------------------------


class Timed:
    """Counts the seconds within saves, while its body runs."""

    def __enter__(self) -> "Timed":
        self.seconds, self.saves, self._save = 0.0, 0, Keeper.save
        timed, save = self, self._save

        def counted(keeper: Keeper, *args: Any) -> None:
            begin = time.perf_counter()
            save(keeper, *args)
            timed.seconds += time.perf_counter() - begin
            timed.saves += 1

        Keeper.save = counted  # type: ignore[method-assign]
        return self

    def __exit__(self, *error: object) -> None:
        Keeper.save = self._save  # type: ignore[method-assign]


@dataclass(frozen=True)
class Cost:
    """What checkpoints have added to some runs.

    Attributes:
        wall: time with checkpoints in times without, a number a round.
        processor: likewise of the processor's time, which other programs do not stretch.
        share: of the wall time with checkpoints that was spent within saves.
        saves: how many there were.
    """

    wall: list[float]
    processor: list[float]
    share: float
    saves: int


def cost(rounds: int, steps: int, seed: int) -> Cost:
    """Trains with and without checkpoints in turn."""
    data = (torch.rand(1000, 784, generator=torch.Generator().manual_seed(seed)) > 0.5).float()
    svi = probgen.SVI(*pair_of(784, 64, seed), ADAM, ELBO(), accelerator="cpu", capture=True)

    def seconds(run_dir: Checkpoints | None) -> tuple[float, float]:
        wall, processor = time.perf_counter(), time.process_time()
        svi.run(data, num_steps=steps, seed=seed, progress=False, run_dir=run_dir)
        return time.perf_counter() - wall, time.process_time() - processor

    seconds(None)
    walls, processors, saving, saves, total = [], [], 0.0, 0, 0.0
    for turn in range(rounds):
        with tempfile.TemporaryDirectory(prefix="crashtest-") as folder, Timed() as timed:
            times = {}
            for kept in (False, True) if turn % 2 else (True, False):
                times[kept] = seconds(Checkpoints(Path(folder) / "run", every=0.0) if kept else None)
        wall, processor = (a / b for a, b in zip(times[True], times[False], strict=True))
        walls.append(wall)
        processors.append(processor)
        saving, saves, total = saving + timed.seconds, saves + timed.saves, total + times[True][0]
    return Cost(walls, processors, saving / total, saves)


def cost_figures(rounds: int, steps: int, seed: int) -> list[record.Figure]:
    """What saving as often as the limit allows adds to the time of training."""
    found = cost(rounds, steps, seed)
    ratios = {"time": found.wall, "time of the processor": found.processor}
    return [
        record.figure("share of the time within saves", found.share, "ratio", goal=f"<= {LIMIT}", saves=found.saves),
        *(
            record.figure(
                f"{name} with checkpoints / without",
                statistics.mean(values),
                "ratio",
                standard_error=record.standard_error(values),
                rounds=rounds,
                median=statistics.median(values),
            )
            for name, values in ratios.items()
        ),
    ]


# --- the command line ----------------------------------------------------------------------------------------


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--kills", type=record.whole_number, default=200, help="SIGKILLs in all")
    parser.add_argument("--seed", type=int, default=0, help="of weights, noise and the moments of the kills")
    parser.add_argument("--rounds", type=int, default=8, help="pairs of runs with and without checkpoints; 0: none")
    parser.add_argument("--steps", type=record.whole_number, default=2000, help="steps of each of these runs")
    parser.add_argument("--only", choices=SCENARIOS, nargs="+", default=list(SCENARIOS), help="scenarios")
    record.add_output(parser, "crashtest")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Kills, compares, measures, writes."""
    options = parse(arguments)
    if not hasattr(os, "fork"):
        raise SystemExit("crashtest.py: needs a system that forks")
    torch.set_num_threads(1)  # a child of several threads could be left with locks that nobody opens
    for name in options.only:  # imports and caches what a run needs before children are forked
        train(SCENARIOS[name], options.seed, None)
    begin = time.perf_counter()
    figures = crash_figures(crash(options.kills, options.seed, options.only))
    figures.append(record.figure("time of the kills", time.perf_counter() - begin, "s"))
    if options.rounds > 1:
        figures += cost_figures(options.rounds, options.steps, options.seed)
    for entry in figures:
        print(
            f"{entry['name']}: {entry['value']:.4g} {entry['unit']}"
            + ("" if entry["met"] is not False else "   MISSED")
        )
    settings = {
        "data": f"{DATA} digits of scikit-learn",
        "batch_size": BATCH_SIZE,
        "epochs": EPOCHS,
        "scenarios": options.only,
        "kills_a_run": [1, KILLS_A_RUN],
        "moments": "uniform over the time of an undisturbed run, from the fork on",
        "saves": "after every step",
        "compared": "sha256 of parameters, buffers, averages, optimizers, losses, metrics and the numbers of the state",
        "cost": f"784-64-2 VAE of 100,000 parameters, {options.steps} captured steps a run, saved as often as may be",
    }
    result = record.document("crashtest", settings, {"weights, noise and moments": options.seed}, figures)
    print(record.shown(record.write(result, options.out)))
    if any(entry["met"] is False for entry in figures):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
