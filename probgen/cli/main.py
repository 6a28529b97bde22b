"""The command ``probgen``: reads the arguments, and turns errors into one line and an exit status."""

import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import fields
from typing import Annotated, Any, Union

import tyro

from probgen import __version__
from probgen.cli.compare_command import Compare
from probgen.cli.config_option import config_path, defaults_from
from probgen.cli.hints import spec_hints
from probgen.cli.list_command import List
from probgen.cli.run_commands import Evaluate, Interpolate, Plot, Reconstruct, Sample, Score
from probgen.cli.train_command import EXCLUDED, Resume, Train
from probgen.errors import ProbgenError
from probgen.runs.settings import MODEL

FAILED, INTERRUPTED = 2, 130

COMMANDS: dict[str, tuple[type[Any], str]] = {
    "train": (Train, "Train a model in a folder of its own."),
    "resume": (Resume, "Go on with an interrupted run, or train a finished one for longer."),
    "evaluate": (Evaluate, "Estimate log p(x) of held-out data under a trained model."),
    "compare": (Compare, "Train one model with several objectives and compare them."),
    "sample": (Sample, "Draw from a trained model."),
    "reconstruct": (Reconstruct, "Encode data with a trained pair, and decode them."),
    "interpolate": (Interpolate, "Go from one datum to another through the latent space."),
    "score": (Score, "Estimate log p(x) of each datum of a file, as a table."),
    "plot": (Plot, "Draw the figures of a run, and the curves of several together."),
    "list": (List, "Show models, guides, objectives, likelihoods and data sets, or the options of one."),
}
CONFIGURED = ("train", "compare")  # which take --config


def main(args: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        args: the arguments; those of the process by default.

    Returns:
        The exit status: 0; 2 after an error, which is on standard error; 130 after Ctrl-C, 143 after SIGTERM.

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
    return _run(arguments)


def _run(arguments: list[str]) -> int:
    try:
        command = _parse(arguments)
    except ProbgenError as error:  # a file of settings
        return _failed(error, debug="--debug" in arguments)
    try:
        command.run()
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python's own flush at the end
        return 0
    except SystemExit as end:  # after SIGTERM, once the run has been saved
        return end.code if isinstance(end.code, int) else FAILED
    except Exception as error:
        return _failed(error, debug=command.debug)
    return 0


def _failed(error: Exception, *, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    _say(f"error: {_described(error)}")
    return FAILED


def _parse(arguments: list[str]) -> Any:
    """The command that the arguments ask for; options of a file stand in the place of its defaults.

    Raises:
        ProbgenError: the file.
    """
    name = arguments[0] if arguments else ""
    if name in COMMANDS:
        kinds = [_command(name, arguments), Annotated[None, tyro.conf.Suppress]]  # tyro takes a union of one apart
    else:
        overview = [tyro.conf.subcommand(each, description=summary) for each, (_, summary) in COMMANDS.items()]
        kinds = [Annotated[cls, shown] for (cls, _), shown in zip(COMMANDS.values(), overview, strict=True)]
    commands: Any = Union[tuple(kinds)]  # noqa: UP007  # made at run time
    try:
        return tyro.cli(
            commands,
            prog="probgen",
            description="Latent-variable models as Pyro (model, guide) pairs.",
            args=arguments or ["--help"],
        )
    except SystemExit as end:
        if end.code and name in CONFIGURED:
            options = [field.name for field in fields(COMMANDS[name][0])]
            for line in spec_hints(arguments[1:], options, MODEL):
                _say(line)
        raise


def _command(name: str, arguments: list[str]) -> Any:
    """A command with all that its own help says."""
    cls, _ = COMMANDS[name]
    path = config_path(arguments) if name in CONFIGURED else None
    if path is None:
        return Annotated[cls, tyro.conf.subcommand(name)]
    return Annotated[cls, tyro.conf.subcommand(name, default=defaults_from(path, cls, EXCLUDED))]


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
