"""Recipes: named penalties from the literature, and when to use them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from types import MappingProxyType

from lit_share.functional import OwlWeights, Penalty
from lit_share.text import described


@dataclass(frozen=True)
class Recipe:
    """An entry of `RECIPES`.

    Args:
        penalty: The penalty; ``None`` for ``none``, and for recipes of other callbacks.
        summary: Its effect.
        formula: The penalty of members W_1 … W_N, in LaTeX.
        use: When to try it.
        avoid: When not to.
        source: The publication.
        instead: What to write instead, if there is no penalty.
    """

    penalty: Penalty | None
    summary: str
    formula: str
    use: str
    avoid: str
    source: str
    instead: str = ""


_RECIPES = {
    "none": Recipe(
        penalty=None,
        instead="leave it out",
        summary="Nothing is shared: every model keeps its own weights.",
        formula=r"0",
        use="As the control: the gain of a strategy is its difference to this.",
        avoid="Where a model has few samples and a related model has many: it gets no help.",
        source="Caruana: *Multitask Learning*, Machine Learning 1997 (single-task learning).",
    ),
    "l2": Recipe(
        penalty=Penalty(norm="squared", groups="element", center="zero"),
        summary="Weights are pulled towards zero, each in proportion to its size.",
        formula=r"\tfrac12 \lVert W \rVert_F^2",
        use="As weight decay, and as the control of ties: does zero help, or the other model?",
        avoid="Where weights should become exactly zero or equal: it only makes them smaller.",
        source=(
            "Hoerl, Kennard: *Ridge Regression: Biased Estimation for Nonorthogonal Problems*, "
            "Technometrics 1970; Krogh, Hertz: *A Simple Weight Decay Can Improve Generalization*, "
            "NIPS 1991."
        ),
    ),
    "lasso": Recipe(
        penalty=Penalty(norm="l1", groups="element", center="zero"),
        summary="Single weights become exactly zero.",
        formula=r"\sum_k \lvert w_k \rvert",
        use="For small files, and for models in which few weights matter.",
        avoid=(
            "For speed, as dense layers multiply scattered zeros, too. Where inputs are "
            "correlated, the choice among them is close to chance: see `oscar` and `growl`."
        ),
        source="Tibshirani: *Regression Shrinkage and Selection via the Lasso*, JRSS B 1996.",
    ),
    "group_lasso": Recipe(
        penalty=Penalty(norm="l1", groups="input", center="zero"),
        summary="All weights of an input unit or channel become exactly zero together.",
        formula=r"\sum_j \sqrt{p}\, \lVert W[:, j] \rVert_2",
        use="To drop inputs, units or channels, which `compact` removes: less memory and work.",
        avoid="Where inputs are correlated: which of them it keeps may change from run to run.",
        source=(
            "Yuan, Lin: *Model Selection and Estimation in Regression with Grouped Variables*, "
            "JRSS B 2006; for networks Wen, Wu, Wang, Chen, Li: *Learning Structured Sparsity in "
            "Deep Neural Networks*, NIPS 2016."
        ),
    ),
    "oscar": Recipe(
        penalty=Penalty(
            "owl", "element", "zero", OwlWeights(lambda1=1.0, lambda2=0.001, fraction=1.0)
        ),
        summary="Single weights become zero, or equal in magnitude.",
        formula=(
            r"\sum_k \bigl(\Lambda_1 + (n - k + 1)\,\Lambda_2\bigr)\, r_{(k)}, "
            r"\quad r_j = \lvert w_j \rvert"
        ),
        use="For linear models and small layers: correlated inputs get weights equal up to sign.",
        avoid=(
            "In large layers: the largest weight of the norm grows with their size, so `lambda2` "
            "fits one size only, and all elements are sorted in every step."
        ),
        source=(
            "Bondell, Reich: *Simultaneous Regression Shrinkage, Variable Selection, and "
            "Supervised Clustering of Predictors with OSCAR*, Biometrics 2008."
        ),
    ),
    "growl": Recipe(
        penalty=Penalty(
            "owl", "input", "zero", OwlWeights(lambda1=1.0, lambda2=0.02, fraction=0.5)
        ),
        summary=(
            "Input units or channels become zero; related ones get equal norms, to be clustered."
        ),
        formula=(
            r"\sum_k \bigl(\Lambda_1 + (m - k + 1)_+\,\Lambda_2\bigr)\, r_{(k)}, "
            r"\quad r_j = \sqrt{p}\, \lVert W[:, j] \rVert_2, \quad m = \lceil n / 2 \rceil"
        ),
        use=(
            "To compress layers with correlated inputs: after training, `tie_rows` turns each "
            "cluster into a codebook row, and a second training follows without the penalty."
        ),
        avoid=(
            "Where a second training is too expensive, as equal norms are not equal rows. For "
            "unrelated inputs it is `group_lasso` with more hyperparameters."
        ),
        source=(
            "Zhang, Wang, Figueiredo, Balzano: *Learning to Share: Simultaneous Parameter Tying "
            "and Sparsification in Deep Learning*, ICLR 2018."
        ),
    ),
    "soft_tie": Recipe(
        penalty=Penalty(norm="squared", groups="element", center="mean"),
        summary="Members are pulled towards their mean, so towards each other, but stay different.",
        formula=r"\tfrac12 \sum_{i<j} \lVert W_i - W_j \rVert_F^2",
        use="As a first attempt for related tasks or domains, some of which have few samples.",
        avoid=(
            "Where members started from different random weights: unit k of one does not "
            "correspond to unit k of another. Where a single copy is to be stored: members become "
            "close, but never equal."
        ),
        source=(
            "Evgeniou, Pontil: *Regularized Multi-Task Learning*, KDD 2004; for networks Duong, "
            "Cohn, Bird, Cook: *Low Resource Dependency Parsing: Cross-lingual Parameter Sharing "
            "in a Neural Network Parser*, ACL 2015."
        ),
    ),
    "exact_tie": Recipe(
        penalty=Penalty(norm="l1", groups="element", center="mean"),
        summary="Members become exactly equal in some elements, and differ in the others.",
        formula=r"\sum_k \sqrt{\textstyle\sum_{i<j} (W_{i,k} - W_{j,k})^2}",
        use="Where models differ in few elements: training finds these.",
        avoid=(
            "Where whole units or layers are to be stored once: see `unit_tie` and `layer_tie`. An "
            "element becomes equal in all members or in none."
        ),
        source=(
            "Tibshirani, Saunders, Rosset, Zhu, Knight: *Sparsity and Smoothness via the Fused "
            "Lasso*, JRSS B 2005; its differences, taken across models."
        ),
    ),
    "unit_tie": Recipe(
        penalty=Penalty(norm="l1", groups="output", center="mean"),
        summary="Members become exactly equal in some units or filters, and differ in the others.",
        formula=r"\sum_u \sqrt{\textstyle p\sum_{i<j} \lVert W_i[u] - W_j[u] \rVert_2^2}",
        use="Where models need some units or filters of their own, and may share the others.",
        avoid="Where whole layers differ: `layer_tie` decides per layer, which is more stable.",
        source=(
            "Bleakley, Vert: *The Group Fused Lasso for Multiple Change-Point Detection*, 2011, "
            "arXiv:1106.4199; its norms of differences, taken across models."
        ),
    ),
    "layer_tie": Recipe(
        penalty=Penalty(norm="l1", groups="tensor", center="mean"),
        summary="Members become exactly equal in some layers, and training finds which.",
        formula=r"\sqrt{\textstyle p\sum_{i<j} \lVert W_i - W_j \rVert_F^2}",
        use='To learn which layers to share; `Share(ties, where="equal")` then shares them.',
        avoid=(
            "To find the best layers to share: it ties those that come close by themselves. "
            "Compare it with ties that were chosen on validation data."
        ),
        source=(
            "Hocking, Joulin, Bach, Vert: *Clusterpath: an Algorithm for Clustering using Convex "
            "Fusion Penalties*, ICML 2011; its norm of a difference, for layers."
        ),
    ),
    "cluster_tie": Recipe(
        penalty=Penalty(norm="l1", groups="tensor", center="graph", edges="adaptive"),
        summary="Layers fall into clusters of equal members, and training finds who belongs where.",
        formula=(
            r"\sqrt{p} \sum_{i<j} a_{ij} \lVert W_i - W_j \rVert_F, "
            r"\quad a_{ij} = \bigl(d_{\min} / d_{ij}\bigr)^2"
        ),
        use=(
            "For three or more models of which some belong together. Begin without it (a `Ramp` "
            "with `begin`), as the weights are those of the distances d at its first step."
        ),
        avoid=(
            "For pairs, where it is `layer_tie`. Where all members belong together, as `layer_tie` "
            "and `soft_tie` are cheaper."
        ),
        source=(
            "Hocking, Joulin, Bach, Vert: *Clusterpath: an Algorithm for Clustering using Convex "
            "Fusion Penalties*, ICML 2011; for weights that fall with the distance Chi, Lange: "
            "*Splitting Methods for Convex Clustering*, JCGS 2015, and Tan, Witten: *Statistical "
            "Properties of Convex Clustering*, Electronic Journal of Statistics 2015."
        ),
    ),
    "depth_tie": Recipe(
        penalty=Penalty(norm="l1", groups="tensor", center="graph", edges="chain"),
        summary="Neighbouring layers become exactly equal, so that a network has fewer of them.",
        formula=r"\sqrt{p} \sum_{i<N} \lVert W_i - W_{i+1} \rVert_F",
        use="For deep stacks of layers of one shape: give their patterns in order of depth.",
        avoid="Where the order of the members means nothing: see `cluster_tie`.",
        source=(
            "Tibshirani, Saunders, Rosset, Zhu, Knight: *Sparsity and Smoothness via the Fused "
            "Lasso*, JRSS B 2005; Bleakley, Vert: *The Group Fused Lasso for Multiple Change-Point "
            "Detection*, 2011, arXiv:1106.4199; its chain, along depth."
        ),
    ),
    "robust_tie": Recipe(
        penalty=Penalty(norm="l1", groups="tensor", center="graph", edges="star"),
        summary="Layers become exactly equal, except in models that do not belong, which leave.",
        formula=r"\sqrt{p} \min_C \sum_i \lVert W_i - C \rVert_F",
        use=(
            "For three or more models of which few may be rotten: a model pulls the others with "
            "one force, however far away it is, and a layer leaves by itself."
        ),
        avoid=(
            "Where models fall into several groups: see `cluster_tie`. For pairs, where it is "
            "`layer_tie`."
        ),
        source=(
            "Duan, Wang: *Adaptive and Robust Multi-Task Learning*, Annals of Statistics 2023 "
            "(ARMUL, with one center)."
        ),
    ),
    "value_tie": Recipe(
        penalty=Penalty("l1", "element", "graph", edges="all", needs_inside=True),
        summary="Numbers of a tensor become exactly equal, and training finds which are one value.",
        formula=r"\frac{1}{n - 1} \sum_{k<l} \lvert w_k - w_l \rvert",
        use=(
            "For tensors that may use numbers again, as filters do: give a pattern that ends in "
            '`[...]`, as `"fc.weight[...]"`; on the command line of `train.py` in two kinds of '
            "quotes, "
            """`'ties.patterns=["a.net.*.weight[...]"]'`. Others pull a number with at most the """
            "strength, whatever the size n. `save_compact` stores a palette of the values."
        ),
        avoid=(
            "For speed, as dense layers multiply equal numbers, too. Where zeros would do: on "
            "digits `lasso` stored less at the same accuracy. Separate clusters are rare, as equal "
            "weights of all pairs first join the many numbers around the middle."
        ),
        source=(
            "Shakerinava, Sohrabi, Ravanbakhsh, Lacoste-Julien: *Weight-Sharing Regularization*, "
            "AISTATS 2024; in regression She: *Sparse Regression with Exact Clustering*, "
            "Electronic Journal of Statistics 2010, and Petry, Flexeder, Tutz: *Pairwise Fused "
            "Lasso*, LMU Munich 2011. Nowlan, Hinton: *Simplifying Neural Networks by Soft "
            "Weight-Sharing*, Neural Computation 1992, and Han, Mao, Dally: *Deep Compression*, "
            "ICLR 2016, cluster the numbers of networks in other ways."
        ),
    ),
    "follow": Recipe(
        penalty=Penalty(norm="squared", groups="element", center="first"),
        summary="The other members are pulled towards the first, which is held constant.",
        formula=r"\tfrac12 \sum_{i>1} \lVert W_i - W_1 \rVert_F^2, \quad W_1 \text{ constant}",
        use="For a model with few samples beside one with many, or beside a trained model.",
        avoid="Where members can learn from each other: the first gains nothing.",
        source=(
            "Chelba, Acero: *Adaptation of Maximum Entropy Capitalizer: Little Data Can Help a "
            "Lot*, EMNLP 2004, where the first member is a trained model."
        ),
    ),
    "l2_sp": Recipe(
        penalty=Penalty(norm="squared", groups="element", center="start"),
        summary="Members are pulled towards their starting values.",
        formula=r"\tfrac12 \sum_i \lVert W_i - W_i^0 \rVert_F^2",
        use="For fine-tuning that should not forget what was learned before.",
        avoid="For training from random weights, which are not worth staying close to.",
        source=(
            "Li, Grandvalet, Davoine: *Explicit Inductive Bias for Transfer Learning with "
            "Convolutional Networks*, ICML 2018."
        ),
    ),
    "ewc": Recipe(
        penalty=Penalty(norm="squared", groups="element", center="start", needs_precision=True),
        summary=(
            "Members are pulled towards their starting values, each element by how much the old "
            "task needs it."
        ),
        formula=(
            r"\tfrac12 \sum_i \sum_k F_{i,k} \, (W_{i,k} - W_{i,k}^0)^2, \quad "
            r"F \text{: Fisher information}"
        ),
        use=(
            "For tasks that come one after another, when data of the old one are gone: take "
            "`precision=lit_share.fisher(module, batches)` while they are there."
        ),
        avoid=(
            "Without `precision`, which it needs: see `l2_sp`. Where old data may be kept: "
            "training on both is better."
        ),
        source=(
            "Kirkpatrick et al.: *Overcoming Catastrophic Forgetting in Neural Networks*, PNAS "
            "2017; with the mean as center (`soft_tie` with `precision`) Matena, Raffel: *Merging "
            "Models with Fisher-Weighted Averaging*, NeurIPS 2022."
        ),
    ),
    "joint_lasso": Recipe(
        penalty=Penalty(norm="l1", groups="input", center="zero"),
        summary="An input unit or channel becomes exactly zero in all members at once.",
        formula=r"\sum_j \sqrt{\textstyle p\sum_i \lVert W_i[:, j] \rVert_2^2}",
        use="Where tasks depend on the same few features.",
        avoid="Where tasks need different features: each of these is kept for all tasks.",
        source=(
            "Obozinski, Taskar, Jordan: *Joint Covariate Selection and Joint Subspace Selection "
            "for Multiple Classification Problems*, Statistics and Computing 2010."
        ),
    ),
    "trace_norm": Recipe(
        penalty=Penalty(norm="l1", groups="spectrum", center="zero"),
        summary="Members become combinations of few matrices: low rank across models.",
        formula=r"\lVert (\operatorname{vec} W_1, \dots, \operatorname{vec} W_N) \rVert_*",
        use="For many related models, if it is unknown which resemble each other.",
        avoid="For pairs, whose rank is at most 2, and for large layers if time matters.",
        source=(
            "Yang, Hospedales: *Trace Norm Regularised Deep Multi-Task Learning*, ICLR workshop "
            "2017."
        ),
    ),
    "hard_tie": Recipe(
        penalty=None,
        instead="for one copy write lit_share.Share(ties), or lit_share.share(...)",
        summary="Members are one Parameter, stored once, from the first step on.",
        formula=r"0 \text{ if } W_1 = \dots = W_N, \quad \infty \text{ otherwise}",
        use="Where tasks are closely related or samples few, and to halve the size of a pair.",
        avoid="Where tasks contradict each other: see `soft_tie` and `layer_tie`.",
        source="Caruana: *Multitask Learning*, Machine Learning 1997.",
    ),
    "correlated_inputs": Recipe(
        penalty=None,
        instead='for codebooks write lit_share.TieRows(ties, by="data"), or lit_share.tie_rows',
        summary="Rows of inputs that vary together in the training data are one, from the start.",
        formula=(
            r"0 \text{ if } W[:, i] = W[:, j] \text{ for all } i, j \text{ of each cluster of "
            r"inputs}, \quad \infty \text{ otherwise}"
        ),
        use=(
            "To compress layers with correlated inputs, such as pixels and spectra, in one phase: "
            "try it before `growl`, which takes two."
        ),
        avoid=(
            "Where inputs are hardly correlated, or inputs that are have different meanings: "
            "clusters know nothing of the labels."
        ),
        source=(
            "Bühlmann, Rütimann, van de Geer, Zhang: *Correlated Variables in Regression: "
            "Clustering and Sparse Estimation*, JSPI 2013; the clusters are those of Ward: "
            "*Hierarchical Grouping to Optimize an Objective Function*, JASA 1963."
        ),
    ),
}

RECIPES: Mapping[str, Recipe] = MappingProxyType(_RECIPES)
"""The recipes by name; each has a config in ``conf/regularizer``."""


def as_penalty(penalty: Penalty | str) -> Penalty:
    """Return a penalty, given itself or its name in `RECIPES`.

    Raises:
        TypeError: If it is neither a `Penalty` nor a string.
        ValueError: If there is no such recipe, or the recipe has no penalty.

    Example:
        >>> as_penalty("unit_tie").groups
        'output'
        >>> as_penalty("softtie")
        Traceback (most recent call last):
            ...
        ValueError: no recipe is named 'softtie': did you mean 'soft_tie'? There are l2, lasso, ...
    """
    if isinstance(penalty, Penalty):
        return penalty
    if not isinstance(penalty, str):
        raise TypeError(
            "penalty must be a lit_share.Penalty(...) or the name of a recipe, got "
            f"{described(penalty)}"
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
