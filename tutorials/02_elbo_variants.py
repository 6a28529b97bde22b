# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # One model, many bounds
#
# The ELBO is one lower bound on $\log p(x)$ of many, and each bound can be climbed along several estimates of its
# gradient. Which should you take? There are three questions, and this notebook answers each with numbers:
#
# 1. **How tight is it?** On a model whose $\log p(x)$ is known, every bound can be held against the truth.
# 2. **How noisy is its gradient?** A tighter bound can have a *worse* gradient. `probgen.gradient_report` measures
#    it.
# 3. **What does it make the model learn?** Latents that are ignored, and what $\beta$ and free bits do about it.
#
# Then come binary latents, whose gradients need estimators of their own, and a comparison at equal *time*. You should
# know the ELBO and the two gradients of the first notebook on the VAE: pathwise and score function. The notebook
# runs in about a minute. Everything is in nats.

# %%
import functools
import math

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import nn

import probgen
from probgen.comparison import grid
from probgen.core import bounds
from probgen.errors import UnsupportedObjective
from probgen.models import PPCA
from probgen.objectives import CIWAE, ELBO, IWAE, MIWAE, PIWAE, RWS, Linear

# Okabe and Ito's colours, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW, BLACK = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000"
)  # fmt: skip
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})


def mean_and_error(values: torch.Tensor) -> tuple[float, float]:
    """The mean of independent values, and its standard error."""
    return values.mean().item(), (values.std() / math.sqrt(len(values))).item()


# %% [markdown]
# ## 1. Many bounds, one truth
#
# All that the bounds need are the log-weights $\ell_k = \log p(x, z_k) - \log q(z_k \mid x)$ of $K$ draws from the
# guide. They differ in how they average them:
#
# | bound | of $K$ log-weights | in expectation |
# |---|---|---|
# | ELBO | $\frac1K \sum_k \ell_k$ | below $\log p(x)$, whatever $K$ |
# | IWAE | $\log \frac1K \sum_k e^{\ell_k}$ | below, and rises to $\log p(x)$ with $K$ |
# | Rényi, $0 < \alpha < 1$ | $\frac{1}{1-\alpha} \log \frac1K \sum_k e^{(1-\alpha)\ell_k}$ | between the two |
# | CIWAE | $\beta$ ELBO $+ (1 - \beta)$ IWAE | between the two |
# | MIWAE | mean of $M$ IWAE bounds of $K / M$ each | as IWAE with $K / M$ |
# | CUBO | $\frac12 \log \frac1K \sum_k e^{2\ell_k}$ | above as $K \to \infty$; at finite $K$ *neither* |
# | EUBO | $\sum_k w_k \ell_k$, $w = \mathrm{softmax}(\ell)$ | above as $K \to \infty$; at finite $K$ *neither* |
#
# (Burda et al. 2016; Li and Turner 2016; Rainforth et al. 2018 for CIWAE and MIWAE; Dieng et al. 2017; Ji and Shen
# 2019.)
#
# Our measuring stick is probabilistic PCA, fitted to digits of $8 \times 8$ grey values: it knows its evidence and
# its posterior in closed form. As the guide we take the normal with the posterior's mean and its variances, but
# without its correlations.

# %%
LATENT_DIM = 10
digits = probgen.data.load("digits", split="train+valid").x.double()
x = probgen.data.load("digits", split="test").x.double()[:50]

values, vectors = torch.linalg.eigh(torch.cov(digits.mT))  # the fit of Tipping and Bishop (1999), section 3.2
noise = values[:-LATENT_DIM].mean()
torch.manual_seed(0)
rotation, _ = torch.linalg.qr(torch.randn(LATENT_DIM, LATENT_DIM, dtype=torch.float64))
ppca = PPCA(64, LATENT_DIM).double().requires_grad_(False)
ppca.loadings.copy_(vectors[:, -LATENT_DIM:] * (values[-LATENT_DIM:] - noise).sqrt() @ rotation)
ppca.mean.copy_(digits.mean(0))
ppca.log_scale.copy_(noise.log() / 2)

posterior = ppca.posterior(x)
log_evidence = ppca.log_evidence(x)


def uncorrelated(x: torch.Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(posterior.loc, posterior.variance.sqrt()).to_event(1))


DRAWS = 16_384
with torch.no_grad():
    log_weights = probgen.log_weights(ppca, uncorrelated, x, num_particles=DRAWS, seed=0)  # [16384, 50]
missing = log_weights - log_evidence  # of each draw, from the truth

# %% [markdown]
# For each $K$ we cut the draws into groups of $K$ and average the bound over the groups. Since everything is normal,
# the limits of the upper bounds are known too: EUBO tends to $\log p(x) + \mathrm{KL}(p(z \mid x) \| q)$, and CUBO to
# $\log p(x) + \frac12 \log E_q[(p(z \mid x)/q)^2]$.

# %%
counts = [2**i for i in range(15)]
BOUNDS = {
    "ELBO": bounds.elbo,
    "CIWAE, beta = 1/2": lambda weights: (bounds.elbo(weights) + bounds.iwae(weights)) / 2,
    "Rényi, alpha = 1/2": functools.partial(bounds.renyi, alpha=0.5),
    "IWAE": bounds.iwae,
    "EUBO": bounds.eubo,
    "CUBO, n = 2": bounds.cubo,
}
curves = {
    name: [bound(missing.reshape(k, -1, 50)).mean().item() for k in counts] for name, bound in BOUNDS.items()
}  # [K, groups, 50] -> [groups, 50]

precision, guide_precision = posterior.precision_matrix[0], torch.diag(1 / posterior.variance[0])
exact_eubo = torch.distributions.kl_divergence(
    posterior, dist.MultivariateNormal(posterior.loc, precision_matrix=guide_precision)
)[0].item()
exact_cubo = (
    torch.logdet(precision) - (torch.logdet(guide_precision) + torch.logdet(2 * precision - guide_precision)) / 2
).item() / 2

figure, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
looks = zip(BOUNDS, (BLUE, SKY, GREEN, VERMILION, ORANGE, PURPLE), "osD^vP", strict=True)
for name, colour, marker in looks:
    upper = name[:4] in ("EUBO", "CUBO")
    axes.plot(counts, curves[name], color=colour, marker=marker, linestyle="--" if upper else "-", label=name)
axes.axhline(0, color=BLACK, linewidth=1)
axes.text(1, 0.03, "log p(x), exact", va="bottom")
for limit, colour, name, side in ((exact_eubo, ORANGE, "EUBO", "top"), (exact_cubo, PURPLE, "CUBO", "bottom")):
    axes.axhline(limit, color=colour, linewidth=1, linestyle=":")
    axes.text(1, limit, f"{name}, exact", color=colour, va=side)
axes.set(xscale="log", xlabel="particles K", ylabel="bound − log p(x) (nats per digit)", ylim=(-1.65, 0.95))
axes.set_title("Lower bounds rise to the truth; estimated upper bounds pass it from below")
axes.legend(loc="lower right", ncols=2)
plt.show()

# %% [markdown]
# - The ELBO does not care how many particles there are; IWAE closes the gap as $K$ grows; the others lie between.
# - At $K = 1$ all of them *are* the ELBO.
# - The upper bounds are upper bounds **as exact expectations only**. From few particles both are estimated far too
#   low, even below the truth, because the draws miss the places where the weights are large. That is why probgen
#   never calls the value of a finite-$K$ CUBO or EUBO an upper bound.
#
# On the same draws the order is not a matter of luck but an inequality, draw by draw:

# %%
groups = missing.reshape(16, -1, 50)
elbo, renyi, iwae, cubo, eubo = (
    BOUNDS[name](groups) for name in ("ELBO", "Rényi, alpha = 1/2", "IWAE", "CUBO, n = 2", "EUBO")
)
assert (elbo <= renyi + 1e-9).all()
assert (renyi <= iwae + 1e-9).all()
assert (iwae <= torch.minimum(cubo, eubo) + 1e-9).all()
assert curves["IWAE"] == sorted(curves["IWAE"])
assert curves["CUBO, n = 2"][1] < 0 < exact_cubo  # at two particles: below the truth
print("gap in nats per digit: ELBO {:.3f}, IWAE with 4 particles {:.3f}, with 1024 {:.3f}".format(
    *(-curves[name][counts.index(k)] for name, k in (("ELBO", 4), ("IWAE", 4), ("IWAE", 1024)))
))  # fmt: skip

# %% [markdown]
# ## 2. Tighter bounds are not necessarily better
#
# A bound is only as good as the gradient that climbs it. As IWAE gets tighter, it depends less and less on the guide:
# in the limit $\log p(x)$ does not depend on it at all. The gradient for the guide's parameters $\phi$ so vanishes
# like $1/K$, while its noise falls like $1/\sqrt K$ only: the *signal-to-noise ratio* falls like $1/\sqrt K$
# (Rainforth et al. 2018). The doubly reparameterized gradient (DReG; Tucker et al. 2019) has the same mean, and a
# ratio that grows like $\sqrt K$.
#
# We look at it where Rainforth et al. did: $z \sim \mathcal N(\mu, I)$, $x \mid z \sim \mathcal N(z, I)$, with the
# guide $\mathcal N(Ax + b, \frac23 I)$ close to its optimum. (`benchmarks/snr.py` has their sizes; here it is
# smaller.)


# %%
class Model(PyroModule):
    """z ~ N(mu, I), x | z ~ N(z, I)."""

    def __init__(self, mean: torch.Tensor) -> None:
        super().__init__()
        self.mean = nn.Parameter(mean)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.mean, 1.0).to_event(1))
            return pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


class Guide(PyroModule):
    """q(z | x) = N(A x + b, 2/3 I)."""

    def __init__(self, mean: torch.Tensor) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.eye(len(mean)) / 2 + 0.02 * torch.randn(len(mean), len(mean)))
        self.shift = nn.Parameter(mean / 2 + 0.02 * torch.randn(len(mean)))

    def forward(self, x: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ self.matrix.mT + self.shift, math.sqrt(2 / 3)).to_event(1))


torch.manual_seed(1)
points = torch.randn(8) + math.sqrt(2) * torch.randn(100, 8)
gaussian = Model(points.mean(0) + 0.1), Guide(points.mean(0))

particles = [1, 4, 16, 64, 256]
ratios: dict[str, list[tuple[float, float]]] = {"pathwise": [], "dreg": []}
for k in particles:
    report = probgen.gradient_report(
        *gaussian,
        points,
        {name: IWAE(num_particles=k, gradient=name) for name in ratios},
        seed=0,
        num_replicates=max(60, 800 // k),
        capture=True,
    )
    dreg = report.row("dreg", "guide")
    for name, found in ratios.items():  # the two have one mean: that of the less noisy one stands for both
        variance = report.row(name, "guide").variance
        found.append((dreg.norm / math.sqrt(variance), dreg.snr_error / dreg.snr))

# %%
figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
for (name, found), colour, marker, rate in zip(ratios.items(), (VERMILION, BLUE), "so", (-0.5, 0.5), strict=True):
    ratio = torch.tensor([value for value, _ in found])
    axes.errorbar(
        particles, ratio, yerr=[2 * v * e for v, e in found], color=colour, marker=marker, capsize=3, label=name
    )
    axes.plot(
        particles[1:], [ratio[-1] * (k / particles[-1]) ** rate for k in particles[1:]],
        color=colour, linestyle=":", label=rf"$\propto K^{{{rate:+}}}$",
    )  # fmt: skip
axes.set(xscale="log", yscale="log", xlabel="particles K", ylabel="signal-to-noise ratio of the guide's gradient")
axes.set_xticks(particles, particles)
axes.minorticks_off()
axes.set_title("IWAE: more particles drown the pathwise gradient, and help DReG")
axes.legend(ncols=2)
plt.show()
assert ratios["pathwise"][-1][0] < 0.2 * ratios["pathwise"][0][0]
assert ratios["dreg"][-1][0] > 2 * ratios["dreg"][1][0]

# %% [markdown]
# The rates are limits for many particles; between 1 and 4 DReG gains little. The model's gradient has no such
# trouble: its mean does not vanish. So there are two families of cures: a better estimator of the same gradient
# (DReG), or a looser bound for the guide (MIWAE and CIWAE for both, PIWAE for the guide alone, reweighted wake-sleep
# with an objective of its own). One call puts them side by side, on 64 particles each. The reference of the last
# column is the gradient of IWAE: who has another *objective* is "biased" for it, and rightly so.

# %%
K = 64
report = probgen.gradient_report(
    *gaussian,
    points,
    {
        "ELBO": ELBO(num_particles=K),
        "ELBO, stl": ELBO(num_particles=K, gradient="stl"),
        "CIWAE": CIWAE(num_particles=K),
        "MIWAE 8 x 8": MIWAE(num_particles=(8, 8)),
        "PIWAE 8 x 8": PIWAE(num_particles=(8, 8)),
        "wake-sleep": RWS(num_particles=K),
        "IWAE": IWAE(num_particles=K),
        "IWAE, resampled": IWAE(num_particles=K, gradient="resampled"),
        "IWAE, dreg": IWAE(num_particles=K, gradient="dreg"),
    },
    seed=0,
    num_replicates=120,
    reference=IWAE(num_particles=K, gradient="dreg"),
    reference_replicates=120,
    capture=True,
)
drawing = probgen.plots.gradient_report(report)
drawing

# %% [markdown]
# How to read it, at the guide's parameters (squares):
#
# - *Signal-to-noise ratio*: IWAE's pathwise gradient is the worst but one, DReG among the best, with the same mean.
# - *Resampled* goes backward through one particle, drawn by its weight: unbiased and cheap, at the price of noise.
# - *Variance x time* says what a step's noise costs. Times are of this moment and machine.
# - *Bias* is drawn only where it is more than three standard errors from zero: all three gradients of IWAE aim at the
#   same point, and so does the model's part of PIWAE, and of wake-sleep.

# %%
for name in ("IWAE", "IWAE, resampled", "IWAE, dreg"):
    assert report.row(name, "guide").bias_score < 4
assert report.row("IWAE, dreg", "guide").snr > 5 * report.row("IWAE", "guide").snr
assert report.row("ELBO", "guide").bias_score > 4
assert report.row("PIWAE 8 x 8", "model").bias_score < 4

# %% [markdown]
# ## 3. Posterior collapse, seen and cured
#
# Now a bound that is *too easy to please*. Give the decoder of a VAE something else to look at: let each pixel also
# see the pixels before it,
#
# $$p(x \mid z) = \prod_d \mathrm{Bernoulli}\Big(x_d;\; \sigma\big(\mathrm{decoder}(z)_d
# + \textstyle\sum_{j<d} A_{dj} x_j\big)\Big).$$
#
# The pixels before say much about what comes next, for free; every bit of $z$ is paid for by the KL term. Early in
# training, when the decoder cannot read $z$ yet, the cheapest thing to do is to switch latents off, one after the
# other: $q(z_j \mid x) = p(z_j)$. This is *posterior collapse* (Bowman et al. 2016). Latents that are off do not
# come back: the decoder has no reason to listen to noise.

# %%
train = probgen.data.load("digits", split="train+valid", binarize="threshold")
test = probgen.data.load("digits", split="test", binarize="threshold")
NUM_LATENTS = 16


class PixelModel(PyroModule):
    """p(z) prod_d p(x_d | z, x_1 ... x_{d-1})."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.Sequential(nn.Linear(NUM_LATENTS, 64), nn.Tanh(), nn.Linear(64, 64))
        self.weights = nn.Parameter(torch.zeros(64, 64))
        self.register_buffer("before", torch.ones(64, 64).tril(-1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(NUM_LATENTS), 1.0).to_event(1))
            logits = self.decoder(z) + x @ (self.weights * self.before).mT
            return pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=x)


class PixelGuide(PyroModule):
    """q(z | x), a diagonal normal."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 2 * NUM_LATENTS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x - 0.5).chunk(2, dim=-1)
            return pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


# %% [markdown]
# We train the same pair, from the same weights and on the same minibatches, in five ways:
#
# - the **ELBO** as it is;
# - **$\beta = 0.2$** all along (Higgins et al. 2017, who take $\beta > 1$): information at a discount;
# - **warm-up**: $\beta$ rises from 0 to 1 over the first 600 of 900 steps, so that latents are free until the decoder
#   has learnt to read them;
# - **free bits** (Kingma et al. 2016), half a nat for each latent dimension: $\sum_j \max(\lambda, KL_j)$, so that it
#   does not pay to push any $KL_j$ below $\lambda$;
# - free bits of 6 nats **for the site as a whole**: how they are spread is left to the model.

# %%
WAYS = {
    "ELBO": ELBO(kl="analytic"),
    "beta = 0.2": ELBO(kl="analytic", beta=0.2),
    "warm-up of beta": ELBO(kl="analytic", beta=Linear(steps=600)),
    "free bits, 0.5 each": ELBO(kl="analytic", free_bits=0.5),
    "free bits, 6 in all": ELBO(kl="analytic", free_bits=6.0, free_bits_per="site"),
}
adam = functools.partial(torch.optim.Adam, lr=5e-3)
evidence, divergences = {}, {}
for name, objective in WAYS.items():
    torch.manual_seed(0)
    pair = PixelModel(), PixelGuide()
    svi = probgen.SVI(*pair, adam, objective, schedule=probgen.svi.warmup_cosine(), capture=True, accelerator="cpu")
    svi.run(train, num_epochs=60, seed=0, progress=False)
    evidence[name] = probgen.evaluate(*pair, test, num_particles=200)
    drawn = probgen.plots.kl_per_latent(*pair, test)  # also a figure; we take its numbers
    divergences[name] = drawn.columns["kl"]

# %%
figure, panels = plt.subplots(1, 5, figsize=(11, 3.2), sharey=True, layout="constrained")
for axes, (name, kl), colour in zip(panels, divergences.items(), (VERMILION, PURPLE, BLUE, ORANGE, GREEN), strict=True):
    axes.bar(range(1, NUM_LATENTS + 1), kl, color=colour)
    reached = f"log p(x) {evidence[name].mean:.2f}\nELBO {evidence[name].elbo.mean():.2f}"
    axes.set_title(f"{name}\n{reached}", fontsize="medium")
    axes.set(xlabel="latent, sorted", xticks=[1, 8, 16])
panels[0].set_ylabel("KL(q || prior), nats per digit")
figure.suptitle("What each of 16 latents says about a held-out digit")
plt.show()

print(f"{'':<22}{'log p(x)':>10}{'ELBO':>9}{'KL':>8}{'latents with KL > 0.1':>24}{'ahead of the ELBO':>24}")
for name, found in evidence.items():
    ahead, error = mean_and_error(found.log_prob - evidence["ELBO"].log_prob)
    used = int((divergences[name] > 0.1).sum())
    numbers = f"{found.mean:10.2f}{found.elbo.mean():9.2f}{found.kl.mean():8.2f}"
    print(f"{name:<22}{numbers}{used:>24}{ahead:16.2f} +- {error:.2f}")
ahead, error = mean_and_error(evidence["warm-up of beta"].log_prob - evidence["ELBO"].log_prob)
assert (divergences["ELBO"] > 0.1).sum() < NUM_LATENTS / 2  # collapsed
assert ahead > 3 * error  # cured, and to some purpose
assert (divergences["free bits, 0.5 each"] > 0.1).sum() == NUM_LATENTS

# %% [markdown]
# - Under the plain **ELBO** most of the latents are off.
# - **Warm-up** brings latents back *and* raises $\log p(x)$: what they say is worth more than it costs. Free bits
#   for the site as a whole do the same.
# - **Free bits for each dimension** switch all latents on, since they demand it, and $\log p(x)$ is no better for
#   it: a divergence that is demanded need not be *information*. KL is a price, not a value.
# - **A small $\beta$** buys even more nats of KL, and a decoder that relies on codes which the prior does not
#   produce: the ELBO with $\beta = 1$, which is what counts, is far lower.
#
# All numbers above are the *plain* bounds and $\log p(x)$. What was optimised (with $\beta$, with free bits) is
# another number, and no bound that could be compared; probgen reports the plain ELBO beside it.
#
# ## 4. Binary latents
#
# A Bernoulli draw has no path to differentiate along. What is left:
#
# - **score**: $f(z)\, \nabla \log q(z)$, as it stands;
# - **rloo**: subtract the mean of the *other* particles' $f$, a baseline that costs nothing (Kool et al. 2019);
# - **vimco**: the same idea for IWAE, where the left-out particle is replaced by the geometric mean of the others
#   (Mnih and Rezende 2016);
# - **disarm**: antithetic pairs of draws, averaged over the noise that they share (Dong et al. 2020);
# - **relaxed**: replace the bits by numbers in $(0, 1)$, in model and guide (Maddison et al. 2017): a low-variance
#   gradient *of another model*;
# - **straight-through**: draw bits, pretend their means had been used (Bengio et al. 2013): biased.
#
# With six bits there are only 64 codes, so the exact gradient can be had by **enumerating** them. It is the
# reference.


# %%
class BitModel(PyroModule):
    """A sigmoid belief net with one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.prior, self.decoder = nn.Parameter(torch.zeros(6)), nn.Linear(6, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Bernoulli(logits=self.prior.expand(len(x), -1)).to_event(1))
            return pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)


class BitGuide(PyroModule):
    """q(z | x), independent bits."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(64, 6)

    def forward(self, x: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Bernoulli(logits=self.encoder(x - 0.5)).to_event(1))


ESTIMATORS = {
    name: ELBO(num_particles=2, gradient=name) for name in ("score", "rloo", "disarm", "relaxed", "straight-through")
}
faster = functools.partial(torch.optim.Adam, lr=1e-2)
torch.manual_seed(0)
bits = BitModel(), BitGuide()
probgen.SVI(*bits, faster, ESTIMATORS["rloo"], capture=True, accelerator="cpu").run(
    train, num_epochs=10, seed=0, progress=False
)
report = probgen.gradient_report(
    *bits,
    train.x[:100],
    ESTIMATORS,
    seed=0,
    num_replicates=200,
    reference=ELBO(gradient="enumerate"),
    reference_replicates=40,
    capture=True,
)
probgen.plots.gradient_report(report)

# %%
for name in ("score", "rloo", "disarm"):
    assert report.row(name, "guide").bias_score < 4
for name in ("relaxed", "straight-through"):
    assert report.row(name, "guide").bias_score > 4
assert report.row("rloo", "guide").variance < 0.05 * report.row("score", "guide").variance
print(report)

# %% [markdown]
# The plain score function is unbiased and useless: its noise is orders of magnitude above its signal. A baseline
# removes nearly all of it. The two biased ones have *much* signal: in the wrong direction.
#
# Does it matter in training? Same weights, same minibatches, same number of steps:

# %%
comparison = probgen.compare(
    grid(
        BitModel,
        BitGuide,
        {
            **ESTIMATORS,
            "vimco (IWAE)": IWAE(num_particles=2, gradient="vimco"),
            "enumerate": ELBO(gradient="enumerate"),
        },
        faster,
        schedule=probgen.svi.warmup_cosine(),
        capture=True,
    ),
    train,
    eval_data=test,
    num_epochs=25,
    num_particles=300,
    progress=False,
)
rows = {row.label: row for row in comparison.rows}
figure, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
colours = [GREEN if name in ("relaxed", "straight-through") else BLUE for name in rows]
axes.barh(range(len(rows)), [row.behind for row in rows.values()], xerr=[2 * row.behind_error for row in rows.values()],
          color=colours, capsize=3)  # fmt: skip
axes.set_yticks(range(len(rows)), rows)
axes.invert_yaxis()
axes.set(xlabel="log p(x) behind the best (nats per digit; bars: 2 standard errors)")
axes.set_title("Binary latents after 375 steps: unbiased in blue, biased in green", fontsize="medium")
plt.show()
assert rows["score"].behind > rows["rloo"].behind + 5 * rows["score"].behind_error
assert rows["disarm"].log_prob > rows["relaxed"].log_prob

# %% [markdown]
# The exact gradient wins, where it can be had. Of the others the unbiased ones with little noise come next, the
# biased ones follow, and the plain score function has hardly moved the guide.
#
# ## 5. Equal steps or equal time?
#
# Fifty particles cost more than one. A fair comparison gives every objective the same *time*: `num_seconds=` times
# the steps beforehand and trains each for as many as fit in. (On the command line: `probgen compare --num-seconds
# 60`.)

# %%
vae = functools.partial(probgen.models.VAE, (64,), latent_dim=8, hidden=(64,), data_mean=train.mean)
encoder = functools.partial(probgen.guides.AmortizedNormal, (64,), latent_dim=8, hidden=(64,))
contest = probgen.compare(
    grid(
        vae,
        encoder,
        ["elbo", "iwae:num_particles=50", "iwae:num_particles=50,gradient=resampled-dreg"],
        faster,
        schedule=probgen.svi.warmup_cosine(),
        capture=True,
    ),
    train,
    eval_data=test,
    num_seconds=3,
    num_particles=300,
    progress=False,
)
print(contest.to_text())
steps = {row.label: row.num_steps for row in contest.rows}
assert steps["elbo"] > steps["iwae:num_particles=50"]

# %% [markdown]
# The ELBO takes many more steps in three seconds. Which one is ahead depends on how long you wait: many particles pay
# late. Look at the standard errors before you believe a ranking, and repeat it with `seeds=(0, 1, 2)`.
#
# ## 6. When each is wrong
#
# | | is wrong, or not what you think, when |
# |---|---|
# | ELBO, `beta` or `free_bits` not at their neutral values | you report its loss as a bound: report the plain ELBO |
# | IWAE, pathwise | $K$ is large and the guide is to be learned: take `dreg` |
# | `dreg`, `stl`, pathwise | a latent is discrete; `stl` under IWAE is biased at any rate |
# | Rényi | $\alpha < 0$: an upper bound in the limit, neither at finite $K$ |
# | CUBO, EUBO | you read their value at finite $K$ as an upper bound |
# | wake-sleep, CUBO, EUBO, TVO | you expect unbiased gradients: they are consistent, as $K$ grows |
# | relaxed | you report the relaxed bound: it is that of another model |
# | straight-through | you need to know what is optimised |
# | score, without baseline | you have not the patience for its noise |
# | any bound | the guide misses a mode: no draw ever goes there, and no diagnostic of the draws can tell |
#
# What can be known to be wrong beforehand is refused, with the reason and what is right:

# %%
for wrong in (
    lambda: IWAE(num_particles=8, gradient="stl"),
    lambda: ELBO(free_bits=0.5),
    lambda: IWAE(num_particles=8, gradient="dreg")(*bits)(train.x[:10]),
):
    try:
        wrong()
    except UnsupportedObjective as error:
        print(f"{error}\n")
    else:
        raise AssertionError("should have been refused")

# %% [markdown]
# ### To try
#
# 1. In section 1, replace the guide by `ppca.posterior(x)` itself. What do all the curves become, and why?
# 2. In section 2, add `Renyi(alpha=0.5, num_particles=64)` with both gradients to the report. Does it suffer as IWAE
#    does?
# 3. In section 3, start with the decoder's `weights` frozen at zero for the first epochs. Is that a cure, too?
# 4. In section 4, lower the temperature of `relaxed` from 0.5 to 0.1. What happens to its bias, and to its variance?
#
# ### Sources
#
# - Burda, Grosse, Salakhutdinov (2016), Importance weighted autoencoders, arXiv 1509.00519.
# - Rainforth, Kosiorek, Le, Maddison, Igl, Wood, Teh (2018), Tighter variational bounds are not necessarily better,
#   arXiv 1802.04537.
# - Tucker, Lawson, Gu, Maddison (2019), Doubly reparameterized gradient estimators for Monte Carlo objectives, arXiv
#   1810.04152.
# - Roeder, Wu, Duvenaud (2017), Sticking the landing, arXiv 1703.09194.
# - Li, Turner (2016), Rényi divergence variational inference, arXiv 1602.02311.
# - Dieng, Tran, Ranganath, Paisley, Blei (2017), Variational inference via chi upper bound minimization, arXiv
#   1611.00328.
# - Ji, Shen (2019), Stochastic variational inference via upper bound, arXiv 1912.00650.
# - Bornschein, Bengio (2015), Reweighted wake-sleep, arXiv 1406.2751.
# - Higgins et al. (2017), beta-VAE, ICLR. Kingma et al. (2016), arXiv 1606.04934, for free bits. Bowman et al.
#   (2016), Generating sentences from a continuous space, arXiv 1511.06349, for warm-up.
# - Mnih, Rezende (2016), Variational inference for Monte Carlo objectives, arXiv 1602.06725.
# - Kool, van Hoof, Welling (2019), Buy 4 REINFORCE samples, get a baseline for free!, ICLR workshop.
# - Dong, Mnih, Tucker (2020), DisARM, arXiv 2006.10680.
# - Maddison, Mnih, Teh (2017), The concrete distribution, arXiv 1611.00712. Bengio, Léonard, Courville (2013), arXiv
#   1308.3432.
# - Tipping, Bishop (1999), Probabilistic principal component analysis, *J. R. Statist. Soc. B* 61(3).
