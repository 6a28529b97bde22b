"""Every error that probgen raises on purpose, and the search for the nearest right name.

A caller may catch :class:`ProbgenError` for all of them, or the built-in class that each one also is.
"""

import difflib
from collections.abc import Iterable


class ProbgenError(Exception):
    """Base of every error that probgen raises on purpose; its message says what to do."""


class ArgumentError(ProbgenError, ValueError):
    """An argument has a value that cannot work: out of range, unknown, or at odds with another one."""


class ArgumentTypeError(ProbgenError, TypeError):
    """An argument is of a kind that cannot work, such as arrays of two libraries in one call."""


class DataError(ProbgenError, ValueError):
    """Data that a model cannot take: not finite, outside the support, of the wrong shape, or empty."""


class DataFileError(DataError):
    """A file that is missing, damaged, or not in the format that its name says."""


class ProgramError(ProbgenError, RuntimeError):
    """A model and a guide that do not fit each other, or that cannot be read as a pair."""


class UnsupportedObjective(ProbgenError, TypeError):
    """An objective or gradient estimator that would be wrong for this pair; names one that is right."""


class DivergedError(ProbgenError, RuntimeError):
    """Training met a loss or parameter that is not finite; names the first bad site or parameter."""


class CheckpointError(ProbgenError, RuntimeError):
    """A checkpoint that is missing, damaged, of another run, or cannot be saved."""


class MissingExtra(ProbgenError, ImportError):
    """An optional dependency is not installed; names the ``pip install`` that cures it."""


def nearest(name: str, names: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest right one and all that exist.

    Example:
        >>> nearest("iwea", ["elbo", "iwae"])
        "did you mean 'iwae'? There are: elbo, iwae"
    """
    known = sorted(names)
    lower = {each.lower(): each for each in reversed(known)}
    close = difflib.get_close_matches(name.lower(), lower, n=1)
    listed = f"here are: {', '.join(known)}"
    return f"did you mean '{lower[close[0]]}'? T{listed}" if close else f"t{listed}"
