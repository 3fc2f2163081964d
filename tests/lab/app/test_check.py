import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
from omegaconf import OmegaConf

from lit_share.lab.app._check import ConfigError, check_config

if TYPE_CHECKING:
    from decimal import Decimal

HERE = "tests_app_check_targets"


class Color(Enum):
    red = 1


class Layer:
    def __init__(
        self,
        width: int,
        rate: float = 0.5,
        kind: Literal["relu", "tanh"] = "relu",
        sizes: Sequence[int] = (),
        pair: tuple[float, float] = (0.0, 1.0),
        path: str | Path = ".",
        function: Callable | None = None,
        child: "Layer | None" = None,
        name: str = None,  # type: ignore[assignment] # noqa: RUF013
        colour: Color = Color.red,
        untyped=None,
        unknown: "Decimal | None" = None,
        nested: Mapping[str, list[int]] | None = None,
        lowercase: any = 0,  # type: ignore[valid-type]
    ) -> None: ...

    @classmethod
    def make(cls, width: int) -> "Layer": ...


class Narrow(Layer):
    """Inherits its `__init__`."""


def anything(width: int, **more: float) -> None: ...


def wrapped_by(function: Callable) -> Callable:
    @wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any: ...

    return wrapper


@wrapped_by
def wrapped(width: int, depth: "int | None" = None) -> None: ...


def patterns(*words: str, exclude: Iterable[str] = ()) -> None: ...


def positional(a: int, b: float, /, c: str = "") -> None: ...


not_callable = 3


@pytest.fixture(autouse=True)
def _targets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, HERE, sys.modules[__name__])


def problems(
    config: dict, groups: Iterable[str] | None = None, values: Iterable[str] = ()
) -> list[str]:
    """The lines of the error, less its head; targets may be named without their module."""
    groups = [*config] if groups is None else [*groups]
    try:
        check_config(OmegaConf.create(config), groups, [*values])
    except ConfigError as error:
        head, *lines = str(error).split("\n  ")
        assert head == f"{len(lines)} problem{'s' * (len(lines) > 1)} in the config:"
        return [line.replace(f"{HERE}.", "") for line in lines]
    return []


def node(target: str, /, **keywords: Any) -> dict:
    return {"_target_": target if "." in target else f"{HERE}.{target}", **keywords}


def test_a_good_config_passes():
    assert (
        problems(
            {"seed": 1, "model": node("Layer", width=3), "logger": None},
            ["model", "logger"],
            ["seed"],
        )
        == []
    )


def test_unknown_top_level_key():
    assert problems({"regulariser": "x"}, ["regularizer", "model"]) == [
        "regulariser: unknown key: did you mean 'regularizer'?"
    ]
    assert problems({"qqq": 1}, ["model"], ["seed"]) == [
        "qqq: unknown key: choose from model, seed"
    ]


@pytest.mark.parametrize("value", ["soft_tie", ["soft_tie", "l2"], 3, True])
def test_a_group_is_a_mapping(value):
    (line,) = problems({"regularizer": value})
    assert line.startswith(
        f"regularizer: expected a mapping, got {value!r}: choose a config of this group with "
        f"regular"
    )


def test_a_group_may_point_to_another():
    assert problems({"a": {"x": 1}, "b": "${a}"}) == []


def test_unknown_keyword():
    assert problems({"model": node("Layer", width=3, widht=3)}) == [
        "model.widht: Layer has no such keyword: did you mean 'width'?"
    ]
    assert problems({"model": node("wrapped", width=3, zzz=3)}) == [
        "model.zzz: wrapped has no such keyword: choose from depth, width"
    ]


def test_keyword_arguments_accept_anything():
    assert problems({"model": node("anything", width=3, whatever="x")}) == []


def test_missing_keyword():
    assert problems({"model": node("Layer")}) == [
        "model.width: Layer requires it: add it to the config"
    ]
    assert problems({"model": node("Layer", _partial_=True)}) == []


def test_the_parent_of_unrecursive_nodes_may_add_keywords():
    assert (
        problems({"model": node("anything", width=1, _recursive_=False, child=[node("Layer")])})
        == []
    )
    assert problems(
        {"model": node("anything", width=1, _recursive_=False, child=[node("Layer", wdth=1)])}
    ) == ["model.child[0].wdth: Layer has no such keyword: did you mean 'width'?"]


@pytest.mark.parametrize("target", ["Layer", "Narrow", "Layer.make", "wrapped", "anything"])
def test_signatures_are_found(target):
    assert problems({"model": node(f"{HERE}.{target}", width="x")}) == [
        "model.width: expected int, got 'x'"
    ]


def test_a_string_annotation_of_a_wrapped_function():
    assert problems({"model": node("wrapped", width=1, depth="x")}) == [
        "model.depth: expected int | None, got 'x'"
    ]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rate", 1),
        ("rate", float("inf")),
        ("rate", "${number}"),
        ("kind", "tanh"),
        ("sizes", [1, 2]),
        ("sizes", "${numbers}"),
        ("pair", [1, 0.5]),
        ("path", "a/b"),
        ("function", None),
        ("name", None),  # the default is None, whatever the annotation says
        (
            "name",
            "${colour}",
        ),  # of a structured config: becomes a string when the config is made plain
        ("colour", "${colour}"),
        ("untyped", "x"),
        ("unknown", "x"),  # cannot be resolved at run time
        ("lowercase", "x"),
        ("nested", {"a": [1]}),
        ("child", {"_target_": f"{HERE}.Layer", "width": 1}),
        ("function", {"_target_": f"{HERE}.Layer", "_partial_": True}),
        ("sizes", [{"_target_": f"{HERE}.Layer", "width": 1}]),
    ],
)
def test_values_that_fit(key, value):
    config = {
        "model": node("Layer", width=1, **{key: value}),
        "number": 2,
        "numbers": [1],
        "colour": Color.red,
    }
    assert problems(config, ["model"], ["number", "numbers", "colour"]) == []


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("rate", "abc", "expected float, got 'abc'"),
        ("rate", "1", "expected float, got '1'"),
        ("rate", True, "expected float, got True"),
        ("rate", None, "expected float, got null"),
        ("rate", "${word}", "expected float, got 'word'"),
        ("width", 3.0, "expected int, got 3.0"),
        ("kind", "tahn", "expected Literal['relu', 'tanh'], got 'tahn': did you mean 'tanh'?"),
        ("kind", 3, "expected Literal['relu', 'tanh'], got 3"),
        ("sizes", [1, "x"], "expected collections.abc.Sequence[int], got [1, 'x']"),
        ("sizes", 3, "expected collections.abc.Sequence[int], got 3"),
        ("pair", [1], "expected tuple[float, float], got [1]"),
        ("path", 3, "expected str | pathlib.Path, got 3"),
        ("function", "relu", "expected collections.abc.Callable | None, got 'relu'"),
        ("name", 3, "expected str, got 3"),
        (
            "nested",
            {"a": 1},
            "expected collections.abc.Mapping[str, list[int]] | None, got {'a': 1}",
        ),
    ],
)
def test_values_that_do_not_fit(key, value, message):
    config = {"model": node("Layer", **{"width": 1, key: value}), "word": "word"}
    assert problems(config, ["model"], ["word"]) == [f"model.{key}: {message}"]


def test_a_class_is_named_when_a_plain_value_stands_for_it():
    (line,) = problems({"model": node("Layer", width=1, child="narrow")})
    assert "Layer" in line
    assert line.endswith("| None, got 'narrow'")


def test_positional_arguments():
    assert problems({"ties": node("patterns", _args_=["a", "b"])}) == []
    assert problems({"ties": node("patterns", _args_=["a", 3], exclude=["c"])}) == [
        "ties._args_[1]: expected str, got 3"
    ]
    assert problems({"f": node("positional", _args_=[1, "x"])}) == [
        "f._args_[1]: expected float, got 'x'"
    ]
    assert problems({"f": node("positional", _args_=[1])}) == [
        "f.b: positional requires it: add it to the config"
    ]
    assert problems({"f": node("positional", _args_=[1, 2, "c", 4])}) == [
        "f._args_: positional takes at most 3 positional arguments, got 4"
    ]
    assert (
        problems({"ties": node("patterns", _args_="${words}"), "words": ["a"]}, ["ties"], ["words"])
        == []
    )


def test_hydras_own_keys():
    assert problems({"f": node("Layer", width=1, _convert_="al", _partial_="yes")}) == [
        "f._partial_: expected bool, got 'yes'",
        (
            "f._convert_: expected Literal['none', 'partial', 'object', 'all'], got 'al': did you "
            "mean 'all'?"
        ),
    ]
    assert problems({"f": {"_traget_": "x", "target": "y"}}) == [
        "f._traget_: did you mean '_target_'?"
    ]
    assert problems({"f": node("Layer", _partail_=True, width=1)}) == [
        "f._partail_: Layer has no such keyword: did you mean '_partial_'?"
    ]
    assert problems({"f": {"_target_": 3}}) == ["f._target_: expected str, got 3"]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (f"{HERE}.Laier", f"{HERE} has no 'Laier': did you mean 'Layer'?"),
        ("omegaconf.errrors.ConfigKeyError", "omegaconf has no 'errrors': did you mean 'errors'?"),
        ("omegaconff.OmegaConf", "no module 'omegaconff': did you mean 'omegaconf'?"),
        (
            "qqzzqq.Layer",
            (
                f"no module 'qqzzqq', neither installed nor in {Path.cwd()}: run the command in "
                "the folder of qqzzqq.py, or with PYTHONPATH=FOLDER before it"
            ),
        ),
        ("importlib", "it is neither a class nor a function, but of type module"),
        (f"{HERE}.not_callable", "it is neither a class nor a function, but of type int"),
        ("", "Empty module name"),
    ],
)
def test_a_target_that_cannot_be_imported(target, message):
    config = OmegaConf.create({"model": {"deep": [{"_target_": target}]}})
    with pytest.raises(ConfigError) as error:
        check_config(config, ["model"])
    assert str(error.value).endswith(f"model.deep[0]._target_: cannot import {target!r}: {message}")


def test_a_target_whose_module_fails(tmp_path, monkeypatch):
    (tmp_path / "module_that_fails.py").write_text("import module_that_is_not_installed")
    monkeypatch.syspath_prepend(tmp_path)
    assert problems({"f": node("module_that_fails.f")}) == [
        (
            "f._target_: cannot import 'module_that_fails.f': No module named "
            "'module_that_is_not_installed'"
        )
    ]


def test_a_submodule_is_imported(tmp_path, monkeypatch):
    (tmp_path / "package_to_find").mkdir()
    (tmp_path / "package_to_find" / "inner.py").write_text("def f(x: int): ...")
    monkeypatch.syspath_prepend(tmp_path)
    assert problems({"f": node("package_to_find.inner.f", x="y")}) == ["f.x: expected int, got 'y'"]


def test_builtins_without_a_signature_are_left_alone():
    assert (
        problems(
            {
                "f": {"_target_": "builtins.dict", "a": 1},
                "g": {"_target_": "datetime.timedelta", "q": 1},
            }
        )
        == []
    )


def test_mandatory_values():
    assert problems(
        {"model": node("Layer", width="???"), "seed": "???", "data": "???"},
        ["model", "data"],
        ["seed"],
    ) == [
        "seed: mandatory, but still '???': write seed=<value>",
        "data: mandatory, but still '???': write data=<value>",
        "model.width: mandatory, but still '???': write model.width=<value>",
    ]
    assert problems({"a": {"b": [1, {"c": "???"}]}}) == [
        "a.b[1].c: mandatory, but still '???': write a.b[1].c=<value>"
    ]


def test_interpolations_that_fail():
    (line,) = problems({"model": node("Layer", width="${modle.rate}", rate=1.0)})
    assert line.startswith(
        "model.width: cannot resolve '${modle.rate}': Interpolation key 'modle.rate' not found"
    )
    assert line.endswith(": did you mean 'model.rate'?")
    assert problems({"a": {"b": "${nothing:3}"}}) == [
        "a.b: cannot resolve '${nothing:3}': Unsupported interpolation type nothing"
    ]
    assert problems({"model": "${nope.x}"})[0].startswith("model: cannot resolve '${nope.x}'")
    assert problems({"model": node("patterns", _args_=["${nope}"]), "x": {}})[0].startswith(
        "model._args_[0]: cannot"
    )


def test_a_node_that_is_pointed_to_is_reported_once():
    assert problems({"a": node("Layer", wdth=1, width=2), "b": {"c": "${a}"}}) == [
        "a.wdth: Layer has no such keyword: did you mean 'width'?"
    ]


def test_every_problem_is_reported():
    config = {
        "a": {"x": node("Layer", rate="x", child=node("Layer", width=1, kind="re"))},
        "b": [node("Layer", width="???"), {"c": "${d}"}],
        "e": 3,
    }
    keys = [line.split(":")[0] for line in problems(config, ["a"], ["b"])]
    assert sorted(keys) == ["a.x.child.kind", "a.x.rate", "a.x.width", "b[0].width", "b[1].c", "e"]


def test_the_config_is_left_as_it_was():
    config = OmegaConf.create({"model": node("Layer", width="${x}"), "x": 1})
    before = OmegaConf.to_yaml(config)
    check_config(config, ["model"], ["x"])
    assert OmegaConf.to_yaml(config) == before


def test_importing_it_imports_neither_torch_nor_lightning():
    code = (
        "import sys, lit_share.lab.app._check\n"
        "sys.exit(', '.join({'torch', 'lightning', 'wandb', 'scipy'} & {*sys.modules}) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


PL = "lightning.pytorch"


def real(**nodes: dict) -> list[str]:
    return problems(nodes)


def test_real_targets_that_are_right():
    assert not real(
        trainer=node(
            f"{PL}.Trainer",
            accelerator="cpu",
            devices=[0, 1],
            precision="16-mixed",
            max_epochs=3,
            max_time={"hours": 1},
            limit_train_batches=0.5,
            gradient_clip_val=1,
            deterministic="warn",
            logger=False,
            callbacks=[
                node(
                    f"{PL}.callbacks.ModelCheckpoint", monitor="a", save_last="link", save_top_k=2
                ),
                node(f"{PL}.callbacks.EarlyStopping", monitor="a", min_delta=0, mode="max"),
                node(
                    f"{PL}.callbacks.RichProgressBar", leave=True, console_kwargs={"stderr": True}
                ),
            ],
        ),
        wandb=node(
            f"{PL}.loggers.WandbLogger", offline=True, log_model="all", tags=["x"], experiment=None
        ),
        csv=node(f"{PL}.loggers.CSVLogger", save_dir=".", version=3),
        adam=node("torch.optim.Adam", _partial_=True, lr=1, betas=[0.9, 0.999]),
        sgd=node("torch.optim.SGD", _partial_=True, lr=1e-3, momentum=0.9, nesterov=True),
        schedule=node(
            "torch.optim.lr_scheduler.OneCycleLR", _partial_=True, max_lr=0.1, anneal_strategy="cos"
        ),
        net=node(
            "torch.nn.Sequential", _args_=[node("torch.nn.Linear", _args_=[1, 2], bias=False)]
        ),
        conv=node("torch.nn.Conv2d", _args_=[1, 2, 3], padding="same"),
    )


@pytest.mark.parametrize(
    ("target", "keywords", "message"),
    [
        (
            f"{PL}.Trainer",
            {"max_epoch": 3},
            "max_epoch: {} has no such keyword: did you mean 'max_epochs'?",
        ),
        (f"{PL}.Trainer", {"max_epochs": "3"}, "max_epochs: expected Optional[int], got '3'"),
        (f"{PL}.Trainer", {"precision": "16-mixd"}, "got '16-mixd': did you mean '16-mixed'?"),
        (f"{PL}.Trainer", {"limit_val_batches": "half"}, "NoneType], got 'half'"),
        (
            f"{PL}.Trainr",
            {},
            (
                "_target_: cannot import '{}': lightning.pytorch has no 'Trainr': did you mean "
                "'Trainer'?"
            ),
        ),
        (f"{PL}.loggers.WandbLogger", {"offline": "yes"}, "offline: expected bool, got 'yes'"),
        (f"{PL}.loggers.CSVLogger", {}, "save_dir: {} requires it: add it to the config"),
        (
            f"{PL}.callbacks.ModelCheckpoint",
            {"save_top_k": 1.5},
            "save_top_k: expected int, got 1.5",
        ),
        (
            f"{PL}.callbacks.EarlyStopping",
            {"patience": 3},
            "monitor: {} requires it: add it to the config",
        ),
        (f"{PL}.callbacks.RichProgressBar", {"theme": "red"}, "RichProgressBarTheme, got 'red'"),
        (
            "torch.optim.Adam",
            {"lr": "fast", "_partial_": True},
            "lr: expected float | torch.Tensor, got 'fast'",
        ),
        ("torch.optim.Adam", {"lr": 0.1}, "params: {} requires it: add it to the config"),
        ("torch.optim.SGD", {"betas": [1, 2], "_partial_": True}, "betas: {} has no such keyword"),
    ],
)
def test_real_targets_that_are_wrong(target, keywords, message):
    (line,) = real(it=node(target, **keywords))
    assert message.format(target) in line
    assert line.startswith("it.")
