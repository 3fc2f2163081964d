"""The recipes: the penalties of the field by their names, with what each does, and when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType

from lit_share.functional import OwlWeights, Penalty


@dataclass(frozen=True)
class Recipe:
    """One of `RECIPES`: a way to tie, or not to.

    Args:
        penalty: What is penalised; ``None`` where nothing is (``none``), or where there is one copy (``hard_tie``).
        summary: What it does.
        formula: The penalty of members W_1 … W_N, in LaTeX.
        use: When it is worth trying.
        avoid: When it is not.
        source: Where it is from.
        instead: What to do where a penalty is asked for and there is none.
    """

    penalty: Penalty | None
    summary: str
    formula: str
    use: str
    avoid: str
    source: str
    instead: str = ""


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "none": Recipe(
            penalty=None,
            instead="leave it out",
            summary="Nothing is shared: every model keeps weights of its own.",
            formula=r"0",
            use="As the control: what a strategy is worth is its difference to this.",
            avoid="Where a model has few samples and a related one has many: it gets no help.",
            source=(
                "Caruana: *Multitask Learning*, Machine Learning 1997, where it is called single-task learning."
            ),
        ),
        "l2": Recipe(
            penalty=Penalty(norm="squared", groups="element", center="zero"),
            summary="Weights are pulled towards zero, each in proportion to its size.",
            formula=r"\tfrac12 \lVert W \rVert_F^2",
            use="As the usual weight decay, and as the control of ties: is it zero or the other model that helps?",
            avoid="Where weights are to become exactly zero or equal: it makes all smaller, and none zero.",
            source=(
                "Hoerl, Kennard: *Ridge Regression: Biased Estimation for Nonorthogonal Problems*, Technometrics 1970; "
                "Krogh, Hertz: *A Simple Weight Decay Can Improve Generalization*, NIPS 1991."
            ),
        ),
        "lasso": Recipe(
            penalty=Penalty(norm="l1", groups="element", center="zero"),
            summary="Single weights become exactly zero.",
            formula=r"\sum_k \lvert w_k \rvert",
            use="For small files, and for models in which few weights are thought to matter.",
            avoid=(
                "For speed, as scattered zeros save a dense layer no multiplications. Where inputs are correlated, "
                "which of them it keeps is close to chance: see `oscar` and `growl`."
            ),
            source=(
                "Tibshirani: *Regression Shrinkage and Selection via the Lasso*, Journal of the Royal Statistical "
                "Society B 1996."
            ),
        ),
        "group_lasso": Recipe(
            penalty=Penalty(norm="l1", groups="input", center="zero"),
            summary="All weights of an input unit or channel become exactly zero together.",
            formula=r"\sum_j \lVert W[:, j] \rVert_2",
            use="To drop whole inputs, units and channels, which `compact` then removes: fewer numbers, less work.",
            avoid="Where inputs are correlated: it keeps some and drops others, which may be others in the next run.",
            source=(
                "Yuan, Lin: *Model Selection and Estimation in Regression with Grouped Variables*, Journal of the "
                "Royal Statistical Society B 2006; in networks Wen, Wu, Wang, Chen, Li: *Learning Structured Sparsity "
                "in Deep Neural Networks*, NIPS 2016."
            ),
        ),
        "oscar": Recipe(
            penalty=Penalty(
                "owl", "element", "zero", OwlWeights(lambda1=1.0, lambda2=0.001, fraction=1.0)
            ),
            summary="Single weights become zero, or equal in magnitude to others.",
            formula=(
                r"\sum_k \bigl(\Lambda_1 + (n - k + 1)\,\Lambda_2\bigr)\, r_{(k)}, \quad r_j = \lvert w_j \rvert"
            ),
            use="For linear models and small layers whose inputs are correlated: these get one weight, up to its sign.",
            avoid=(
                "In large layers: the greatest weight of the norm grows with their size, so `lambda2` fits one size "
                "only, and all elements are sorted in every step."
            ),
            source=(
                "Bondell, Reich: *Simultaneous Regression Shrinkage, Variable Selection, and Supervised Clustering of "
                "Predictors with OSCAR*, Biometrics 2008."
            ),
        ),
        "growl": Recipe(
            penalty=Penalty(
                "owl", "input", "zero", OwlWeights(lambda1=1.0, lambda2=0.02, fraction=0.5)
            ),
            summary="Input units or channels become zero, and those of related inputs equal in norm, to be clustered.",
            formula=(
                r"\sum_k \bigl(\Lambda_1 + (p - k + 1)_+\,\Lambda_2\bigr)\, r_{(k)}, "
                r"\quad r_j = \lVert W[:, j] \rVert_2, \quad p = \lceil n / 2 \rceil"
            ),
            use=(
                "To compress layers whose inputs are correlated: after training `tie_rows` makes one codebook row of "
                "each cluster, and a second training follows without the penalty."
            ),
            avoid=(
                "Where one training is all there is: equal norms are not equal rows yet. Where inputs are unrelated it "
                "is `group_lasso` with more to set."
            ),
            source=(
                "Zhang, Wang, Figueiredo, Balzano: *Learning to Share: Simultaneous Parameter Tying and Sparsification "
                "in Deep Learning*, ICLR 2018."
            ),
        ),
        "soft_tie": Recipe(
            penalty=Penalty(norm="squared", groups="element", center="mean"),
            summary="Members are pulled towards their mean, so towards each other, and stay different.",
            formula=r"\tfrac12 \sum_{i<j} \lVert W_i - W_j \rVert_F^2",
            use="As the first thing to try for related tasks or domains of which one has few samples.",
            avoid=(
                "Where the members began from different random weights: unit k of one is then not unit k of the other. "
                "Where one copy is to be stored: they come close, and never become equal."
            ),
            source=(
                "Evgeniou, Pontil: *Regularized Multi-Task Learning*, KDD 2004; in networks Duong, Cohn, Bird, Cook: "
                "*Low Resource Dependency Parsing: Cross-lingual Parameter Sharing in a Neural Network Parser*, ACL "
                "2015."
            ),
        ),
        "exact_tie": Recipe(
            penalty=Penalty(norm="l1", groups="element", center="mean"),
            summary="Members become exactly equal, number by number; the others stay apart.",
            formula=r"\sum_k \sqrt{\textstyle\sum_{i<j} (W_{i,k} - W_{j,k})^2}",
            use="Where models differ in few numbers: which ones, it finds out.",
            avoid=(
                "Where whole units or layers are to be stored once: see `unit_tie` and `layer_tie`. Of three or more "
                "members, a number becomes equal in all or in none."
            ),
            source=(
                "Tibshirani, Saunders, Rosset, Zhu, Knight: *Sparsity and Smoothness via the Fused Lasso*, Journal of "
                "the Royal Statistical Society B 2005: its term of differences, across models."
            ),
        ),
        "unit_tie": Recipe(
            penalty=Penalty(norm="l1", groups="output", center="mean"),
            summary="Members become exactly equal unit by unit: of a unit, or filter, all weights are tied or none.",
            formula=r"\sum_u \sqrt{\textstyle\sum_{i<j} \lVert W_i[u] - W_j[u] \rVert_2^2}",
            use="Where models need some units, or filters, of their own beside those in common.",
            avoid="Where it is whole layers that differ: `layer_tie` has one decision for each, which is more stable.",
            source=(
                "Bleakley, Vert: *The Group Fused Lasso for Multiple Change-Point Detection*, 2011, arXiv:1106.4199: "
                "its norms of differences, across models."
            ),
        ),
        "layer_tie": Recipe(
            penalty=Penalty(norm="l1", groups="tensor", center="mean"),
            summary="Members become exactly equal layer by layer: it learns which layers to share.",
            formula=r"\sqrt{\textstyle\sum_{i<j} \lVert W_i - W_j \rVert_F^2}",
            use='To find out which layers to share; then `Share(ties, where="equal")` stores these once.',
            avoid=(
                "Where it must find the layers that ought to be shared: it ties those that come close by themselves. "
                "Compare it with ties that were chosen on validation data."
            ),
            source=(
                "Hocking, Joulin, Bach, Vert: *Clusterpath: an Algorithm for Clustering using Convex Fusion "
                "Penalties*, ICML 2011: its norm of a difference, of layers."
            ),
        ),
        "follow": Recipe(
            penalty=Penalty(norm="squared", groups="element", center="first"),
            summary="The members after the first are pulled towards the first, which pays no heed.",
            formula=r"\tfrac12 \sum_{i>1} \lVert W_i - W_1 \rVert_F^2, \quad W_1 \text{ held constant}",
            use="For a model of few samples beside one of many, or beside one that is trained and frozen.",
            avoid="Where the members have as much to learn from each other: the first would gain nothing.",
            source=(
                "Chelba, Acero: *Adaptation of Maximum Entropy Capitalizer: Little Data Can Help a Lot*, EMNLP 2004, "
                "where the first member is a trained model."
            ),
        ),
        "l2_sp": Recipe(
            penalty=Penalty(norm="squared", groups="element", center="start"),
            summary="Members are pulled towards the values that they started from.",
            formula=r"\tfrac12 \sum_i \lVert W_i - W_i^0 \rVert_F^2",
            use="For fine-tuning that is not to forget what was learned before.",
            avoid="For training from random weights, which are nothing to stay close to.",
            source=(
                "Li, Grandvalet, Davoine: *Explicit Inductive Bias for Transfer Learning with Convolutional Networks*, "
                "ICML 2018."
            ),
        ),
        "joint_lasso": Recipe(
            penalty=Penalty(norm="l1", groups="input", center="zero"),
            summary="An input unit or channel becomes exactly zero in all members at once.",
            formula=r"\sum_j \sqrt{\textstyle\sum_i \lVert W_i[:, j] \rVert_2^2}",
            use="Where tasks read the same features, most of which matter to none of them.",
            avoid="Where tasks need different features: one that matters to a single task is kept for all.",
            source=(
                "Obozinski, Taskar, Jordan: *Joint Covariate Selection and Joint Subspace Selection for Multiple "
                "Classification Problems*, Statistics and Computing 2010."
            ),
        ),
        "trace_norm": Recipe(
            penalty=Penalty(norm="l1", groups="spectrum", center="zero"),
            summary="Members become combinations of few: of low rank across models.",
            formula=r"\bigl\lVert (\operatorname{vec} W_1, \dots, \operatorname{vec} W_N) \bigr\rVert_*",
            use="For many related models, of which it is not known which resembles which.",
            avoid="For a pair, where ranks of 1 and 2 are all there is; and for large layers in which time matters.",
            source="Yang, Hospedales: *Trace Norm Regularised Deep Multi-Task Learning*, ICLR 2017 workshop.",
        ),
        "hard_tie": Recipe(
            penalty=None,
            instead="for one copy write lit_share.Share(ties), or lit_share.share(...)",
            summary="Members are one parameter, stored once, from the first step on.",
            formula=r"0 \text{ if } W_1 = \dots = W_N, \quad \infty \text{ otherwise}",
            use="Where tasks are closely related or samples are very few, and for half the numbers of a pair.",
            avoid="Where tasks contradict each other: there is nothing to set. See `soft_tie` and `layer_tie`.",
            source="Caruana: *Multitask Learning*, Machine Learning 1997.",
        ),
    }
)
"""Every recipe of ``conf/regularizer`` by its name."""


def as_penalty(penalty: Penalty | str) -> Penalty:
    """The penalty; a name is one of `RECIPES`.

    Args:
        penalty: A penalty, or the name of a recipe.

    Returns:
        The penalty.

    Raises:
        TypeError: If it is of another type.
        ValueError: If there is no such recipe, or the recipe has no penalty.

    Example:
        >>> as_penalty("unit_tie")
        Penalty(norm='l1', groups='output', center='mean', weights=None)
        >>> as_penalty("softtie")
        Traceback (most recent call last):
            ...
        ValueError: no recipe is named 'softtie': did you mean 'soft_tie'? There are l2, lasso, ...
    """
    if isinstance(penalty, Penalty):
        return penalty
    if not isinstance(penalty, str):
        raise TypeError(
            f"penalty must be a lit_share.Penalty(...) or the name of a recipe, got {penalty!r}"
        )
    recipe = RECIPES.get(penalty)
    if recipe is None:
        nearest = get_close_matches(penalty, RECIPES, n=1)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        names = ", ".join(name for name, known in RECIPES.items() if known.penalty)
        raise ValueError(f"no recipe is named {penalty!r}: {hint}There are {names}")
    if recipe.penalty is None:
        raise ValueError(f"the recipe {penalty} has no penalty: {recipe.instead}")
    return recipe.penalty
