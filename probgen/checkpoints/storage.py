"""One checkpoint: a folder with tensors in safetensors, a state in JSON, and a manifest of their sums."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from probgen import __version__
from probgen.checkpoints import strict_json
from probgen.checkpoints.disk import read_regular, sync_folder, write_synced
from probgen.errors import CheckpointError

FORMAT = 1
TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
LIMITS = {MANIFEST: 2**16, STATE: 2**22}  # bytes; that of the tensors is in the manifest
HEADER_LIMIT = 2**24  # bytes of names and shapes at the start of the tensors


@dataclass(frozen=True)
class Saved:
    """What a checkpoint holds.

    Attributes:
        path: its folder.
        tensors: by name, on the CPU.
        state: everything else, of JSON values.
    """

    path: Path
    tensors: dict[str, Tensor]
    state: dict[str, Any]


def write(folder: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> str:
    """Writes the files of a checkpoint into an empty folder and waits until they are on the disk.

    Returns:
        The sha256 of the manifest.

    Raises:
        CheckpointError: a tensor or a value that the formats have no word for.
        OSError: the disk.
    """
    files = {TENSORS: _serialized(tensors), STATE: strict_json.encode(dict(state))}
    if len(files[STATE]) > LIMITS[STATE]:  # it could not be read again
        raise CheckpointError(f"the state has {len(files[STATE])} bytes of JSON; at most {LIMITS[STATE]} can be saved")
    entries = {name: {"bytes": len(content), "sha256": _sha256(content)} for name, content in files.items()}
    versions = {"probgen": __version__, "torch": torch.__version__}
    files[MANIFEST] = strict_json.encode({"format": FORMAT, "versions": versions, "files": entries})
    for name, content in files.items():
        write_synced(folder / name, content)
    sync_folder(folder)
    return _sha256(files[MANIFEST])


def read(folder: Path, manifest_sha256: str | None = None) -> Saved:
    """Reads a checkpoint; nothing of it is believed before its sum is right.

    Args:
        folder: as :func:`write` left it.
        manifest_sha256: what :func:`write` returned, where it is known.

    Raises:
        CheckpointError: a file that is missing, damaged, too large, a link, or in another format.
    """
    content = _manifest(folder)
    if manifest_sha256 is not None and _sha256(content) != manifest_sha256:
        raise CheckpointError(f"'{folder / MANIFEST}' is damaged: its sha256 is not the one that was saved")
    entries = _entries(strict_json.decode(content, folder / MANIFEST), folder / MANIFEST)
    state = strict_json.decode(_verified(folder / STATE, entries, LIMITS[STATE]), folder / STATE)
    tensors = _deserialized(_verified(folder / TENSORS, entries, None), folder / TENSORS)
    return Saved(folder, tensors, state)


def sum_of(folder: Path) -> str:
    """What :func:`write` returned for a checkpoint that is there.

    Raises:
        CheckpointError: it is none.
    """
    return _sha256(_manifest(folder))


def _manifest(folder: Path) -> bytes:
    if folder.is_symlink() or not folder.is_dir():
        raise CheckpointError(f"'{folder}' is no checkpoint: it is {'a link' if folder.is_symlink() else 'no folder'}")
    return read_regular(folder / MANIFEST, LIMITS[MANIFEST])


def _entries(manifest: dict[str, Any], path: Path) -> dict[str, tuple[int, str]]:
    """Bytes and sha256 of each file; a manifest may name these files and no others."""
    if type(manifest.get("format")) is not int or manifest["format"] != FORMAT:
        found = strict_json.shown(manifest.get("format"))
        raise CheckpointError(f"'{path}' has format {found}; probgen {__version__} reads {FORMAT}")
    files = manifest.get("files")
    if not isinstance(files, dict) or set(files) != {TENSORS, STATE}:
        raise CheckpointError(f"'{path}' must name the files {TENSORS} and {STATE}, and nothing else")
    entries = {}
    for name, entry in files.items():
        size, digest = (entry.get(key) if isinstance(entry, dict) else None for key in ("bytes", "sha256"))
        if type(size) is not int or size < 0 or not isinstance(digest, str):
            raise CheckpointError(f"'{path}' must state the bytes and the sha256 of {name}")
        entries[name] = size, digest
    return entries


def _verified(path: Path, entries: dict[str, tuple[int, str]], limit: int | None) -> bytes:
    size, digest = entries[path.name]
    content = read_regular(path, size if limit is None else min(size, limit))
    if len(content) != size or _sha256(content) != digest:
        raise CheckpointError(f"'{path}' is damaged: its {len(content)} bytes are not the {size} that were saved")
    return content


def _serialized(tensors: Mapping[str, Tensor]) -> bytes:
    copies = {name: value.detach().to("cpu").contiguous().clone() for name, value in tensors.items()}
    try:
        content = safetensors.torch.save(copies)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        kinds = sorted({str(value.dtype) for value in copies.values()})
        raise CheckpointError(f"tensors of {', '.join(kinds)} cannot be saved as safetensors: {error}") from error
    if _header_bytes(content) > HEADER_LIMIT:
        raise CheckpointError(f"{len(copies)} tensors are more than one checkpoint can hold")
    return content


def _deserialized(content: bytes, path: Path) -> dict[str, Tensor]:
    if (size := _header_bytes(content)) > HEADER_LIMIT:
        raise CheckpointError(f"'{path}' is damaged: its header of {size} bytes is too large")
    try:
        tensors = safetensors.torch.load(content)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, OverflowError, MemoryError) as error:
        raise CheckpointError(f"'{path}' is damaged: {error}") from error
    for name, value in tensors.items():
        if value.dtype == torch.bool and value.numel() and int(value.view(torch.uint8).max()) > 1:
            raise CheckpointError(f"'{path}' is damaged: {name!r} has bytes that are no truth values")
    return tensors


def _header_bytes(content: bytes) -> int:
    return int.from_bytes(content[:8], "little")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
