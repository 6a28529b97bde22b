"""NumPyro's training step, a whole epoch of them in one `lax.scan`; a process of its own, driven by `step_time.py`.

It reads one JSON object a line, `{"particles": 5, "steps": 50, "seed": 0}`, trains on so many batches, and answers
`{"seconds": 0.3, "loss": 120.0}`. The caller fixes the number of threads by the process's affinity to processors.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.example_libraries import stax
from numpyro.infer import SVI, RenyiELBO, Trace_ELBO
from step_settings import BATCH_SIZE, DATA_DIM, HIDDEN, LATENT_DIM, LEARNING_RATE, MIN_SCALE, bits

Epoch = Callable[[int, int], dict[str, float]]


def mlp(widths: tuple[int, ...], out: int) -> tuple[Any, Any]:
    """stax's (initialiser, function) of a tanh network."""
    layers = [layer for width in widths for layer in (stax.Dense(width), stax.Tanh)]
    pair: tuple[Any, Any] = stax.serial(*layers, stax.Dense(out))
    return pair


def model(x: jax.Array) -> None:
    """p(x, z)."""
    decoder = numpyro.module("decoder", mlp(HIDDEN[::-1], DATA_DIM), (len(x), LATENT_DIM))
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Normal(jnp.zeros(LATENT_DIM), 1.0).to_event(1))
        numpyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x)


def guide(x: jax.Array) -> None:
    """q(z | x)."""
    encoder = numpyro.module("encoder", mlp(HIDDEN, 2 * LATENT_DIM), (len(x), DATA_DIM))
    loc, raw_scale = jnp.split(encoder(x), 2, axis=-1)
    with numpyro.plate("data", len(x)):
        numpyro.sample("z", dist.Normal(loc, jax.nn.softplus(raw_scale) + MIN_SCALE).to_event(1))


def make_epoch(particles: int) -> Epoch:
    """A function that trains for a number of steps and says how long that took; compiled at its first call."""
    loss = RenyiELBO(alpha=0.0, num_particles=particles) if particles > 1 else Trace_ELBO()
    svi = SVI(model, guide, numpyro.optim.Adam(LEARNING_RATE), loss)
    state = svi.init(jax.random.key(0), jnp.zeros((BATCH_SIZE, DATA_DIM)))

    @jax.jit
    def scan(state: Any, batches: jax.Array) -> tuple[Any, jax.Array]:
        return jax.lax.scan(svi.update, state, batches)

    def epoch(steps: int, seed: int) -> dict[str, float]:
        nonlocal state
        batches = jnp.asarray(bits(steps, seed))
        start = time.perf_counter()
        state, losses = jax.block_until_ready(scan(state, batches))
        return {"seconds": time.perf_counter() - start, "loss": float(np.asarray(losses)[-1]) / BATCH_SIZE}

    return epoch


def main() -> None:
    """Answers requests until standard input ends."""
    epochs: dict[int, Epoch] = {}
    for line in sys.stdin:
        request = json.loads(line)
        particles = request["particles"]
        if particles not in epochs:
            epochs[particles] = make_epoch(particles)
        print(json.dumps(epochs[particles](request["steps"], request["seed"])), flush=True)


if __name__ == "__main__":
    main()
