"""Names to classes: what the command line, files and the contract tests can build.

One table, kind -> name -> :class:`Entry`; a class is imported when it is asked for and not before. To add a model,
write its file and one line here.
"""

import importlib
from dataclasses import dataclass
from typing import Any

from probgen.config import build, canonical, parameters, parse_spec
from probgen.errors import ArgumentError, nearest


@dataclass(frozen=True)
class Entry:
    """Where a class is, what it is, and a spec that builds a small one.

    Attributes:
        path: ``module:Class``.
        summary: one line.
        example: a spec for :func:`parse`; those of models and guides have events of 16 entries and 2 latent
            dimensions where they have such.
    """

    path: str
    summary: str
    example: str


_REGISTRY: dict[str, dict[str, Entry]] = {
    "model": {
        "conditional-vae": Entry(
            "probgen.models.conditional_vae:ConditionalVAE",
            "VAE given class labels (Kingma et al. 2014)",
            "conditional-vae:event_shape=(16,),latent_dim=2,hidden=(8,),num_classes=3",
        ),
        "gaussian-mixture": Entry(
            "probgen.models.gaussian_mixture:GaussianMixture",
            "mixture of diagonal Gaussians, exact evidence",
            "gaussian-mixture:data_dim=16,num_components=3",
        ),
        "hierarchical-vae": Entry(
            "probgen.models.hierarchical_vae:HierarchicalVAE",
            "VAE with several stochastic layers (Burda et al. 2016)",
            "hierarchical-vae:event_shape=(16,),latent_dims=(3,2),hidden=(8,)",
        ),
        "ppca": Entry(
            "probgen.models.ppca:PPCA",
            "probabilistic PCA, exact evidence and posterior (Tipping and Bishop 1999)",
            "ppca:data_dim=16,latent_dim=2",
        ),
        "vae": Entry(
            "probgen.models.vae:VAE",
            "standard normal latent and neural decoder (Kingma and Welling 2014)",
            "vae:event_shape=(16,),latent_dim=2,hidden=(8,)",
        ),
    },
    "guide": {
        "amortized-flow": Entry(
            "probgen.guides.amortized_flow:AmortizedFlow",
            "conditional neural spline flow (Durkan et al. 2019); needs zuko",
            "amortized-flow:event_shape=(16,),latent_dim=2,hidden=(8,),num_transforms=2,context_dim=8,flow_hidden=(8,)",
        ),
        "amortized-hierarchical": Entry(
            "probgen.guides.amortized_hierarchical:AmortizedHierarchical",
            "diagonal normals for several stochastic layers, bottom-up or top-down",
            "amortized-hierarchical:event_shape=(16,),latent_dims=(3,2),hidden=(8,)",
        ),
        "amortized-multivariate-normal": Entry(
            "probgen.guides.amortized_multivariate_normal:AmortizedMultivariateNormal",
            "normal with full covariance",
            "amortized-multivariate-normal:event_shape=(16,),latent_dim=2,hidden=(8,)",
        ),
        "amortized-normal": Entry(
            "probgen.guides.amortized_normal:AmortizedNormal",
            "diagonal normal (Kingma and Welling 2014)",
            "amortized-normal:event_shape=(16,),latent_dim=2,hidden=(8,)",
        ),
    },
    "objective": {
        "ciwae": Entry(
            "probgen.objectives:CIWAE",
            "ELBO and importance-weighted bound combined (Rainforth et al. 2018)",
            "ciwae:num_particles=3,beta=0.5",
        ),
        "cubo": Entry(
            "probgen.objectives:CUBO", "chi upper bound for the guide (Dieng et al. 2017)", "cubo:num_particles=5,n=2.0"
        ),
        "elbo": Entry("probgen.objectives:ELBO", "evidence lower bound", "elbo"),
        "eubo": Entry(
            "probgen.objectives:EUBO", "evidence upper bound for the guide (Ji and Shen 2019)", "eubo:num_particles=5"
        ),
        "iwae": Entry(
            "probgen.objectives:IWAE", "importance-weighted bound (Burda et al. 2016)", "iwae:num_particles=5"
        ),
        "maximum-likelihood": Entry(
            "probgen.objectives:MaximumLikelihood", "log-likelihood of models without latents", "maximum-likelihood"
        ),
        "miwae": Entry(
            "probgen.objectives:MIWAE",
            "mean of M importance-weighted bounds of K (Rainforth et al. 2018)",
            "miwae:num_particles=(2,3)",
        ),
        "piwae": Entry(
            "probgen.objectives:PIWAE",
            "model by IWAE, guide by MIWAE (Rainforth et al. 2018)",
            "piwae:num_particles=(2,3)",
        ),
        "renyi": Entry(
            "probgen.objectives:Renyi", "Rényi bound (Li and Turner 2016)", "renyi:alpha=0.5,num_particles=5"
        ),
        "rws": Entry(
            "probgen.objectives:RWS", "reweighted wake-sleep (Bornschein and Bengio 2015)", "rws:num_particles=5"
        ),
        "tvo": Entry("probgen.objectives:TVO", "thermodynamic objective (Masrani et al. 2019)", "tvo:num_particles=5"),
    },
    "likelihood": {
        "bernoulli": Entry("probgen.likelihoods:Bernoulli", "bits", "bernoulli:event_shape=(4,)"),
        "categorical": Entry(
            "probgen.likelihoods:Categorical", "integers below C", "categorical:event_shape=(4,),num_categories=3"
        ),
        "discretized-logistic": Entry(
            "probgen.likelihoods:DiscretizedLogistic",
            "grey values on a grid (Salimans et al. 2017)",
            "discretized-logistic:event_shape=(4,),levels=8",
        ),
        "normal": Entry(
            "probgen.likelihoods:Normal", "reals with a learned scale", "normal:event_shape=(4,),min_scale=0.01"
        ),
        "normal-fixed": Entry(
            "probgen.likelihoods:NormalFixed", "reals with a given scale", "normal-fixed:event_shape=(4,),scale=0.5"
        ),
    },
}


def kinds() -> tuple[str, ...]:
    """The kinds of things that have names.

    Example:
        >>> kinds()
        ('guide', 'likelihood', 'model', 'objective')
    """
    return tuple(sorted(_REGISTRY))


def names(kind: str) -> tuple[str, ...]:
    """The names of a kind, sorted.

    Raises:
        ArgumentError: the kind is unknown.

    Example:
        >>> "vae" in names("model")
        True
    """
    if kind not in _REGISTRY:
        raise ArgumentError(f"`kind`: {kind!r} is unknown; {nearest(str(kind), _REGISTRY)}")
    return tuple(sorted(_REGISTRY[kind]))


def entry(kind: str, name: str) -> Entry:
    """The table's entry for a name.

    Raises:
        ArgumentError: the kind or name is unknown; the message has the nearest right one.

    Example:
        >>> entry("model", "vae").path
        'probgen.models.vae:VAE'
    """
    known = names(kind)
    if canonical(name) not in known:
        raise ArgumentError(f"{kind} {name!r} is unknown; {nearest(name, known)}")
    return _REGISTRY[kind][canonical(name)]


def get(kind: str, name: str) -> type:
    """The class of a name, imported now.

    Raises:
        ArgumentError: the kind or name is unknown.

    Example:
        >>> get("likelihood", "bernoulli").__name__
        'Bernoulli'
    """
    module, _, attribute = entry(kind, name).path.partition(":")
    cls: type = getattr(importlib.import_module(module), attribute)
    return cls


def parse(kind: str, spec: str, **defaults: Any) -> Any:
    """Builds an object from a spec.

    Args:
        kind: one of :func:`kinds`.
        spec: ``name:key=value,...``; see :mod:`probgen.config`.
        **defaults: arguments that the spec may leave out, such as ``event_shape`` from the data; those that the
            class does not take are ignored.

    Raises:
        ArgumentError: an unknown kind, name or argument, a missing argument, or a value that cannot work.

    Example:
        >>> parse("model", "vae:hidden=(20,)", event_shape=(64,), latent_dim=2).event_shape
        (64,)
    """
    name, arguments = parse_spec(spec)
    cls = get(kind, name)
    known = parameters(cls)
    usable = {key: value for key, value in defaults.items() if known is None or key in known}
    return build(cls, usable | arguments, name=name)
