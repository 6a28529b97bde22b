"""What every test gets: fixed seeds, an empty parameter store, one thread, no network; and the data folder."""

import importlib.util
import ipaddress
import os
import socket
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch

torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parents[1]  # also a folder with tests/ and pyproject.toml alone: see .ci/run


def module_names() -> list[str]:
    """Every module of the installed package, by dotted name.

    From the list in pyproject.toml, since pkgutil does not see the folders that are mapped into probgen. By dotted
    name, since collecting files would import a second copy of what lies in the mapped folders.
    """
    names = []
    for package in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]:
        spec = importlib.util.find_spec(package)
        folders = (spec.submodule_search_locations if spec else None) or []
        stems = sorted(file.stem for folder in folders for file in Path(folder).glob("*.py"))
        names += [package if stem == "__init__" else f"{package}.{stem}" for stem in stems if stem != "__main__"]
    return names


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with the argument `module_name` runs once for every module of the package."""
    if "module_name" in metafunc.fixturenames:
        metafunc.parametrize("module_name", module_names())


@pytest.fixture(scope="session")
def project() -> dict[str, Any]:
    """pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(autouse=True)
def _fixed_seeds() -> Iterator[None]:
    """Seed Python, NumPy and torch, and hand every test an empty parameter store."""
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


def _is_local(address: Any) -> bool:
    if not isinstance(address, tuple):  # a Unix socket
        return True
    try:
        return ipaddress.ip_address(address[0]).is_loopback
    except ValueError:
        return address[0] in {"", "localhost"}


def _guarded(connect: Callable[..., Any]) -> Callable[..., Any]:
    def local_only(self: socket.socket, address: Any) -> Any:
        if not _is_local(address):
            self.close()  # the caller expects an OSError, and would leave it open
            raise RuntimeError(f"a test tried to connect to {address}; tests must not use the network")
        return connect(self, address)

    return local_only


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let sockets connect to this machine alone: neither probgen nor its tests fetch anything."""
    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, _guarded(getattr(socket.socket, name)))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of data files that the package does not contain, or a skip."""
    folder = os.environ.get("PROBGEN_DATA")
    if not folder:
        pytest.skip("set PROBGEN_DATA to the folder that holds mnist/, text/, music/ and mnist_fixed_binarized.npz")
    path = Path(folder)
    if not path.is_dir():
        pytest.fail(f"PROBGEN_DATA names {folder}, which is not a folder")
    return path
