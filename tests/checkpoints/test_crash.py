"""Killed, and mutated: a few of what `make crashtest` and `make fuzz` do by the hundreds."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

pytestmark = [
    pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="needs the folder benchmarks/ of the repository"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a system that forks"),
]


def test_killed_runs_end_the_same(tmp_path):
    """In a process of its own, which forks: this one may have threads."""
    command = [sys.executable, BENCHMARKS / "crashtest.py", "--kills", "3", "--rounds", "0", "--out", tmp_path]
    names = ["moving average, schedule, clipped", "DataLoader that shuffles"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}
    done = subprocess.run([*command, "--only", *names], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    figures = {figure["name"]: figure for figure in json.loads((tmp_path / "crashtest.json").read_text())["figures"]}
    assert figures["kills with bitwise the same end"]["value"] == 3


@pytest.fixture
def fuzz_checkpoints(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("fuzz_checkpoints")


def test_mutated_runs_are_refused_or_valid(fuzz_checkpoints, tmp_path):
    outcomes, _ = fuzz_checkpoints.fuzz(tmp_path, fuzz_checkpoints.FEW, seed=1)
    assert sum(outcomes.values()) >= fuzz_checkpoints.FEW
    assert outcomes["CheckpointError"] > outcomes["loaded"] > 0
