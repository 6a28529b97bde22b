"""The table of divergences and methods: which there are, what each needs, and which suits what."""

from dataclasses import dataclass

from probgen.core.divergences.generators import GENERATORS

__all__ = ["KINDS", "METHODS", "Method", "methods_table"]

F_KINDS = tuple(GENERATORS)

KINDS: dict[str, str] = {
    **{name: entry.formula for name, entry in GENERATORS.items()},
    "renyi": "log ∫ p^alpha q^(1 - alpha) / (alpha - 1), with `alpha=`",
    "w1": "Wasserstein distance W_1, Euclidean cost",
    "w2": "Wasserstein distance W_2, not squared",
    "frechet": "squared W_2 of Gaussians with the same moments, as FID",
    "sliced-w1": "mean over directions of W_1 of the projections",
    "sliced-w2": "root of the mean over directions of the squared W_2 of the projections",
    "max-sliced-w1": "largest W_1 of a projection",
    "max-sliced-w2": "largest W_2 of a projection, not squared",
    "sinkhorn": "debiased entropic transport with cost |x - y|², with `epsilon=`; tends to the squared W_2",
    "mmd2": "squared maximum mean discrepancy, Gaussian kernels",
    "energy": "2 E|x - y| - E|x - x'| - E|y - y'|",
    "ksd2": "squared kernelised Stein discrepancy of samples from a density",
}
"""The divergences, by name, each with its convention; nats where there is a logarithm."""


@dataclass(frozen=True)
class Method:
    """One way to get some divergences.

    Attributes:
        name: what to pass as ``method=``.
        kinds: the divergences that it gives.
        needs: ``"distributions"`` (torch's), ``"densities"`` (distributions, or log-densities with samples) or
            ``"samples"`` (an array, a program, or whatever can be drawn from; ``"ksd2"`` a density of q besides).
        dimension: where it works.
        bias: as in an estimate.
        suits: when to take it.
        options: further arguments that it takes.
    """

    name: str
    kinds: tuple[str, ...]
    needs: str
    dimension: str
    bias: str
    suits: str
    options: tuple[str, ...] = ()


METHODS: tuple[Method, ...] = (
    Method(
        "closed-form",
        (*F_KINDS, "renyi", "w2", "frechet"),
        "distributions",
        "any",
        "none",
        "Gaussians, finite supports; KL of every pair that torch knows",
        ("alpha",),
    ),
    Method(
        "quadrature",
        (*F_KINDS, "renyi", "w1", "w2"),
        "distributions",
        "1",
        "none",
        "one real number: exact to some 1e-9",
        ("alpha",),
    ),
    Method(
        "monte-carlo",
        (*F_KINDS, "renyi"),
        "densities",
        "any",
        "none",
        "densities known: the error is that of a mean; KL draws from p, others from both",
        ("alpha", "heavy_tails"),
    ),
    Method("k2", ("kl",), "densities", "any", "O(E[l³])", "p near q: less variance, some bias", ("heavy_tails",)),
    Method("k3", ("kl",), "densities", "any", "none", "p near q: less variance, never negative", ("heavy_tails",)),
    Method(
        "control-variate",
        F_KINDS,
        "densities",
        "any",
        "O(1/n)",
        "p near q: least variance",
        ("heavy_tails",),
    ),
    Method("neighbors", ("kl", "renyi"), "samples", "up to 10", "O(n^(-1/d))", "no density known", ("k", "alpha")),
    Method("quantiles", ("w1", "w2"), "samples", "1", "O(n^(-1/2))", "sorting: exact for the samples"),
    Method("exact", ("w1", "w2"), "samples", "up to 3", "O(n^(-1/d))", "n up to some 5,000; needs POT"),
    Method(
        "projections",
        ("sliced-w1", "sliced-w2", "max-sliced-w1", "max-sliced-w2"),
        "samples",
        "any",
        "O(n^(-1/2))",
        "many samples in many dimensions",
        ("num_projections", "num_starts", "num_steps"),
    ),
    Method(
        "log-domain",
        ("sinkhorn",),
        "samples",
        "any",
        "O(1/n)",
        "gradients of transport, n up to some 5,000",
        ("epsilon", "annealing", "tolerance", "max_iterations"),
    ),
    Method("moments", ("frechet",), "samples", "any", "O(1/n)", "features of images; sees two moments alone"),
    Method(
        "u-statistic",
        ("mmd2", "energy", "ksd2"),
        "samples",
        "any",
        "none",
        "the default of kernels: unbiased, may be negative",
        ("bandwidth", "scale", "power"),
    ),
    Method(
        "v-statistic",
        ("mmd2", "energy", "ksd2"),
        "samples",
        "any",
        "upper",
        "a training loss: never negative",
        ("bandwidth", "scale", "power"),
    ),
    Method(
        "linear-time",
        ("mmd2", "energy"),
        "samples",
        "any",
        "none",
        "millions of samples",
        ("bandwidth",),
    ),
    Method(
        "critic",
        (*(kind for kind, entry in GENERATORS.items() if entry.dual), "w1"),
        "samples",
        "any",
        "lower",
        "no density known, many dimensions; a network is trained on one half, in seconds",
        ("hidden", "num_steps", "batch_size", "learning_rate", "objective", "bound"),
    ),
)
"""The methods; for a kind, ``method="auto"`` takes the first that its arguments allow."""


def methods_table() -> str:
    """The table of methods, in Markdown.

    Example:
        >>> print(methods_table().splitlines()[0])
        | method | divergences | needs | dimension | bias | suits |
    """
    head = ["| method | divergences | needs | dimension | bias | suits |", "|:---|:---|:---|:---|:---|:---|"]
    rows = [
        f"| `{m.name}` | {', '.join(f'`{kind}`' for kind in m.kinds)} | {m.needs} | {m.dimension} "
        f"| {m.bias} | {m.suits} |"
        for m in METHODS
    ]
    return "\n".join([*head, *rows])
