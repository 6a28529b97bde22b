"""Trains the classifier whose last hidden layer is the default features of digits, and writes it into the package.

Small shifts and noise are added to the training digits; the step with the best accuracy on the validation split is
kept, and the test split is looked at once, at the end.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from probgen.data import load
from probgen.diagnostics.features import digits_net
from probgen.seeding import seeded

PATH = Path(__file__).resolve().parents[1] / "probgen" / "diagnostics" / "digits.safetensors"
NOISE = 0.1
BATCH_SIZE = 128


def accuracy(net: nn.Module, split: str) -> float:
    """Share of a split of the digits that a classifier has right."""
    data = load("digits", split=split)
    with torch.no_grad():
        return float((net(data.x).argmax(1) == data.y).float().mean())


def augmented(x: Tensor) -> Tensor:
    """Digits ``[B, 64]`` moved by up to one pixel either way, with noise."""
    images = x.reshape(-1, 8, 8)
    padded = nn.functional.pad(images, (1, 1, 1, 1))
    down, right = torch.randint(3, (2,)).tolist()
    moved = padded[:, down : down + 8, right : right + 8] if torch.rand(()) < 0.5 else images
    return (moved.flatten(1) + NOISE * torch.randn_like(x)).clamp(0, 1)


def trained(*, num_epochs: int, seed: int) -> nn.Module:
    """A fresh classifier after so many epochs, at its best on the validation split."""
    data = load("digits", split="train")
    with seeded(seed):
        net = digits_net()
        optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_epochs)
        best, weights = 0.0, net.state_dict()
        for _ in range(num_epochs):
            for rows in torch.randperm(len(data.x)).split(BATCH_SIZE):
                loss = nn.functional.cross_entropy(net(augmented(data.x[rows])), data.y[rows], label_smoothing=0.05)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            schedule.step()
            if (found := accuracy(net, "valid")) >= best:
                best, weights = found, {name: value.clone() for name, value in net.state_dict().items()}
        net.load_state_dict(weights)
    return net


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-epochs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--path", type=Path, default=PATH)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    net = trained(num_epochs=given.num_epochs, seed=given.seed)
    given.path.write_bytes(safetensors.torch.save(net.state_dict()))
    print(
        f"accuracy: {accuracy(net, 'valid'):.4f} of the validation split, {accuracy(net, 'test'):.4f} of the test split"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
