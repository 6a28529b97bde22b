"""Times epochs in `lax.scan` with probgen's objectives for NumPyro beside NumPyro's own at equal bound and particles.

All competitors train the one-layer net of Burda et al. (2016) by `numpyro.infer.SVI` in one process, in turns; what
differs is the loss. The limit is the time of a step's matrix products alone, as JAX does them here.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import record
from step_settings import BATCH_SIZE, DATA_DIM, HIDDEN, LATENT_DIM, bits
from step_time import layer_sizes, median_interval

PARTICLES = (1, 5, 50)
STEPS = {1: 40, 5: 20, 50: 4}  # of a block, in one scan
SEED = 0
PRODUCTS = "matrix products alone"

Block = Callable[[], float]  # trains for a block of steps; seconds


def limit_threads() -> None:
    """One thread for XLA, before it is imported."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def losses(particles: int) -> dict[str, Any]:
    """NumPyro's loss first, then ours: the same bound, then two other gradients of it."""
    from numpyro.infer import RenyiELBO, Trace_ELBO

    from probgen.numpyro import ELBO, IWAE

    if particles == 1:
        return {"NumPyro": Trace_ELBO(), "probgen": ELBO()}
    return {
        "NumPyro": RenyiELBO(alpha=0.0, num_particles=particles),
        "probgen": IWAE(num_particles=particles),
        "probgen, dreg": IWAE(num_particles=particles, gradient="dreg"),
        "probgen, resampled": IWAE(num_particles=particles, gradient="resampled"),
    }


def block_of(loss: Any, steps: int, adam_rate: float) -> Block:
    """A function that trains for a block of steps; compiled before it is returned."""
    import jax
    import jax.numpy as jnp
    import numpyro
    from numpyro_epoch import guide, model

    svi = numpyro.infer.SVI(model, guide, numpyro.optim.Adam(adam_rate), loss)
    state = svi.init(jax.random.key(SEED), jnp.zeros((BATCH_SIZE, DATA_DIM)))
    batches = jnp.asarray(bits(steps, SEED))
    scan = jax.jit(lambda state, batches: jax.lax.scan(svi.update, state, batches))

    def block() -> float:
        nonlocal state
        start = time.perf_counter()
        state, found = jax.block_until_ready(scan(state, batches))
        seconds = time.perf_counter() - start
        if not bool(jnp.isfinite(found).all()):
            raise RuntimeError("a loss is not finite")
        return seconds

    block()
    return block


def race(blocks: dict[str, Block], steps: int, rounds: int) -> dict[str, list[float]]:
    """Milliseconds a step of each competitor, round by round; each round goes through them in the other direction."""
    times: dict[str, list[float]] = {name: [] for name in blocks}
    for turn in range(rounds):
        names = list(blocks) if turn % 2 == 0 else list(reversed(blocks))
        for name in names:
            times[name].append(1e3 * blocks[name]() / steps)
    return times


def products_block(particles: int, steps: int) -> Block:
    """A function that does the matrix products of a block of steps: forward, and backward for weights and inputs."""
    import jax
    import jax.numpy as jnp

    calls = []
    for rows, inputs, outputs, inner in layer_sizes(particles):
        x, w, y = jnp.ones((rows, inputs)), jnp.ones((inputs, outputs)), jnp.ones((rows, outputs))
        pairs = [(x, w), (x.T, y)] + ([(y, w.T)] if inner else [])
        calls += [(jax.jit(jnp.matmul).lower(a, b).compile(), a, b) for a, b in pairs]

    def block() -> float:
        start = time.perf_counter()
        for _ in range(steps):
            jax.block_until_ready([product(a, b) for product, a, b in calls])
        return time.perf_counter() - start

    block()
    return block


def figures_of(particles: int, times: dict[str, list[float]]) -> list[record.Figure]:
    """Times, ratios to NumPyro with their intervals, and the share of the limit in our time."""
    reference = times["NumPyro"]
    figures = [
        record.figure(f"K = {particles}: {name}", statistics.median(ms), "ms a step", per_round=ms)
        for name, ms in times.items()
    ]
    for name, ms in times.items():
        if name not in ("NumPyro", PRODUCTS):
            ratios = [a / b for a, b in zip(ms, reference, strict=True)]
            figures.append(
                record.figure(
                    f"K = {particles}: {name} / NumPyro",
                    statistics.median(ratios),  # round by round: the machine's other work slows both of a round
                    "median ratio",
                    goal="<= 1.05" if name == "probgen" else None,
                    interval=list(median_interval(ratios)),
                    ratio_of_medians=statistics.median(ms) / statistics.median(reference),
                )
            )
    shares = [limit / whole for limit, whole in zip(times[PRODUCTS], times["probgen"], strict=True)]
    name = f"K = {particles}: {PRODUCTS} / probgen"
    interval = list(median_interval(shares))
    return [*figures, record.figure(name, statistics.median(shares), "median ratio", interval=interval)]


def table(figures: Sequence[record.Figure]) -> str:
    """The figures, a line each."""
    lines = []
    for figure in figures:
        interval = figure.get("interval")
        spread = f"  [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else ""
        lines.append(f"{figure['name']:<48}{figure['value']:8.3f} {figure['unit']}{spread}")
    return "\n".join(lines)


def measure(options: argparse.Namespace) -> list[record.Figure]:
    """Runs every number of particles."""
    from step_settings import LEARNING_RATE

    figures: list[record.Figure] = []
    for particles in options.particles:
        steps = max(1, STEPS.get(particles, 200 // particles) // options.shorter)
        blocks = {name: block_of(loss, steps, LEARNING_RATE) for name, loss in losses(particles).items()}
        blocks[PRODUCTS] = products_block(particles, steps)
        figures += figures_of(particles, race(blocks, steps, options.rounds))
    return figures


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--particles", type=record.whole_number, nargs="+", default=list(PARTICLES), metavar="K")
    parser.add_argument("--rounds", type=record.whole_number, default=21, help="turns of each competitor (default: 21)")
    parser.add_argument("--shorter", type=record.whole_number, default=1, help="divide the steps of a turn by this")
    record.add_output(parser, "numpyro_objectives")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints and writes the result."""
    options = parse(arguments)
    limit_threads()
    figures = measure(options)
    settings = {
        "net": [DATA_DIM, *HIDDEN, LATENT_DIM],
        "batch_size": BATCH_SIZE,
        "particles": options.particles,
        "rounds": options.rounds,
        "steps": {str(k): STEPS.get(k) for k in options.particles},
        "threads": 1,
    }
    path = record.write(record.document("numpyro_objectives", settings, {"data": SEED}, figures), options.out)
    print(table(figures))
    print(f"written to {record.shown(path)}")


if __name__ == "__main__":
    main()
