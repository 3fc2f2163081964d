"""Similar experts: the slices of one parameter, tied softly.

A mixture of experts has little data for each expert. `Ties("weight[:]")` makes the slices of a
parameter along dim 0 the members of a tie: here the experts' matrices, in other models the heads of
an attention layer, or the positions of a `lit_share.LocallyConnected2d`. The penalty pulls them to
their mean, so that experts learn only how they differ.
"""

import torch
from torch import Tensor, nn

import lit_share as ls
from lit_share.lab.data import SOURCES


class Experts(nn.Module):
    """Linear classifiers, mixed for each input by a gate."""

    def __init__(self, inputs: int, outputs: int, experts: int = 8) -> None:
        super().__init__()
        self.gate = nn.Linear(inputs, experts)
        self.weight = nn.Parameter(torch.zeros(experts, inputs, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Mix the experts' scores."""
        return torch.einsum("be,bi,eio->bo", self.gate(x).softmax(dim=1), x, self.weight)


def accuracy(strength: float, seed: int) -> tuple[float, float]:
    """Accuracy on test images, and how far experts are apart, after training on 150 images."""
    torch.manual_seed(seed)
    inputs, labels = map(torch.from_numpy, SOURCES["digits"].load())
    order = torch.randperm(len(labels))
    x, y = inputs.flatten(1)[order], labels[order]
    model = Experts(64, 10)
    ties = ls.Ties("weight[:]").find(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(300):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[:150]), y[:150]).backward()
        ls.add_penalty_gradient(model, "soft_tie", ties, strength)
        optimizer.step()
    with torch.no_grad():
        right = (model(x[600:]).argmax(dim=1) == y[600:]).float().mean()
    return float(right), ls.relative_distance(ties[0].tensors())


if __name__ == "__main__":
    for strength in (0.0, 1e-4, 1e-3, 1e-2):
        runs = torch.tensor([accuracy(strength, seed) for seed in range(3)])
        (right, distance), deviation = runs.mean(dim=0).tolist(), float(runs[:, 0].std())
        print(
            f"strength {strength:<6g}  accuracy {right:.3f} ± {deviation:.3f}  distance "
            f"{distance:.2f}"
        )
