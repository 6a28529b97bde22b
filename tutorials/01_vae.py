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
# # From an integral to a variational autoencoder
#
# A variational autoencoder is a probabilistic model with an integral that nobody can compute, a second network that
# makes the integral harmless, and a gradient that does not drown in noise. This notebook takes these three one at a
# time. Each step is first checked on a model whose answer is known exactly, and only then used on handwritten digits.
#
# You need to know densities, expectations and a little PyTorch. The notebook runs in about a minute on a laptop. All
# information is in **nats** (1 nat = 1.44 bits); all averages over data come with a standard error.

# %%
import functools
import math

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.nn import PyroModule
from torch import nn

import probgen
from probgen.core.weights import effective_sample_size, normalized_weights
from probgen.models import PPCA
from probgen.objectives import ELBO

# Okabe and Ito's colours, which colour-blind readers can tell apart.
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW, BLACK = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000"
)  # fmt: skip
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})


def mean_and_error(values: torch.Tensor) -> tuple[float, float]:
    """The mean of independent values, and its standard error."""
    return values.mean().item(), (values.std() / math.sqrt(len(values))).item()


# %% [markdown]
# ## 1. A latent variable costs an integral
#
# We want a distribution over pictures $x$. A *latent-variable model* says how a picture comes about: draw a short
# code $z$ from a simple prior $p(z)$, then draw the picture from $p(x \mid z)$. What it says about pictures alone is
#
# $$p(x) = \int p(x \mid z)\, p(z)\, dz ,$$
#
# the *evidence*. Maximum likelihood wants the parameters under which $\log p(x)$ of the data is largest, so this
# integral stands in the way of every step.
#
# One model does it in closed form. *Probabilistic PCA* (Tipping and Bishop 1999) has a linear decoder,
#
# $$z \sim \mathcal N(0, I_L), \qquad x \mid z \sim \mathcal N(Wz + \mu, \sigma^2 I_D)
# \qquad\Longrightarrow\qquad x \sim \mathcal N(\mu,\; WW^\top + \sigma^2 I_D),$$
#
# and its maximum-likelihood parameters come from an eigenvalue problem. It will be our measuring stick. We fit it
# with $L = 10$ to digits of $8 \times 8$ grey values.

# %%
LATENT_DIM = 10
grey = probgen.data.load("digits", split="train+valid").x.double()
grey_test = probgen.data.load("digits", split="test").x.double()[:50]


def fit_ppca(x: torch.Tensor, latent_dim: int) -> PPCA:
    """The maximum-likelihood fit (Tipping and Bishop 1999, section 3.2), turned by a random rotation R."""
    values, vectors = torch.linalg.eigh(torch.cov(x.mT))  # ascending
    noise = values[:-latent_dim].mean()
    loadings = vectors[:, -latent_dim:] * (values[-latent_dim:] - noise).sqrt()
    rotation, _ = torch.linalg.qr(torch.randn(latent_dim, latent_dim, dtype=x.dtype))
    model = PPCA(x.shape[1], latent_dim).double()
    with torch.no_grad():
        model.loadings.copy_(loadings @ rotation)  # W R has the same W W^T, and so the same p(x)
        model.mean.copy_(x.mean(0))
        model.log_scale.copy_(noise.log() / 2)
    return model.requires_grad_(False)


torch.manual_seed(0)
ppca = fit_ppca(grey, LATENT_DIM)
log_evidence = ppca.log_evidence(grey_test)
print("log p(x) of 50 held-out digits: {:.2f} +- {:.2f} nats per digit".format(*mean_and_error(log_evidence)))

# %% [markdown]
# ### Why not simply average over the prior?
#
# The integral is an expectation, $p(x) = E_{p(z)}[p(x \mid z)]$, so one could draw $z_1, \dots, z_S$ from the prior
# and average. Let us do that, and compare with the truth. In probgen's words: a *guide* is the distribution that
# proposes $z$; here the guide is the prior itself. The *log-weights* $\log p(x, z_s) - \log q(z_s)$ are then
# $\log p(x \mid z_s)$.


# %%
@torch.no_grad()
def log_weights_of(guide, num_particles: int, seed: int) -> torch.Tensor:
    """log p(x, z) - log q(z | x) of PPCA and a guide on the test digits, [num_particles, 50]."""
    return probgen.log_weights(ppca, guide, grey_test, num_particles=num_particles, seed=seed)


def prior(x: torch.Tensor) -> None:
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.zeros(LATENT_DIM, dtype=x.dtype), 1.0).to_event(1))


NUM_DRAWS = 10_000
log_weights = log_weights_of(prior, NUM_DRAWS, seed=0)
ess = effective_sample_size(log_weights)
estimate = log_weights.logsumexp(0) - math.log(NUM_DRAWS)
short, error = mean_and_error(log_evidence - estimate)
print(f"median effective sample size: {ess.median():.1f} of {NUM_DRAWS} draws")
print(f"log p(x) is missed by {short:.2f} +- {error:.2f} nats per digit")
assert ess.median() < 10
assert short > 5 * error

# %%
counts = [1, 3, 10, 30, 100, 300, 1000, 3000, 10_000]
missing = torch.stack([log_evidence - (log_weights[:s].logsumexp(0) - math.log(s)) for s in counts])  # [9, 50]
low, middle, high = missing.quantile(torch.tensor([0.1, 0.5, 0.9], dtype=missing.dtype), dim=1)
largest = normalized_weights(log_weights).sort(0, descending=True).values[:10].mean(1)

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
left.fill_between(counts, low, high, color=BLUE, alpha=0.2, label="10 % to 90 % of the digits")
left.plot(counts, middle, color=BLUE, marker="o", label="median digit")
left.axhline(0, color=BLACK, linewidth=1, linestyle="--", label="exact")
left.set(xscale="log", xlabel="draws from the prior", ylabel="exact − estimate (nats)")
left.set_yscale("symlog", linthresh=1.0)
left.set(ylim=(-0.5, 400), yticks=[0, 1, 10, 100], yticklabels=[0, 1, 10, 100])
left.set_title("Averaging over the prior misses log p(x)")
left.legend()
right.bar(range(1, 11), largest, color=VERMILION)
right.set(xlabel="the ten best of 10,000 draws", ylabel="share of the sum (mean over digits)")
right.set(xticks=range(1, 11), ylim=(0, 1))
right.set_title("A few draws carry the whole sum")
plt.show()

# %% [markdown]
# Nearly all codes from the prior belong to *other* pictures: they get weight zero. The *effective sample size*
# $(\sum_s w_s)^2 / \sum_s w_s^2$ says how many draws do any work, and it is a handful of ten thousand, with only ten
# latent dimensions. The number of draws that one needs grows exponentially with the information that a picture
# carries about its code. We need a guide that looks at the picture.
#
# ## 2. Jensen's inequality and the ELBO
#
# Let $q(z \mid x)$ be any density that is positive where $p(x, z)$ is. Multiply and divide by it, then use that the
# logarithm is concave:
#
# $$\log p(x) = \log E_{q(z \mid x)}\!\left[\frac{p(x, z)}{q(z \mid x)}\right]
# \;\ge\; E_{q(z \mid x)}\!\left[\log \frac{p(x, z)}{q(z \mid x)}\right] =: \mathrm{ELBO}(x).$$
#
# How much is lost? Write $p(x, z) = p(x)\, p(z \mid x)$ inside the logarithm:
#
# $$\log p(x) - \mathrm{ELBO}(x) = \mathrm{KL}\big(q(z \mid x)\,\|\,p(z \mid x)\big) \;\ge\; 0 .$$
#
# So the bound is an equality exactly where the guide is the posterior. Written the other way, with
# $p(x, z) = p(x \mid z)\, p(z)$, it shows what it asks for:
#
# $$\mathrm{ELBO}(x) = \underbrace{E_{q(z \mid x)}[\log p(x \mid z)]}_{\text{reconstruct the picture}}
# - \underbrace{\mathrm{KL}\big(q(z \mid x)\,\|\,p(z)\big)}_{\text{stay close to the prior}} .$$
#
# (Jordan et al. 1999; Kingma and Welling 2014.)
#
# ### The identity, in numbers
#
# PPCA knows its posterior, $\mathcal N\big(M^{-1}W^\top(x - \mu),\, \sigma^2 M^{-1}\big)$ with
# $M = W^\top W + \sigma^2 I$, so both sides of the identity can be computed. We take three guides:
#
# - the exact posterior;
# - the best *diagonal* normal (mean field): the same mean, and the variances $1/\Lambda_{ii}$ of the precision matrix
#   $\Lambda = M / \sigma^2$. It cannot represent the correlations of the posterior;
# - the posterior with all standard deviations 1.5 times too large.

# %%
posterior = ppca.posterior(grey_test)
precision = posterior.precision_matrix[0]  # the same for all x: the model is linear and Gaussian
mean_field_scale = precision.diagonal().rsqrt()
GUIDES = {
    "exact posterior": lambda: ppca.posterior(grey_test),
    "mean field": lambda: dist.Normal(posterior.loc, mean_field_scale).to_event(1),
    "1.5 x too wide": lambda: dist.MultivariateNormal(posterior.loc, scale_tril=1.5 * posterior.scale_tril),
}


def as_guide(make):
    """A Pyro program that draws z from a distribution with one entry per datum."""

    def guide(x: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            pyro.sample("z", make())

    return guide


def exact_kl(q) -> torch.Tensor:
    """KL(q || posterior) of a normal, per datum."""
    covariance = torch.diag_embed(q.variance) if isinstance(q, dist.Independent) else q.covariance_matrix
    return torch.distributions.kl_divergence(
        dist.MultivariateNormal(posterior.loc, covariance.expand_as(posterior.covariance_matrix)), posterior
    )


print(f"{'guide':<16} {'ELBO':>8} {'log p(x) - ELBO':>20} {'KL(q || posterior)':>20}")
for name, make in GUIDES.items():
    log_w = log_weights_of(as_guide(make), num_particles=2000, seed=1)
    gap, error = mean_and_error((log_evidence - log_w).mean(1))  # over the digits first: the particles are independent
    kl = exact_kl(make()).mean().item()
    print(f"{name:<16} {log_w.mean():8.3f} {gap:12.4f} +- {error:.4f} {kl:20.4f}")
    assert abs(gap - kl) <= 4 * error + 1e-9
    if name == "exact posterior":
        spread = (log_w - log_evidence).abs().max()
        print(f"{'':<16} largest |log-weight - log p(x)| of all draws: {spread:.0e}")
        assert spread < 1e-8

# %% [markdown]
# The two right columns agree within their errors. Look at the first row again: with the exact posterior *every single
# draw* has the log-weight $\log p(x)$, because $p(x, z)/p(z \mid x) = p(x)$ does not depend on $z$. The ELBO then has
# no variance at all. The next figure widens and narrows the posterior by a factor $s$; the gap must be
# $\tfrac{L}{2}(s^2 - 1 - \log s^2)$.

# %%
factors = torch.tensor([0.4, 0.5, 0.65, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8], dtype=torch.float64)
gaps, errors = [], []
for s in factors:
    scaled = as_guide(lambda s=s: dist.MultivariateNormal(posterior.loc, scale_tril=s * posterior.scale_tril))
    log_w = log_weights_of(scaled, num_particles=200, seed=2)
    gap, error = mean_and_error((log_evidence - log_w).mean(1))
    gaps.append(gap)
    errors.append(error)
    assert abs(gap - LATENT_DIM / 2 * (s**2 - 1 - (s**2).log())) <= 4 * error + 1e-9

s = torch.linspace(0.38, 1.85, 200)
figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
axes.plot(s, LATENT_DIM / 2 * (s**2 - 1 - (s**2).log()), color=BLACK, label=r"KL$(q\,\|\,p(z\mid x))$, closed form")
axes.errorbar(
    factors, gaps, yerr=[2 * e for e in errors], color=BLUE, linestyle="none", marker="o", capsize=3,
    label="log p(x) − ELBO, 200 particles (bars: 2 standard errors)",
)  # fmt: skip
axes.set(xlabel="standard deviation of the guide / that of the posterior", ylabel="nats per digit")
axes.set_title("The gap of the ELBO is a Kullback-Leibler divergence (PPCA)")
axes.legend()
plt.show()

# %% [markdown]
# ## 3. A gradient that does not drown in noise
#
# To maximise the ELBO we need its gradient with respect to the guide's parameters $\phi$, which sit in the
# distribution over which we average. There are two ways to get them out. The *score function* estimator uses
# $\nabla q = q\, \nabla \log q$:
#
# $$\nabla_\phi E_{q_\phi(z)}[f(z)] = E_{q_\phi(z)}\big[f(z)\, \nabla_\phi \log q_\phi(z)\big].$$
#
# It asks nothing of $f$, but knows only its values, not where it rises. The *reparameterization trick* moves the
# parameters into a deterministic map of noise, $z = \mu + \sigma\varepsilon$ with
# $\varepsilon \sim \mathcal N(0, I)$:
#
# $$\nabla_\phi E_{q_\phi(z)}[f(z)] = E_{\varepsilon}\big[\nabla_\phi f(\mu + \sigma \varepsilon)\big],$$
#
# the *pathwise* gradient. It follows $f$ uphill along each sample (Kingma and Welling 2014; Rezende et al. 2014).
#
# Both are unbiased, so only their variance decides. An example with an exact answer: $z \sim \mathcal N(\mu, I_D)$
# and $f(z) = -\tfrac12 |z|^2$, what the prior contributes to an ELBO. The exact gradient is $-\mu$. A *baseline* that
# is subtracted from $f$ leaves the score function estimator unbiased and helps; we show that too.


# %%
def gradients(dim: int, num_samples: int = 20_000) -> dict[str, torch.Tensor]:
    """Samples of the gradient with respect to the first entry of mu = (1/2, ..., 1/2), by three estimators."""
    mu = torch.full((dim,), 0.5)
    noise = torch.randn(num_samples, dim)
    z = mu + noise
    f = -0.5 * (z**2).sum(1)
    score = noise[:, 0]  # d log N(z; mu, 1) / d mu = z - mu
    expected_f = -0.5 * (dim + (mu**2).sum())
    return {
        "score function": f * score,
        "score function, with baseline": (f - expected_f) * score,
        "pathwise": -z[:, 0],  # d f(mu + noise) / d mu
    }


torch.manual_seed(0)
dims = [1, 2, 4, 8, 16, 32, 64]
samples = {dim: gradients(dim) for dim in dims}
colours = {"score function": VERMILION, "score function, with baseline": ORANGE, "pathwise": BLUE}
print("gradient in 64 dimensions; exact: -0.5")
for name, values in samples[64].items():
    mean, error = mean_and_error(values)
    print(f"  {name:<30} {mean:7.3f} +- {error:.3f}, standard deviation of one sample {values.std():6.2f}")
    assert abs(mean - -0.5) < 4 * error
ratio = (samples[64]["score function"].var() / samples[64]["pathwise"].var()).item()
print(f"the score function has {ratio:.0f} times the variance of the pathwise gradient")
assert ratio > 500

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
bins = torch.linspace(-16, 8, 121)
for name, values in samples[8].items():
    left.hist(values, bins, density=True, histtype="step", linewidth=1.5, color=colours[name], label=name)
left.axvline(-0.5, color=BLACK, linewidth=1, linestyle="--", label="exact gradient")
left.set(xlabel="one sample of the gradient", ylabel="density")
left.set_title("8 dimensions: same mean, other spread")
left.legend(fontsize="small", loc="upper left")
for name, colour in colours.items():
    right.plot(dims, [samples[dim][name].std() for dim in dims], color=colour, marker="o", label=name)
right.set(xscale="log", yscale="log", xlabel="dimensions D", ylabel="standard deviation of one sample")
right.set_xticks(dims, dims)
right.minorticks_off()
right.set_title("The score function's noise grows with D")
right.legend(fontsize="small")
plt.show()

# %% [markdown]
# The pathwise gradient of one parameter has the same noise in 64 dimensions as in one. The score function multiplies
# the whole of $f$ by each score, so that its standard deviation grows in proportion to $D$ (to $\sqrt D$ with the
# baseline), and the number of samples that averages it away in proportion to the *variance*. probgen takes the
# pathwise gradient wherever a site has one, and elsewhere (discrete latents) the score function with a baseline from
# the other particles.
#
# ## 4. A variational autoencoder
#
# Now let a neural network replace the linear decoder. The integral has no closed form any more, so we learn the guide
# together with the model, and *amortize* it: one network, the encoder, reads $x$ and returns the parameters of
# $q(z \mid x)$, instead of optimising them for each picture anew.
#
# $$p(z) = \mathcal N(0, I_2), \qquad
# p(x \mid z) = \prod_{d=1}^{64} \mathrm{Bernoulli}\big(x_d;\,\mathrm{decoder}(z)_d\big),
# \qquad q(z \mid x) = \mathcal N\big(\mu(x), \mathrm{diag}\,\sigma^2(x)\big).$$
#
# The data are the digits again, black and white. Two latent dimensions are few; we take them because they can be
# drawn, and because with two dimensions the integral can still be done *on a grid*, which gives us a second measuring
# stick.
#
# `probgen.models.VAE` and `probgen.guides.AmortizedNormal` do this in two lines. Here they are by hand, in plain
# Pyro.

# %%
train = probgen.data.load("digits", split="train+valid", binarize="threshold")
test = probgen.data.load("digits", split="test", binarize="threshold")


def mlp(num_inputs: int, num_outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(num_inputs, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, num_outputs)
    )  # fmt: skip


class Model(PyroModule):
    """p(z) p(x | z)."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = mlp(2, 64)

    def forward(self, x: torch.Tensor | None = None, *, num_samples: int = 1) -> torch.Tensor:
        with pyro.plate("data", num_samples if x is None else len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            return pyro.sample("x", dist.Bernoulli(logits=self.decoder(z)).to_event(1), obs=x)


class Guide(PyroModule):
    """q(z | x)."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = mlp(64, 4)

    def forward(self, x: torch.Tensor | None = None, *, num_samples: int = 1) -> torch.Tensor:
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x).chunk(2, dim=-1)
            return pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


# %% [markdown]
# Training is a loop over minibatches that maximises the ELBO of both networks at once. `probgen.SVI` does it; the
# same two programs would run in `pyro.infer.SVI`. (`capture=True` records a training step once and replays it without
# Pyro's bookkeeping: the same numbers in less time.)


# %%
def train_vae(beta: float = 1.0, **options) -> tuple[Model, Guide, list]:
    torch.manual_seed(0)
    model, guide = Model(), Guide()
    adam = functools.partial(torch.optim.Adam, lr=5e-3)
    svi = probgen.SVI(
        model, guide, adam, ELBO(beta=beta), schedule=probgen.svi.warmup_cosine(200), capture=True, accelerator="cpu"
    )
    history: list = []
    svi.run(train, num_epochs=80, seed=0, progress=False, callbacks=[history.append], **options)
    return model, guide, history


model, guide, history = train_vae(eval_data=test)

figure, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
epochs = [report.epoch for report in history]
axes.plot(epochs, [report.bound for report in history], color=BLUE, label="training data")
axes.plot(epochs, [report.eval_bound for report in history], color=VERMILION, label="held-out data")
axes.set(xlabel="epoch", ylabel="ELBO (nats per digit)", ylim=(-30, -15))
axes.set_title("Training a VAE with two latents on 1,437 digits")
axes.legend(loc="lower right")
plt.show()


# %% [markdown]
# ### How good is it, really?
#
# The ELBO is a lower bound, so it mixes two questions: how likely are the data under the model, and how good is the
# guide? `probgen.evaluate` separates them. It averages importance weights of many draws from the guide,
# $\log \frac1K \sum_k p(x, z_k)/q(z_k \mid x)$, which rises to $\log p(x)$ with $K$ (Burda et al. 2016). It is the
# average of section 1, with a guide that looks at the picture. And because $z$ has two dimensions, the trapezoid rule
# on a fine grid gives the truth.

# %%
axis = torch.linspace(-5, 5, 201)
grid = torch.cartesian_prod(axis, axis)  # [40401, 2]
log_cell = dist.Normal(0.0, 1.0).log_prob(grid).sum(1) + 2 * math.log(axis[1] - axis[0])  # log of p(z) dz


@torch.no_grad()
def log_evidence_on_grid(decoder: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """log p(x) by quadrature over the two latents, in nats, one number per datum."""
    logits = decoder(grid)
    constant = log_cell - F.softplus(logits).sum(1)
    return torch.cat([(part @ logits.mT + constant).logsumexp(1) for part in x.split(60)])


evidence = probgen.evaluate(model, guide, test, num_particles=1000)
log_px = log_evidence_on_grid(model.decoder, test.x)
print("log p(x), grid:                 {:.3f} +- {:.3f}".format(*mean_and_error(log_px)))
print("log p(x), 1000 particles:       {:.3f} +- {:.3f}".format(*mean_and_error(evidence.log_prob)))
print("ELBO:                           {:.3f} +- {:.3f}".format(*mean_and_error(evidence.elbo)))
print("gap, KL(q || posterior):        {:.3f} +- {:.3f}".format(*mean_and_error(log_px - evidence.elbo)))

trusted = evidence.khat < evidence.khat_threshold
difference = evidence.log_prob - log_px
print("\n1000 particles minus grid, in nats per digit:")
for name, chosen in (("low", trusted), ("high", ~trusted)):
    mean, error = mean_and_error(difference[chosen])
    print(f"  {chosen.sum():3} digits whose k-hat is {name + ':':5} {mean:6.3f} +- {error:.3f}")
assert -0.5 < difference.mean() < 2 * mean_and_error(difference)[1]  # a lower bound, and a good one
assert (log_px - evidence.elbo).mean() > 5 * mean_and_error(log_px - evidence.elbo)[1]

# %% [markdown]
# On average, importance sampling lies between the ELBO and the truth, as it must. The diagnostic *k-hat* (Vehtari et
# al. 2024) says for which digits a few draws carry the sum, as they did in section 1; there the estimate may fall
# short. Nor are the others beyond doubt: our guide has one mode, and where a posterior has a second one far away, no
# draw goes there and no diagnostic of the draws can tell. Only the grid knows.
#
# ## 5. Why a plain autoencoder does not generate
#
# Leave out the noise of the encoder and the KL term, and a plain autoencoder is left: $z = \mathrm{encoder}(x)$, and
# only the reconstruction counts. Same networks, same data, same optimizer, in plain PyTorch:

# %%
torch.manual_seed(0)
encoder, decoder = mlp(64, 2), mlp(2, 64)
optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=5e-3)
num_steps = 80 * math.ceil(len(train) / 100)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
for _ in range(80):
    for batch in train.x[torch.randperm(len(train))].split(100):
        loss = F.binary_cross_entropy_with_logits(decoder(encoder(batch)), batch, reduction="sum") / len(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def reconstruction_error(decoder: nn.Module, z: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """-log p(x | z) in nats, one number per datum."""
    return F.binary_cross_entropy_with_logits(decoder(z), x, reduction="none").sum(1)


with torch.no_grad():
    codes = {"autoencoder": encoder(train.x), "VAE": guide.encoder(train.x)[:, :2]}
    test_codes = {"autoencoder": encoder(test.x), "VAE": guide.encoder(test.x)[:, :2]}
decoders = {"autoencoder": decoder, "VAE": model.decoder}
log_px_of = {name: log_evidence_on_grid(net, test.x) for name, net in decoders.items()}
for name, net in decoders.items():
    error = mean_and_error(reconstruction_error(net, test_codes[name], test.x))
    print(f"{name:<12} reconstruction error, held-out: {error[0]:6.2f} +- {error[1]:.2f} nats per digit, ", end="")
    print("log p(x) with z ~ N(0, I): {:6.2f} +- {:.2f}".format(*mean_and_error(log_px_of[name])))
lead, error = mean_and_error(log_px_of["VAE"] - log_px_of["autoencoder"])
print(f"the VAE is ahead in log p(x) by {lead:.2f} +- {error:.2f} nats per digit (paired)")
assert lead > 5 * error

# %% [markdown]
# Both decoders, fed with codes from $\mathcal N(0, I)$, define a distribution over pictures, whose $\log p(x)$ the
# grid gives to within a few hundredths of a nat. As a *compressor* the autoencoder is about as good as the VAE; as a
# *generator* it is far worse. The pictures show why.

# %%
CLASS_COLOURS = [BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW, BLACK, "#999999", "#7A4E21"]


def draw_codes(axes, z: torch.Tensor, labels: torch.Tensor, title: str) -> None:
    for digit, colour in enumerate(CLASS_COLOURS):
        chosen = z[labels == digit]
        axes.scatter(*chosen.mT, s=5, color=colour, alpha=0.7, linewidths=0)
        box = {"boxstyle": "circle,pad=0.15", "facecolor": "white", "edgecolor": colour, "alpha": 0.9}
        axes.annotate(str(digit), chosen.median(0).values, ha="center", va="center", fontsize=9, bbox=box)
    for radius, style in ((1, "-"), (2, "--"), (3, ":")):
        circle = plt.Circle((0, 0), radius, fill=False, color=BLACK, linestyle=style, linewidth=1)
        axes.add_patch(circle)
    axes.set(title=title, xlabel=r"$z_1$", ylabel=r"$z_2$")
    axes.set_aspect("equal", adjustable="datalim")


figure, axes = plt.subplots(1, 2, figsize=(10, 5), layout="constrained")
for ax, (name, z) in zip(axes, codes.items(), strict=True):
    draw_codes(ax, z, train.y, f"{name}: codes of the training digits")
figure.supxlabel("circles: 1, 2 and 3 standard deviations of N(0, I)", fontsize="medium")
plt.show()


# %%
INK = plt.get_cmap("gray_r").with_extremes(bad="#CFE8F7")  # gaps between pictures are NaN


def tiled(pictures: torch.Tensor) -> torch.Tensor:
    """[rows, columns, 64] as one picture with gaps between the digits."""
    rows, columns, _ = pictures.shape
    framed = F.pad(pictures.reshape(rows, columns, 8, 8), (0, 1, 0, 1), value=math.nan)
    return framed.permute(0, 2, 1, 3).reshape(9 * rows, 9 * columns)[:-1, :-1]


def draw_strips(rows: dict[str, torch.Tensor], title: str) -> None:
    """One labelled row of pictures for each entry."""
    width = max(map(len, rows.values()))
    figure, axes = plt.subplots(len(rows), 1, figsize=(1 + 0.55 * width, 0.62 * len(rows) + 0.4), layout="constrained")
    for ax, (name, pictures) in zip(axes, rows.items(), strict=True):
        ax.imshow(tiled(pictures[None]), cmap=INK, vmin=0, vmax=1, interpolation="nearest")
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_visible(False)
        ax.set_ylabel(name, rotation=0, ha="right", va="center")
    figure.suptitle(title)
    plt.show()


@torch.no_grad()
def pictures(decoder: nn.Module, z: torch.Tensor) -> torch.Tensor:
    """The means of p(x | z): the probability of each pixel to be white."""
    return decoder(z).sigmoid()


torch.manual_seed(1)
z = torch.randn(14, 2)
draw_strips(
    {
        "data": test.x[:14],
        "autoencoder, reconstructed": pictures(decoder, test_codes["autoencoder"][:14]),
        "VAE, reconstructed": pictures(model.decoder, test_codes["VAE"][:14]),
        "autoencoder, z ~ N(0, I)": pictures(decoder, z),
        "VAE, z ~ N(0, I)": pictures(model.decoder, z),
    },
    "Reconstruction says little about generation",
)

# %% [markdown]
# The autoencoder puts its codes wherever it likes, in stripes far from the origin with gaps between them. Nobody told
# it that new codes would come from $\mathcal N(0, I)$: such codes fall on the few classes that happen to lie there,
# and in the gaps, where the decoder was never trained. In the VAE the KL term keeps the codes where the prior is, and
# the noise of the encoder makes neighbouring codes decode to similar pictures.
#
# (One can fit a density to the codes of an autoencoder afterwards, and generate from that; Ghosh et al. 2020. That
# adds the missing prior by hand.)
#
# ## 6. A walk through the latent space
#
# Two latents can be shown completely. We take codes at equal steps of *probability*, the quantiles of the normal
# distribution, so that each picture of the grid stands for the same share of what the model generates.

# %%
quantiles = dist.Normal(0.0, 1.0).icdf(torch.linspace(0.02, 0.98, 15))
down, right = torch.meshgrid(quantiles.flip(0), quantiles, indexing="ij")
codes_on_grid = torch.stack([right, down], dim=-1)  # [15, 15, 2]

figure, axes = plt.subplots(figsize=(6.4, 6.4), layout="constrained")
axes.imshow(tiled(pictures(model.decoder, codes_on_grid)), cmap=INK, vmin=0, vmax=1, interpolation="nearest")
ticks = [0, 3, 7, 11, 14]
names = [f"{quantiles[i] + 0.0:.1f}" for i in ticks]
axes.set_xticks([9 * i + 3.5 for i in ticks], names)
axes.set_yticks([9 * i + 3.5 for i in ticks], names[::-1])
axes.set(xlabel=r"$z_1$", ylabel=r"$z_2$", title="What the VAE decodes at the quantiles of its prior")
plt.show()

# %% [markdown]
# To *interpolate* between two pictures, walk the straight line between their codes. Averaging the pixels instead
# gives double exposures: the pixels know nothing of digits. The path between two codes may pass through a third digit
# that lies between them.

# %%
weights = torch.linspace(0, 1, 10)[:, None]
rows = {}
for first, second in ((0, 6), (4, 2)):
    a, b = (int((test.y == digit).nonzero()[0]) for digit in (first, second))
    path = torch.lerp(test_codes["VAE"][a], test_codes["VAE"][b], weights)
    rows[f"{first} to {second}, by codes"] = pictures(model.decoder, path)
    rows[f"{first} to {second}, by pixels"] = torch.lerp(test.x[a], test.x[b], weights)
draw_strips(rows, "Interpolation in the latent space and in the space of pixels")

# %% [markdown]
# `probgen.plots` draws these figures, and more, for any pair of programs, such as `traversal`, `latents`,
# `reconstructions` and the following:

# %%
probgen.plots.interpolation(model, guide, test, pairs=3).figure

# %% [markdown]
# ## 7. Blur, and the price of generating well
#
# The pictures of the VAE are soft. What we see is the *mean* of $p(x \mid z)$: grey is the model's way to say that
# this pixel may be black or white. Given $z$, the pixels are independent, so whatever the code does not tell must
# appear as such grey; a *sample* from $p(x \mid z)$ would have salt and pepper in its place. And the code tells
# little, because the KL term charges for each nat.
#
# Change the price. The $\beta$-VAE (Higgins et al. 2017) maximises
#
# $$E_{q(z \mid x)}[\log p(x \mid z)] - \beta\, \mathrm{KL}\big(q(z \mid x)\,\|\,p(z)\big).$$
#
# The first term with a minus sign is the *distortion* $D$, the second the *rate* $R$; the ELBO is $-(D + R)$, and
# $\beta$ chooses a point on the curve between them (Alemi et al. 2018). We train four more pairs and measure
# reconstruction (the distortion on held-out digits) and generation (held-out $\log p(x)$ with codes from the prior,
# by the grid).

# %%
BETAS = [0.01, 0.3, 1.0, 2.0, 4.0]
pairs = {beta: (model, guide) if beta == 1.0 else train_vae(beta)[:2] for beta in BETAS}
results = {}
print("  beta     rate  distortion            ELBO        log p(x)   grey pixels")
for beta, (m, g) in pairs.items():
    e = probgen.evaluate(m, g, test, num_particles=100)
    with torch.no_grad():
        means = pictures(m.decoder, g.encoder(test.x)[:, :2])
    uncertain = ((means > 0.1) & (means < 0.9)).float().mean().item()
    results[beta] = {
        "rate": e.kl, "distortion": -(e.elbo + e.kl), "elbo": e.elbo, "grey": uncertain,
        "log_px": log_evidence_on_grid(m.decoder, test.x), "means": means,
    }  # fmt: skip
    print(
        f"{beta:6.2f} {e.kl.mean():8.2f} {results[beta]['distortion'].mean():11.2f}"
        + "  {:7.2f} +- {:.2f}".format(*mean_and_error(e.elbo))
        + "  {:6.2f} +- {:.2f}".format(*mean_and_error(results[beta]["log_px"]))
        + f"  {uncertain:10.0%}"
    )

best = max(BETAS, key=lambda beta: results[beta]["log_px"].mean())
print(f"\nlog p(x) is best at beta = {best}; ahead of others by (paired)")
for beta in BETAS:
    if beta != best:
        lead, error = mean_and_error(results[best]["log_px"] - results[beta]["log_px"])
        print(f"  beta = {beta:<4}: {lead:5.2f} +- {error:.2f} nats per digit")
        if beta in (0.01, 2.0, 4.0):
            assert lead > 4 * error  # too little and too much both hurt

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.8), layout="constrained")
rates = [results[beta]["rate"].mean().item() for beta in BETAS]
distortions = [results[beta]["distortion"].mean().item() for beta in BETAS]
for bound in (19, 22, 25, 28):
    left.plot([0, bound], [bound, 0], color="#BBBBBB", linewidth=0.8, zorder=0)
    left.annotate(f"ELBO −{bound}", (bound - 10.4, 10.4), color="#777777", fontsize=8, ha="left", va="bottom")
left.plot(rates, distortions, color=BLUE, marker="o")
for beta, rate, distortion in zip(BETAS, rates, distortions, strict=True):
    left.annotate(rf"$\beta$ = {beta:g}", (rate, distortion), (6, 5), textcoords="offset points", fontsize=9)
left.set(xlim=(-0.5, 20), ylim=(10, 27), xlabel="rate: KL to the prior (nats)", ylabel="distortion (nats)")
left.set_title("Reconstruction is bought with rate")

labels = {"log_px": ("log p(x), grid", BLUE, "o"), "elbo": ("ELBO", VERMILION, "s")}
for key, (label, colour, marker) in labels.items():
    values = [mean_and_error(results[beta][key]) for beta in BETAS]
    means, errors = zip(*values, strict=True)
    right.errorbar(BETAS, means, yerr=errors, color=colour, marker=marker, capsize=3, label=label)
mean, error = mean_and_error(log_px_of["autoencoder"])
right.axhline(mean, color=BLACK, linestyle="--", linewidth=1, label="log p(x) of the plain autoencoder")
right.set(xscale="log", xlabel=r"$\beta$", ylabel="nats per held-out digit")
right.set_xticks(BETAS, [f"{beta:g}" for beta in BETAS])
right.minorticks_off()
right.set_title("Generation has its best in between")
right.legend(fontsize="small", loc="lower center")
plt.show()

# %%
torch.manual_seed(2)
z = torch.randn(8, 2)
between = torch.full((1, 64), math.nan)
rows = {"data": torch.cat([test.x[:8], between, torch.zeros(8, 64)])}
for beta in BETAS:
    drawn = pictures(pairs[beta][0].decoder, z)
    rows[rf"$\beta$ = {beta:g}"] = torch.cat([results[beta]["means"][:8], between, drawn])
draw_strips(rows, "Left half: reconstructions. Right half: decoded from the prior")

# %% [markdown]
# Read the two figures together.
#
# - **Small $\beta$**: a high rate and sharp reconstructions, as far as two numbers can carry them: below
#   $\beta = 0.3$ more rate buys nothing on held-out digits. But the codes leave the region that the prior covers, as
#   in the plain autoencoder, and $\log p(x)$ falls.
# - **Large $\beta$**: the rate goes to zero, the code says nothing, and every picture is the average digit. This is
#   *posterior collapse*.
# - In between, the model generates best. The ELBO at $\beta = 1$ is a bound on what we want; it need not choose
#   exactly the $\beta$ whose decoder has the best $\log p(x)$, because it also asks the decoder for posteriors that a
#   diagonal normal can match.
#
# The blur itself is not cured by $\beta$. It comes from pixels that are independent given too short a code: more
# latents, a stronger prior, or a decoder whose pixels know of each other are the cures.
#
# ### To try
#
# 1. Give the VAE eight latents (`probgen.models.VAE(event_shape=(64,), latent_dim=8)`). The grid is then out of
#    reach; which numbers can you still trust?
# 2. Train with `probgen.objectives.IWAE(num_particles=50)`. What happens to $\log p(x)$, and what to the ELBO?
# 3. Replace the guide by the prior and try to train. How many digits does the decoder learn?
#
# ### Sources
#
# - Jordan, Ghahramani, Jaakkola, Saul (1999), An introduction to variational methods for graphical models, *Machine
#   Learning* 37.
# - Tipping, Bishop (1999), Probabilistic principal component analysis, *J. R. Statist. Soc. B* 61(3).
# - Kingma, Welling (2014), Auto-encoding variational Bayes, arXiv 1312.6114.
# - Rezende, Mohamed, Wierstra (2014), Stochastic backpropagation and approximate inference in deep generative models,
#   arXiv 1401.4082.
# - Burda, Grosse, Salakhutdinov (2016), Importance weighted autoencoders, arXiv 1509.00519.
# - Higgins et al. (2017), beta-VAE, ICLR.
# - Alemi, Poole, Fischer, Dillon, Saurous, Murphy (2018), Fixing a broken ELBO, arXiv 1711.00464.
# - Ghosh, Sajjadi, Vergari, Black, Schölkopf (2020), From variational to deterministic autoencoders, arXiv
#   1903.12436.
# - Vehtari, Simpson, Gelman, Yao, Gabry (2024), Pareto smoothed importance sampling, arXiv 1507.02646.
