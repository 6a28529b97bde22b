"""What is said about an option that a command lacks, where it is an argument of what a spec names."""

import shlex
from collections.abc import Iterable, Iterator, Sequence

from probgen.config import canonical, parameters, parse_spec
from probgen.errors import ArgumentError
from probgen.registry import get, names

KINDS = ("model", "guide", "objective")


def spec_hints(arguments: Sequence[str], options: Iterable[str], model: str) -> list[str]:
    """Lines about options that belong into a spec. Imports the classes that specs name, and torch with them.

    Args:
        arguments: of the command.
        options: names of the fields that the command has.
        model: its spec where the arguments name none.

    Example:
        >>> spec_hints(["vae", "--latent-dim", "3", "--seed", "1"], ["seed"], "vae")
        ['`--latent-dim` is an argument of the model and belongs into its spec: vae:latent_dim=3']
    """
    specs = {"model": model} | dict(_specs(arguments))
    found: dict[str, dict[str, list[str]]] = {}
    for option, words in _given(arguments):
        if (key := option.replace("-", "_")) not in options:
            kind = next((kind for kind in specs if key in _arguments_of(kind, specs[kind])), None)
            found.setdefault(kind or "", {})[key] = [word for word in words if word not in specs.values()]
    return [_line(kind, specs[kind], given) for kind, given in found.items() if kind]


def _line(kind: str, spec: str, given: dict[str, list[str]]) -> str:
    shown = " and ".join(f"`--{key.replace('_', '-')}`" for key in given)
    verbs = "is an argument of the {} and belongs" if len(given) == 1 else "are arguments of the {} and belong"
    return f"{shown} {verbs.format(kind)} into its spec: {shlex.quote(_with(spec, given))}"


def _specs(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(kind, spec) of words that name something of the registry."""
    for word in arguments:
        text = word.partition("=")[2] if word.startswith("--") else word
        try:
            name, _ = parse_spec(text)
        except ArgumentError:
            continue
        yield from ((kind, text) for kind in KINDS if canonical(name) in names(kind))


def _given(arguments: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Each option and the words that follow it."""
    for i, word in enumerate(arguments):
        if word.startswith("--"):
            option, equals, value = word.removeprefix("--").partition("=")
            after = arguments[i + 1 :]
            end = next((j for j, other in enumerate(after) if other.startswith("--")), len(after))
            yield option, [value] if equals else list(after[:end])


def _arguments_of(kind: str, spec: str) -> Iterable[str]:
    return parameters(get(kind, parse_spec(spec)[0])) or ()


def _with(spec: str, given: dict[str, list[str]]) -> str:
    """The spec with more arguments, or with other values for those that it has."""
    name, before = parse_spec(spec)
    values = {key: value if str(value).isidentifier() else repr(value) for key, value in before.items()}
    for key, words in given.items():
        values[key] = words[0] if len(words) == 1 else f"({','.join(words)})" if words else "..."
    return f"{name}:{','.join(f'{key}={value}' for key, value in values.items())}".replace(", ", ",")
