"""``probgen list``: its options. What it shows is in :mod:`probgen.cli.listing`."""

from dataclasses import dataclass
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg


@dataclass(frozen=True, kw_only=True)
class List:
    """Show the models, guides, objectives, likelihoods and data sets, or the options of one of them."""

    name: Annotated[Positional[str | None], arg(metavar="NAME")] = None
    """A name, such as vae, or a kind: model, guide, objective, likelihood, data."""

    debug: FlagCreatePairsOff[bool] = False
    """Show the traceback of an error."""

    def run(self) -> None:
        """Prints the names, or the options of one.

        Raises:
            ArgumentError: an unknown name.
        """
        from probgen.cli.listing import show

        print(show(self.name))
