"""The registry of recipes, and penalties by their names."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

import lit_share.conf
from lit_share.functional import CENTERS, GROUPS, NORMS, Penalty
from lit_share.penalties import RECIPES, as_penalty

FILES = {
    file.stem: file for file in Path(lit_share.conf.__file__).parent.glob("regularizer/*.yaml")
}


def settings(penalty: Penalty) -> tuple[object, ...]:
    """The pieces of a penalty, with its weights for some numbers of groups."""
    weights = (
        [penalty.weights(n).tolist() for n in (1, 4, 7)]
        if callable(penalty.weights)
        else penalty.weights
    )
    needs = penalty.needs_precision, penalty.needs_inside
    return penalty.norm, penalty.groups, penalty.center, penalty.edges, needs, weights


def test_every_recipe_has_a_config() -> None:
    assert RECIPES.keys() == FILES.keys()


@pytest.mark.parametrize("name", RECIPES)
def test_the_config_is_that_of_the_registry(name: str) -> None:
    config, penalty = OmegaConf.load(FILES[name]), RECIPES[name].penalty
    if penalty is None:
        assert "penalty" not in config.get(name, {})
        return
    assert list(config) == [name]
    assert config[name]["_target_"] == "lit_share.Regularize"
    assert settings(instantiate(config[name].penalty)) == settings(penalty)


@pytest.mark.parametrize("name", RECIPES)
def test_the_scale_is_a_key_where_groups_have_sizes(name: str) -> None:
    penalty, own = RECIPES[name].penalty, OmegaConf.load(FILES[name]).get(name, {})
    config = own.get("penalty")
    if penalty is None or penalty.is_smooth or penalty.groups in ("element", "spectrum"):
        return
    assert config.scaled is True
    config.scaled = False
    assert instantiate(config).scaled is False


@pytest.mark.parametrize("name", RECIPES)
def test_every_text_is_there(name: str) -> None:
    recipe = RECIPES[name]
    for text in (recipe.summary, recipe.use, recipe.avoid, recipe.source):
        assert text == text.strip()
        assert text.endswith((".", "?"))
    assert recipe.formula
    assert "|" not in recipe.formula  # which ends a cell of a table in Markdown
    assert recipe.formula.count("{") == recipe.formula.count("}")


def test_every_piece_of_the_algebra_has_a_recipe() -> None:
    penalties = [recipe.penalty for recipe in RECIPES.values() if recipe.penalty]
    for piece, table in (("norm", NORMS), ("groups", GROUPS), ("center", CENTERS)):
        assert {getattr(penalty, piece) for penalty in penalties} == set(table)


def test_a_penalty_is_itself() -> None:
    penalty = Penalty("l1", "tensor", "mean")
    assert as_penalty(penalty) is penalty
    assert as_penalty("layer_tie") is RECIPES["layer_tie"].penalty


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "soft-tie",
            (
                r"no recipe is named 'soft-tie': did you mean 'soft_tie'\? There are l2, .*, "
                r"trace_norm$"
            ),
        ),
        ("xyz", "no recipe is named 'xyz': There are l2, "),
        (
            "hard_tie",
            r"the recipe hard_tie has no penalty: for one copy write lit_share.Share\(ties\)",
        ),
        ("none", "the recipe none has no penalty: leave it out"),
    ],
)
def test_a_name_without_a_penalty_says_what_to_write(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_penalty(name)


def test_another_type_is_refused() -> None:
    with pytest.raises(
        TypeError,
        match=r"penalty must be a lit_share.Penalty\(...\) or the name of a recipe, got 3",
    ):
        as_penalty(3)  # type: ignore[arg-type]
