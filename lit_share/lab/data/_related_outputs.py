"""Two questions, asked about the same inputs."""

from collections.abc import Sequence
from functools import partial

from lit_share.lab.data._arrays import SOURCES, Arrays
from lit_share.lab.data._known import known
from lit_share.lab.data._pair import PairData
from lit_share.lab.data._tasks import TASKS, Task


class RelatedOutputs(PairData):
    """One kind of input for both models, but a question of its own for each; model B has few examples.

    The training examples of A and B are different ones; validation and test show both models the same inputs,
    each with its labels. `train_dataloader()`, `val_dataloader()` and `test_dataloader()` each return a dict
    with an ordinary loader of `(inputs, labels)` for either name.

    On digits, the class and `"at_least_five"`, `"parity"` or `"closed_loop"` are related: B gains from A's
    examples. The tables `"breast_cancer"` and `"wine"` with `"direction"` are controls without a relation:
    both questions can be learnt, and neither should gain.

    Args:
        dataset: `"digits"`, `"mnist"`, `"fashion_mnist"`, `"breast_cancer"` or `"wine"`.
        task_a: What A is asked: a name in `TASKS`.
        task_b: What B is asked: a name in `TASKS`.
        n_a: Training examples of A, at least 1.
        n_b: Training examples of B, at least 1.
        n_val: Validation examples, at least 1.
        n_test: Test examples, at least 1.
        batch_size: Examples of a batch, at least 1; the last one of a pass may be short.
        seed: Draws the split, the order of training and what is random in a task, at least 0.
        names: Keys of A and B in the dicts of loaders.

    Attributes:
        num_classes: How many classes there are, for each name.
        input_shape: `(channels, height, width)` of an image, `(columns,)` of a table's row.

    Raises:
        ValueError: If an argument is out of range, the data set has too few examples, or a question about
            digits is asked of other things.

    Example:
        >>> data = RelatedOutputs("digits", "class", "parity")
        >>> data.num_classes
        {'a': 10, 'b': 2}
        >>> control = RelatedOutputs("wine", "class", "direction", n_a=60, n_b=20, n_val=30, n_test=60)
        >>> x, y = next(iter(control.train_dataloader()["b"]))
        >>> x.shape, y.unique()
        (torch.Size([20, 13]), tensor([0, 1]))
    """

    def __init__(
        self,
        dataset: str = "digits",
        task_a: str = "class",
        task_b: str = "at_least_five",
        n_a: int = 500,
        n_b: int = 50,
        n_val: int = 300,
        n_test: int = 600,
        batch_size: int = 50,
        seed: int = 0,
        names: Sequence[str] = ("a", "b"),
    ) -> None:
        source = known(SOURCES, dataset=dataset)
        tasks = (known(TASKS, task_a=task_a), known(TASKS, task_b=task_b))
        for argument, name, task in zip(("task_a", "task_b"), (task_a, task_b), tasks, strict=True):
            if task.about_digits and not source.shows_digits:
                others = ", ".join(
                    f'"{name}"' for name, other in TASKS.items() if not other.about_digits
                )
                raise ValueError(
                    f'{argument}="{name}" asks about digits, and dataset="{dataset}" shows none: write one of {others}'
                )
        first, second = (task.num_classes or source.num_classes for task in tasks)
        super().__init__(
            dataset=dataset,
            views=(partial(_ask, tasks[0], seed), partial(_ask, tasks[1], seed)),
            num_classes=(first, second),
            n_a=n_a,
            n_b=n_b,
            n_val=n_val,
            n_test=n_test,
            batch_size=batch_size,
            seed=seed,
            names=names,
        )


def _ask(task: Task, seed: int, arrays: Arrays) -> Arrays:
    return arrays._replace(labels=task(arrays, seed))
