import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lit_share.lab.data import DOMAINS

images = st.tuples(
    st.integers(1, 3), st.integers(1, 2), st.integers(2, 6), st.integers(2, 6)
).flatmap(lambda shape: arrays(np.float32, shape, elements=st.floats(0, 1, width=32)))
seeds = st.integers(0, 1000)
every_domain = pytest.mark.parametrize("domain", DOMAINS.values(), ids=DOMAINS)


@pytest.fixture
def stroke():
    """A vertical stroke in the upper left of one image."""
    image = np.zeros((1, 1, 8, 8), np.float32)
    image[..., 1:4, 2] = 1
    return image


@every_domain
@given(images=images, seed=seeds)
def test_images_stay_images(domain, images, seed):
    before = images.copy()
    seen = domain(images, seed=seed)
    assert seen.shape == images.shape
    assert seen.dtype == np.float32
    assert seen.min() >= 0
    assert seen.max() <= 1
    np.testing.assert_array_equal(images, before)


@every_domain
@given(images=images, seed=seeds)
def test_seed_decides(domain, images, seed):
    np.testing.assert_array_equal(domain(images, seed=seed), domain(images, seed=seed))


@every_domain
def test_seeds_differ_where_there_is_chance(domain):
    images = np.random.default_rng(0).random((4, 1, 8, 8), np.float32)
    assert np.array_equal(domain(images, seed=0), domain(images, seed=1)) is not domain.seeded


@every_domain
def test_default_amount_is_the_one_declared(domain):
    images = np.random.default_rng(0).random((4, 1, 8, 8), np.float32)
    np.testing.assert_array_equal(domain(images), domain(images, domain.amount))


@pytest.mark.parametrize("name", ["rotated", "noisy", "binarised"])
def test_amount_decides(name):
    images = np.random.default_rng(0).random((4, 1, 8, 8), np.float32)
    assert not np.array_equal(DOMAINS[name](images, 0.3), DOMAINS[name](images, 0.7))


@every_domain
def test_other_views_differ_from_the_original(domain, stroke):
    assert np.array_equal(domain(stroke * 0.4), stroke * 0.4) is (domain is DOMAINS["same"])


@given(images=images)
def test_inverted_twice_is_the_original(images):
    inverted = DOMAINS["inverted"]
    np.testing.assert_allclose(inverted(inverted(images)), images, atol=1e-7)


@given(images=images)
def test_mirrored_twice_is_the_original(images):
    mirrored = DOMAINS["mirrored"]
    np.testing.assert_array_equal(mirrored(mirrored(images)), images)


def test_mirrored_swaps_left_and_right(stroke):
    assert DOMAINS["mirrored"](stroke)[0, 0, 2].tolist() == [0, 0, 0, 0, 0, 1, 0, 0]


@given(images=images, seed=seeds)
def test_permuted_keeps_every_histogram(images, seed):
    permuted = DOMAINS["permuted"](images, seed=seed)
    np.testing.assert_array_equal(
        np.sort(permuted.reshape(*images.shape[:2], -1)),
        np.sort(images.reshape(*images.shape[:2], -1)),
    )


@given(seed=seeds)
def test_permuted_moves_a_pixel_to_the_same_place_in_every_image(seed):
    image = np.arange(12, dtype=np.float32).reshape(1, 1, 3, 4) / 12
    moved = DOMAINS["permuted"](np.concatenate([image, image]), seed=seed)
    np.testing.assert_array_equal(moved[0], moved[1])


def test_permuted_moves_channels_together():
    image = np.random.default_rng(0).random((1, 1, 4, 4), np.float32)
    moved = DOMAINS["permuted"](np.concatenate([image, image], axis=1))
    np.testing.assert_array_equal(moved[:, 0], moved[:, 1])


@given(images=images, threshold=st.floats(0, 1, width=32))
def test_binarised_is_black_or_white(images, threshold):
    binarised = DOMAINS["binarised"](images, threshold)
    np.testing.assert_array_equal(binarised, np.where(images > threshold, 1, 0))


def test_noise_has_the_sigma_asked_for_and_is_new_for_every_image():
    grey = np.full((2, 1, 200, 200), 0.5, np.float32)
    noise = DOMAINS["noisy"](grey, 0.1) - grey
    assert noise.std() == pytest.approx(0.1, rel=0.02)
    assert noise.mean() == pytest.approx(0, abs=0.002)
    assert abs(np.corrcoef(noise[0].ravel(), noise[1].ravel())[0, 1]) < 0.02


def test_no_noise_is_the_original(stroke):
    np.testing.assert_array_equal(DOMAINS["noisy"](stroke, 0.0), stroke)


def test_negative_noise_is_refused(stroke):
    with pytest.raises(ValueError, match=r"standard deviation of at least 0, not -0\.1"):
        DOMAINS["noisy"](stroke, -0.1)


@pytest.mark.parametrize("quarters", [1, 2, 3, 4])
def test_rotated_by_quarters_is_exact_and_counter_clockwise(stroke, quarters):
    np.testing.assert_allclose(
        DOMAINS["rotated"](stroke, 90.0 * quarters),
        np.rot90(stroke, quarters, axes=(-2, -1)),
        atol=1e-6,
    )
