"""The registry against the folders, and the grammar of specs against its own inverse."""

import importlib
import math
import string
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from probgen import registry
from probgen.config import MAX_LENGTH, build, format_spec, parameters, parse_spec
from probgen.errors import ArgumentError
from probgen.likelihoods import LIKELIHOODS

ROOT = Path(__file__).resolve().parents[1]

# --- the table ---


@pytest.mark.parametrize("kind", ["model", "guide"])
def test_every_file_is_registered(kind: str) -> None:
    package = importlib.import_module(f"probgen.{kind}s")
    folder = Path(next(iter(package.__path__)))
    files = {file.stem for file in folder.glob("*.py") if not file.stem.startswith("_")}
    entries = [registry.entry(kind, name).path for name in registry.names(kind)]
    assert {path.partition(":")[0] for path in entries} == {f"probgen.{kind}s.{stem}" for stem in files}
    assert sorted(path.partition(":")[2] for path in entries) == package.__all__ == dir(package)


def test_likelihoods_are_the_registered_ones() -> None:
    assert {name: registry.get("likelihood", name) for name in registry.names("likelihood")} == LIKELIHOODS


EVERY = [(kind, name) for kind in registry.kinds() for name in registry.names(kind)]


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_every_example_builds_its_class(kind: str, name: str) -> None:
    entry = registry.entry(kind, name)
    assert entry.example.partition(":")[0] == name
    assert entry.summary
    assert name == name.lower().replace("_", "-")
    assert type(registry.parse(kind, entry.example)) is registry.get(kind, name)


@pytest.mark.parametrize("package", ["models", "guides"])
def test_classes_are_found_late_and_unknown_ones_are_attribute_errors(package: str) -> None:
    module = importlib.import_module(f"probgen.{package}")
    for name in module.__all__:
        assert getattr(module, name).__name__ == name
    with pytest.raises(AttributeError, match=f"module 'probgen.{package}' has no attribute 'Nothing'"):
        module.Nothing  # noqa: B018


def test_nothing_is_imported_before_it_is_used() -> None:
    code = (
        "import sys, probgen.registry, probgen.models, probgen.guides; "
        "heavy = {'torch', 'jax', 'pyro', 'numpy', 'zuko'} & set(sys.modules); assert not heavy, heavy; "
        "probgen.registry.get('guide', 'amortized-flow'); assert 'zuko' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=ROOT)


def test_defaults_fill_what_the_spec_leaves_out() -> None:
    vae = registry.parse("model", "vae:latent_dim=3,hidden=()", event_shape=(4,), latent_dim=2, no_such=1)
    assert (vae.event_shape, vae.latent_dim) == ((4,), 3)
    assert registry.parse("likelihood", "normal_fixed", event_shape=(4,)).event_shape == (4,)


@pytest.mark.parametrize(
    ("kind", "spec", "message"),
    [
        ("modell", "vae", "`kind`: 'modell' is unknown; did you mean 'model'"),
        ("model", "vea", "model 'vea' is unknown; did you mean 'vae'"),
        ("model", "vae:latent=2", "`vae` takes no argument `latent`; did you mean 'latent_dim'"),
        ("model", "ppca:data_dim=2", "`ppca` needs `latent_dim`, as in 'ppca:latent_dim=...'"),
        ("guide", "vae", "guide 'vae' is unknown"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest_one(kind: str, spec: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        registry.parse(kind, spec)


# --- the grammar ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("vae", ("vae", {})),
        ("vae:hidden=(200,200)", ("vae", {"hidden": (200, 200)})),
        ("iwae:num_particles=50,gradient=dreg", ("iwae", {"num_particles": 50, "gradient": "dreg"})),
        (" miwae : num_particles = (8, 8) ", ("miwae", {"num_particles": (8, 8)})),
        ("elbo:kl=monte-carlo,beta=-1e-3", ("elbo", {"kl": "monte-carlo", "beta": -1e-3})),
        ('vae:likelihood="normal:min_scale=0.01,a=(1,2)"', ("vae", {"likelihood": "normal:min_scale=0.01,a=(1,2)"})),
        ("a:b='it\\'s, a',c=\"]\"", ("a", {"b": "it's, a", "c": "]"})),
        ("a:b=None,c=True,d=[1, {'x': (2,)}],e=./data/x.npz", None),
        ("normal_fixed:scale=1", ("normal-fixed", {"scale": 1})),
    ],
)
def test_specs_are_read(text: str, expected: tuple[str, dict[str, object]] | None) -> None:
    expected = expected or ("a", {"b": None, "c": True, "d": [1, {"x": (2,)}], "e": "./data/x.npz"})
    assert parse_spec(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a spec begins with a name"),
        (":a=1", "a spec begins with a name"),
        ("2:a=1", "a spec begins with a name"),
        ("vae:", "arguments must follow ':'"),
        ("vae:2", "an argument must be `key=value`, got '2'"),
        ("vae:a=1,", "an argument must be `key=value`, got ''"),
        ("vae:a=", "an argument must be `key=value`"),
        ("vae:a-b=1", "an argument must be `key=value`"),
        ("vae:a=1,a=2", "`a` is given twice"),
        ("vae:a=(1,2", "a bracket is not closed"),
        ("vae:a='1", "a quote is not closed"),
        ("vae:a=1)", r"'\)' closes no bracket"),
        ("vae:a=(1]", r"'\]' closes no bracket"),
        ("vae:a=two words", "`a`: 'two words' is neither a Python literal nor a single word"),
        ("vae:a=(relu,)", "put strings in quotes"),
        ("vae:a=__import__('os')", "neither a Python literal"),
        ("vae:a=2**64", "neither a Python literal"),
        ("vae:a=1j", "complex is no kind of value"),
        ("vae:a={1}", "set is no kind of value"),
        ("vae:a={1: 2}", "keys of a dictionary must be strings"),
        ("vae:a=--1", "two signs in a row"),
    ],
)
def test_what_is_no_spec_is_refused(text: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        parse_spec(text)


HOSTILE = [
    "a:b=" + "(" * 4000,
    "a:b=" + "-" * 4000 + "1",
    "a:b=" + "~ " * 2000 + "1",
    "a:b=" + "not " * 1000 + "1",
    "a:b=" + "lambda:" * 580 + "0",
    "a:b=" + "1**" * 1300 + "1",
    "a:b=" + "[" * 17 + "]" * 17,
    "a:b=10**10**10",
    "a:b=\x00",
    "a:b=" + "1" * MAX_LENGTH,
    "a:" + "b=1," * 100_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_specs_fail_fast(text: str) -> None:
    start = time.perf_counter()
    with pytest.raises(ArgumentError):
        parse_spec(text)
    assert time.perf_counter() - start < 1.0


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("ab:=,()[]{}'\"\\ 01.-+~e_#\n\tTrue*jx"), max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        name, arguments = parse_spec(f"a:b={text}")
    except ArgumentError:
        return
    assert parse_spec(format_spec(name, arguments)) == (name, arguments)


KEYS = st.text(string.ascii_letters + string.digits + "_", min_size=1, max_size=8).filter(str.isidentifier)
NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,10}", fullmatch=True)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(NAMES, st.dictionaries(KEYS, VALUES, max_size=4))
@example("a", {"b": math.inf, "c": (-math.inf,), "d": "None", "e": "", "f": "a,b=c", "g": "\ud800\x00'\"\\"})
@example("a", {"b": -0.0, "c": "True", "d": "inf", "e": (), "f": ((),), "g": {"": []}})
def test_format_is_the_inverse_of_parse(name: str, arguments: dict[str, object]) -> None:
    text = format_spec(name, arguments)
    assert parse_spec(text) == (name, arguments)
    assert repr(parse_spec(text)) == repr((name, arguments))  # also kinds and the sign of zero


def endless() -> list[object]:
    loop: list[object] = []
    loop.append(loop)
    return loop


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("two words", {}),
        ("a", {"b-c": 1}),
        ("a", {"b": {1, 2}}),
        ("a", {"b": math.nan}),
        ("a", {"b": (1, [math.nan])}),
        ("a", {"b": {1: 2}}),
        ("a", {"b": "x" * MAX_LENGTH}),
        ("a", {"b": endless()}),
        ("a", {"b": object()}),
    ],
)
def test_what_a_spec_cannot_hold_is_refused(name: str, arguments: dict[str, object]) -> None:
    with pytest.raises(ArgumentError):
        format_spec(name, arguments)


def test_build_takes_any_name_where_the_callable_does() -> None:
    def anything(a: int, **others: int) -> int:
        return a + sum(others.values())

    assert parameters(anything) is None
    assert build(anything, {"a": 1, "b": 2}) == 3


def test_a_spec_in_a_spec_needs_no_quotes_for_one_argument() -> None:
    assert parse_spec("elbo:beta=linear:steps=100,kl=analytic")[1] == {"beta": "linear:steps=100", "kl": "analytic"}
    assert registry.parse("model", "vae:event_shape=4,likelihood=normal:min_scale=0.01").likelihood.min_scale == 0.01
    with pytest.raises(ArgumentError, match="put strings in quotes"):
        parse_spec("elbo:beta=linear:steps=100:end=2")
