"""What goes wrong in Python."""

from __future__ import annotations

from ._files import files
from ._row import Row

UNTIED = (
    "'a.0.weight' and 'b.0.weight' are shared, but differ in the state dict: load it before "
    "they are shared (as with load_from_checkpoint before trainer.fit, and without ckpt_path), or "
    "make them equal in it"
)

SECTIONS: dict[str, list[Row]] = {
    "penalties": [
        Row(
            "misspelt norm",
            'ls.Penalty(norm="l2", groups="element", center="mean")',
            "at once",
            "ValueError",
            "unknown norm 'l2': write one of 'squared', 'l1', 'owl'",
        ),
        Row(
            "misspelt groups",
            'ls.Penalty(norm="l1", groups="row", center="mean")',
            "at once",
            "ValueError",
            "unknown groups 'row': write one of 'element', 'output', 'input', 'tensor', 'spectrum'",
        ),
        Row(
            "misspelt center",
            'ls.Penalty(norm="l1", groups="element", center="average")',
            "at once",
            "ValueError",
            "unknown center 'average': write one of 'zero', 'mean', 'first', 'start', 'graph'",
        ),
        Row(
            "owl without weights",
            'ls.Penalty(norm="owl", groups="input", center="zero")',
            "at once",
            "ValueError",
            "norm='owl' needs weights=: a tensor with one weight per group, or a function of the "
            "number of groups such as lit_share.OwlWeights(lambda1=1.0, lambda2=0.1)",
        ),
        Row(
            "weights without owl",
            'ls.Penalty(norm="l1", groups="input", center="zero", weights=torch.ones(4))',
            "at once",
            "ValueError",
            "weights= belong to norm=\"owl\"; norm='l1' has none",
        ),
        Row(
            "lambda is nan",
            "ls.owl_weights(4, lambda1=nan, lambda2=0.1)",
            "at once",
            "ValueError",
            "owl_weights needs a finite lambda1 >= 0, got lambda1=nan",
        ),
        Row(
            "fraction above one",
            "ls.owl_weights(4, lambda1=1.0, lambda2=0.1, fraction=2.0)",
            "at once",
            "ValueError",
            "owl_weights needs 0 <= fraction <= 1, got fraction=2.0",
        ),
        Row(
            "weights that rise",
            'fit(pair, ls.Regularize(ls.Penalty("owl", "input", "zero", torch.tensor([1.0, 2.0, '
            "3.0, 4.0])), "
            "one, strength=0.1))",
            "before training",
            "ValueError",
            "a.0.weight: OWL weights must be non-negative and non-increasing (the largest group "
            "has the largest weight)",
        ),
        Row(
            "weights of another length",
            'fit(pair, ls.Regularize(ls.Penalty("owl", "input", "zero", torch.ones(3)), one, '
            "strength=0.1))",
            "before training",
            "ValueError",
            "a.0.weight: OWL needs one weight per group: 4 groups, but weights of shape (3,)",
        ),
        Row(
            "weights that are nan",
            'fit(pair, ls.Regularize(ls.Penalty("owl", "input", "zero", torch.full((4,), nan)), '
            "one, strength=0.1))",
            "before training",
            "ValueError",
            "a.0.weight: OWL weights must be finite",
        ),
        Row(
            "weights that are text",
            'fit(pair, ls.Regularize(ls.Penalty("owl", "input", "zero", lambda n: "1, 2, 3, 4"), '
            "one, strength=0.1))",
            "before training",
            "ValueError",
            "a.0.weight: weights= must give a number for each group: …",
        ),
        Row(
            "one member for a mean",
            'fit(pair, ls.Regularize(soft, ls.Ties("a.*"), strength=0.1))',
            "before training",
            "ValueError",
            "a.0.weight: center='mean' needs at least 2 members, got 1: give a pattern for each "
            "model, or "
            'write center="zero"',
        ),
        Row(
            "zeros of numbers that are compared",
            'fit(pair, ls.Regularize("lasso", ls.Ties("a.0.weight[...]"), strength=0.1))',
            "before training",
            "ValueError",
            'a.0.weight[...]: center="zero" does not compare the numbers of a tensor with each '
            "other: leave out [...], or write the recipe value_tie",
        ),
        Row(
            "clusters of numbers",
            'fit(pair, ls.Regularize("cluster_tie", ls.Ties("a.0.weight[...]"), strength=0.1))',
            "before training",
            "ValueError",
            'a.0.weight[...]: groups="tensor" are not single numbers, which [...] compares: write '
            'groups="element", as the recipe value_tie does, or leave out [...]',
        ),
        Row(
            "inputs of a bias",
            'fit(pair, ls.Regularize(ls.Penalty("l1", "input", "zero"), ls.Ties("a.*"), '
            "strength=0.1))",
            "before training",
            "ValueError",
            'a.0.bias: groups="input" needs tensors of at least 2 dimensions, not of shape (3,): '
            "leave the others out, by Ties(..., min_ndim=2), or choose other groups",
        ),
        Row(
            "members of two shapes",
            "soft.prox([torch.ones(2), torch.ones(3)], step=0.1)",
            "at once",
            "ValueError",
            "members must have one shape, got (2,), (3,)",
        ),
        Row(
            "a step that is nan",
            "ls.apply_prox(pair, exact, ties, step=nan)",
            "at once",
            "ValueError",
            "a.0.weight, b.0.weight: a proximal step must be finite and at least 0, got "
            "step=[nan, nan]",
        ),
        Row(
            "a negative step",
            "ls.apply_prox(pair, exact, ties, step=-0.1)",
            "at once",
            "ValueError",
            "a.0.weight, b.0.weight: a proximal step must be finite and at least 0, got step=-0.1",
        ),
        Row(
            "start without values",
            'ls.apply_prox(pair, ls.Penalty("l1", "element", "start"), ties, step=0.1)',
            "at once",
            "ValueError",
            'center="start" pulls members towards their values before training: compute '
            "start = lit_share.starting_values(ties.find(module)), and pass start=start in every "
            "step",
        ),
        Row(
            "start of other ties",
            'ls.apply_prox(pair, ls.Penalty("l1", "element", "start"), ties, step=0.1, '
            "start=ls.starting_values(one.find(pair)))",
            "at once",
            "ValueError",
            "start has no value of 'b.0.weight': take lit_share.starting_values(ties) before "
            "training, with the same ties",
        ),
        Row(
            "a pattern for ties",
            'ls.apply_prox(pair, exact, "a.*", step=0.1)',
            "at once",
            "TypeError",
            "ties must be a lit_share.Ties(...), got 'a.*': write lit_share.Ties('a.*', 'b.*')",
        ),
    ],
    "ties": [
        Row(
            "no pattern",
            "ls.Ties()",
            "at once",
            "TieError",
            'Ties needs at least one pattern, for instance Ties("a.net.*", "b.net.*"), or in a '
            "config "
            "ties.patterns=[a.net.*,b.net.*]",
        ),
        Row(
            "a pattern that is a module",
            "ls.Ties(pair.a, pair.b)",
            "at once",
            "TieError",
            "a pattern must be a string, got Sequential(…): write Ties('a.*', 'b.*')",
        ),
        Row(
            "different numbers of stars",
            'ls.Ties("a.*", "b.*.*")',
            "at once",
            "TieError",
            "the patterns of one Ties must have the same number of stars: 'a.*' has 1, 'b.*.*' "
            "has 2",
        ),
        Row(
            "some slices",
            'ls.Ties("a.0.weight[0]")',
            "at once",
            "TieError",
            "'a.0.weight[0]': only [:] (all slices along dim 0) and [...] (all numbers) are known",
        ),
        Row(
            "numbers of several patterns",
            'ls.Ties("a.0.weight[...]", "b.0.weight[...]")',
            "at once",
            "TieError",
            "'a.0.weight[...]' compares the numbers of a parameter with each other, not with those "
            "of other patterns: write it alone, as Ties('a.0.weight[...]')",
        ),
        Row(
            "misspelt pattern",
            'ls.Ties("a.0.wieght", "b.0.weight").find(pair)',
            "at once",
            "TieError",
            "pattern 'a.0.wieght' matches no parameter: did you mean 'a.0.weight' or 'b.0.weight' "
            "or 'a.2.weight'?",
        ),
        Row(
            "pattern of nothing",
            'ls.Ties("encoder.*", "decoder.*").find(pair)',
            "at once",
            "TieError",
            "pattern 'encoder.*' matches no parameter: the module has 'a.0.weight', 'a.0.bias', "
            "'a.2.weight', 'a.2.bias', 'b.0.weight' and 3 more",
        ),
        Row(
            "empty selection",
            'ls.Ties("a.*", "b.*", exclude=["*"]).find(pair)',
            "at once",
            "TieError",
            "Ties('a.*', 'b.*', exclude=['*']) finds nothing: exclude=['*'] leaves no parameter",
        ),
        Row(
            "no counterpart",
            'ls.Ties("a.*", "b.0.*").find(pair)',
            "at once",
            "TieError",
            "Ties('a.*', 'b.0.*') leaves names without a counterpart:\n  'a.0.weight' has no "
            "counterpart 'b.0.0.weight' in 'b.0.*'\n  'a.0.bias' has no counterpart 'b.0.0.bias' "
            "in 'b.0.*'\n  'a.2.weight' has no counterpart 'b.0.2.weight' in 'b.0.*'\n  "
            "'a.2.bias' has no counterpart 'b.0.2.bias' in 'b.0.*'\n  'b.0.weight' has no "
            "counterpart 'a.weight' in 'a.*'\n  and 1 more\nadd them to exclude=[...], in a "
            "config ties.exclude=[...]",
        ),
        Row(
            "other shapes",
            'ls.Ties("a.0.*", "a.2.*").find(pair)',
            "at once",
            "TieError",
            "members of a tie must have one shape:\n  'a.0.weight' is (3, 4), 'a.2.weight' is (2, "
            "3)\n  'a.0.bias' is (3,), 'a.2.bias' is (2,)\nexclude them: exclude=['a.0.weight', "
            "'a.0.bias'], in a config ties.exclude=[a.0.weight,a.0.bias]",
        ),
        Row(
            "named twice",
            'ls.Ties("a.*", "a.*").find(pair)',
            "at once",
            "TieError",
            "Ties('a.*', 'a.*') names a member twice: 'a.0.weight'…; each pattern must match "
            "parameters of its own",
        ),
        Row(
            "ambiguous stars",
            'ls.Ties("a*.*", "b*.*").find(pair)',
            "at once",
            "TieError",
            "the stars of 'a*.*' are ambiguous in 'a.0.weight': write one star, or more of the "
            "name",
        ),
        Row(
            "a transposed vector",
            'ls.Ties("a.0.bias", "b.0.bias.T").find(pair)',
            "at once",
            "TieError",
            "'b.0.bias.T' transposes 'b.0.bias' of shape (3,): .T is for matrices, exclude others",
        ),
        Row(
            "no shape yet",
            'ls.Ties("weight").find(nn.LazyLinear(3))',
            "at once",
            "TieError",
            "'weight' has no shape yet: run the module once, so that its lazy layers are made",
        ),
        Row(
            "a list of models",
            "ties.find([mlp(), mlp()])",
            "at once",
            "TypeError",
            "module must be a torch.nn.Module, got a list: put several models into one, as in "
            "torch.nn.ModuleDict({'a': a, 'b': b})",
        ),
    ],
    "strengths and schedules": [
        Row(
            "strength is nan",
            "ls.Regularize(soft, ties, strength=nan)",
            "at once",
            "ValueError",
            "strength must be a finite number >= 0, got nan",
        ),
        Row(
            "strength is infinite",
            "ls.Regularize(soft, ties, strength=inf)",
            "at once",
            "ValueError",
            "strength must be a finite number >= 0, got inf",
        ),
        Row(
            "learned strength starts at zero",
            "ls.Learned(start=0.0)",
            "at once",
            "ValueError",
            "Learned(start=0.0): write a finite number > 0",
        ),
        Row(
            "learned strength without validation",
            'fit(pair, ls.Regularize("l2", one, strength=ls.Learned()))',
            "before training",
            "ValueError",
            "Pair has no validation_step, whose loss tells how strong a penalty should be: write "
            "one that returns its loss, or Learned(loss=function)",
        ),
        Row(
            "strength is negative",
            "ls.Regularize(soft, ties, strength=-0.1)",
            "at once",
            "ValueError",
            "strength must be a finite number >= 0, got -0.1",
        ),
        Row(
            "strength is a text",
            'ls.Regularize(soft, ties, strength="0.1")',
            "at once",
            "TypeError",
            "strength must be a number, a lit_share.Learned or a lit_share.Path, got '0.1'",
        ),
        Row(
            "strength of a plain loop is nan",
            "ls.add_penalty_gradient(pair, soft, ties, strength=nan)",
            "at once",
            "ValueError",
            "strength must be a finite number >= 0, got nan",
        ),
        Row(
            "ramp of no steps",
            "ls.Ramp(duration=0)",
            "at once",
            "ValueError",
            "a Ramp needs duration >= 1 and begin >= 0, got duration=0, begin=0",
        ),
        Row(
            "ramp of nan steps",
            "ls.Ramp(duration=nan)",
            "at once",
            "ValueError",
            "a Ramp needs duration >= 1 and begin >= 0, got duration=nan, begin=0",
        ),
        Row(
            "ramp that stops before it begins",
            "ls.Ramp(duration=10, begin=5, stop=5)",
            "at once",
            "ValueError",
            "a Ramp needs a stop after its begin=5, got stop=5: write a later time, or leave it "
            "out",
        ),
        Row(
            "ramp to infinity",
            "ls.Ramp(duration=10, end=inf)",
            "at once",
            "ValueError",
            "a Ramp needs finite factors >= 0, got start=0.0, end=inf",
        ),
        Row(
            "ramp of an unknown shape",
            'ls.Ramp(duration=10, shape="exponential")',
            "at once",
            "ValueError",
            "unknown shape 'exponential' of a Ramp: write one of 'linear', 'cosine'",
        ),
        Row(
            "schedule is a text",
            'ls.Regularize(soft, ties, strength=0.1, schedule="linear")',
            "at once",
            "TypeError",
            "schedule must be a function of (steps, epochs), got 'linear': write "
            "lit_share.Ramp(duration=1000)",
        ),
        Row(
            "schedule is nan from the start",
            "fit(pair, ls.Regularize(soft, ties, strength=0.1, schedule=lambda steps, epochs: "
            "nan))",
            "before training",
            "ValueError",
            "the schedule of Ties('a.*', 'b.*') must return finite factors >= 0, got nan after 0 "
            "steps and 0 epochs",
        ),
        Row(
            "schedule becomes negative",
            "fit(pair, ls.Regularize(exact, ties, strength=0.1, schedule=lambda steps, epochs: "
            "1.0 - steps))",
            "in training",
            "ValueError",
            "the schedule of Ties('a.*', 'b.*') must return finite factors >= 0, got -1.0 after 2 "
            "steps and 0 epochs",
            changes=True,
        ),
    ],
    "callbacks": [
        Row(
            "one callback in two Trainers",
            "both = ls.Regularize(soft, ties, strength=0.1)\n"
            "inner = LambdaCallback(on_train_batch_end=lambda *_: fit(Pair(), both))\n"
            "fit(pair, both, inner)",
            "in training",
            "ValueError",
            "another Trainer that is still running has this Regularize: give each Trainer "
            "callbacks of its own, such as copy.deepcopy(callback)",
            changes=True,
        ),
        Row(
            "no such recipe",
            'ls.Regularize("softtie", ties, strength=0.1)',
            "at once",
            "ValueError",
            "no recipe is named 'softtie': did you mean 'soft_tie'? There are l2, lasso, "
            "group_lasso, oscar, growl, soft_tie, exact_tie, unit_tie, layer_tie, cluster_tie, "
            "depth_tie, robust_tie, value_tie, follow, l2_sp, ewc, joint_lasso, trace_norm",
        ),
        Row(
            "value_tie of members",
            'ls.Regularize("value_tie", ["a.*", "b.*"], strength=0.1)',
            "at once",
            "ValueError",
            "'a.*' compares members, and this penalty the numbers of a tensor: write 'a.*[...]', "
            "or exact_tie, which makes members equal",
        ),
        Row(
            "ewc without a precision",
            'ls.Regularize("ewc", ["*"], strength=0.1)',
            "at once",
            "ValueError",
            "this penalty weights every element by its precision: pass precision=, such as what "
            "lit_share.fisher(module, batches) returns",
        ),
        Row(
            "recipe without a penalty",
            'ls.Regularize("hard_tie", ties, strength=0.1)',
            "at once",
            "ValueError",
            "the recipe hard_tie has no penalty: for one copy write lit_share.Share(ties), or "
            "lit_share.share(...)",
        ),
        Row(
            "penalty is a number",
            "ls.Regularize(0.1, ties, strength=0.1)",
            "at once",
            "TypeError",
            "penalty must be a lit_share.Penalty(...) or the name of a recipe, got 0.1",
        ),
        Row(
            "ties is a text",
            'ls.Regularize(soft, "a.*", strength=0.1)',
            "at once",
            "TypeError",
            "ties must be a lit_share.Ties(...), got 'a.*': write lit_share.Ties('a.*', 'b.*')",
        ),
        Row(
            "misspelt apply",
            'ls.Regularize(soft, ties, strength=0.1, apply="proximal")',
            "at once",
            "ValueError",
            "unknown apply 'proximal': write one of 'auto', 'gradient', 'prox'",
        ),
        Row(
            "gradient once per epoch",
            'ls.Regularize(soft, ties, strength=0.1, every="epoch")',
            "at once",
            "ValueError",
            'every="epoch" is for proximal steps, and this penalty is a gradient, which is part '
            'of every step: write apply="prox", or every="step"',
        ),
        Row(
            "zeros of a gradient",
            "ls.Regularize(soft, ties, strength=0.1, keep_zeros=True)",
            "at once",
            "ValueError",
            "keep_zeros=True is for proximal steps, as gradients make nothing exact: write "
            'apply="prox"',
        ),
        Row(
            "zeros of a mean",
            "ls.Regularize(exact, ties, strength=0.1, keep_zeros=True)",
            "at once",
            "ValueError",
            'keep_zeros=True is for norm="l1" or "owl", center="zero" and groups of elements, '
            'which the proximal step makes exactly zero: this is norm="l1", center="mean", '
            'groups="element"',
        ),
        Row(
            "regularize a pattern of nothing",
            'fit(pair, ls.Regularize(soft, ls.Ties("a.*", "c.*"), strength=0.1))',
            "before training",
            "TieError",
            "pattern 'c.*' matches no parameter: the module has 'a.0.weight', 'a.0.bias', "
            "'a.2.weight', 'a.2.bias', 'b.0.weight' and 3 more",
        ),
        Row(
            "monitor a pattern of nothing",
            'fit(pair, ls.SharingMonitor(ls.Ties("a.*", "c.*")))',
            "before training",
            "TieError",
            "pattern 'c.*' matches no parameter: the module has 'a.0.weight', 'a.0.bias', "
            "'a.2.weight', 'a.2.bias', 'b.0.weight' and 3 more",
        ),
        Row(
            "LBFGS",
            "fit(Pair(optimizer=LBFGS), ls.Regularize(soft, ties, strength=0.1))",
            "before training",
            "ValueError",
            "Regularize cannot serve LBFGS, whose line search needs the penalty in the loss: add "
            "strength * penalty.value([...]) to the loss in training_step instead",
        ),
        Row(
            "sparse gradients",
            "fit(Embedded(), ls.Regularize(soft, ties, strength=0.1))",
            "before training",
            "ValueError",
            "'a.weight' belongs to an embedding with sparse gradients: make it with sparse=False, "
            "or exclude it from the ties",
        ),
        Row(
            "frozen members",
            "pair.requires_grad_(False)\n"
            "pair.a[2].requires_grad_(True)\n"
            'fit(pair, ls.Regularize(soft, ls.Ties("a.0.*", "b.0.*"), strength=0.1))',
            "before training",
            "UserWarning",
            "no optimizer owns a parameter of Ties('a.0.*', 'b.0.*'): nothing is regularised for "
            "now",
            changes=True,
        ),
        Row(
            "optimizer of one side",
            "one_side = Pair(lambda parameters, lr: torch.optim.SGD(list(parameters)[:4], lr))\n"
            "fit(one_side, ls.Regularize(soft, ties, strength=0.1))",
            "before training",
            "UserWarning",
            "'b.0.weight' requires a gradient, but no optimizer owns it, so the penalty of "
            "Ties('a.*', 'b.*') leaves it as it is: give the optimizers self.parameters(), or "
            "freeze it",
        ),
        Row(
            "penalty under FSDP1",
            "with_strategy(ls.Regularize(soft, ties, strength=0.1), FSDPStrategy)",
            "before training",
            "ValueError",
            "Regularize cannot serve FSDPStrategy, which flattens parameters and cuts them into "
            "pieces that do not fit each other: use ModelParallelStrategy, with fully_shard in "
            "configure_model",
        ),
        Row(
            "penalty under DeepSpeed",
            "with_strategy(ls.Regularize(soft, ties, strength=0.1), DeepSpeedStrategy)",
            "before training",
            "ValueError",
            "Regularize cannot serve DeepSpeedStrategy, which flattens parameters and cuts them "
            "into pieces that do not fit each other: use ModelParallelStrategy, with fully_shard "
            "in configure_model",
        ),
        Row(
            "sharing under FSDP1",
            "with_strategy(ls.Share(ties), FSDPStrategy)",
            "before training",
            "ValueError",
            "Share cannot serve FSDPStrategy, which flattens parameters and cuts them into pieces "
            "that do not fit each other: use ModelParallelStrategy, with fully_shard in "
            "configure_model",
        ),
        Row(
            "sharing under DeepSpeed",
            "with_strategy(ls.Share(ties), DeepSpeedStrategy)",
            "before training",
            "ValueError",
            "Share cannot serve DeepSpeedStrategy, which flattens parameters and cuts them into "
            "pieces that do not fit each other: use ModelParallelStrategy, with fully_shard in "
            "configure_model",
        ),
        Row(
            "nan in a gradient",
            "fit(Pair(poison=nan), ls.Regularize(soft, ties, strength=0.1))",
            "in training",
            "DivergedError",
            "'a.0.weight' has NaN or infinite numbers after 10 steps, so training has diverged: "
            "resume from an earlier checkpoint with a smaller learning rate or strength, or with "
            "gradient_clip_val",
        ),
        Row(
            "infinity in a gradient, with a prox",
            "fit(Pair(poison=inf), ls.Regularize(exact, ties, strength=0.1))",
            "in training",
            "DivergedError",
            "'a.0.weight' has NaN or infinite numbers after 10 steps, so training has diverged: "
            "resume from an earlier checkpoint with a smaller learning rate or strength, or with "
            "gradient_clip_val",
        ),
        Row(
            "misspelt init",
            'ls.Share(ties, init="median")',
            "at once",
            "ValueError",
            "unknown init 'median': write one of 'mean', 'first'",
        ),
        Row(
            "epoch is negative",
            "ls.Share(ties, epoch=-1)",
            "at once",
            "ValueError",
            "epoch must be a whole number >= 0, got -1",
        ),
        Row(
            "share a pattern of nothing",
            'fit(pair, ls.Share(ls.Ties("a.*", "c.*")))',
            "before training",
            "TieError",
            "pattern 'c.*' matches no parameter: the module has 'a.0.weight', 'a.0.bias', "
            "'a.2.weight', 'a.2.bias', 'b.0.weight' and 3 more",
        ),
        Row(
            "share while weights are averaged",
            'fit(pair, ls.Share(ties, where="equal", epoch=1), StochasticWeightAveraging(0.01))',
            "before training",
            "TieError",
            "StochasticWeightAveraging cannot follow Share(epoch=1), as it goes through the "
            "parameters in their order: share before training, or after it",
        ),
    ],
    "sharing": [
        Row(
            "share with itself",
            'ls.share(pair, ls.Ties("a.*"))',
            "at once",
            "TieError",
            "hard sharing of 'a.0.weight' needs at least two members: give a pattern for each "
            "place",
        ),
        Row(
            "share numbers of a tensor",
            'ls.share(pair, ls.Ties("a.0.weight[...]"))',
            "at once",
            "TieError",
            "'a.0.weight[...]' cannot be shared, as the numbers of a parameter cannot be one "
            "Parameter: make them equal with the recipe value_tie, and lit_share.save_compact "
            "stores each value once",
        ),
        Row(
            "share a list of models",
            "ls.share([mlp(), mlp()], ties)",
            "at once",
            "TypeError",
            "module must be a torch.nn.Module, got a list: put several models into one, as in "
            "torch.nn.ModuleDict({'a': a, 'b': b})",
        ),
        Row(
            "share in two dtypes",
            "pair.b.double()\nls.share(pair, ties)",
            "at once",
            "TieError",
            "shared parameters must agree in dtype: 'a.0.weight' has torch.float32, 'b.0.weight' "
            "has torch.float64; make them so with module.to(dtype)",
            changes=True,
        ),
        Row(
            "share what is frozen in part",
            "pair.b.requires_grad_(False)\nls.share(pair, ties)",
            "at once",
            "TieError",
            "shared parameters must agree in requires_grad: 'a.0.weight' has True, 'b.0.weight' "
            "has False; make them so with requires_grad_",
            changes=True,
        ),
        Row(
            "share buffers that are not there",
            "ls.share(pair, ties, buffers=True)",
            "at once",
            "TieError",
            "buffers=True, but no buffer fits all patterns of Ties('a.*', 'b.*'): leave it out",
        ),
        Row(
            "share slices",
            'ls.share(pair, ls.Ties("a.0.weight[:]"))',
            "at once",
            "TieError",
            "'a.0.weight' belongs to a Linear, not to a LocallyConnected layer, so its slices "
            "cannot be shared: split it into several parameters, or tie the slices with a penalty",
        ),
        Row(
            "share what has no values",
            'ls.share(pair.to("meta"), ties, where="equal")',
            "at once",
            "TieError",
            "'a.0.weight' is on the meta device, where no values are equal: load it first",
            changes=True,
        ),
        Row(
            "compare a single member",
            'ls.clusters(pair, ls.Ties("a.*"))',
            "at once",
            "TieError",
            "Ties('a.*') compares nothing, as each tie has a single member: give a pattern for "
            "each model",
        ),
        Row(
            "unshare a pattern of nothing",
            'ls.unshare(pair, ls.Ties("a.*", "c.*"))',
            "at once",
            "TieError",
            "pattern 'c.*' matches no parameter: the module has 'a.0.weight', 'a.0.bias', "
            "'a.2.weight', 'a.2.bias', 'b.0.weight' and 3 more",
        ),
        Row(
            "tie rows of two patterns",
            "ls.tie_rows(pair, ties)",
            "at once",
            "TieError",
            "rows are tied within each weight: write one pattern, not one for each of "
            "'a.0.weight', 'b.0.weight'",
        ),
        Row(
            "tie rows of a bias",
            'ls.tie_rows(pair, ls.Ties("a.0.bias"))',
            "at once",
            "TieError",
            "'a.0.bias' is not the weight of a Linear or Conv2d but the bias of a Linear: exclude "
            "it",
        ),
        Row(
            "similarity of nothing",
            "ls.tie_rows(pair, one, similarity=0.0)",
            "at once",
            "ValueError",
            "a.0.weight: cluster_rows needs 0 < similarity <= 1, got similarity=0.0",
        ),
        Row(
            "misspelt method",
            'ls.tie_rows(pair, one, method="kmeans")',
            "at once",
            "ValueError",
            "a.0.weight: unknown method 'kmeans': choose from 'auto', 'affinity_propagation', "
            "'linkage'",
        ),
        Row(
            "tie rows that are nan",
            "nn.init.constant_(pair.a[0].weight, nan)\nls.tie_rows(pair, one)",
            "at once",
            "ValueError",
            "a.0.weight: cluster_rows needs finite rows, but some are NaN or infinite: training "
            "has diverged",
            changes=True,
        ),
        Row(
            "pair of nothing",
            "ls.Paired()",
            "at once",
            "TypeError",
            "Paired needs at least one LightningModule: write Paired(a=LitA(), b=LitB())",
        ),
        Row(
            "pair of a plain module",
            "ls.Paired(a=mlp(), b=mlp())",
            "at once",
            "TypeError",
            "child 'a' must be a LightningModule, got a Sequential: write Paired(a=LitA(), "
            "b=LitB()), or Paired.load_from_checkpoint(path, a=LitA(), b=LitB())",
        ),
        Row(
            "pair of one module",
            "ls.Paired(a=pair, b=pair)",
            "at once",
            "ValueError",
            "'a' and 'b' are one module: write copy.deepcopy for a second one",
        ),
        Row(
            "pair with a name that is taken",
            "ls.Paired(a=Pair(), trainer=Pair())",
            "at once",
            "ValueError",
            "'trainer' cannot name a child, because it is taken or no Python name: rename it",
        ),
        Row(
            "pair of LBFGS",
            "fit(ls.Paired(a=Pair(optimizer=LBFGS), b=Pair()))",
            "before training",
            "ValueError",
            "child 'a' uses LBFGS, which evaluates the loss several times in a step: use an "
            "optimizer that evaluates it once",
        ),
    ],
    "files": [
        Row(
            "compact file is not there",
            'ls.load_compact("DIR/none.safetensors", pair)',
            "on load",
            "FileNotFoundError",
            "[Errno 2] No such file or directory: 'DIR/none.safetensors'",
            before=files,
        ),
        Row(
            "compact file is a device",
            'ls.load_compact("/dev/zero", pair)',
            "on load",
            "CompactFileError",
            "'/dev/zero' is not a file but a device or a pipe, which may have no end",
        ),
        Row(
            "compact file is empty",
            'ls.load_compact("DIR/empty", pair)',
            "on load",
            "CompactFileError",
            "'DIR/empty' is not a safetensors file, or is damaged or cut off: …",
            before=files,
        ),
        Row(
            "compact file is cut off",
            'ls.load_compact("DIR/cut.safetensors", pair)',
            "on load",
            "CompactFileError",
            "'DIR/cut.safetensors' is not a safetensors file, or is damaged or cut off: …",
            before=files,
        ),
        Row(
            "compact file has another bit",
            'ls.load_compact("DIR/flipped.safetensors", pair)',
            "on load",
            "CompactFileError",
            "'DIR/flipped.safetensors' is damaged: its entry 'b.2.weight' has another checksum "
            "than when it was written",
            before=files,
        ),
        Row(
            "compact file is a checkpoint",
            'ls.load_compact("DIR/last.ckpt", pair)',
            "on load",
            "CompactFileError",
            "'DIR/last.ckpt' is not a compact file but a checkpoint: write lit-share compact",
            before=files,
        ),
        Row(
            "compact file of another program",
            'ls.load_compact("DIR/plain.safetensors", pair)',
            "on load",
            "CompactFileError",
            "'DIR/plain.safetensors' has no manifest, so it was not written by save_compact: read "
            "it with safetensors.torch.load_file",
            before=files,
        ),
        Row(
            "compact file of another model",
            'ls.load_compact("DIR/good.safetensors", nn.Linear(4, 3))',
            "on load",
            "CompactFileError",
            "'DIR/good.safetensors' has no 'weight' (but 'b.2.weight'), 'bias' (but 'b.2.bias'), "
            "which the module has",
            before=files,
        ),
        Row(
            "compact file of other shapes",
            'pair.a[0] = nn.Linear(5, 3)\nls.load_compact("DIR/good.safetensors", pair)',
            "on load",
            "CompactFileError",
            "'DIR/good.safetensors' has 'a.0.weight' of shape (3, 4), but in the module it is (3, "
            "5)",
            before=files,
            changes=True,
        ),
        Row(
            "compact file of another dtype",
            'ls.load_compact("DIR/good.safetensors", pair.double())',
            "on load",
            "CompactFileError",
            "'DIR/good.safetensors' has 'a.0.weight' in torch.float32, but in the module it is in "
            "torch.float64, and values are not converted: write module.to(torch.float32) first",
            before=files,
            changes=True,
        ),
        Row(
            "untied file into a tied model",
            'ls.share(pair, ties)\nls.load_compact("DIR/good.safetensors", pair)',
            "on load",
            "TieError",
            UNTIED,
            before=files,
            changes=True,
        ),
        Row(
            "save names that are equal without wrappers",
            "pair.a._orig_mod = nn.Sequential(nn.Linear(4, 3))\n"
            'ls.save_compact(pair, "DIR/new.safetensors")',
            "at once",
            "CompactFileError",
            "'a.0.weight' and 'a._orig_mod.0.weight' have one name, 'a.0.weight', without "
            "'_orig_mod', which wrappers such as torch.compile insert: rename one of the modules",
            before=files,
            changes=True,
        ),
        Row(
            "save what has no values",
            'ls.save_compact(pair.to("meta"), "DIR/new.safetensors")',
            "at once",
            "CompactFileError",
            "'a.0.weight' has no values (it is on the meta device): make them first, with "
            'module.to_empty(device="cpu")',
            before=files,
            changes=True,
        ),
        Row(
            "save into a folder that is not there",
            'ls.save_compact(pair, "DIR/none/new.safetensors")',
            "at once",
            "OSError",
            "cannot write 'DIR/none/new.safetensors': No such file or directory",
            before=files,
        ),
        Row(
            "untied state dict into a tied model",
            "ls.share(pair, ties)\npair.load_state_dict(Pair().state_dict())",
            "on load",
            "TieError",
            UNTIED,
            changes=True,
        ),
        Row(
            "untied checkpoint into a tied training",
            'fit(pair, ls.Share(ties), ckpt_path="DIR/last.ckpt")',
            "on load",
            "TieError",
            UNTIED,
            before=files,
            changes=True,
        ),
        Row(
            "checkpoint of another model",
            "pair.a[0] = nn.Linear(4, 3, bias=False)\n"
            'fit(pair, ls.Regularize(soft, ls.Ties("a.2.*", "b.2.*"), strength=0.1), '
            'ckpt_path="DIR/last.ckpt")',
            "on load",
            "RuntimeError",
            "Error(s) in loading state_dict for Pair:\n\tUnexpected key(s) in state_dict: "
            '"a.0.bias". ',
            before=files,
            changes=True,
        ),
        Row(
            "compact a cut-off checkpoint",
            "lit-share compact DIR/cut.ckpt DIR/new.safetensors",
            "at once",
            "exit code 2",
            "lit-share: 'DIR/cut.ckpt' is not a file that torch.load can read: …",
            before=files,
        ),
        Row(
            "compact onto a file that is there",
            "lit-share compact DIR/last.ckpt DIR/good.safetensors",
            "at once",
            "exit code 2",
            "lit-share: 'DIR/good.safetensors' exists: write --force to replace it",
            before=files,
        ),
        Row(
            "inspect a checkpoint",
            "lit-share inspect DIR/last.ckpt",
            "at once",
            "exit code 2",
            "lit-share: 'DIR/last.ckpt' is not a compact file but a checkpoint: write lit-share "
            "compact",
            before=files,
        ),
        Row(
            "compare what is not there",
            "lit-share compare DIR/runs",
            "at once",
            "exit code 2",
            "lit-share: no directory DIR/runs",
            before=files,
        ),
        Row(
            "misspelt key to choose",
            "lit-share compare DIR/done --tune model.classifier.lr,model.clasifier.lr",
            "at once",
            "exit code 2",
            "lit-share: tune=model.clasifier.lr: no run was started with model.clasifier.lr=...: "
            "did you mean 'model.classifier.lr'?",
            before=files,
        ),
        Row(
            "last part of a key to choose",
            "lit-share compare DIR/done --tune lr",
            "at once",
            "exit code 2",
            "lit-share: tune=lr: no run was started with lr=...: did you mean "
            "'model.classifier.lr'?",
            before=files,
        ),
        Row(
            "compare a broken result",
            "lit-share compare DIR/broken",
            "at once",
            "exit code 2",
            "lit-share: DIR/broken/result.json is not the result of a run (…): remove it, or name "
            "directories without it",
            before=files,
        ),
    ],
}
