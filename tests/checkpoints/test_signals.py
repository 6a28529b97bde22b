"""Ctrl-C and SIGTERM: saved at the next step, said how to go on, and ended; the end of the run is the same."""

import os
import signal
import subprocess
import sys
import threading

import pytest
import torch

from probgen.checkpoints import Checkpoints
from probgen.svi.interruption import Interruption

ENDS = {signal.SIGTERM: SystemExit, signal.SIGINT: KeyboardInterrupt}


def sending(svi, number, at):
    """Sends a signal to this process within a step."""
    turns = svi.turns

    def turn(*args, **kwargs):
        result = turns(*args, **kwargs)
        if svi.state.step == at:
            os.kill(os.getpid(), number)
        return result

    svi.turns = turn
    return svi


def handlers():
    return signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)


@pytest.mark.parametrize("at", [2, 3, 6])  # in an epoch, at the end of one, at the last step
@pytest.mark.parametrize("number", ENDS, ids=["SIGTERM", "SIGINT"])
def test_a_signal_saves_and_ends(make_svi, plan, run_dir, capsys, number, at):
    whole = make_svi()
    expected = whole.run(**plan)
    before = handlers()
    svi = sending(make_svi(), number, at)
    with pytest.raises(ENDS[number]) as caught:
        svi.run(**plan, run_dir=run_dir)
    assert handlers() == before
    assert svi.state.step == at
    assert Checkpoints(run_dir).steps()[-1] == at
    message = capsys.readouterr().err
    assert f"probgen: saved at step {at}" in message
    assert "resume=True" in message
    assert f"probgen resume {run_dir}" in message
    if number == signal.SIGTERM:
        assert caught.value.code == 143
    resumed = make_svi()
    result = resumed.run(**plan, run_dir=run_dir, resume=True)
    assert torch.equal(result.losses, expected.losses)
    assert all(torch.equal(value, resumed.held()[name]) for name, value in whole.held().items())


def test_a_second_signal_acts_at_once(make_svi, plan, run_dir):
    svi = make_svi()
    turns = svi.turns

    def turn(*args, **kwargs):
        if svi.state.step == 1:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)  # Python's own handler, here and now
        return turns(*args, **kwargs)

    svi.turns = turn
    with pytest.raises(KeyboardInterrupt) as caught:
        svi.run(**plan, run_dir=run_dir)
    assert caught.value.args == ()
    assert svi.state.step == 1
    assert Checkpoints(run_dir).steps() == [0]


def test_handlers_are_those_of_before(make_svi, plan, run_dir):
    """Also while nobody has asked for a folder, and after an error."""
    before, seen = handlers(), []
    make_svi().run(**plan, callbacks=[lambda report: seen.append(handlers())])
    assert seen == [before, before]

    def fail(report):
        seen.append(handlers())
        raise LookupError

    with pytest.raises(LookupError):
        make_svi().run(**plan, run_dir=run_dir, callbacks=[fail])
    assert seen[-1] != before
    assert handlers() == before


def test_other_threads_leave_signals_alone(make_svi, plan, run_dir):
    seen, before = [], handlers()

    def train():
        make_svi().run(**plan, run_dir=run_dir, callbacks=[lambda report: seen.append(handlers())])

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert seen == [before, before]
    assert Checkpoints(run_dir).steps()[-1] == 6


def test_an_ignored_signal_stays_ignored(make_svi, plan, run_dir):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        svi = sending(make_svi(), signal.SIGINT, 2)
        assert len(svi.run(**plan, run_dir=run_dir).losses) == 6
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_child_ends_as_it_would_have(monkeypatch):
    """A DataLoader's worker inherits the handlers, but has nothing to save."""
    sent = []
    with Interruption() as interruption:
        monkeypatch.setattr(os, "getpid", lambda: -1)
        monkeypatch.setattr(os, "kill", lambda process, number: sent.append(number))
        signal.raise_signal(signal.SIGTERM)
        assert interruption.asked is None
        assert sent == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


PROGRAM = """
import os, sys, time, functools, signal
import torch
from probgen import SVI
from probgen.guides import AmortizedNormal
from probgen.models import PPCA
from probgen.objectives import ELBO
from probgen.checkpoints import Checkpoints

x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))

def train(run_dir, pause, resume):
    torch.manual_seed(0)
    svi = SVI(PPCA(3, 1), AmortizedNormal((3,), 1, (4,)), functools.partial(torch.optim.Adam, lr=1e-2), ELBO())
    result = svi.run(x, num_epochs=20, batch_size=10, seed=0, progress=False, run_dir=run_dir, resume=resume,
                     callbacks=[lambda report: time.sleep(pause)])
    return result.losses

train(None, 0.0, False)
folder = sys.argv[1]
expected = train(None, 0.0, False)
for number, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
    run_dir = os.path.join(folder, str(int(number)))
    child = os.fork()
    if child == 0:
        try:
            train(run_dir, 0.05, False)
        except KeyboardInterrupt:
            os._exit(130)
        except SystemExit as end:
            os._exit(end.code)
        os._exit(0)
    metrics = os.path.join(run_dir, "metrics.jsonl")
    while not os.path.exists(metrics) or not os.path.getsize(metrics):
        time.sleep(0.005)
    os.kill(child, number)
    _, found = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(found) == status, found
    step = Checkpoints(run_dir).steps()[-1]
    assert 0 < step < 80, step
    assert torch.equal(train(run_dir, 0.0, True), expected)
print("equal")
"""


def test_processes(tmp_path):
    """From outside, at whatever moment; the status is the shell's for the signal."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert done.stdout == "equal\n", done.stderr[-3000:]
    assert done.stderr.count("probgen: saved at step") == 2
