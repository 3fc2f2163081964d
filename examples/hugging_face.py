"""A Hugging Face model with shared layers, in memory and in its checkpoints.

Question: `transformers` ties a GPT-2's embedding to its head. Can its layers be tied as well, with
no change to the model, and does it still train, save and load?

It prints the loss after a few steps, the numbers stored and the bytes on disk, with and without
shared layers. The model is built from a config, so nothing is downloaded. This needs
`pip install transformers`.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import sklearn.datasets
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import lit_share as ls

LAYERS = ls.Ties(*(f"transformer.h.{i}.*" for i in range(4)))
CONFIG = GPT2Config(
    vocab_size=128, n_positions=32, n_embd=32, n_layer=4, n_head=2, bos_token_id=0, eos_token_id=0
)


def train(shared: bool) -> None:
    """Train on characters, and print the numbers and bytes stored."""
    text = (Path(sklearn.datasets.__file__).parent / "descr" / "twenty_newsgroups.rst").read_bytes()
    windows = torch.tensor([byte % 128 for byte in text]).unfold(0, 32, 8)
    torch.manual_seed(0)
    model = GPT2LMHeadModel(CONFIG)
    if shared:
        ls.share(model, LAYERS, init="first")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.005)
    for _ in range(100):
        batch = windows[torch.randint(len(windows), (16,))]
        optimizer.zero_grad()
        loss = model(batch, labels=batch).loss
        loss.backward()
        optimizer.step()

    with TemporaryDirectory() as folder:
        ls.save_compact(model, file := Path(folder) / "compact.safetensors")
        again = ls.load_compact(file, GPT2LMHeadModel(CONFIG))
        same = torch.equal(model.eval()(batch).logits, again.eval()(batch).logits)
        stats = ls.sharing_stats(again)
        size = f"{stats.unique:6,} of {stats.total:6,} numbers  {file.stat().st_size:7,} bytes"
        print(
            f"layers shared: {shared!s:<5}  loss {loss.item():.2f}  {size}  loads as it was: {same}"
        )


if __name__ == "__main__":
    train(shared=False)
    train(shared=True)
