"""What comes of a check: nothing, a failure that says what to do, or the reason why it does not apply."""

import unittest
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from probgen.errors import ProbgenError

KINDS = ("model", "guide", "objective")


class CheckFailed(ProbgenError, AssertionError):
    """An object breaks a contract; the message says where, what was expected, and what to do."""


class NotApplicable(unittest.SkipTest):
    """A check does not apply to an object, for the reason in the message; pytest shows it as a skip."""


class Fault(Exception):
    """What a check has found; :class:`CheckFailed` also says of what and in which check."""


@dataclass(frozen=True)
class Check:
    """One contract.

    Attributes:
        kinds: what it is about.
        function: takes the object under trial, and raises if it breaks the contract.
    """

    kinds: tuple[str, ...]
    function: Callable[[Any], None]

    @property
    def name(self) -> str:
        """The function's name, as in ids of tests."""
        return self.function.__name__

    @property
    def claim(self) -> str:
        """What the contract is, and why a user cares: the function's docstring."""
        return (self.function.__doc__ or "").strip()


CHECKS: list[Check] = []


def check(*kinds: str) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Adds a function to the checks of these kinds."""

    def add(function: Callable[[Any], None]) -> Callable[[Any], None]:
        CHECKS.append(Check(kinds, function))
        return function

    return add


def require(holds: bool, wrong: str, *, expected: str, cure: str) -> None:
    """Raises unless a contract holds.

    Args:
        holds: whether it does.
        wrong: what is wrong, and where.
        expected: what should be.
        cure: what to do.

    Raises:
        Fault: it does not.
    """
    if not holds:
        raise Fault(f"{wrong}; expected {expected}; {cure}")


@dataclass(frozen=True)
class Outcome:
    """What came of one check.

    Attributes:
        name: of the check.
        status: ``"passed"``, ``"failed"`` or ``"skipped"``.
        message: why it failed or does not apply; empty if it passed.
    """

    name: str
    status: str
    message: str = ""


@dataclass(frozen=True)
class Report:
    """What came of all checks of one object; prints as a table.

    Attributes:
        name: of the object.
        outcomes: one for each check, in their order.
    """

    name: str
    outcomes: tuple[Outcome, ...]

    def having(self, status: str) -> tuple[Outcome, ...]:
        """The outcomes of one status."""
        return tuple(outcome for outcome in self.outcomes if outcome.status == status)

    def __str__(self) -> str:
        counts = ", ".join(f"{len(self.having(status))} {status}" for status in ("passed", "failed", "skipped"))
        width = max(len(outcome.name) for outcome in self.outcomes)
        lines = [f"{o.status:7}  {o.name:{width}}  {o.message}".rstrip() for o in self.outcomes]
        return "\n".join([f"{self.name}: {counts}", *lines])
