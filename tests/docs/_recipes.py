"""The registry of recipes as a page."""

from __future__ import annotations

from importlib.resources import files

from omegaconf import OmegaConf

from lit_share.penalties import RECIPES, Recipe

HEAD = """\
# Recipes

Penalties with a name. In `train.py`, and in any other Hydra application, write `regularizer=NAME`,
or combine several: `regularizer=[growl,l2]`. In code write `ls.Regularize("NAME", ties, strength)`;
*none* is no callback, and *hard_tie* is `ls.Share(ties)`. Formulas are for members
$W_1, \\dots, W_N$, with the terms of [the algebra](algebra.md). *strength* is the default of
`train.py`, a first guess: see [choosing the strength](strength.md).

`pytest tests/docs -k recipes --write-docs` generates this page from `lit_share.RECIPES`.

"""

# Where a recipe is explained or measured.
MORE = {
    "cluster_tie": "[find the groups](howto/hard_sharing.md#find-the-groups-then-train-without-the-"
    "penalty); [who belongs together](experiments.md#who-belongs-together)",
    "depth_tie": "[how many layers](experiments.md#how-many-layers)",
    "robust_tie": "[one rotten site](experiments.md#one-rotten-site), and its program "
    "[one_rotten_site.py](../benchmarks/one_rotten_site.py)",
    "ewc": "[how to get a precision](algebra.md#precision-what-is-known-of-each-element); [one "
    "task after the other](experiments.md#one-task-after-the-other), and its program "
    "[sequential_tasks.py](../benchmarks/sequential_tasks.py)",
}


def page() -> str:
    lines = ["| recipe | norm, groups, center | penalty | strength |", "|---|---|---|---|"]
    lines += [
        f"| [{name}](#{name}) | {_pieces(r)} | ${r.formula}$ | {_strength(name)} |"
        for name, r in RECIPES.items()
    ]
    parts = [HEAD, "\n".join(lines), "\n"]
    for name, recipe in RECIPES.items():
        parts.append(
            f"\n## {name}\n\n{recipe.summary}\n\n$$\n{recipe.formula}\n$$\n\n"
            f"- **When**: {recipe.use}\n- **When not**: {recipe.avoid}\n"
            f"- **Source**: {recipe.source}\n"
        )
        if name in MORE:
            parts.append(f"- **More**: {MORE[name]}\n")
    return "".join(parts)


def _pieces(recipe: Recipe) -> str:
    penalty = recipe.penalty
    return "" if penalty is None else f"{penalty.norm}, {penalty.groups}, {penalty.center}"


def _strength(name: str) -> str:
    config = OmegaConf.load(str(files("lit_share.conf") / "regularizer" / f"{name}.yaml"))
    return f"{config[name].strength:g}" if "strength" in config.get(name, {}) else ""
