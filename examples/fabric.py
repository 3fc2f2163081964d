"""Lightning Fabric in mixed precision: two lines of a loop.

Question: classifiers of grey digits (500) and of black-and-white ones (50) are tied in a Fabric
loop, by a gradient or by a proximal step. Does the penalty have the same effect in 32 bits and in
bfloat16?

It prints, for each precision and penalty, the accuracy on test images of the classifier with 50
images, the distance of the two, and the fraction of their numbers that are exactly equal (which the
weights of pixels that are never inked always are). Penalties are computed in full precision,
outside of autocast.
"""

import copy
import logging

import torch
from lightning.fabric import Fabric
from sklearn.datasets import load_digits
from torch import Tensor, nn

import lit_share as ls
from lit_share.lab.report import estimate
from lit_share.metrics import count_tied

TIES = ls.Ties("grey.*", "binary.*")
SOFT_TIE = ls.Penalty(norm="squared", groups="element", center="mean")
EXACT_TIE = ls.Penalty(norm="l1", groups="element", center="mean")
LR = 0.1


class Pair(nn.Module):
    """Two classifiers that are called as one, so that Fabric sees the call."""

    def __init__(self) -> None:
        super().__init__()
        self.grey = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        self.binary = copy.deepcopy(
            self.grey
        )  # units correspond only if they start from the same weights

    def forward(self, grey: Tensor, binary: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of both."""
        return self.grey(grey), self.binary(binary)


def train(precision: str, penalty: ls.Penalty, strength: float, seed: int) -> list[float]:
    """Test accuracy, distance, and share of equal numbers."""
    fabric = Fabric(accelerator="cpu", devices=1, precision=precision)
    fabric.seed_everything(seed, verbose=False)
    x, y = map(torch.from_numpy, load_digits(return_X_y=True))
    order = torch.randperm(len(y))
    grey, y = (x[order] / 16).float(), y[order]
    binary, loss = (grey > 0.5).float(), nn.functional.cross_entropy
    pair = Pair()
    pair, optimizer = fabric.setup(pair, torch.optim.SGD(pair.parameters(), lr=LR, momentum=0.9))
    ties = TIES.find(pair)  # the names are those of the module inside Fabric's
    for _ in range(200):
        optimizer.zero_grad()
        scores = pair(grey[:500], binary[500:550])
        fabric.backward(loss(scores[0], y[:500]) + loss(scores[1], y[500:550]))
        if penalty.is_smooth:
            # With "16-mixed" gradients are scaled, and have to be unscaled before the penalty's is
            # added, as by fabric.clip_gradients(pair, optimizer, max_norm=float("inf"),
            # error_if_nonfinite=False).
            ls.add_penalty_gradient(pair, penalty, ties, strength)  # before the step
        optimizer.step()
        if not penalty.is_smooth:
            ls.apply_prox(pair, penalty, ties, step=LR * strength)  # after it
    with torch.no_grad():
        right = pair(grey[800:], binary[800:])[1].argmax(dim=1) == y[800:]
    equal = sum(count_tied(tie.tensors()) for tie in ties) / sum(tie.numel for tie in ties)
    return [
        float(right.float().mean()),
        ls.overall_distance([tie.tensors() for tie in ties]),
        equal,
    ]


if __name__ == "__main__":
    logging.disable(logging.INFO)  # Fabric says each time that it uses bfloat16
    for name, penalty, strength in (("soft", SOFT_TIE, 0.1), ("exact", EXACT_TIE, 0.01)):
        for precision in ("32-true", "bf16-mixed"):
            runs = torch.tensor([train(precision, penalty, strength, seed) for seed in range(3)])
            accuracy, distance, equal = (estimate(column.tolist()) for column in runs.T)
            print(
                f"{name:<6} {precision:<11} accuracy {accuracy}  distance {distance}  equal {equal}"
            )
