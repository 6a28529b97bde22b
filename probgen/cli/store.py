"""Pyro's parameter store, which commands leave as they found it."""

import functools
from collections.abc import Callable
from typing import TypeVar

import pyro

Options = TypeVar("Options")


def in_own_store(command: Callable[[Options], None]) -> Callable[[Options], None]:
    """Runs a command where the store is empty: several in one process do not meet each other's parameters."""

    @functools.wraps(command)
    def run(options: Options) -> None:
        with pyro.get_param_store().scope():
            command(options)

    return run
