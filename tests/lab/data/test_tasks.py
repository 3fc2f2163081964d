import numpy as np
import pytest

from lit_share.lab.data import SOURCES, TASKS, Arrays

every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


@pytest.fixture
def one_of_each_digit():
    inputs = np.random.default_rng(0).random((10, 1, 8, 8), np.float32)
    return Arrays(inputs, np.arange(10))


@every_task
def test_answers_are_classes_from_0(task, one_of_each_digit):
    answers = task(one_of_each_digit)
    assert answers.dtype == np.int64
    assert np.unique(answers).tolist() == list(range(task.num_classes or 10))


@every_task
def test_seed_decides_where_there_is_chance(task, one_of_each_digit):
    answers = [task(one_of_each_digit, seed).tolist() for seed in range(6)]
    assert answers == [task(one_of_each_digit, seed).tolist() for seed in range(6)]
    assert (len({tuple(answer) for answer in answers}) > 1) is task.seeded


@pytest.mark.parametrize(
    ("name", "yes"),
    [
        ("at_least_five", [5, 6, 7, 8, 9]),
        ("parity", [1, 3, 5, 7, 9]),
        ("closed_loop", [0, 6, 8, 9]),
    ],
)
def test_digits_that_say_yes(name, yes, one_of_each_digit):
    assert np.flatnonzero(TASKS[name](one_of_each_digit)).tolist() == yes


def test_direction_does_not_look_at_the_classes(one_of_each_digit):
    other = one_of_each_digit._replace(labels=one_of_each_digit.labels[::-1])
    np.testing.assert_array_equal(TASKS["direction"](one_of_each_digit), TASKS["direction"](other))


@pytest.mark.parametrize("name", ["breast_cancer", "wine"])
def test_direction_halves_the_examples(name):
    arrays = SOURCES[name].load()
    answers = TASKS["direction"](arrays, seed=3)
    assert abs(answers.mean() - 0.5) <= 1 / len(answers)
