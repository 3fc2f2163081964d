"""Two domains, one backbone: tied trunks, separate heads and batch normalisation.

Question: 200 crisp digits and 30 faint ones, grey on grey, are classified by small residual
networks with the names of timm and torchvision (conv1, bn1, layer1, fc). Should the domains share
the trunk, and does it matter that each keeps its own batch normalisation? An `exclude` pattern
leaves it out.

It prints the test accuracy of both domains over 3 seeds, and how many numbers are stored.
"""

import copy

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import lit_share as ls
from lit_share.lab.report import estimate


class Block(nn.Module):
    """A residual block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = (
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.conv2, self.bn2 = (
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Add what two convolutions make of it."""
        return torch.relu(x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))


class Backbone(nn.Module):
    """Has the parameter names of `timm.create_model("resnet18", in_chans=1, num_classes=10)`."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.conv1, self.bn1 = (
            nn.Conv2d(1, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.layer1 = nn.Sequential(Block(channels))
        self.fc = nn.Linear(channels * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the classes."""
        x = self.layer1(torch.relu(self.bn1(self.conv1(x))))
        return self.fc(nn.functional.adaptive_max_pool2d(x, 2).flatten(1))


TRUNK_ONLY = ["*.fc.*", "*bn*"]  # what each domain keeps for itself
STRATEGIES = {
    "nothing": None,
    "trunk": (ls.Ties("crisp.*", "faint.*", exclude=TRUNK_ONLY), False),
    "trunk and its normalisation": (ls.Ties("crisp.*", "faint.*", exclude=["*.fc.*"]), True),
}


def train(strategy: tuple[ls.Ties, bool] | None, seed: int) -> tuple[float, float, int]:
    """Test accuracy on crisp and faint images, and numbers stored."""
    torch.manual_seed(seed)
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels))
    crisp, y = (
        torch.from_numpy(images).float().view(-1, 1, 8, 8)[order] / 16,
        torch.from_numpy(labels)[order],
    )
    domains = {"crisp": crisp, "faint": 0.6 + 0.2 * crisp}
    train_on = {
        "crisp": torch.arange(200),
        "faint": torch.arange(200, 230),
    }  # no digit is seen by both
    first = Backbone()
    models = nn.ModuleDict({"crisp": first, "faint": copy.deepcopy(first)})
    if strategy is not None:
        ties, statistics = strategy
        ls.share(models, ties, buffers=statistics)
    optimizer = torch.optim.Adam(models.parameters(), lr=0.003)
    for _ in range(60):
        optimizer.zero_grad()
        for name, x in domains.items():
            which = train_on[name][torch.randint(len(train_on[name]), (50,))]
            nn.functional.cross_entropy(models[name](x[which]), y[which]).backward()
        optimizer.step()
    models.eval()
    with torch.no_grad():
        right = [
            float((models[name](x[300:]).argmax(dim=1) == y[300:]).float().mean())
            for name, x in domains.items()
        ]
    return right[0], right[1], sum(parameter.numel() for parameter in models.parameters())


if __name__ == "__main__":
    for name, strategy in STRATEGIES.items():
        crisp, faint, numbers = zip(*(train(strategy, seed) for seed in range(3)), strict=True)
        print(
            f"shared: {name:<28} crisp {estimate(crisp)!s:<15} faint {estimate(faint)!s:<15} "
            f"{numbers[0]:,} numbers"
        )
