"""Two tasks on the same kind of inputs."""

from collections.abc import Sequence
from functools import partial

from lit_share.lab.data._checks import known
from lit_share.lab.data._pair import pair
from lit_share.lab.data._sources import SOURCES, Arrays
from lit_share.lab.data._tasks import TASKS, Task
from lit_share.lab.data._views import ManyViews, View


class RelatedOutputs(ManyViews):
    """The same kind of inputs for two models with different tasks; model B has few examples.

    The training examples of A and B are disjoint; the validation inputs are the same for both, each
    with its labels, and so are the test inputs. `train_dataloader()`, `val_dataloader()` and
    `test_dataloader()` return a dict with a loader of `(inputs, labels)` batches for each name.

    On digits, the class is related to `"at_least_five"`, `"parity"` and `"closed_loop"`: B gains
    from the examples of A. The tables `"breast_cancer"` and `"wine"` with `"direction"` are
    unrelated controls: both tasks can be learnt, and neither should gain.

    Args:
        dataset: `"digits"`, `"mnist"`, `"fashion_mnist"`, `"breast_cancer"` or `"wine"`.
        task_a: The task of A: a name in `TASKS`.
        task_b: The task of B: a name in `TASKS`.
        n_a: Training examples of A, at least 1.
        n_b: Training examples of B, at least 1.
        n_val: Validation examples, at least 1.
        n_test: Test examples, at least 1.
        batch_size: Examples per batch, at least 1; the last batch of a pass may be smaller.
        seed: Seed of the split, the training order and random tasks, at least 0.
        names: Keys of A and B in the dicts of loaders.

    Attributes:
        num_classes: Number of classes, for each name.
        input_shape: `(channels, height, width)` of images, `(columns,)` of tables.

    Raises:
        ValueError: If an argument is out of range, the data set has too few examples, or a task
            about digits is given another data set.

    Example:
        >>> data = RelatedOutputs("digits", "class", "parity")
        >>> data.num_classes
        {'a': 10, 'b': 2}
        >>> sizes = {"n_a": 60, "n_b": 20, "n_val": 30, "n_test": 60}
        >>> control = RelatedOutputs("wine", "class", "direction", **sizes)
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
                others = [f'"{key}"' for key, other in TASKS.items() if not other.about_digits]
                raise ValueError(
                    f'{argument}="{name}" asks about digits, and dataset="{dataset}" shows none: '
                    f"write one of {', '.join(others)}"
                )

        def view(task: Task, n: int, argument: str) -> View:
            num_classes = task.num_classes or source.num_classes
            return View(partial(_label, task, seed), num_classes, n, argument)

        super().__init__(
            dataset=dataset,
            views=pair(names, view(tasks[0], n_a, "n_a"), view(tasks[1], n_b, "n_b")),
            n_val=n_val,
            n_test=n_test,
            batch_size=batch_size,
            seed=seed,
        )


def _label(task: Task, seed: int, arrays: Arrays) -> Arrays:
    return arrays._replace(labels=task(arrays, seed))
