"""A transformer with one layer instead of four, and one matrix to read and write characters.

Question: how much of a language model of characters can be shared between its layers (as in
ALBERT), and between the embedding of the characters and the head that predicts them, before it
predicts worse?

It prints the loss on held-out text in bits per character, the numbers that are stored, and the
bytes of a compact file, over 3 seeds. The text is scikit-learn's description of its data sets.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import sklearn.datasets
import torch
from torch import Tensor, nn

import lit_share as ls
from lit_share.lab.report import estimate

LAYERS = ls.Ties(*(f"encoder.layers.{i}.*" for i in range(4)))  # one pattern for each layer
CHARACTERS = ls.Ties("embedding.weight", "head.weight")
STRATEGIES = {"nothing": (), "layers": (LAYERS,), "layers and characters": (LAYERS, CHARACTERS)}
WIDTH, CONTEXT = 32, 32


class LanguageModel(nn.Module):
    """Predicts each character from those before it."""

    def __init__(self, characters: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, WIDTH)
        self.position = nn.Parameter(torch.zeros(CONTEXT, WIDTH))
        layer = nn.TransformerEncoderLayer(
            WIDTH, 2, 2 * WIDTH, dropout=0.0, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(
            layer, 4, nn.LayerNorm(WIDTH), enable_nested_tensor=False
        )
        self.head = nn.Linear(WIDTH, characters, bias=False)
        nn.init.normal_(self.embedding.weight, std=WIDTH**-0.5)
        self.mask: Tensor = nn.Transformer.generate_square_subsequent_mask(CONTEXT)

    def forward(self, text: Tensor) -> Tensor:
        """Scores of the next character, shape `(batch, CONTEXT, characters)`."""
        return self.head(
            self.encoder(self.embedding(text) + self.position, self.mask, is_causal=True)
        )


def read() -> Tensor:
    """Characters as numbers."""
    folder = Path(sklearn.datasets.__file__).parent / "descr"
    text = "".join(file.read_text("utf-8") for file in sorted(folder.glob("*.rst"))).lower()
    known = {character: i for i, character in enumerate(sorted(set(text)))}
    return torch.tensor([known[character] for character in text])


def train(text: Tensor, shared: tuple[ls.Ties, ...], seed: int) -> tuple[float, int, int]:
    """Bits per character on the last tenth of the text, numbers stored, and bytes."""
    torch.manual_seed(seed)
    model = LanguageModel(int(text.max()) + 1)
    for ties in shared:
        ls.share(model, ties)  # before the optimizer is made
    windows = text.unfold(0, CONTEXT + 1, CONTEXT // 2)
    training, test = windows[: len(windows) * 9 // 10], windows[len(windows) * 9 // 10 + 1 :]

    def loss(batch: Tensor) -> Tensor:
        return nn.functional.cross_entropy(
            model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten()
        )

    optimizer = torch.optim.AdamW(model.parameters(), lr=0.005)
    for _ in range(120):
        optimizer.zero_grad()
        loss(training[torch.randint(len(training), (16,))]).backward()
        optimizer.step()
    with TemporaryDirectory() as folder:
        ls.save_compact(model, file := Path(folder) / "model.safetensors")
        size = file.stat().st_size
    with torch.no_grad():
        return float(loss(test)) / 0.6931, ls.sharing_stats(model).unique, size


if __name__ == "__main__":
    text = read()
    for name, shared in STRATEGIES.items():
        bits, numbers, size = zip(*(train(text, shared, seed) for seed in range(3)), strict=True)
        print(
            f"shared: {name:<22} {estimate(bits)} bits per character, {numbers[0]:6,} numbers, "
            f"{size[0]:7,} bytes"
        )
