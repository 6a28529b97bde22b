"""Which exact expectation belongs to which objective, by the name of its class and its arguments."""

from collections.abc import Callable
from typing import Any

from probgen.errors import ArgumentError, nearest
from probgen.testing import reference as exact
from probgen.testing.problems import Problem
from probgen.testing.reference import Reference

SCORES = ("score", "rloo", "vimco", "disarm", "self-normalized", "covariance")
OPTIONS = (
    "num_particles",
    "kl",
    "alpha",
    "beta",
    "n",
    "free_bits",
    "free_bits_per",
    "guide_update",
    "side",
    "temperatures",
    "temperature",
    "gradient",
)


def reference_for(objective: Any) -> Reference:
    """The reference of an objective, from its class's name and its attributes.

    Raises:
        ArgumentError: no reference is known for it.
    """
    options = {name: getattr(objective, name) for name in OPTIONS if hasattr(objective, name)}
    if hasattr(objective, "particle_groups"):
        options["num_particles"] = objective.particle_groups
    return build(type(objective).__name__, **options)


def build(name: str, **options: Any) -> Reference:
    """The reference of the objective that a class of this name gives with these arguments.

    Raises:
        ArgumentError: no reference is known for it.
    """
    if name not in BUILDERS:
        raise ArgumentError(
            f"no exact expectation is known for {name}; {nearest(name, BUILDERS)}; or pass `reference=` with one of "
            "your own"
        )
    return BUILDERS[name](options)


def uses_score(objective: Any, problem: Problem) -> bool:
    """Whether some site's gradient is a score function's."""
    gradient = getattr(objective, "gradient", "auto")
    named = gradient.values() if isinstance(gradient, dict) else [gradient]
    if any(each in SCORES for each in named):
        return True
    weighted = type(objective).__name__ in ("CUBO", "EUBO", "RWS", "TVO")
    return "auto" in named and (weighted or not problem.continuous)


# --- one builder for each class --------------------------------------------------------------------------------------


def _elbo(options: dict[str, Any]) -> Reference:
    beta, limit = float(options.get("beta", 1.0)), options.get("free_bits", 0.0)
    if limit:
        per = options.get("free_bits_per", "dimension")
        loss = exact.minus_expected_free(limit, per, beta)
        return Reference(f"free bits {limit:g} per {per}, beta={beta:g}", "unbiased", loss, loss)
    named = options.get("gradient", "auto")
    for gradient in named.values() if isinstance(named, dict) else [named]:
        if gradient in ("relaxed", "straight-through"):
            temperature = float(options.get("temperature", 0.5))
            loss = exact.relaxed_elbo(gradient, temperature, beta)
            return Reference(f"{gradient}, {temperature:g}, beta={beta:g}", "surrogate", loss, loss)
    return _bound("ELBO", exact.mean_bound, 1, beta)


def _bound(name: str, bound: exact.Bound, particles: int, beta: float = 1.0) -> Reference:
    """Of an unbiased gradient of one expected bound."""
    loss = exact.minus_expected(bound, particles, beta)
    return Reference(f"{name}, K={particles}, beta={beta:g}", "unbiased", loss, loss)


def _iwae(options: dict[str, Any]) -> Reference:
    return _bound("IWAE", exact.log_mean_bound, options.get("num_particles", 5))


def _miwae(options: dict[str, Any]) -> Reference:
    return _bound("IWAE", exact.log_mean_bound, options["num_particles"][1])


def _ciwae(options: dict[str, Any]) -> Reference:
    beta = float(options.get("beta", 0.5))
    return _bound(f"CIWAE {beta:g}", exact.mixed_bound(beta), options.get("num_particles", 5))


def _piwae(options: dict[str, Any]) -> Reference:
    groups, particles = options["num_particles"]
    all_together, apart = (exact.minus_expected(exact.log_mean_bound, k) for k in (groups * particles, particles))
    return Reference(f"PIWAE {groups} x {particles}", "unbiased", all_together, apart)


def _renyi(options: dict[str, Any]) -> Reference:
    alpha = float(options["alpha"])
    return _bound(f"Rényi {alpha:g}", exact.renyi_bound(alpha), options.get("num_particles", 5))


def _consistent(
    key: str, particles: int, theta: Callable[[int], exact.Loss], phi: Callable[[int], exact.Loss], *limits: exact.Loss
) -> Reference:
    def at(count: int) -> Reference:
        return Reference(f"{key}, K={count}", "consistent", theta(count), phi(count), limits, at)  # type: ignore[arg-type]

    return at(particles)


def _minus_iwae(particles: int) -> exact.Loss:
    return exact.minus_expected(exact.log_mean_bound, particles)


def _cubo(options: dict[str, Any]) -> Reference:
    n = float(options.get("n", 2.0))
    return _consistent(
        f"CUBO {n:g}",
        options.get("num_particles", 5),
        _minus_iwae,
        lambda k: exact.self_normalised(exact.chi_coefficients(n), k, "guide"),
        exact.minus_evidence,
        exact.chi_bound(n),
    )


def _wake_phi(particles: int) -> exact.Loss:
    return exact.self_normalised(exact.wake_coefficients, particles, "guide")


def _eubo(options: dict[str, Any]) -> Reference:
    limits = exact.minus_evidence, exact.evidence_upper_bound
    return _consistent("EUBO", options.get("num_particles", 5), _minus_iwae, _wake_phi, *limits)


def _rws(options: dict[str, Any]) -> Reference:
    update, particles = options.get("guide_update", "wake"), options.get("num_particles", 5)
    if update == "wake":
        return _eubo(options)
    share = {"sleep": 0.0, "wake-sleep": 0.5}[update]
    return _consistent(
        f"RWS {update}",
        particles,
        _minus_iwae,
        lambda k: lambda datum: share * _wake_phi(k)(datum) + (1 - share) * exact.sleep(datum),
        exact.minus_evidence,
        lambda datum: share * exact.evidence_upper_bound(datum) + (1 - share) * exact.sleep(datum),
    )


def _tvo(options: dict[str, Any]) -> Reference:
    if not isinstance(options.get("temperatures"), tuple | list):
        raise ArgumentError(
            "the exact reference of TVO needs its temperatures themselves: pass `temperatures=(0.0, 0.2, 1.0)`, say, "
            f"got {options.get('temperatures')!r}"
        )
    side, temperatures = options.get("side", "left"), tuple(map(float, options["temperatures"]))

    def phi(particles: int) -> exact.Loss:
        coefficients = exact.thermodynamic_coefficients(temperatures, side, "guide")
        return exact.self_normalised(coefficients, particles, "guide", sign=-1.0 if side == "left" else 1.0)

    def theta(particles: int) -> exact.Loss:
        if side == "right":
            return _minus_iwae(particles)
        coefficients = exact.thermodynamic_coefficients(temperatures, side, "model")
        return exact.self_normalised(coefficients, particles, "model")

    limit = exact.thermodynamic_sum(temperatures, side)
    limits = (limit, limit) if side == "left" else (exact.minus_evidence, limit)
    return _consistent(f"TVO {side} {temperatures}", options.get("num_particles", 5), theta, phi, *limits)


BUILDERS: dict[str, Callable[[dict[str, Any]], Reference]] = {
    "ELBO": _elbo,
    "IWAE": _iwae,
    "MIWAE": _miwae,
    "CIWAE": _ciwae,
    "PIWAE": _piwae,
    "Renyi": _renyi,
    "CUBO": _cubo,
    "EUBO": _eubo,
    "RWS": _rws,
    "TVO": _tvo,
}
