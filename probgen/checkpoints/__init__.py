"""Checkpoints that survive a crash at any moment, and are read without trust."""

from probgen.checkpoints.folder import Checkpoints
from probgen.checkpoints.storage import Saved

__all__ = ["Checkpoints", "Saved"]
