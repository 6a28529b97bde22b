"""Tests for objectives and programs of anyone: certificates of gradient estimators, and contracts as small checks.

Names are loaded on first use (PEP 562).
"""

import importlib
from typing import Any

_LAZY = {
    "Case": "probgen.testing.checks.cases",
    "Certificate": "probgen.testing.certificate",
    "CheckFailed": "probgen.testing.checks.outcome",
    "Outcome": "probgen.testing.checks.outcome",
    "PlayerCertificate": "probgen.testing.certificate",
    "Report": "probgen.testing.checks.outcome",
    "Subject": "probgen.testing.checks.cases",
    "case_of": "probgen.testing.checks.registered",
    "certify": "probgen.testing.certification",
    "check_guide": "probgen.testing.checks.run",
    "check_model": "probgen.testing.checks.run",
    "check_objective": "probgen.testing.checks.run",
    "names_of_checks": "probgen.testing.checks.run",
    "parametrize_with_checks": "probgen.testing.checks.parametrize",
    "registry_cases": "probgen.testing.checks.registered",
}

__all__ = sorted(_LAZY)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'probgen.testing' has no attribute '{name}'")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)
