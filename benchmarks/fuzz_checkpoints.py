"""Mutates the files of a run by hypothesis, and resumes: an error of probgen's own, or a run that goes on as any other.

Bytes are changed, inserted, removed, copied and cut off in every file; values, keys and whole branches are exchanged in
the JSON files and in the header of the tensors; tensors are exchanged for others. Mostly the sums of manifest
and pointer are made right again, as whoever means harm would do.
"""

import argparse
import contextlib
import functools
import hashlib
import json
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import pyro
import pyro.distributions as dist
import record
import safetensors.torch
import torch
from torch import Tensor, nn

import probgen
from probgen.errors import ProbgenError
from probgen.objectives import ELBO

FILES = ("tensors.safetensors", "state.json", "manifest.json", "latest.json", "metrics.jsonl")
LIMIT = 1.0  # seconds of the processor until a file is refused
FEW = 200  # examples of the fast suite
Content = dict[str, bytes]


# --- a run to be damaged -------------------------------------------------------------------------------------


class Model(nn.Module):
    """z ~ N(0, 1), x ~ N(weight z, 1); one weight is never trained."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((3,), 0.5))
        self.shift = nn.Parameter(torch.zeros(()))
        self.fixed = nn.Parameter(torch.ones(3), requires_grad=False)
        self.register_buffer("mask", torch.tensor([True, True, False]))

    def forward(self, x: Tensor) -> None:
        """Generates x."""
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
            pyro.sample("x", dist.Normal(z * self.weight + self.shift, self.fixed).to_event(1), obs=x)


class Guide(nn.Module):
    """q(z | x)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(3, 1)
        nn.init.constant_(self.net.weight, 0.1)
        nn.init.zeros_(self.net.bias)

    def forward(self, x: Tensor) -> None:
        """Samples z."""
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.net(x), 1.0).to_event(1))


class Target:
    """A run of two epochs, its files, and an SVI that is to go on with what has become of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        generator = torch.Generator().manual_seed(1)
        self.plan: dict[str, Any] = {
            "data": torch.randn(12, 3, generator=generator),
            "eval_data": torch.randn(4, 3, generator=generator),
            "batch_size": 4,
            "seed": 3,
            "progress": False,
        }
        self.svi().run(**self.plan, num_epochs=2, run_dir=folder / "good")
        self.good = self._read(folder / "good")

    def svi(self) -> probgen.SVI:
        """A loop with a fresh pair, always with the same weights."""
        adam = functools.partial(torch.optim.Adam, lr=0.01)
        return probgen.SVI(Model(), Guide(), adam, ELBO(), accelerator="cpu", ema_decay=0.9)

    def _read(self, run_dir: Path) -> Content:
        self.step = json.loads((run_dir / "checkpoints" / "latest.json").read_bytes())["checkpoint"]
        return {name: self._path(run_dir, name).read_bytes() for name in FILES}

    def _path(self, run_dir: Path, name: str) -> Path:
        if name == "metrics.jsonl":
            return run_dir / name
        checkpoints = run_dir / "checkpoints"
        return checkpoints / name if name == "latest.json" else checkpoints / self.step / name

    def write(self, content: Content) -> Path:
        """A run's folder with these files."""
        run_dir = self.folder / "bad"
        shutil.rmtree(run_dir, ignore_errors=True)
        (run_dir / "checkpoints" / self.step).mkdir(parents=True)
        for name, data in content.items():
            self._path(run_dir, name).write_bytes(data)
        return run_dir

    def resume(self, content: Content) -> str:
        """What comes of going on with these files for another epoch: the error's name, or "loaded".

        Raises:
            AssertionError: the error is none of probgen's, took too long, or has moved parameters or generators.
        """
        run_dir, svi = self.write(content), self.svi()
        before = _held(svi)
        begin = time.process_time()
        try:
            result = svi.run(**self.plan, num_epochs=3, run_dir=run_dir, resume=True)
        except ProbgenError as error:
            seconds = time.process_time() - begin
            if seconds > LIMIT:
                raise AssertionError(f"refused after {seconds:.2f} s: {error}") from error
            if svi.state.step == 0 and not _same(before, _held(svi)):
                raise AssertionError(f"refused, but something has moved: {error}") from error
            return type(error).__name__
        if not all(bool(torch.isfinite(value).all()) for value in result.params.values()):
            raise AssertionError("parameters that are not finite were taken")
        return "loaded"


def _held(svi: probgen.SVI) -> list[Tensor]:
    modules = [value.detach().clone() for module in svi.modules for value in module.state_dict().values()]
    return [*modules, torch.get_rng_state(), torch.tensor(random.getstate()[1])]


def _same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# --- mutations -----------------------------------------------------------------------------------------------


def seal(content: Content) -> Content:
    """Makes the sums right again, as far as manifest and pointer can still be read."""
    content = dict(content)
    with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
        manifest = json.loads(content["manifest.json"])
        for name in ("tensors.safetensors", "state.json"):
            manifest["files"][name]["bytes"] = len(content[name])
            manifest["files"][name]["sha256"] = hashlib.sha256(content[name]).hexdigest()
        content["manifest.json"] = json.dumps(manifest).encode()
    with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
        pointer = json.loads(content["latest.json"])
        pointer["sha256"] = hashlib.sha256(content["manifest.json"]).hexdigest()
        content["latest.json"] = json.dumps(pointer).encode()
    return content


def header_of(tensors: bytes) -> tuple[dict[str, Any], bytes]:
    """The header of a file of tensors, and what follows."""
    size = int.from_bytes(tensors[:8], "little")
    return json.loads(tensors[8 : 8 + size]), tensors[8 + size :]


def with_header(header: Any, rest: bytes) -> bytes:
    """A file of tensors with another header."""
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + rest


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([-1, 0, 2**31, 2**63, 10**30])
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["/etc/passwd", "../../x", "step-000000000001", "F32", "I64", "torch.optim.sgd.SGD"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def paths_of(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value within a JSON value."""
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in members:
        yield (*above, key)
        yield from paths_of(member, (*above, key))


def edited_json(draw: Callable[..., Any], value: Any) -> Any:
    """A JSON value with one thing in it exchanged, removed, added or renamed."""
    way = draw(st.sampled_from(list(paths_of(value))))
    parent = functools.reduce(lambda inner, key: inner[key], way[:-1], value)
    key, change = way[-1], draw(st.sampled_from(["exchange", "remove", "add", "rename"]))
    if change == "exchange" or isinstance(parent, list):
        parent[key] = draw(JSON_VALUES)
    elif change == "remove":
        del parent[key]
    elif change == "add":
        parent[draw(st.text(max_size=8))] = draw(JSON_VALUES)
    else:
        parent[draw(st.text(max_size=8))] = parent.pop(key)
    return value


def edited_bytes(draw: Callable[..., Any], data: bytes, other: bytes) -> bytes:
    """Bytes with some changed, inserted, removed, copied or cut off."""
    edited = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, max(0, len(edited) - 1)))
        end = start + draw(st.integers(0, 64))
        change = draw(st.sampled_from(["flip", "set", "insert", "remove", "splice", "cut"]))
        if change == "flip" and edited:
            edited[start] ^= 1 << draw(st.integers(0, 7))
        elif change == "set":
            edited[start:end] = draw(st.binary(min_size=end - start, max_size=end - start))
        elif change == "insert":
            edited[start:start] = draw(st.binary(max_size=64))
        elif change == "remove":
            del edited[start:end]
        elif change == "splice":
            begin = draw(st.integers(0, len(other)))
            edited[start:end] = other[begin : begin + 64]
        elif change == "cut":
            del edited[start:]
    return bytes(edited)


TENSORS = st.builds(
    lambda dtype, shape, fill: torch.full(shape, fill).to(dtype),
    st.sampled_from([torch.float32, torch.float64, torch.float16, torch.int64, torch.uint8, torch.bool]),
    st.lists(st.integers(0, 5), max_size=3),
    st.sampled_from([0.0, 1.0, -1.0, 0.5, 1e30, float("nan"), float("inf"), 2.0**40]),
)


def edited_tensors(draw: Callable[..., Any], data: bytes) -> bytes:
    """Tensors of which one is exchanged, removed, renamed, added, or has other numbers."""
    tensors = safetensors.torch.load(data)
    name = draw(st.sampled_from(sorted(tensors)))
    change = draw(st.sampled_from(["exchange", "remove", "rename", "add", "numbers"]))
    if change == "exchange":
        tensors[name] = draw(TENSORS)
    elif change == "remove":
        del tensors[name]
    elif change == "rename":
        tensors[draw(st.text(max_size=20))] = tensors.pop(name)
    elif change == "add":
        tensors[draw(st.sampled_from(["order/", "optimizer/pair/", "parameter/", "best/"])) + name] = draw(TENSORS)
    elif tensors[name].numel():
        flat = tensors[name].view(-1).view(torch.uint8)
        start = draw(st.integers(0, len(flat) - 1))
        values = list(draw(st.binary(min_size=1, max_size=16)))[: len(flat) - start]
        flat[start : start + len(values)] = torch.tensor(values, dtype=torch.uint8)
    return safetensors.torch.save(tensors)


def mutated(good: Content) -> st.SearchStrategy[Content]:
    """The files of a run, one or two of them changed."""

    @st.composite
    def content(draw: Callable[..., Any]) -> Content:
        files = dict(good)
        for _ in range(draw(st.integers(1, 2))):
            kind = draw(st.sampled_from(["bytes", "json", "header", "tensors"]))
            with contextlib.suppress(ValueError, TypeError, KeyError, safetensors.SafetensorError):  # damaged already
                if kind == "bytes":
                    name = draw(st.sampled_from(FILES))
                    files[name] = edited_bytes(draw, files[name], files[draw(st.sampled_from(FILES))])
                elif kind == "json":
                    name = draw(st.sampled_from(["state.json", "state.json", "manifest.json", "latest.json"]))
                    files[name] = json.dumps(edited_json(draw, json.loads(files[name]))).encode()
                elif kind == "header":
                    header, rest = header_of(files["tensors.safetensors"])
                    files["tensors.safetensors"] = with_header(edited_json(draw, header), rest)
                else:
                    files["tensors.safetensors"] = edited_tensors(draw, files["tensors.safetensors"])
        return seal(files) if draw(st.integers(0, 3)) else files

    return content()


def fuzz(folder: Path, examples: int, seed: int) -> tuple[Counter[str], float]:
    """What has come of so many examples, by name, and the longest time that one has taken."""
    target, outcomes, longest = Target(folder), Counter[str](), [0.0]
    assert_good(target)

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
        report_multiple_bugs=False,
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
    )
    @hypothesis.given(mutated(target.good))
    def one(content: Content) -> None:
        begin = time.process_time()
        outcomes[target.resume(content)] += 1
        longest[0] = max(longest[0], time.process_time() - begin)

    try:
        one()
    except Exception as error:
        error.__notes__ = []  # pages of bytes; the run is in the folder
        raise
    return outcomes, longest[0]


def assert_good(target: Target) -> None:
    """Raises unless the files as they are can be gone on with."""
    if (outcome := target.resume(target.good)) != "loaded":
        raise AssertionError(f"the undamaged run: {outcome}")


# --- the command line ----------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    """Mutates, resumes, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--examples", type=record.whole_number, default=20_000, help="mutated runs")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations")
    record.add_output(parser, "fuzz")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    begin = time.perf_counter()
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # thousands of small files
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=place) as folder:
        try:
            outcomes, longest = fuzz(Path(folder), options.examples, options.seed)
        except BaseException:
            kept = shutil.copytree(Path(folder) / "bad", Path(tempfile.mkdtemp(prefix="fuzz-failed-")) / "run")
            print(f"fuzz_checkpoints.py: the run that failed is in {kept}", flush=True)
            raise
    seconds, total = time.perf_counter() - begin, sum(outcomes.values())
    print(f"{total} examples in {seconds:.0f} s: {dict(outcomes)}; the longest took {longest:.2f} s")
    figures = [
        record.figure("mutated runs without an untyped error", total, "runs", goal=f">= {options.examples}"),
        record.figure("refused", total - outcomes["loaded"], "runs", by_error=dict(outcomes)),
        record.figure("loaded, their content being valid", outcomes["loaded"], "runs"),
        record.figure("longest time of one on the processor", longest, "s"),
        record.figure("time of all", seconds, "s"),
    ]
    settings = {
        "files": FILES,
        "mutations": "of bytes, JSON values, headers and tensors, one or two a run; sums made right in three of four",
        "hypothesis": hypothesis.__version__,
    }
    result = record.document("fuzz", settings, {"mutations": options.seed}, figures)
    print(record.shown(record.write(result, options.out)))


if __name__ == "__main__":
    main()
