"""Every objective of the registry, and each of its variants here, keeps the contract of objectives.

Models and guides are in tests/models/test_contract.py and tests/guides/test_contract.py.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from probgen import registry
from probgen.testing import Case, Subject, parametrize_with_checks, registry_cases

ROOT = Path(__file__).resolve().parents[2]

VARIANTS = [
    "elbo:beta=0.5",
    "elbo:kl=analytic,free_bits=0.1",
    "elbo:num_particles=4,gradient=rloo",
    "iwae:gradient=dreg",
    "iwae:gradient=vimco",
    "miwae:num_particles=(2,3),gradient=dreg",
    "renyi:alpha=-1.0,gradient=dreg",
    "rws:guide_update=wake-sleep",
    "tvo:side=right",
]
SLOW = ["subsampling_is_unbiased", "training_raises_the_evidence", "captured_step_equals_the_ordinary_one"]


def case_of_objective(spec: str) -> Case:
    return Case(spec, "objective", lambda: Subject(objective=registry.parse("objective", spec)))


@parametrize_with_checks(registry_cases("objective"))
def test_keeps_the_contract_of_objectives(check: Callable[[], None]) -> None:
    check()


@parametrize_with_checks([case_of_objective(spec) for spec in VARIANTS], skip=SLOW)
def test_variants_keep_the_contract_of_objectives(check: Callable[[], None]) -> None:
    check()


UNDER_O = """
import sys
from probgen.testing import names_of_checks, registry_cases
from probgen.testing.checks.run import check_case

assert False, "this script must run under -O"
chosen = {name for name in names_of_checks("model") if "refused" in name}
for case in registry_cases("model"):
    report = check_case(case, skip=set(names_of_checks("model")) - chosen)
    print(case.name, len(report.having("passed")))
"""


def test_models_refuse_bad_data_under_python_o(tmp_path: Path) -> None:
    """With assertions off, and Pyro's validation with them."""
    command = [sys.executable, "-O", "-c", UNDER_O]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    counts = dict(line.split() for line in run.stdout.splitlines())
    assert set(counts) == set(registry.names("model"))
    assert all(int(count) >= 3 for count in counts.values())


def test_every_entry_has_a_case() -> None:
    for kind in ("model", "guide", "objective"):
        cases = registry_cases(kind)
        assert [case.name for case in cases] == list(registry.names(kind))
        assert all(case.kind == kind for case in cases)


@pytest.mark.parametrize("name", registry.names("model"))
def test_models_with_latents_are_checked_with_a_guide_of_the_registry(name: str) -> None:
    (case,) = [case for case in registry_cases("model") if case.name == name]
    assert (case.build().guide is None) == (name == "gaussian-mixture")
