"""Two processes that train together take the steps of one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from probgen import SVI
from probgen.errors import ArgumentError
from probgen.models import VAE
from probgen.objectives import MaximumLikelihood

CASES = ["plain", "subsampled", "stream", "steps", "held out", "held out stream", "captured", "left out"]
SCRIPT = Path(__file__).with_name("devices_script.py")
LOOPBACK = "lo" if sys.platform == "linux" else "lo0"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What ``devices_script.py`` found in one process, and in each of two."""
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("needs torch.distributed with gloo")
    folder = tmp_path_factory.mktemp("devices")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": LOOPBACK}
    members = [
        subprocess.Popen(
            [sys.executable, SCRIPT, folder, str(rank), str(size)], env=environment, stderr=subprocess.PIPE
        )
        for size, rank in ((1, 0), (2, 0), (2, 1))
    ]
    for member in members:
        _, errors = member.communicate(timeout=300)
        assert member.returncode == 0, errors.decode()
    return [json.loads((folder / name).read_text()) for name in ("1-0.json", "2-0.json", "2-1.json")]


@pytest.mark.parametrize("case", CASES)
def test_without_noise_they_equal_one_process(runs, case):
    one, first, second = (run[case] for run in runs)
    assert first == second
    # The two sums differ in the order of their terms alone: a few roundings of numbers of the order of 10.
    torch.testing.assert_close(numbers(first), numbers(one), rtol=0.0, atol=1e-13)


def numbers(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return torch.cat([numbers(member) for member in value]) if value else torch.zeros(0, dtype=torch.float64)
    return torch.tensor([0.0 if value is None else value], dtype=torch.float64)


def test_all_start_from_the_weights_of_the_first(runs):
    """Built from other seeds, they end alike, buffers too, though each draws noise of its own."""
    _, first, second = runs
    assert first["weights"] == second["weights"]
    assert any(name.startswith("buffer/") for name in first["weights"]["params"])


def test_resumed_bitwise(runs):
    assert runs[1]["resumed"] is True
    assert runs[2]["resumed"] is True


def test_callbacks_are_the_first_one_s(runs):
    assert runs[1]["calls"] == [2, 4]
    assert runs[2]["calls"] == []


def test_refusals(runs):
    world, batch, joint, *uneven = runs[1]["refused"]
    for message, where in zip(uneven, ("3 batches", "after 3 batches"), strict=True):
        assert message.startswith("DataError: the processes' streams differ in length")
        assert where in message
    assert all(message.startswith("DataError: the processes' streams") for message in runs[2]["refused"][3:])
    assert world.startswith("ArgumentError: `devices=3` needs as many processes, but there are 2: start the script by")
    assert batch.startswith("ArgumentError: a minibatch of 1 data cannot be shared by 2 processes")
    assert joint.startswith("UnsupportedObjective: the weights of this pair are joint over the data")
    with pytest.raises(
        ArgumentError, match="there is no process group: start the script by `torchrun --nproc-per-node 2"
    ):
        SVI(VAE((3,), 1, (2,)), None, torch.optim.Adam, MaximumLikelihood(), devices=2)
    with pytest.raises(ArgumentError, match="`devices` must be"):
        SVI(VAE((3,), 1, (2,)), None, torch.optim.Adam, MaximumLikelihood(), devices=0)
