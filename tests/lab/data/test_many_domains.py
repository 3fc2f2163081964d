import re

import pytest
import torch

from lit_share.lab.data import DOMAINS, ManyDomains, PairedDomains

MEMBERS = {
    "upright": {"domain": "same", "n": 60},
    "turned": {"domain": "rotated", "amount": 40, "n": 30},
    "negative": {"domain": "inverted", "n": 20},
    "grainy": {"domain": "noisy", "amount": 0.1, "n": 10},
}
SIZES = {"n_val": 40, "n_test": 50}


def part(data, stage, name):
    return getattr(data, f"{stage}_dataloader")()[name].dataset.tensors


def originals(data, stage, name):
    """The images of a member as the data set has them, as hashable values."""
    same = {member: {**spec, "domain": "same", "amount": None} for member, spec in MEMBERS.items()}
    return [image.numpy().tobytes() for image in part(ManyDomains(same, **SIZES), stage, name)[0]]


def test_members_have_their_sizes_and_share_no_training_image():
    data = ManyDomains(MEMBERS, **SIZES)
    assert {name: len(loader.dataset) for name, loader in data.train_dataloader().items()} == {
        "upright": 60,
        "turned": 30,
        "negative": 20,
        "grainy": 10,
    }
    trained_on = [image for name in MEMBERS for image in originals(data, "train", name)]
    judged = [*originals(data, "val", "upright"), *originals(data, "test", "upright")]
    assert len({*trained_on, *judged}) == 60 + 30 + 20 + 10 + 40 + 50


@pytest.mark.parametrize("stage", ["val", "test"])
def test_each_sees_the_same_images_in_its_own_domain(stage):
    data = ManyDomains(MEMBERS, **SIZES)
    images, labels = part(data, stage, "upright")
    for name in MEMBERS:
        assert torch.equal(part(data, stage, name)[1], labels)
    turned = torch.from_numpy(DOMAINS["rotated"](images.numpy(), 40))
    torch.testing.assert_close(part(data, stage, "turned")[0], turned)
    torch.testing.assert_close(part(data, stage, "negative")[0], 1 - images)
    assert 0.01 < (part(data, stage, "grainy")[0] - images).std() < 0.1  # clipped at 0 and 1


def test_a_site_may_label_its_classes_differently():
    labels = [5, 6, 7, 8, 9, 0, 1, 2, 3, 4]
    data = ManyDomains(
        {
            "a": {"domain": "same", "n": 20},
            "b": {"domain": "inverted", "n": 20, "labels": labels},
            "c": {"domain": "same", "n": 20, "labels": None},
        },
        **SIZES,
    )
    for stage in ("val", "test"):
        images, own = part(data, stage, "a")
        other_images, other = part(data, stage, "b")
        assert torch.equal(other, torch.tensor(labels)[own])
        torch.testing.assert_close(other_images, 1 - images)
        assert torch.equal(part(data, stage, "c")[1], own)


@pytest.mark.parametrize(
    "labels",
    [
        [1, 0],
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 8],
        [],
        5,
        "0123456789",
        [0, 1, 2, 3, 4, 5, 6, 7, 8, "9"],
        [0, 1, 2, 3, 4, 5, 6, 7, 8, None],
        [[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]],
    ],
)
def test_labels_must_be_those_of_all_classes(labels):
    members = {"a": {"domain": "same", "n": 5, "labels": labels}}
    message = re.escape(f"members.a.labels={labels!r}: write the label of each class, the numbers")
    with pytest.raises(ValueError, match=f"^{message} from 0 to 9 in any order$"):
        ManyDomains(members)


def test_without_an_amount_the_domain_has_its_own():
    own, explicit = (
        ManyDomains({"a": {"domain": "rotated", "n": 5, **amount}})
        for amount in ({}, {"amount": DOMAINS["rotated"].amount})
    )
    assert torch.equal(part(own, "train", "a")[0], part(explicit, "train", "a")[0])


def test_two_noisy_members_have_noise_of_their_own():
    data = ManyDomains({name: {"domain": "noisy", "n": 20} for name in "ab"})
    assert not torch.equal(part(data, "val", "a")[0], part(data, "val", "b")[0])


def test_noise_follows_the_seed():
    one, again, other = (
        ManyDomains({"a": {"domain": "noisy", "n": 20}}, seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(part(one, "train", "a")[0], part(again, "train", "a")[0])
    assert not torch.equal(part(one, "train", "a")[0], part(other, "train", "a")[0])


def test_two_members_are_a_pair():
    many = ManyDomains(
        {"a": {"domain": "same", "n": 60}, "b": {"domain": "inverted", "n": 20}}, seed=3
    )
    pair = PairedDomains("digits", "inverted", n_a=60, n_b=20, seed=3)
    for stage in ("train", "val", "test"):
        for name in ("a", "b"):
            for one, other in zip(part(many, stage, name), part(pair, stage, name), strict=True):
                assert torch.equal(one, other)


def test_the_last_members_size_changes_nothing_else():
    few = ManyDomains(MEMBERS, **SIZES)
    many = ManyDomains({**MEMBERS, "grainy": {**MEMBERS["grainy"], "n": 90}}, **SIZES)
    for name in ("upright", "turned", "negative"):
        assert torch.equal(part(few, "train", name)[0], part(many, "train", name)[0])


@pytest.mark.parametrize(
    "member",
    [{"domain": "same"}, {"n": 5}, {"domain": "same", "n": 5, "ammount": 3}],
    ids=["no n", "no domain", "typo"],
)
def test_members_with_other_keys_are_refused(member):
    with pytest.raises(
        ValueError, match=r"members\.a has the keys .*: write domain, n and maybe amount and labels"
    ):
        ManyDomains({"a": member})


def test_no_members_are_refused():
    with pytest.raises(ValueError, match="members is empty"):
        ManyDomains({})


def test_a_member_without_images_is_named():
    with pytest.raises(ValueError, match=r"members\.b\.n=0 must be at least 1"):
        ManyDomains({"a": {"domain": "same", "n": 5}, "b": {"domain": "same", "n": 0}})


def test_more_images_than_there_are_is_refused():
    with pytest.raises(
        ValueError,
        match=r"members\.a\.n \+ members\.b\.n \+ n_val \+ n_test = 900 \+ 50 \+ 300 \+ 600 = 1850",
    ):
        ManyDomains({"a": {"domain": "same", "n": 900}, "b": {"domain": "same", "n": 50}})


def test_amount_that_a_domain_does_not_take_is_refused():
    with pytest.raises(ValueError, match='domain="inverted" takes no amount'):
        ManyDomains({"a": {"domain": "inverted", "n": 5, "amount": 0.3}})


def test_table_is_refused():
    with pytest.raises(
        ValueError, match='dataset="wine" has none: write one of "digits", "mnist", "fashion_mnist"'
    ):
        ManyDomains(MEMBERS, dataset="wine")
