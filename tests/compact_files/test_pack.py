"""Each tensor is stored in the way that takes the fewest bytes, and comes back bit for bit."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from lit_share.compact_files import CompactFileError, _find_rows, _hash, pack, unpack

from ._zoo import DTYPES, assert_same_bits, kinds, random, round_trip


def zeroed(tensor, fraction, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return tensor.masked_fill(torch.rand(tensor.shape, generator=generator) < fraction, 0.0)


def test_what_is_equal_to_nothing_is_its_own():
    tensors = {
        "a": random(40, 30),
        "b": random(40, 30, seed=1),
        "c": random(7, seed=2),
        "d": torch.tensor(3.0),
    }
    packed = round_trip(tensors)
    assert kinds(packed) == ["own"] * 4
    assert packed.entries.keys() == tensors.keys()
    assert packed.nbytes == sum(tensor.nbytes for tensor in tensors.values())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_all_ways_in_all_dtypes(dtype):
    a = random(200, 64, dtype=dtype)
    b = random(200, 64, dtype=dtype, seed=1)
    b[50:] = a[50:]
    c = random(200, 64, dtype=dtype, seed=2)
    c.view(torch.uint8).view(200, -1)[10:] = 0
    packed = round_trip({"a": a, "a2": a.clone(), "aT": a.T, "b": b, "c": c})
    # A bit is less than a byte.
    own = "palette" if dtype is torch.bool else "own"
    assert kinds(packed)[:3] == [own, "same", "same"]
    assert kinds(packed)[3] == ("palette" if dtype is torch.bool else "rows")
    # The rows of zeros are equal, too: for elements of one byte that is shorter than a mask of
    # bits.
    assert kinds(packed)[4] in ("sparse", "rows")
    assert packed.nbytes < 2 * a.nbytes


def test_equal_tensors_take_no_bytes():
    a = random(40, 30)
    packed = round_trip({"a": a, "b": a, "c": a.clone(), "d": a.T, "e": a.T.contiguous()})
    assert packed.nbytes == a.nbytes
    assert [str(stored) for stored in packed.manifest.tensors.values()] == [
        "own", "same as a", "same as a", "same as a.T", "same as a.T",
    ]  # fmt: skip


def test_equal_bytes_of_another_dtype_or_shape_are_another_tensor():
    a = random(40, 30)
    packed = round_trip(
        {"a": a, "b": a.view(torch.int32), "c": a.reshape(30, 40), "d": a.reshape(-1)}
    )
    assert kinds(packed) == ["own"] * 4


def test_sparse():
    a = zeroed(random(64, 64), 0.9)
    packed = round_trip({"a": a})
    assert kinds(packed) == ["sparse"]
    assert packed.nbytes == 64 * 64 // 8 + 4 * int(torch.count_nonzero(a))
    assert packed.entries.keys() == {"a#mask", "a#values"}


def test_zero_is_all_bits_zero():
    a = torch.zeros(50, 50)
    a[3, 4], a[5, 6] = -0.0, float("nan")
    a.view(torch.int32)[7, 8] = 0x7FC12345  # a NaN with a payload
    packed = round_trip({"a": a})
    assert packed.manifest.tensors["a"].nonzero == 3


def test_rows_of_another_tensor():
    a, b = random(100, 32), random(100, 32, seed=1)
    b[20:] = a[20:]
    packed = round_trip({"a": a, "b": b})
    stored = packed.manifest.tensors["b"]
    assert (stored.kind, stored.bases, stored.own) == ("rows", ("a",), 20)
    assert str(stored) == "80 of 100 rows of a"
    assert packed.nbytes == a.nbytes + 100 + 20 * 32 * 4
    assert packed.entries["b#index"].dtype == torch.uint8


def test_rows_that_repeat():
    codebook = random(10, 64)
    a = codebook[torch.randint(0, 10, (500,), generator=torch.Generator().manual_seed(0))]
    packed = round_trip({"a": a})
    assert packed.manifest.tensors["a"].bases == ()
    assert packed.nbytes == 500 + codebook.nbytes


def test_filters_in_another_order():
    a = random(64, 3, 5, 5)
    packed = round_trip({"a": a, "b": a.flip(0)})
    assert packed.manifest.tensors["b"].own == 0
    assert packed.nbytes == a.nbytes + 64


def test_own_rows_may_be_sparse():
    a, b = random(400, 64), zeroed(random(400, 64, seed=1), 0.95)
    b[200:] = a[200:]
    packed = round_trip({"a": a, "b": b})
    assert packed.entries.keys() == {"a", "b#index", "b#mask", "b#values"}
    assert packed.manifest.tensors["b"].own_nonzero == int(torch.count_nonzero(b[:200]))


def test_several_bases_and_bases_that_are_stored_otherwise():
    a, b = random(100, 64), zeroed(random(100, 64, seed=1), 0.8)
    c = random(100, 64, seed=2)
    c[:80] = a[:80]
    d = torch.cat([a[90:], b[:50], c[80:], random(5, 64, seed=3)])
    packed = round_trip({"a": a, "b": b, "c": c, "d": d, "e": d.flip(0)})
    assert kinds(packed) == ["own", "sparse", "rows", "rows", "rows"]
    assert set(packed.manifest.tensors["d"].bases) == {"a", "b", "c"}
    assert packed.manifest.tensors["d"].own == 5


def test_at_most_a_few_bases():
    parts = [random(50, 64, seed=seed) for seed in range(8)]
    packed = round_trip({**{str(i): part for i, part in enumerate(parts)}, "all": torch.cat(parts)})
    stored = packed.manifest.tensors["all"]
    assert (len(stored.bases), stored.own) == (4, 200)


@pytest.mark.parametrize(
    ("rows", "dtype"), [(256, torch.uint8), (257, torch.uint16), (65537, torch.uint32)]
)
def test_the_smallest_index(rows, dtype):
    a = random(rows, 16, dtype=torch.int32)
    packed = round_trip({"a": a, "b": a.flip(0)})
    assert packed.entries["b#index"].dtype == dtype


def test_small_tensors_are_not_worth_entries():
    # One zero is a bit instead of eight bytes, but its entries' names would take more.
    tensors = {"batches": torch.tensor(0), "ones": torch.ones(16), "zeros": torch.zeros(16)}
    assert kinds(round_trip(tensors)) == ["own"] * 3


def test_empty_tensors_stay_readable():
    packed = round_trip(
        {"a": torch.empty(0), "b": torch.empty(0), "c": torch.empty(3, 0), "d": torch.empty(0, 3)}
    )
    assert kinds(packed) == ["own"] * 4


def test_two_shared_networks_take_one():
    one = {f"a.{i}": random(64, 64, seed=i) for i in range(3)}
    two = {name.replace("a", "b"): tensor for name, tensor in one.items()}
    assert round_trip(one | two).nbytes == pack(one).nbytes


@pytest.mark.parametrize("constant", [0, 2**64 - 1])
def test_collisions_cost_bytes_only(monkeypatch, constant):
    def hash_rows(array):
        return torch.full((len(array),), constant % 2**63).numpy().astype("u8")

    a, b = random(100, 32), random(100, 32, seed=1)
    b[20:] = a[20:]
    tensors = {"a": a, "b": b, "c": a[:1].expand(100, 32), "d": random(1, 32), "e": a[:1].clone()}
    monkeypatch.setattr(_find_rows, "hash_rows", hash_rows)
    packed = round_trip(tensors)
    assert kinds(packed)[:3] == ["own", "own", "rows"]


def test_the_hash_sees_two_signs():
    a = torch.ones(2, 8, dtype=torch.float64)
    a[1, :2] *= -1
    assert len(set(_hash.hash_rows(a.view(torch.uint64).numpy()).tolist())) == 2


@pytest.mark.parametrize("name", ["a#mask", "a##mask", "a#", "#", "b#index"])
def test_names_with_the_mark(name):
    a = zeroed(random(64, 64), 0.9)
    packed = round_trip({"a": a, name: random(3), "b": a.flip(0), "c#": a.flip(1)})
    assert len(packed.entries) == len(packed.manifest.checksums)


def test_ties_are_kept():
    a = random(4, 3)
    ties = [{"names": ["a", "c.T"]}, {"names": ["a", "b"]}]
    packed = round_trip({"a": a, "b": a.clone(), "c": a.T}, ties)
    assert [tie.model_dump(exclude_none=True, mode="json") for tie in packed.manifest.ties] == ties


@pytest.mark.parametrize(
    ("ties", "message"),
    [
        ([{"names": ["a", "b"]}], "do not fit the tensors: 'a' and 'b' are tied, but not equal"),
        ([{"names": ["a", "c"]}], "a tie names 'c', which is not in the file"),
        ([{"names": ["a", "a.T"]}], "'a' and 'a.T' are tied, but not equal"),
        ([{"names": ["a", "b"], "rows": [4]}], "'rows': Extra inputs are not permitted"),
        ([{"names": "ab"}], "'names': Input should be a valid tuple"),
        ([{"codebook": 3}], "'codebook': Extra inputs are not permitted"),
    ],
)
def test_ties_that_do_not_fit(ties, message):
    with pytest.raises(CompactFileError, match=message):
        pack({"a": random(4, 3), "b": random(4, 3, seed=1)}, ties)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_anything_comes_back(data):
    dtype = data.draw(st.sampled_from(DTYPES))
    pool = random(6, 4, dtype=dtype)
    pool.view(torch.uint8).view(6, -1)[0] = 0
    tensors = {}
    for i in range(data.draw(st.integers(1, 5))):
        rows = data.draw(st.lists(st.integers(0, 5), max_size=40))
        tensor = pool[torch.tensor(rows, dtype=torch.long)]
        if data.draw(st.booleans()):
            tensor = tensor.T
        repeats = data.draw(st.sampled_from([1, 40]))
        tensors[data.draw(st.text("a.#_", max_size=4)) + str(i)] = tensor.repeat(1, repeats)
    packed = round_trip(tensors)
    # A way with entries beside the tensor's own is chosen only where it saves more than their names
    # take.
    assert packed.nbytes <= sum(tensor.nbytes for tensor in tensors.values())


def test_unpacking_does_not_change_what_was_packed():
    a = random(40, 30)
    packed = pack({"a": a, "b": a})
    before = {name: entry.clone() for name, entry in packed.entries.items()}
    unpack(packed)
    assert_same_bits(packed.entries, before)
