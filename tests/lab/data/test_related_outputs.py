import pytest
import torch

from lit_share.lab.data import TASKS, Arrays, RelatedOutputs
from lit_share.lab.data._tasks import direction

CONTROLS = {
    "breast_cancer": {"n_a": 100, "n_b": 50, "n_val": 100, "n_test": 300},
    "wine": {"n_a": 60, "n_b": 20, "n_val": 38, "n_test": 60},
}


def part(data, stage, name):
    return getattr(data, f"{stage}_dataloader")()[name].dataset.tensors


@pytest.mark.parametrize("task", ["class", "at_least_five", "parity", "closed_loop"])
def test_b_answers_its_question_about_what_a_sees(task):
    data = RelatedOutputs("digits", "class", task)
    for stage in ("val", "test"):
        images_a, digits = part(data, stage, "a")
        images_b, answers = part(data, stage, "b")
        assert torch.equal(images_a, images_b)
        expected = TASKS[task](Arrays(images_a.numpy(), digits.numpy()))
        assert torch.equal(answers, torch.from_numpy(expected))


def test_a_can_be_asked_too():
    data = RelatedOutputs("digits", "parity", "class")
    assert data.num_classes == {"a": 2, "b": 10}
    assert torch.equal(part(data, "val", "a")[1], part(data, "val", "b")[1] % 2)


@pytest.mark.parametrize("dataset", CONTROLS)
def test_training_rows_are_standardised_together(dataset):
    data = RelatedOutputs(dataset, "class", "direction", **CONTROLS[dataset])
    seen = torch.cat([part(data, "train", name)[0] for name in ("a", "b")])
    torch.testing.assert_close(seen.mean(0), torch.zeros(seen.shape[1]), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        seen.std(0, unbiased=False), torch.ones(seen.shape[1]), atol=1e-4, rtol=0
    )
    assert not torch.allclose(
        part(data, "test", "a")[0].mean(0), torch.zeros(seen.shape[1]), atol=1e-3
    )


@pytest.mark.parametrize("dataset", CONTROLS)
def test_control_asks_about_one_direction_in_every_part(dataset):
    data = RelatedOutputs(dataset, "class", "direction", **CONTROLS[dataset], seed=2)
    assert data.num_classes["b"] == 2
    inputs, answers = (
        torch.cat(tensors)
        for tensors in zip(*(part(data, s, "b") for s in ("train", "val", "test")), strict=True)
    )
    expected = direction(Arrays(inputs.numpy(), answers.numpy()), seed=2)
    assert torch.equal(answers, torch.from_numpy(expected))


@pytest.mark.parametrize("argument", ["task_a", "task_b"])
def test_question_about_digits_needs_digits(argument):
    with pytest.raises(
        ValueError,
        match=f'{argument}="parity" asks about digits.*"breast_cancer" shows none: .*"class", '
        f'"direction"',
    ):
        RelatedOutputs(
            "breast_cancer", **{"task_a": "class", "task_b": "class", argument: "parity"}
        )


@pytest.mark.parametrize("argument", ["task_a", "task_b"])
def test_unknown_question_is_refused(argument):
    with pytest.raises(
        ValueError, match=f'{argument}="prime" is not known: write one of "class", "at_least_five"'
    ):
        RelatedOutputs("digits", **{argument: "prime"})
