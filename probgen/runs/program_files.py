"""Programs from files, ``path.py:Name``: named by the user alone, never by a file of settings."""

import hashlib
import importlib.machinery
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from probgen.config import build, parameters, parse_spec
from probgen.errors import ArgumentError, ProbgenError, ProgramError, nearest

_SPEC = re.compile(r"(?P<path>[^:]*\.py)(?::(?P<name>[^:]*)(?::(?P<arguments>.*))?)?", re.DOTALL)


def is_file_spec(spec: str) -> bool:
    """Whether a spec names a program in a file.

    Example:
        >>> is_file_spec("nets/mine.py:Net"), is_file_spec("vae:latent_dim=2")
        (True, False)
    """
    return _SPEC.fullmatch(spec) is not None


@dataclass(frozen=True)
class FileSpec:
    """A program in a file, as it was named.

    Attributes:
        path: of the file.
        name: of a class, a factory or a program in it.
        arguments: for the class or factory.
        text: the whole spec.
    """

    path: str
    name: str
    arguments: dict[str, Any]
    text: str


def parse_file_spec(spec: str) -> FileSpec:
    """Reads ``path.py:Name`` or ``path.py:Name:key=value,...``.

    Raises:
        ArgumentError: it is something else.

    Example:
        >>> parse_file_spec("mine.py:Net:width=3").arguments
        {'width': 3}
    """
    match = _SPEC.fullmatch(spec)
    if match is None or not str(match["name"] or "").isidentifier():
        raise ArgumentError(
            f"a program in a file is written path.py:Name, with the name of a class or function, got {spec!r}"
        )
    arguments = {} if match["arguments"] is None else parse_spec(f"{match['name']}:{match['arguments']}")[1]
    return FileSpec(match["path"], match["name"], arguments, spec)


class ProgramFile:
    """A Python file with programs in it, read once and run as a module of its own.

    What is run is what has been summed. The folder of the file is not put on the path of imports.

    Args:
        path: of the file.

    Attributes:
        sha256: of the content.

    Raises:
        ArgumentError: there is no such file, or it cannot be read.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._content = Path(path).expanduser().read_bytes()
        except (OSError, ValueError) as error:
            reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error}"
            raise ArgumentError(f"'{path}' {reason}; a program in a file is written path.py:Name") from error
        self.sha256 = hashlib.sha256(self._content).hexdigest()
        self._module: ModuleType | None = None

    def get(self, name: str) -> Any:
        """What the file calls ``name``; runs the file the first time.

        Raises:
            ArgumentError: it has no such name.
            ProgramError: the file fails.
        """
        module = self._run() if self._module is None else self._module
        if not hasattr(module, name):
            known = [key for key, value in vars(module).items() if _is_own(value, module) and not key.startswith("_")]
            raise ArgumentError(f"'{self.path}' has no `{name}`; {nearest(name, known)}")
        return getattr(module, name)

    def _run(self) -> ModuleType:
        name = f"_probgen_file_{self.sha256[:16]}"
        loader = _Loader(name, str(Path(self.path).expanduser()), self._content)
        spec = importlib.util.spec_from_loader(name, loader, origin=self.path)
        module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]  # None is for loaders without names
        module.__file__ = loader.path
        sys.modules[name] = module  # where dataclasses and `inspect` look a class's module up
        try:
            loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[name]
            raise ProgramError(f"'{self.path}' fails{_place(error, loader.path)}: {_described(error)}") from error
        self._module = module
        return module


class ProgramFiles:
    """The files of one command; each is read and run once."""

    def __init__(self) -> None:
        self._files: dict[str, ProgramFile] = {}

    def open(self, path: str) -> ProgramFile:
        """The file at a path.

        Raises:
            ArgumentError: there is none.
        """
        if path not in self._files:
            self._files[path] = ProgramFile(path)
        return self._files[path]


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads bytes that have been read already: no second look at the file, and no cache beside it."""

    def __init__(self, name: str, path: str, content: bytes) -> None:
        super().__init__(name, path)
        self._content = content

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self._content, self.path)


def program_factory(file: ProgramFile, spec: FileSpec, defaults: Mapping[str, Any]) -> Callable[[], Any]:
    """A callable without arguments that makes the program.

    A class is called, and so is a function that takes no arguments at all, or that the spec gives some; any other
    function, and every other callable object, is a program itself.

    Args:
        file: where it is.
        spec: what is wanted of it.
        defaults: arguments that a class or factory gets if it names them, such as ``event_shape``.

    Raises:
        ArgumentError: the file lacks the name, or the arguments do not fit.
        ProgramError: the file fails, or what it names is no program.
    """
    value = file.get(spec.name)
    if not callable(value):
        raise ProgramError(f"'{spec.text}' is {_article(type(value).__name__)}, and no Pyro program")
    known = parameters(value) if inspect.isclass(value) or inspect.isfunction(value) else {}
    if not (inspect.isclass(value) or (inspect.isfunction(value) and (spec.arguments or known == {}))):
        if spec.arguments:
            raise ArgumentError(f"'{spec.text}' is a program already, and takes no arguments here")
        return lambda: value
    usable = {key: entry for key, entry in defaults.items() if known and key in known} | spec.arguments
    return lambda: _made(value, usable, spec)


def _made(value: Callable[..., Any], arguments: Mapping[str, Any], spec: FileSpec) -> Any:
    try:
        program = build(value, arguments, name=f"{spec.path}:{spec.name}")
    except ProbgenError:
        raise
    except Exception as error:
        raise ProgramError(f"'{spec.text}' fails{_place(error, spec.path)}: {_described(error)}") from error
    if not callable(program):
        raise ProgramError(f"'{spec.text}' makes {_article(type(program).__name__)}, and no Pyro program")
    return program


def _is_own(value: Any, module: ModuleType) -> bool:
    return callable(value) and getattr(value, "__module__", module.__name__) == module.__name__


def _place(error: BaseException, path: str) -> str:
    """The line of the file that an error comes from, where it does."""
    lines, traceback = [], error.__traceback__
    while traceback is not None:
        if Path(traceback.tb_frame.f_code.co_filename) == Path(path).expanduser():
            lines.append(traceback.tb_lineno)
        traceback = traceback.tb_next
    line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
    return "" if line is None else f" in line {line}"


def _described(error: BaseException) -> str:
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {text}"


def _article(noun: str) -> str:
    return f"an {noun}" if noun[:1] in "aeiouAEIOU" else f"a {noun}"
