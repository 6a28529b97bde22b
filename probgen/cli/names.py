"""Names on the command line, checked before torch is imported."""

from collections.abc import Iterable

from probgen.config import parse_spec
from probgen.errors import ArgumentError
from probgen.registry import entry
from probgen.runs.program_files import is_file_spec, parse_file_spec
from probgen.runs.settings import FROM_FILE


def check_specs(kind: str, specs: Iterable[str]) -> None:
    """Refuses unknown names.

    Raises:
        ArgumentError: a spec that is none, or names nothing; the message has the nearest name.
    """
    for spec in specs:
        entry(kind, parse_spec(spec)[0])


def check_pair(model: str, guide: str, config: str | None = None) -> None:
    """Refuses a model or guide that is neither of the registry nor in a file.

    Raises:
        ArgumentError: an unknown name; or a file of settings whose programs must be given again.
    """
    for kind, spec in (("model", model), ("guide", guide)):
        if spec == FROM_FILE:
            how = "after the command" if kind == "model" else "by --guide"
            raise ArgumentError(
                f"'{config}' is of a run whose {kind} comes from a file, and no file says by itself what code to run; "
                f"give the {kind} again, {how}, as path.py:Name"
            )
        if is_file_spec(spec):
            parse_file_spec(spec)
        elif kind == "model" or spec not in ("auto", "none"):
            check_specs(kind, (spec,))
