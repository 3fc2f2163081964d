"""The optimizers as a page."""

from __future__ import annotations

from ._optimizers import OPTIMIZERS

HEAD = """\
# Optimizers

Each cell is tested: **ok** says that after ten steps the weights are those of a plain loop, in
which the penalty is in the loss, the proximal step of learning rate × strength follows each step,
or one tensor is used in both places. **refused** says that an error before training gives the
reason. `pytest tests/optimizers -k page --write-docs` generates this page.

- **A gradient** (`soft_tie`) is what `weight_decay` of the same strength would be: it is added to
  that of the loss, and its sign is that of a penalty where the loss is maximised.
- **A proximal step** (`unit_tie`, `growl`, …) needs steps of the size of the learning rate, and an
  optimizer that goes on from the weights it finds. Optimizers that compute weights from sums of
  gradients would undo it, and where training and evaluation have different weights, those that are
  evaluated would not be equal. For Prodigy and D-Adaptation the size is d × learning rate.
- Of some hundred optimizers in the package `pytorch_optimizer`, a test moves the weights between
  two steps: each of them keeps the motion, or is refused.

"""

# Cells that are not "ok", by optimizer and way.
REFUSED = {
    ("Adagrad, lr_decay", "prox"), ("Rprop", "prox"), ("ASGD", "prox"), ("MADGRAD", "prox"),
    ("Adafactor, relative_step", "prox"), ("ScheduleFreeAdamW", "prox"),
    ("LBFGS", "gradient"), ("LBFGS", "prox"),
    ("Lookahead, bound before", "gradient"), ("Lookahead, bound before", "prox"),
}  # fmt: skip
WAYS = {"gradient": "a gradient", "prox": "a proximal step", "share": "hard sharing"}


def page():
    lines = [f"| | {' | '.join(WAYS.values())} |", f"|{'---|' * (len(WAYS) + 1)}"]
    for name in OPTIMIZERS:
        words = ["refused" if (name, way) in REFUSED else "ok" for way in WAYS]
        lines.append(f"| {name} | {' | '.join(words)} |")
    return HEAD + "\n".join(lines) + "\n"
