"""The command ``probgen``: reads the arguments, and turns errors into one line and an exit status."""

import sys
import traceback
from collections.abc import Sequence
from typing import Any

import tyro

from probgen import __version__
from probgen.cli.compare_command import Compare
from probgen.errors import ProbgenError

FAILED, INTERRUPTED = 2, 130


def main(args: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        args: the arguments; those of the process by default.

    Returns:
        The exit status: 0; 2 after an error, which is on standard error; 130 after an interruption.

    Raises:
        SystemExit: help was asked for, or the arguments could not be read.

    Example:
        >>> main(["--version"])
        probgen 0.1.0
        0
    """
    arguments = list(sys.argv[1:] if args is None else args)
    if arguments == ["--version"]:
        print(f"probgen {__version__}")
        return 0
    return _run(_parse(arguments))


def _parse(arguments: list[str]) -> Any:
    app = tyro.extras.SubcommandApp()
    app.command(name="compare")(Compare)
    return app.cli(
        prog="probgen", description="Latent-variable models as Pyro (model, guide) pairs.", args=arguments or ["--help"]
    )


def _run(command: Any) -> int:
    try:
        command.run()
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    except Exception as error:
        if command.debug:
            traceback.print_exc()
        _say(f"error: {_described(error)}")
        return FAILED
    return 0


def _described(error: Exception) -> str:
    """A message in one line; of an error that is not ours, its type too, and where to see more."""
    text = " ".join(str(error).split())
    if isinstance(error, ProbgenError):
        return text
    return f"{type(error).__name__}: {text} (`--debug` shows the traceback)"


def _say(text: str) -> None:
    print(f"probgen: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
