"""Handlers that a run of a pair needs beyond NumPyro's own."""

import zlib
from collections.abc import Mapping
from typing import Any

import jax
from jax import Array
from numpyro.primitives import Messenger

from probgen.errors import ProgramError

Site = dict[str, Any]  # a message: its fields depend on its type


class SharedMinibatch(Messenger):
    """Draws each plate's subsample from one key, so that model, guide and all particles see the same data."""

    def __init__(self, rng_key: Array) -> None:
        super().__init__()
        self.rng_key = rng_key

    def process_message(self, msg: Site) -> None:
        """Fills in the indices of a plate that has none."""
        if msg["type"] == "plate" and msg["value"] is None:
            size, subsample_size = msg["args"]
            key = jax.random.fold_in(self.rng_key, zlib.crc32(msg["name"].encode()) & 0x7FFFFFFF)
            msg["value"] = msg["fn"](size, subsample_size, rng_key=key)


class Values(Messenger):
    """Gives ``numpyro.param`` and ``numpyro.mutable`` statements their values, and notes those that have none."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        super().__init__()
        self.values = values
        self.unset: list[str] = []

    def process_message(self, msg: Site) -> None:
        """Sets the value of a statement."""
        if msg["type"] in ("param", "mutable"):
            value = self.values.get(msg["name"])
            if value is None:
                self.unset += [msg["name"]] if msg["type"] == "param" else []
            else:
                msg["value"] = value.copy() if msg["type"] == "mutable" and isinstance(value, dict) else value


class Replay(Messenger):
    """Gives a program the values of latent sites, and sees at once where they cannot fit.

    Raises:
        ProgramError: a site whose event shape differs, before the program can fail on it.
    """

    def __init__(self, values: Mapping[str, Any], event_shapes: Mapping[str, tuple[int, ...]] | None = None) -> None:
        super().__init__()
        self.values = values
        self.event_shapes = event_shapes or {}

    def process_message(self, msg: Site) -> None:
        """Sets the value of a latent site."""
        if msg["type"] == "sample" and not msg["is_observed"] and msg["name"] in self.values:
            self._check_event_shape(msg["name"], tuple(msg["fn"].event_shape))
            msg["value"] = self.values[msg["name"]]

    def _check_event_shape(self, name: str, wanted: tuple[int, ...]) -> None:
        got = self.event_shapes.get(name, wanted)
        if got != wanted:
            raise ProgramError(
                f"site '{name}' has event shape {wanted} in the model but {got} in the guide; they must be equal"
            )
