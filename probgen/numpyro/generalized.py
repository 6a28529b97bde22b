"""Generalised doubly reparameterized gradients: the model's own distributions by a path as well."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from probgen.errors import UnsupportedObjective
from probgen.numpyro.run import Params
from probgen.numpyro.surrogate import Rule, Run, finite, inner, merge, partition, require_reparameterized, scaled
from probgen.numpyro.terms import PairTerms, SiteTerm


def generalized(run: Run, rule: Rule) -> tuple[PairTerms, Any]:
    r"""The terms, and a scalar with the gradient of GDReG.

    With partial derivatives by each site's value ``z_s``, the others fixed, and ``w`` the normalised weights,

    - phi: :math:`\sum_k w_k^2 \, \partial l_k / \partial z_s \cdot \nabla_\phi z_s`, as in DReG;
    - theta of a site's distribution in the model, ``z_s = T(e; theta)`` at the e that gives the sample:
      :math:`\sum_k (w_k \, \partial [\log p(x, z) - \log p(z_s \mid \cdot)] / \partial z_s
      - w_k^2 \, \partial l_k / \partial z_s) \cdot \nabla_\theta T`;
    - theta of the likelihood: :math:`\sum_k w_k \nabla_\theta \log p(x \mid z_k)`.

    Raises:
        UnsupportedObjective: a site without a path, or a learned prior that is not of a location-scale family.

    Source:
        Bauer, Mnih (2021), Generalized doubly reparameterized gradient estimators, arXiv 2101.11046.
    """
    run = replace(run, pair=replace(run.pair, relocate=True))
    samples = run.samples()
    floats, others = partition(dict(run.params))
    moving = {name: value for name, value in samples.items() if jnp.issubdtype(value.dtype, jnp.floating)}

    def parts(theta: Any, z: dict[str, Array]) -> tuple[dict[str, Any], PairTerms]:
        terms = run.at({**stop_gradient(samples), **z}, merge(theta, others), run.constants)
        return _parts(terms), terms

    found, pull, terms = jax.vjp(parts, stop_gradient(floats), stop_gradient(moving), has_aux=True)
    require_reparameterized(terms, "gdreg")
    _require_paths(run, terms, stop_gradient(moving))
    c = scaled(rule(stop_gradient(terms)), terms.scale)
    w, squared = finite(c.model), finite(c.path)

    def pulled(**cotangents: Any) -> tuple[Any, Any]:
        zeros = jax.tree.map(jnp.zeros_like, found)
        given = {name: {**zeros[name], **v} if isinstance(v, dict) else v for name, v in cotangents.items()}
        result: tuple[Any, Any] = pull({**zeros, **given})
        return result

    _, path = pulled(weights=squared)
    moved = {}
    for name in found["relocated"]:
        slope = pulled(joint=w, own={name: -w}, weights=-squared)[1][name]
        moved[name] = finite(slope)
    theta, _ = pulled(likelihood=w, relocated=moved)
    return terms, inner(theta, floats) + inner(path, moving)


def _parts(terms: PairTerms) -> dict[str, Any]:
    """What is differentiated: by parameters of the model, and by each site's value."""
    sites = [site for site in terms.latents if site.relocated is not None]
    weights = terms.log_weights
    return {
        "weights": weights,
        "joint": weights + terms.log_guide,
        "likelihood": jnp.broadcast_to(jnp.asarray(terms.log_likelihood, weights.dtype), weights.shape),
        "own": {site.name: site.log_p for site in sites},
        "relocated": {site.name: site.relocated for site in sites},
    }


def _require_paths(run: Run, terms: PairTerms, samples: Mapping[str, Array]) -> None:
    """Refuses learned distributions of the model that have no path here."""
    if terms.subsampled_inside is not None:
        raise UnsupportedObjective(
            f"the plate '{terms.subsampled_inside}' is subsampled inside the log-weight, whose factor N/B the path of "
            'a prior does not have; use `gradient="dreg"`, or the whole plate'
        )
    for site in terms.latents:
        if site.relocated is None and site.log_p is not None and _is_learned(run, site, samples):
            what = "a function of other sites in the guide" if site.function else f"{site.prior_family} there"
            raise UnsupportedObjective(
                '`gradient="gdreg"` needs a location-scale family for a learned distribution of the model, but site '
                f"'{site.name}' is {what}; use `gradient=\"dreg\"`"
            )


def _is_learned(run: Run, site: SiteTerm, samples: Mapping[str, Array]) -> bool:
    """Whether the site's density in the model depends on a parameter: in its traced form, some way leads there."""

    def density(theta: Params) -> Any:
        return run.at(samples, theta, run.constants).site(site.name).log_p

    jaxpr = jax.make_jaxpr(density)(run.constants).jaxpr
    reached = {id(variable) for variable in jaxpr.invars}
    for equation in jaxpr.eqns:
        if any(id(variable) in reached for variable in equation.invars):
            reached |= {id(variable) for variable in equation.outvars}
    return any(id(variable) in reached for variable in jaxpr.outvars)
