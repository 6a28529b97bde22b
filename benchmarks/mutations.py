"""Mutations of the source that a certificate must find: wrong gradients that people have written and published.

Each is a real edit of one file, text for text, with the rows of the grid that it concerns. A text that is no longer in
its file, or there twice, is an error: the table follows the source.
"""

from dataclasses import dataclass

ESTIMATORS = "probgen/core/estimators.py"
BOUNDS = "probgen/core/bounds.py"
BASE = "probgen/objectives/base.py"
GRADIENTS = "probgen/objectives/gradients.py"
ELBO = "probgen/objectives/elbo.py"
ELBO_GRADIENTS = "probgen/objectives/elbo_gradients.py"
IWAE = "probgen/objectives/iwae.py"
MIWAE = "probgen/objectives/miwae.py"
PIWAE = "probgen/objectives/piwae.py"
RENYI = "probgen/objectives/renyi.py"
CIWAE = "probgen/objectives/ciwae.py"
UPPER = "probgen/objectives/upper_bounds.py"
RWS = "probgen/objectives/rws.py"
TVO = "probgen/objectives/tvo.py"
GENERALIZED = "probgen/objectives/generalized.py"
ANALYTIC = "probgen/objectives/analytic_kl.py"
TERMS = "probgen/programs/terms.py"
READ = "probgen/programs/read.py"
SAMPLING = "probgen/programs/sampling.py"
RESAMPLE = "probgen/programs/resample.py"
SURROGATE = "probgen/numpyro/surrogate.py"


@dataclass(frozen=True)
class Mutation:
    """One wrong edit.

    Attributes:
        family: the objective it belongs to.
        what: in words.
        path: the file.
        old: what stands there once.
        new: what takes its place.
        cells: ``(row, problem, structure)`` that concern it, the likeliest first.
        backend: of these cells.
    """

    family: str
    what: str
    path: str
    old: str
    new: str
    cells: tuple[tuple[str, str, str], ...]
    backend: str = "torch"

    @property
    def name(self) -> str:
        """Unlike every other mutation's."""
        return f"{self.family}: {self.what}"


def on(*rows: str, problem: str = "logistic", structure: str = "plate") -> tuple[tuple[str, str, str], ...]:
    """Rows on one problem."""
    return tuple((row, problem, structure) for row in rows)


def learned(*rows: str) -> tuple[tuple[str, str, str], ...]:
    """Rows on the learned prior."""
    return on(*rows, problem="learned prior")


def switched(*rows: str, structure: str = "plate") -> tuple[tuple[str, str, str], ...]:
    """Rows on a discrete problem."""
    return on(*rows, problem="switches", structure=structure)


def layered(*rows: str) -> tuple[tuple[str, str, str], ...]:
    """Rows on two continuous layers."""
    return on(*rows, problem="two-layer Gaussian")


MUTATIONS: tuple[Mutation, ...] = (
    # --- ELBO
    Mutation(
        "ELBO",
        "mean over K - 1",
        ESTIMATORS,
        "share = 0.0 * normalized_weights(log_weights) + 1.0 / log_weights.shape[0]",
        "share = 0.0 * normalized_weights(log_weights) + 1.0 / (log_weights.shape[0] - 1)",
        on("ELBO stl", "ELBO stl, one by one"),
    ),
    Mutation(
        "ELBO",
        "sum for mean over particles",
        ELBO_GRADIENTS,
        "    if not enumerated:\n        return 1.0 / num_particles",
        "    if not enumerated:\n        return 1.0",
        switched("ELBO rloo", "ELBO score"),
    ),
    Mutation(
        "ELBO",
        "score term dropped",
        ELBO,
        "total = total + score_term(site, costs, share, self.num_particles, baseline=baseline)",
        "total = total",
        switched("ELBO auto, 1 particle", "ELBO rloo"),
    ),
    Mutation(
        "ELBO",
        "beta left out of the costs of a plate's entries",
        ELBO_GRADIENTS,
        "return self._beta * (log_p - site.plated_q)",
        "return log_p - site.plated_q",
        on("ELBO auto, beta", "ELBO rloo, beta", problem="parts"),
    ),
    Mutation(
        "ELBO",
        "wrong direction of the KL",
        ELBO,
        "return terms.log_likelihood - self._beta * self._divergence(terms, self.free_bits)",
        "return terms.log_likelihood + self._beta * self._divergence(terms, self.free_bits)",
        on("ELBO auto"),
    ),
    Mutation(
        "ELBO",
        "analytic KL(p || q)",
        ANALYTIC,
        "kl_divergence(site.q, site.p) if free_bits == 0",
        "kl_divergence(site.p, site.q) if free_bits == 0",
        on("ELBO auto, analytic"),
    ),
    Mutation(
        "ELBO",
        "free bits as a ceiling",
        ANALYTIC,
        "dimensions = kl_divergence(q, p).clamp(min=free_bits)",
        "dimensions = kl_divergence(q, p).clamp(max=free_bits)",
        on("ELBO free bits per dimension"),
    ),
    Mutation(
        "ELBO",
        "free bits of a site for each dimension",
        ANALYTIC,
        'each = free_bits if per == "dimension" else 0.0',
        "each = free_bits",
        (
            *on("ELBO free bits per site", problem="logistic plane"),
            *on("ELBO free bits per site", problem="switches"),
        ),
    ),
    Mutation(
        "ELBO",
        "the prior's gradient twice at scored sites",
        ELBO_GRADIENTS,
        "integrand = integrand + beta * (site.log_q - site.log_q.detach())",
        "integrand = integrand + beta * (site.log_p - site.log_p.detach())",
        switched("ELBO auto", "ELBO rloo, beta"),
    ),
    Mutation(
        "ELBO",
        "baseline of all particles, its own among them",
        ELBO_GRADIENTS,
        "others = leave_one_out(lambda rest: rest.mean(0), by_state)",
        "others = by_state.mean(0, keepdim=True)",
        switched("ELBO rloo", "ELBO auto"),
    ),
    Mutation(
        "ELBO",
        "baseline not subtracted but added",
        ELBO_GRADIENTS,
        "return (by_state - others).transpose(0, 1)",
        "return (by_state + 2 * others - others.mean(0)).transpose(0, 1)",
        switched("ELBO rloo"),
    ),
    Mutation(
        "ELBO",
        "DisARM without the sigmoid of the logits",
        ELBO_GRADIENTS,
        "* logits.detach().abs().sigmoid()",
        "* 1.0",
        switched("ELBO disarm"),
    ),
    Mutation(
        "ELBO",
        "DisARM with the sign of the first sample",
        ELBO_GRADIENTS,
        "1.0 - 2.0 * second, 0.0",
        "1.0 - 2.0 * first, 0.0",
        switched("ELBO disarm"),
    ),
    Mutation(
        "ELBO",
        "independent samples for antithetic ones",
        SAMPLING,
        "torch.cat([1.0 - noise < probs[:half], noise < probs[half:]])",
        "torch.cat([torch.rand_like(noise) < probs[:half], noise < probs[half:]])",
        switched("ELBO disarm"),
    ),
    Mutation(
        "ELBO",
        "enumerated states all weighted alike",
        ELBO_GRADIENTS,
        "return torch.stack(enumerated).sum(0).exp() / num_particles",
        "return torch.softmax(0.0 * torch.stack(enumerated).sum(0), 0)",
        switched("ELBO enumerate"),
    ),
    Mutation(
        "ELBO",
        "weights of enumerated states detached",
        ELBO_GRADIENTS,
        "return torch.stack(enumerated).sum(0).exp() / num_particles",
        "return torch.stack(enumerated).sum(0).exp().detach() / num_particles",
        switched("ELBO enumerate"),
    ),
    Mutation(
        "ELBO",
        "temperature squared in the relaxed distribution",
        SAMPLING,
        "dist.RelaxedBernoulli(torch.full_like(fn.logits, temperature), logits=fn.logits)",
        "dist.RelaxedBernoulli(torch.full_like(fn.logits, temperature**2), logits=fn.logits)",
        switched("ELBO relaxed"),
    ),
    Mutation(
        "ELBO",
        "straight-through without a path",
        SAMPLING,
        "return value.detach() + (base.probs - base.probs.detach())",
        "return value.detach()",
        switched("ELBO straight-through"),
    ),
    # --- IWAE
    Mutation(
        "IWAE",
        "w for w squared",
        ESTIMATORS,
        "return Coefficients(derivatives.first, None, None, derivatives.doubly)",
        "return Coefficients(derivatives.first, None, None, derivatives.first)",
        on("IWAE dreg"),
    ),
    Mutation(
        "IWAE",
        "w squared for the model as well",
        ESTIMATORS,
        "return Coefficients(derivatives.first, None, None, derivatives.doubly)",
        "return Coefficients(derivatives.doubly, None, None, derivatives.doubly)",
        on("IWAE dreg"),
    ),
    Mutation(
        "IWAE",
        "the w_k of the score dropped",
        ESTIMATORS,
        "Coefficients(derivatives.first, derivatives.first, signal + 0.0 * derivatives.first, derivatives.first)",
        "Coefficients(derivatives.first, 0.0 * signal, signal + 0.0 * derivatives.first, derivatives.first)",
        (*on("IWAE score"), *switched("IWAE auto", "IWAE vimco")),
    ),
    Mutation(
        "IWAE",
        "signal without the bound",
        ESTIMATORS,
        "xp.where(known, derivatives.value, 0.0) - baseline, 0.0)",
        "0.0 * derivatives.value - baseline, 0.0)",
        (*on("IWAE score"), *switched("IWAE rloo")),
    ),
    Mutation(
        "IWAE",
        "baseline added",
        ESTIMATORS,
        "xp.where(known, derivatives.value, 0.0) - baseline, 0.0)",
        "xp.where(known, derivatives.value, 0.0) * 1.2 - baseline, 0.0)",
        (*on("IWAE vimco"), *switched("IWAE rloo")),
    ),
    Mutation(
        "IWAE",
        "VIMCO's baseline with the particle's own weight",
        ESTIMATORS,
        "replaced.append(xp.stack([*others, mean]))",
        "replaced.append(xp.stack([*others, log_weights[k]]))",
        switched("IWAE vimco"),
    ),
    Mutation(
        "IWAE",
        "the left-out particle is another one",
        ESTIMATORS,
        "[j for j in range(count) if j != k] for k in range(count)])",
        "[j for j in range(count) if j != (k + 1) % count] for k in range(count)])",
        switched("IWAE auto", "IWAE rloo"),
    ),
    Mutation(
        "IWAE",
        "weights of the surrogate not of this datum",
        GRADIENTS,
        "return total.sum(0)",
        "return total.mean(0)",
        on("IWAE dreg"),
    ),
    Mutation(
        "IWAE",
        "the path scaled twice",
        GRADIENTS,
        "return torch.where(model == 0.0, 0.0, path / torch.where(model == 0.0, 1.0, model))",
        "return path",
        on("EUBO dreg", "CUBO 2 dreg", "TVO left reparameterized"),
    ),
    Mutation(
        "IWAE",
        "resampled by uniform indices",
        RESAMPLE,
        "return (log_weights + noise).argmax(0, keepdim=True)",
        "return noise.argmax(0, keepdim=True)",
        on("IWAE resampled"),
    ),
    Mutation(
        "IWAE",
        "resampled path without w_J",
        IWAE,
        "site.scale_gradient(drawn.weight)",
        "site.scale_gradient(torch.ones_like(drawn.weight))",
        on("IWAE resampled-dreg"),
    ),
    Mutation(
        "IWAE",
        "resampled with the guide's parameters detached",
        IWAE,
        "return self._estimate(drawn.terms, value, (log_p - drawn.log_q)[0])",
        "return self._estimate(drawn.terms, value, (log_p - drawn.log_q.detach())[0])",
        on("IWAE resampled"),
    ),
    Mutation(
        "IWAE",
        "GDReG without the prior's own term",
        GENERALIZED,
        "moved = _relocated(site) * (of_p - own - of_l)",
        "moved = _relocated(site) * (of_p - of_l)",
        learned("IWAE gdreg"),
    ),
    Mutation(
        "IWAE",
        "GDReG with w for w squared",
        GENERALIZED,
        "squared = _partials(w**2 * log_weights, leaves)",
        "squared = _partials(w * log_weights, leaves)",
        learned("IWAE gdreg"),
    ),
    # --- MIWAE, PIWAE, CIWAE
    Mutation(
        "MIWAE",
        "M and K swapped",
        ESTIMATORS,
        "return array.reshape(*groups, *array.shape[1:]).swapaxes(0, 1)",
        "return array.reshape(*groups, *array.shape[1:])",
        on("MIWAE 3 x 2 auto"),
    ),
    Mutation(
        "MIWAE",
        "DReG without 1 / M",
        ESTIMATORS,
        "ungrouped(inner.doubly) / groups[0]",
        "ungrouped(inner.doubly)",
        on("MIWAE 3 x 2 dreg"),
    ),
    Mutation(
        "MIWAE",
        "another group's bound as signal",
        MIWAE,
        "carried, score = (ungrouped(part) / self.particle_groups[0] for part in (each.model, each.score))",
        "carried, score = (ungrouped(part) / self.particle_groups[0] for part in (each.model, each.score.flip(1)))",
        switched("MIWAE 3 x 2 auto"),
    ),
    Mutation(
        "PIWAE",
        "model and guide exchanged",
        PIWAE,
        (
            "IWAE(num_particles=count, **run),\n"
            "            MIWAE(num_particles=self.particle_groups, gradient=gradient, **run),"
        ),
        (
            "MIWAE(num_particles=self.particle_groups, gradient=gradient, **run),\n"
            "            IWAE(num_particles=count, **run),"
        ),
        on("PIWAE 2 x 1 auto", "PIWAE 2 x 1 dreg"),
    ),
    Mutation(
        "PIWAE",
        "K for M K particles of the model",
        PIWAE,
        "IWAE(num_particles=count, **run),",
        "IWAE(num_particles=self.particle_groups[1], **run),",
        on("PIWAE 2 x 1 auto"),
    ),
    Mutation(
        "PIWAE",
        "groups of the other size",
        PIWAE,
        "MIWAE(num_particles=self.particle_groups, gradient=gradient, **run),",
        "MIWAE(num_particles=self.particle_groups[::-1], gradient=gradient, **run),",
        on("PIWAE 2 x 1 dreg", "PIWAE 1 x 2 auto"),
    ),
    Mutation(
        "CIWAE",
        "1 - beta for beta",
        CIWAE,
        "return self.beta * bounds.elbo(integrand) + (1.0 - self.beta) * bounds.iwae(integrand)",
        "return (1.0 - self.beta) * bounds.elbo(integrand) + self.beta * bounds.iwae(integrand)",
        on("CIWAE auto"),
    ),
    Mutation(
        "CIWAE",
        "1 - beta for beta in the derivatives",
        ESTIMATORS,
        "return Derivatives(*(beta * a + (1.0 - beta) * b for a, b in zip(mean, tight, strict=True)))",
        "return Derivatives(*(beta * b + (1.0 - beta) * a for a, b in zip(mean, tight, strict=True)))",
        on("CIWAE dreg"),
    ),
    Mutation(
        "CIWAE",
        "the ELBO's share of the path dropped",
        ESTIMATORS,
        "return Derivatives(value, share, share)",
        "return Derivatives(value, share, 0.0 * share)",
        on("CIWAE dreg"),
    ),
    # --- Rényi
    Mutation(
        "Rényi",
        "alpha for 1 - alpha in the derivatives",
        ESTIMATORS,
        "return Derivatives(value, v, (1.0 - power) * v + power * v**2)",
        "return Derivatives(value, v, power * v + (1.0 - power) * v**2)",
        on("Rényi -0.5 dreg", "Rényi 2 dreg"),
    ),
    Mutation(
        "Rényi",
        "w for v",
        ESTIMATORS,
        "v = _powered_weights(log_weights, power)\n    value",
        "v = normalized_weights(log_weights)\n    value",
        on("Rényi 0.5 dreg", "Rényi 0.5 score"),
    ),
    Mutation(
        "Rényi",
        "1 + alpha for 1 - alpha",
        RENYI,
        "return bounds.renyi(integrand, self.alpha)",
        "return bounds.renyi(integrand, -self.alpha)",
        on("Rényi 0.5 auto", "Rényi 2 auto"),
    ),
    # --- upper bounds
    Mutation(
        "CUBO",
        "minimised with the wrong sign",
        ESTIMATORS,
        "return Coefficients(w, -v, -v / n, None)",
        "return Coefficients(w, v, v / n, None)",
        on("CUBO 2 auto"),
    ),
    Mutation(
        "CUBO",
        "the factor (n - 1) / n dropped",
        ESTIMATORS,
        "return Coefficients(w, -v, -v / n, None)",
        "return Coefficients(w, -v, 0.0 * v, None)",
        on("CUBO 2 auto"),
    ),
    Mutation(
        "CUBO",
        "w for v",
        ESTIMATORS,
        "w, v = normalized_weights(log_weights), _powered_weights(log_weights, n)",
        "w, v = normalized_weights(log_weights), normalized_weights(log_weights)",
        on("CUBO 2 auto", "CUBO 2 dreg"),
    ),
    Mutation(
        "CUBO",
        "v squared alone on the path",
        ESTIMATORS,
        "return Coefficients(w, None, None, (n - 1.0) * (v - v**2))",
        "return Coefficients(w, None, None, (n - 1.0) * v**2)",
        on("CUBO 2 dreg"),
    ),
    Mutation(
        "EUBO",
        "a path where the score carries the gradient",
        "probgen/objectives/two_sided.py",
        "return PLAIN if self.freezes_guide else Sampling(default=DETACHED)",
        "return PLAIN",
        on("EUBO auto", "TVO left auto", "RWS wake auto"),
    ),
    Mutation(
        "EUBO",
        "descent for ascent",
        ESTIMATORS,
        "else Coefficients(w, -w, None, None)",
        "else Coefficients(w, w, None, None)",
        on("EUBO auto"),
    ),
    Mutation(
        "EUBO",
        "w for w - w squared",
        ESTIMATORS,
        "return Coefficients(w, None, None, w - w**2)",
        "return Coefficients(w, None, None, w)",
        on("EUBO dreg"),
    ),
    # --- RWS
    Mutation(
        "RWS",
        "w squared for w - w squared",
        ESTIMATORS,
        "return Coefficients(w, None, None, w - w**2)",
        "return Coefficients(w, None, None, w**2)",
        on("RWS wake dreg", "RWS wake-sleep dreg"),
    ),
    Mutation(
        "RWS",
        "the sum of wake and sleep for their mean",
        RWS,
        "(wake.surrogate + sleep.surrogate) / 2",
        "wake.surrogate + sleep.surrogate",
        on("RWS wake-sleep auto"),
    ),
    Mutation(
        "RWS",
        "no sleep in wake-sleep",
        RWS,
        "(wake.surrogate + sleep.surrogate) / 2",
        "wake.surrogate",
        on("RWS wake-sleep auto"),
    ),
    Mutation(
        "RWS",
        "sleep on the real data",
        "probgen/programs/dream.py",
        "return dream.reshape(argument.shape).to(argument.dtype)",
        "return argument",
        on("RWS sleep auto"),
    ),
    # --- TVO
    Mutation(
        "TVO",
        "left for right",
        ESTIMATORS,
        'return [(low if side == "left" else high, high - low) for low, high in ends]',
        'return [(low if side == "right" else high, high - low) for low, high in ends]',
        on("TVO left auto", "TVO right auto"),
    ),
    Mutation(
        "TVO",
        "the covariance dropped",
        ESTIMATORS,
        "carried, score = carried + width * (w + b * d), score + width * d",
        "carried, score = carried + width * w, score",
        on("TVO left auto"),
    ),
    Mutation(
        "TVO",
        "weights of temperature 1 at every temperature",
        ESTIMATORS,
        "w = _tempered_weights(log_weights, b)",
        "w = _tempered_weights(log_weights, 1.0)",
        on("TVO left auto", "TVO right auto"),
    ),
    Mutation(
        "TVO",
        "the path without the weights' derivative",
        ESTIMATORS,
        "path = path + width * ((1.0 - b) * slope - b * w * (1.0 - w))",
        "path = path + width * (1.0 - b) * slope",
        on("TVO left reparameterized", "TVO right reparameterized"),
    ),
    # --- programs
    Mutation(
        "programs",
        "N/B inside the logsumexp",
        READ,
        'for frame in site["cond_indep_stack"] if frame.name not in names)',
        'for frame in site["cond_indep_stack"])',
        on("IWAE auto", structure="subsampled"),
    ),
    Mutation(
        "programs",
        "a minibatch per particle",
        "probgen/programs/run.py",
        "minibatch=first.minibatch",
        "minibatch=None",
        on("IWAE one by one, auto", "IWAE one by one, dreg", structure="subsampled"),
    ),
    Mutation(
        "programs",
        "a shared scale left out",
        READ,
        "scale=math.prod(_factor(frame) for frame in self.batch) * shared,",
        "scale=math.prod(_factor(frame) for frame in self.batch),",
        on("IWAE auto", structure="scaled"),
    ),
    Mutation(
        "programs",
        "masks ignored",
        TERMS,
        "density = scale_and_mask(density, self.inner_scale, self.mask)",
        "density = scale_and_mask(density, self.inner_scale, None)",
        on("IWAE auto", "ELBO auto", structure="masked"),
    ),
    Mutation(
        "programs",
        "the sample's arguments detached in the frozen guide",
        "probgen/programs/execution.py",
        "lambda value: value.view_as(value))",
        "lambda value: value.detach())",
        layered("IWAE dreg", "ELBO stl"),
    ),
    # --- NumPyro
    Mutation(
        "NumPyro",
        "the model's weight on the path",
        SURROGATE,
        "ratio = jnp.where(c.model == 0.0, 0.0, finite(c.path) / jnp.where(c.model == 0.0, 1.0, c.model))",
        "ratio = jnp.ones_like(c.model)",
        on("IWAE dreg"),
        "numpyro",
    ),
    Mutation(
        "NumPyro",
        "the score dropped",
        SURROGATE,
        "return terms, weighted(c.model, terms.log_weights) + weighted(c.score, terms.score)",
        "return terms, weighted(c.model, terms.log_weights)",
        switched("IWAE auto", "IWAE vimco"),
        "numpyro",
    ),
    Mutation(
        "NumPyro",
        "the share of the resampled particle left out",
        SURROGATE,
        "share = (hot * w).sum(0, keepdims=True)",
        "share = hot.sum(0, keepdims=True)",
        on("IWAE resampled-dreg"),
        "numpyro",
    ),
)
