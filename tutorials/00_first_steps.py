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
# # First steps
#
# A generative model in probgen is a pair of Pyro programs and an objective:
#
# - the **model** says how data come about, $p(x, z)$;
# - the **guide** proposes latents for given data, $q(z \mid x)$;
# - the **objective** says what to optimise: a bound on $\log p(x)$, and an estimator of its gradient.
#
# This notebook writes all three by hand: a model in 20 lines, its evaluation with standard errors, and an objective
# of our own that runs in Pyro's loop and in probgen's. The last part shows what happens when something is wrong. It
# runs in about 15 seconds.

# %%
import functools
import math

import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch
from torch import nn

import probgen
from probgen.core import bounds
from probgen.errors import ProbgenError
from probgen.objectives import ELBO, IWAE, Objective

BLUE, VERMILION, BLACK = "#0072B2", "#D55E00", "#000000"  # of Okabe and Ito: safe for colour-blind readers
plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False})

# %% [markdown]
# ## A model in 20 lines
#
# The data are points along an arc in the plane, with a little noise. One latent number says where on the curve a
# point lies; a small network draws the curve:
#
# $$z \sim \mathcal N(0, 1), \qquad x \mid z \sim \mathcal N\big(f(z),\, 0.1^2 I_2\big).$$
#
# The guide is a normal distribution whose mean and scale another network computes from $x$. Both programs take the
# same arguments, and both put their data into a `pyro.plate`: this tells probgen which axis holds independent data.


# %%
def arc(count: int) -> torch.Tensor:
    angle = 2.5 * torch.rand(count) - 0.3
    return torch.stack([angle.cos(), angle.sin()], dim=1) + 0.1 * torch.randn(count, 2)


torch.manual_seed(0)
train, test = arc(2000), arc(500)

# %%
curve = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 2))
encoder = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2))


def model(x=None, *, num_samples=1):
    pyro.module("curve", curve)
    with pyro.plate("data", num_samples if x is None else len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        return pyro.sample("x", dist.Normal(curve(z), 0.1).to_event(1), obs=x)


def guide(x=None, *, num_samples=1):
    pyro.module("encoder", encoder)
    with pyro.plate("data", len(x)):
        loc, log_scale = encoder(x).chunk(2, dim=-1)
        return pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


adam = functools.partial(torch.optim.Adam, lr=1e-2)
svi = probgen.SVI(model, guide, adam, ELBO(), accelerator="cpu")
result = svi.run(train, num_epochs=60, seed=0, progress=False)
first, last = result.losses[0], result.losses[-20:].mean()
print(f"{len(result.losses)} steps; the loss went from {first:.1f} to {last:.2f} nats per point")

# %% [markdown]
# `svi.run` takes tensors, arrays, tuples of them or a `DataLoader`. With `seed=` the run can be repeated exactly, and
# leaves the global generators as they were. Without data the model generates:

# %%
with torch.no_grad(), probgen.seeding.seeded(1):
    samples = model(num_samples=500)
    line = curve(torch.linspace(-2.5, 2.5, 100)[:, None])

figure, axes = plt.subplots(figsize=(5.2, 3.8), layout="constrained")
axes.scatter(*test.mT, s=10, color=BLUE, alpha=0.6, linewidths=0, label="held-out data")
axes.scatter(*samples.mT, s=10, color=VERMILION, alpha=0.6, linewidths=0, label="samples from the model")
axes.plot(*line.mT, color=BLACK, linewidth=1.5, label=r"$f(z)$ for $|z| \leq 2.5$")
axes.set(xlabel=r"$x_1$", ylabel=r"$x_2$", title="A curve with one latent number", aspect="equal")
axes.legend(fontsize="small", loc="lower center")
plt.show()

# %% [markdown]
# ## How good is it?
#
# `probgen.evaluate` estimates $\log p(x)$ of every datum with many draws from the guide, and says how far to trust
# the answer:

# %%
evidence = probgen.evaluate(model, guide, test, num_particles=1000)
print(evidence)
print(f"ELBO                        {evidence.elbo.mean():.3f} nats per point")
print(f"gap: KL(guide || posterior) {evidence.gap:.3f}")
print(f"effective sample size       {evidence.ess.median():.0f} of {evidence.num_particles} (median over the data)")
print(f"k-hat above {evidence.khat_threshold:.2f}            {evidence.khat_share:.1%} of the data")

# %% [markdown]
# - *over 500 data*: the standard error if other **data** had been drawn. Use it to compare with numbers on other test
#   sets.
# - *Monte Carlo*: the standard error if other **particles** had been drawn. More particles make it smaller.
# - *lower*: the kind of the number. In expectation it is a lower bound on $\log p(x)$, and rises to it with the
#   number of particles.
# - The *effective sample size* is large where the guide covers the posterior. Where *k-hat* is above its threshold,
#   the weights have heavy tails: a few draws may carry the sum, and the estimate for that datum may fall short.
#
# Does it fall short here? With one latent number the integral $p(x) = \int p(x \mid z)\, p(z)\, dz$ can also be done
# on a grid:

# %%
grid = torch.linspace(-6, 6, 4001)[:, None]
with torch.no_grad():
    log_joint = dist.Normal(curve(grid)[:, None], 0.1).log_prob(test).sum(-1) + dist.Normal(0.0, 1.0).log_prob(grid)
exact = (log_joint + math.log(grid[1] - grid[0])).logsumexp(0)  # [500]
difference = (evidence.log_prob - exact).mean().item()
print(f"1000 particles minus grid: {difference:.4f} +- {evidence.mean_monte_carlo_error:.4f} nats per point")
assert abs(difference) < 5 * evidence.mean_monte_carlo_error

# %% [markdown]
# ## An objective of our own
#
# Everything that an objective needs is an array of *log-weights* $\ell_k = \log p(x, z_k) - \log q(z_k \mid x)$ of
# shape `[num_particles, batch]`. The ELBO is their mean; the importance-weighted bound (IWAE) is
# $\log \frac1K \sum_k e^{\ell_k}$, which is tighter. Rainforth et al. (2018, arXiv 1802.04537) mix the two: the share
# of the ELBO keeps the signal for the guide strong, the share of IWAE makes the bound tight,
#
# $$\mathrm{CIWAE} = \beta\, \mathrm{ELBO} + (1 - \beta)\, \mathrm{IWAE}_K .$$
#
# A subclass of `Objective` says how particles combine to a bound. The rest is inherited: gradients (pathwise, or the
# score function with a baseline for discrete latents), checks of the programs, minibatches, vectorized particles.


# %%
class CIWAE(Objective):
    """A convex combination of the ELBO and the importance-weighted bound."""

    def __init__(self, *, num_particles: int = 5, share: float = 0.5, **options) -> None:
        super().__init__(num_particles=num_particles, **options)
        self.share = share

    def combine(self, integrand: torch.Tensor) -> torch.Tensor:
        return self.share * bounds.elbo(integrand) + (1 - self.share) * bounds.iwae(integrand)


# %% [markdown]
# On the same log-weights it must lie between the two bounds, datum by datum:

# %%
between = []
for objective in (ELBO(num_particles=5), CIWAE(num_particles=5), IWAE(num_particles=5)):
    with probgen.seeding.seeded(0):
        between.append(objective.bound(model, guide, test))
    print(f"{type(objective).__name__:<6} {between[-1].mean():.3f} nats per point")
assert (between[0] <= between[1] + 1e-5).all()
assert (between[1] <= between[2] + 1e-5).all()

# %% [markdown]
# It drops into Pyro's own loop, since every objective is a `pyro.infer.ELBO`. We go on training the same networks:

# %%
pyro.clear_param_store()
pyro.set_rng_seed(0)
pyro_svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), CIWAE(num_particles=5))
losses = [pyro_svi.step(batch) / len(batch) for _ in range(5) for batch in train.split(100)]
print(f"pyro.infer.SVI: {len(losses)} steps, loss {sum(losses[-20:]) / 20:.2f} nats per point")

# %% [markdown]
# and into probgen's, which adds seeds, schedules, held-out bounds and the rest:

# %%
history = []
svi = probgen.SVI(model, guide, adam, CIWAE(num_particles=5), schedule=probgen.svi.warmup_cosine(), accelerator="cpu")
svi.run(train, num_epochs=20, seed=0, eval_data=test, callbacks=[history.append], progress=False)
after = probgen.evaluate(model, guide, test, num_particles=1000)
print(f"probgen.SVI: held-out CIWAE {history[-1].eval_bound:.3f} nats per point after {history[-1].epoch} epochs")
print(after)

# %% [markdown]
# ## When something is wrong
#
# probgen would rather stop than give a wrong number. Its errors say what was wrong, where, and what to do; all of
# them are subclasses of `ProbgenError`. A value that is missing:


# %%
def show(action) -> None:
    """Prints the error, and sees to it that nothing has changed."""
    before = [p.detach().clone() for p in (*curve.parameters(), *encoder.parameters())], torch.get_rng_state()
    try:
        action()
    except ProbgenError as error:
        print(f"{type(error).__name__}: {error}")
    else:
        raise AssertionError("this should have been refused")
    assert all(map(torch.equal, before[0], (*curve.parameters(), *encoder.parameters())))
    assert torch.equal(before[1], torch.get_rng_state())


broken = train.clone()
broken[1234, 1] = math.nan
show(lambda: svi.run(broken, num_epochs=1, progress=False))

# %% [markdown]
# A guide whose site the model lacks:


# %%
def misspelt(x):
    with pyro.plate("data", len(x)):
        pyro.sample("Z", dist.Normal(torch.zeros(1), 1.0).to_event(1))


show(lambda: probgen.evaluate(model, misspelt, test))

# %% [markdown]
# An estimator that would be biased without telling: "sticking the landing" is right for the ELBO alone.

# %%
show(lambda: IWAE(num_particles=5, gradient="stl"))

# %% [markdown]
# And a name that does not exist:

# %%
show(lambda: probgen.registry.get("model", "vea"))

# %% [markdown]
# In each case nothing has been changed: no step was taken, no parameter moved, no generator advanced.
#
# ### Where next
#
# - [From an integral to a variational autoencoder](01_vae.ipynb): the theory, with every claim checked.
# - `probgen.models` and `probgen.guides` have ready-made pairs; `probgen.compare` trains one pair under several
#   objectives and prints one table.
