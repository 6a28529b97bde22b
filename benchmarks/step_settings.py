"""What every competitor of `step_time.py` trains: the one-layer net of Burda et al. (2016) on batches of 100."""

import numpy as np
import numpy.typing as npt

DATA_DIM = 784
HIDDEN = (200, 200)
LATENT_DIM = 50
BATCH_SIZE = 100
MIN_SCALE = 1e-4
LEARNING_RATE = 1e-3
MEAN = 0.13  # share of ink in MNIST; the time of a step does not depend on the values


def bits(num_batches: int, seed: int) -> npt.NDArray[np.float32]:
    """Independent random bits, ``[num_batches, BATCH_SIZE, DATA_DIM]``; no data file is needed to time a step."""
    uniform = np.random.default_rng(seed).random((num_batches, BATCH_SIZE, DATA_DIM), dtype=np.float32)
    return (uniform < MEAN).astype(np.float32)
