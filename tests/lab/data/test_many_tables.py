"""Tables for several models, from arrays and from files."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lit_share.lab.data import Diabetes, ManyTables, Table, TableFiles


def table(seed: int, targets: int = 1, n: int = 30, names: tuple[str, ...] = ()) -> Table:
    rng = np.random.default_rng(seed)
    inputs = rng.normal(3.0, 2.0, (n, 4)).astype("f4")
    return Table(inputs, rng.normal(seed, 5.0, (n, targets)).astype("f4"), names)


def loaded(data: ManyTables, part: str) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    loaders = getattr(data, f"{part}_dataloader")()
    return {n: tuple(map(torch.cat, zip(*own, strict=True))) for n, own in loaders.items()}


def test_parts_are_disjoint_and_training_comes_last() -> None:
    tables = {"a": table(0), "b": table(1)}
    few = ManyTables(tables, n_train={"a": 5, "b": 9}, n_val=4, n_test=6)
    rows = few._rows
    assert {name: [len(p) for p in parts.values()] for name, parts in rows.items()} == {
        "a": [5, 4, 6],
        "b": [9, 4, 6],
    }
    for parts in rows.values():
        every = np.concatenate(list(parts.values())).tolist()
        assert len(set(every)) == len(every)
    full = ManyTables(tables, n_val=4, n_test=6)._rows
    assert len(full["a"]["train"]) == 20
    for name in tables:
        for part in ("val", "test"):
            assert (full[name][part] == rows[name][part]).all()
    other = ManyTables(tables, n_val=4, n_test=6, seed=1)._rows
    assert (other["a"]["test"] != full["a"]["test"]).any()


def test_one_scale_for_all_by_training_examples() -> None:
    data = ManyTables({"a": table(0), "b": table(5)}, n_val=4, n_test=6)
    training = loaded(data, "train")
    for i in range(2):
        values = torch.cat([own[i] for own in training.values()])
        assert torch.allclose(values.mean(0), torch.zeros(values.shape[1]), atol=1e-5)
        assert torch.allclose(values.std(0, correction=0), torch.ones(values.shape[1]), atol=1e-5)
    # Their means differ, which a scale for each would hide.
    assert abs(training["a"][1].mean() - training["b"][1].mean()) > 0.1
    own = {"a": table(0, names=("x",)), "b": table(5, names=("y",))}
    apart = loaded(ManyTables(own, n_val=4, n_test=6), "train")
    assert all(abs(y.mean()) < 1e-5 for _, y in apart.values())


def test_kinds_of_targets() -> None:
    x = np.zeros((9, 2), "f4")
    classes = Table(x, np.arange(9, dtype="f4")[:, None] % 3)
    two = Table(x, classes.targets % 2)
    data = ManyTables({"a": two, "b": classes}, kind="classes", n_val=2, n_test=2)
    assert data.outputs == {"a": 3, "b": 3}
    assert next(iter(data.train_dataloader()["a"]))[1].dtype == torch.int64
    labels = Table(x, np.ones((9, 3), "f4"))
    data = ManyTables({"a": labels}, kind="labels", n_val=2, n_test=2)
    assert data.outputs == {"a": 3}
    assert next(iter(data.val_dataloader()["a"]))[1].shape == (2, 3)
    for kind, told in (("labels", "must be 0 and 1"), ("classes", "whole numbers from 0")):
        with pytest.raises(ValueError, match=told):
            ManyTables({"a": table(0)}, kind=kind, n_val=2, n_test=2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has 3 targets: name one"):
        ManyTables({"a": labels}, kind="classes", n_val=2, n_test=2)
    with pytest.raises(ValueError, match='kind="number" is not known'):
        ManyTables({"a": labels}, kind="number", n_val=2, n_test=2)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("keywords", "told"),
    [
        ({"n_val": 0}, "n_val=0 must be at least 1"),
        ({"n_test": 29}, "has 30 examples, of which n_test=29 and n_val=4 leave 0"),
        ({"n_train": 21}, "n_train from 1 to 20"),
        ({"n_train": {"x": 3}}, "n_train names x: name a"),
    ],
)
def test_wrong_sizes(keywords: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        ManyTables({"a": table(0)}, **{"n_val": 4, "n_test": 6, **keywords})


def test_other_columns() -> None:
    other = Table(np.zeros((30, 3), "f4"), np.zeros((30, 1), "f4"))
    with pytest.raises(ValueError, match="'b' has 3 columns of inputs, but 'a' 4"):
        ManyTables({"a": table(0), "b": other}, n_val=4, n_test=6)


def write(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_files(tmp_path: Path) -> None:
    rows = [f"{i},{i % 2},{10 * i},{i}" for i in range(12)]
    files = {n: write(tmp_path / f"{n}.csv", 'id,"left",price,size', *rows) for n in ("old", "new")}
    data = TableFiles(files, ["price"], ["id"], n_train={"old": 6, "new": 2}, n_val=2, n_test=3)
    assert (data.input_shape, data.outputs) == ((2,), {"old": 1, "new": 1})
    x, y = loaded(data, "test")["old"]
    # The price is ten times the size, so that they are equal when standardised.
    assert torch.allclose(x[:, 1:], y, atol=1e-5)
    by_model = {"old": ["price"], "new": ["size"]}
    with pytest.raises(ValueError, match=r"differ \(price, size\): name columns"):
        TableFiles(files, by_model, n_val=2, n_test=3)
    with pytest.raises(ValueError, match="no column 'prise': did you mean 'price'"):
        TableFiles(files, ["prise"], n_val=2, n_test=3)
    with pytest.raises(ValueError, match="targets has no 'new'"):
        TableFiles(files, {"old": ["price"]}, n_val=2, n_test=3)
    with pytest.raises(FileNotFoundError, match=r"there is no file x\.csv"):
        TableFiles({"a": "x.csv"}, ["price"], n_val=2, n_test=3)
    with pytest.raises(ValueError, match="files is empty"):
        TableFiles({}, ["price"], n_val=2, n_test=3)


@pytest.mark.parametrize("line", ["1,red", "1,nan", "1"])
def test_files_hold_numbers(tmp_path: Path, line: str) -> None:
    path = write(tmp_path / "a.csv", "x,y", line)
    with pytest.raises(ValueError, match=r"a\.csv"):
        TableFiles({"a": path}, ["y"], n_val=1, n_test=1)


def test_three_ages() -> None:
    data = Diabetes(n_train=20, n_val=47, n_test=80)
    assert {name: len(x) for name, (x, _) in loaded(data, "train").items()} == {
        "young": 20,
        "middle": 20,
        "old": 20,
    }
    ages = [x[:, 0] for x, _ in loaded(data, "test").values()]
    assert ages[0].max() <= ages[1].min() <= ages[1].max() <= ages[2].min()
