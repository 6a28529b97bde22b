"""Checks as tests of pytest, one parameter each, with ids such as ``vae-seeded_samples_repeat``."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from probgen.errors import ArgumentTypeError, MissingExtra
from probgen.testing.checks.cases import Case
from probgen.testing.checks.outcome import Check
from probgen.testing.checks.run import check_names, checks_of, perform


@dataclass(frozen=True)
class BoundCheck:
    """One check of one case: call it to run it.

    Attributes:
        check: the contract.
        case: what is checked.
    """

    check: Check
    case: Case

    @property
    def id(self) -> str:
        """``name of the case-name of the check``."""
        return f"{self.case.name}-{self.check.name}"

    def __call__(self) -> None:
        """Runs it.

        Raises:
            CheckFailed: the contract is broken.
            unittest.SkipTest: it does not apply.
        """
        perform(self.check, self.case)


def parametrize_with_checks(cases: Iterable[Case], *, skip: Collection[str] = ()) -> Callable[[Any], Any]:
    """A decorator that runs a test with the argument ``check`` once for every check of every case.

    Args:
        cases: see :class:`probgen.testing.Case`; ``registry_cases("model")`` are those of all registered models.
        skip: names of checks that are left out.

    Raises:
        ArgumentError: an unknown name in ``skip``.
        ArgumentTypeError: an entry is no case.
        MissingExtra: pytest is not installed.

    Example:
        >>> from probgen.models import PPCA
        >>> from probgen.testing import Case, Subject
        >>> case = Case("ppca", "model", lambda: Subject(PPCA(data_dim=3, latent_dim=1)))
        >>> @parametrize_with_checks([case])
        ... def test_my_model(check):
        ...     check()
    """
    try:
        import pytest
    except ImportError as error:
        raise MissingExtra("`parametrize_with_checks` needs pytest: `pip install pytest`") from error
    bound = bound_checks(cases, skip)
    return pytest.mark.parametrize("check", bound, ids=[each.id for each in bound])


def bound_checks(cases: Iterable[Case], skip: Collection[str] = ()) -> list[BoundCheck]:
    """Every check of every case, but some."""
    bound = []
    for case in cases:
        if not isinstance(case, Case):
            raise ArgumentTypeError(
                f"`cases` must hold `probgen.testing.Case`s, such as `Case('mine', 'model', build)`, got {case!r}"
            )
        check_names(skip, case.kind)
        bound += [BoundCheck(each, case) for each in checks_of(case.kind) if each.name not in skip]
    return bound
