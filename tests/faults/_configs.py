"""What goes wrong on the command line of `train.py`."""

from __future__ import annotations

from ._files import files
from ._row import Row

SECTIONS: dict[str, list[Row]] = {
    "configs": [
        Row(
            "misspelt recipe",
            "python train.py regularizer=sof_tie",
            "at once",
            "MissingConfigException",
            "In 'train': Could not find 'regularizer/sof_tie'\n\nAvailable options in "
            "'regularizer':…",
        ),
        Row(
            "misspelt group",
            "python train.py modell=mlp",
            "at once",
            "ConfigCompositionException",
            "Could not override 'modell'.\nTo append to your config use +modell=mlp",
        ),
        Row(
            "misspelt group, added",
            "python train.py +regulariser=soft_tie",
            "before training",
            "ConfigError",
            "1 problem in the config:\n  regulariser: unknown key: did you mean 'regularizer'?",
        ),
        Row(
            "misspelt key",
            "python train.py data.n_aa=3",
            "at once",
            "ConfigCompositionException",
            "Could not override 'data.n_aa'.\nTo append to your config use +data.n_aa=3",
        ),
        Row(
            "misspelt keyword of a recipe",
            "python train.py +regularizer.soft_tie.strenght=1",
            "before training",
            "ConfigError",
            "1 problem in the config:\n  regularizer.soft_tie.strenght: lit_share.Regularize has "
            "no such keyword: did you mean 'strength'?",
        ),
        Row(
            "misspelt norm of a recipe",
            "python train.py regularizer.soft_tie.penalty.norm=l3",
            "before training",
            "ConfigError",
            "1 problem in the config:\n  regularizer.soft_tie.penalty.norm: expected "
            "Literal['squared', 'l1', 'owl'], got 'l3'",
        ),
        Row(
            "strength is not a number",
            "python train.py strength=much",
            "before training",
            "ConfigError",
            "strength=much: write a number, learned or path, or such a name with keywords, as "
            "strength={learned:{start:0.01}}: choose from learned, path",
        ),
        Row(
            "config strength is negative",
            "python train.py strength=-1",
            "before training",
            "InstantiationException",
            "Error in call to target 'lit_share.callbacks._regularize.Regularize':\n"
            "ValueError('strength must be a finite number >= 0, got -1.0')\n"
            "full_key: regularizer.soft_tie",
        ),
        Row(
            "config strength is nan",
            "python train.py strength=nan",
            "before training",
            "InstantiationException",
            "Error in call to target 'lit_share.callbacks._regularize.Regularize':\n"
            "ValueError('strength must be a finite number >= 0, got nan')\n"
            "full_key: regularizer.soft_tie",
        ),
        Row(
            "config strength is infinite",
            "python train.py strength=inf regularizer=unit_tie",
            "before training",
            "InstantiationException",
            "Error in call to target 'lit_share.callbacks._regularize.Regularize':\n"
            "ValueError('strength must be a finite number >= 0, got inf')\n"
            "full_key: regularizer.unit_tie",
        ),
        Row(
            "config lambda is negative",
            "python train.py regularizer=growl regularizer.growl.penalty.weights.lambda1=-1",
            "before training",
            "InstantiationException",
            "Error in call to target 'lit_share.functional._owl_weights.OwlWeights':\n"
            "ValueError('owl_weights needs a finite lambda1 >= 0, got lambda1=-1')\n"
            "full_key: regularizer.growl.penalty.weights",
        ),
        Row(
            "seed is negative",
            "python train.py seed=-1",
            "before training",
            "ConfigError",
            "seed=-1: write a whole number of at least 0",
        ),
        Row(
            "no threads",
            "python train.py threads=0",
            "before training",
            "ConfigError",
            "threads=0: write a whole number of at least 1",
        ),
        Row(
            "unknown mode",
            "python train.py mode=maximum",
            "at once",
            "ConfigCompositionException",
            "Error merging override mode=maximum",
        ),
        Row(
            "retraining backwards",
            "python train.py regularizer=lasso retrain.max_epochs=-5",
            "before training",
            "ConfigError",
            "retrain.max_epochs=-5: write a whole number of at least 0",
        ),
        Row(
            "retraining at no rate",
            "python train.py regularizer=lasso retrain.lr=0",
            "before training",
            "ConfigError",
            "retrain.lr=0.0: write a positive number",
        ),
        Row(
            "similarity above one",
            "python train.py retrain.similarity=2",
            "before training",
            "ConfigError",
            "retrain.similarity=2.0: write a number in (0, 1]",
        ),
        Row(
            "ties of no pattern",
            "python train.py ties.patterns=[]",
            "before training",
            "InstantiationException",
            "Error in call to target 'lit_share.ties._ties.Ties':\n"
            'TieError(\'Ties needs at least one pattern, for instance Ties("a.net.*", "b.net.*"), '
            "or in a config "
            "ties.patterns=[a.net.*,b.net.*]')\n"
            "full_key: regularizer.soft_tie.ties",
        ),
        Row(
            "patterns that are null",
            "python train.py ties.patterns=null",
            "before training",
            "ConfigError",
            "ties.patterns: name what is tied, whatever the strategy: "
            "ties.patterns=[a.net.*,b.net.*]",
        ),
        Row(
            "ties of a text",
            "python train.py ties.patterns=a.net.head.bias",
            "before training",
            "ValueError",
            "a.net.head.bias: center='mean' needs at least 2 members, got 1: give a pattern for "
            "each model, or write "
            'center="zero"',
        ),
        Row(
            "ties of nothing",
            "python train.py 'ties.patterns=[a.nett.*,b.net.*]'",
            "before training",
            "TieError",
            "pattern 'a.nett.*' matches no parameter: did you mean 'a.net.*' or 'b.net.*'?",
        ),
        Row(
            "patterns of another model",
            "python train.py model=local data=placed regularizer=none",
            "before training",
            "TieError",
            "pattern 'a.net.*' matches no parameter: did you mean 'net.*'?\nThese are the patterns "
            "of ties=all: write your own with ties.patterns=[...]",
        ),
        Row(
            "ties without any",
            "python train.py 'ties.exclude=[\"*\"]'",
            "before training",
            "TieError",
            "Ties('a.net.*', 'b.net.*', exclude=['*']) finds nothing: exclude=['*'] leaves no "
            "parameter",
        ),
        Row(
            "ties of heads of other shapes",
            "python train.py data=related ties=all",
            "before training",
            "TieError",
            "members of a tie must have one shape:\n  'a.net.head.weight' is (10, 64), "
            "'b.net.head.weight' is (2, 64)\n  'a.net.head.bias' is (10,), 'b.net.head.bias' is "
            "(2,)\nexclude them: exclude=['a.net.head.weight', 'a.net.head.bias'], in a config "
            "ties.exclude=[a.net.head.weight,a.net.head.bias]\nThese are the patterns of "
            "ties=all: write your own with ties.patterns=[...]",
        ),
        Row(
            "misspelt objective",
            "python train.py objective=b/val/accuracy",
            "before training",
            "ValueError",
            "objective=b/val/accuracy is not among the validation metrics: write one of "
            "a/val/loss, a/val/acc, b/val/loss, b/val/acc",
        ),
        Row(
            "misspelt key to tune",
            "python train.py tune=[model.classifer.lr]",
            "before training",
            "ConfigError",
            "tune: there is no key 'model.classifer.lr' in the config: did you mean "
            "'model.classifier.lr'?",
        ),
        Row(
            "checkpoint is not there",
            "python train.py ckpt_path=DIR/none.ckpt",
            "before training",
            "ConfigError",
            "ckpt_path=DIR/none.ckpt is not there",
            before=files,
        ),
        Row(
            "checkpoint is cut off",
            "python train.py ckpt_path=DIR/cut.ckpt",
            "before training",
            "ConfigError",
            "ckpt_path=DIR/cut.ckpt is not a checkpoint, or only a part of one",
            before=files,
        ),
        Row(
            "checkpoint is a state dict",
            "python train.py ckpt_path=DIR/weights.pt",
            "before training",
            "ConfigError",
            "ckpt_path=DIR/weights.pt holds no training that can be resumed, but other data, such "
            "as weights: take what ModelCheckpoint saved",
            before=files,
        ),
        Row(
            "checkpoint of another experiment",
            "python train.py regularizer=l2 ckpt_path=DIR/run/checkpoints/last.ckpt",
            "before training",
            "ConfigError",
            "ckpt_path resumes another experiment; repeat its overrides:\n  seed: 7 in "
            "DIR/run/config.yaml, but 0 now",
            before=files,
        ),
        Row(
            "no data",
            "python train.py data.n_a=0",
            "before training",
            "InstantiationException",
            "Error in call to target 'lit_share.lab.data._paired_domains.PairedDomains':\n"
            "ValueError('n_a=0 must be at least 1')\n"
            "full_key: data",
        ),
        Row(
            "more data than there is",
            "python train.py data.n_a=100000",
            "before training",
            "InstantiationException",
            "Error in call to target 'lit_share.lab.data._paired_domains.PairedDomains':\n"
            "ValueError('n_a + n_b + n_val + n_test = 100000 + 50 + 300 + 600 = 100950, but "
            '"digits" has '
            "1797 examples: make one of them smaller')\n"
            "full_key: data",
        ),
        Row(
            "unknown domain",
            "python train.py data.domain=upside_down",
            "before training",
            "InstantiationException",
            "Error in call to target 'lit_share.lab.data._paired_domains.PairedDomains':\n"
            'ValueError(\'domain="upside_down" is not known: write one of "same", "rotated", '
            '"noisy", "binarised", "inverted", "mirrored", "permuted"\')\n'
            "full_key: data",
        ),
        Row(
            "unknown data set",
            "python train.py data.dataset=imagenet",
            "before training",
            "InstantiationException",
            "Error in call to target 'lit_share.lab.data._paired_domains.PairedDomains':\n"
            'ValueError(\'dataset="imagenet" is not known: write one of "digits", "mnist", '
            '"fashion_mnist", "breast_cancer", "wine"\')\n'
            "full_key: data",
        ),
        Row(
            "epochs that are a text",
            "python train.py trainer.max_epochs=many",
            "before training",
            "ConfigError",
            "1 problem in the config:\n  trainer.max_epochs: expected Optional[int], got 'many'",
        ),
        Row(
            "no such device",
            "python train.py trainer.accelerator=abacus",
            "before training",
            "ValueError",
            "You selected an invalid accelerator name: `accelerator='abacus'`. Available names "
            "are: …",
        ),
        Row(
            "learning rate is negative",
            "python train.py model.classifier.lr=-1",
            "before training",
            "ValueError",
            "lr=-1 must be a finite number of at least 0",
        ),
        Row(
            "training diverges",
            "python train.py model.classifier.optimizer=sgd model.classifier.lr=1e30",
            "in training",
            "DivergedError",
            "'a.net.trunk.linear0.weight' has NaN or infinite numbers after 5 steps, so training "
            "has diverged: resume from an earlier checkpoint with a smaller learning rate or "
            "strength, or with gradient_clip_val",
            leaves=("out/checkpoints/*",),
        ),
        Row(
            "checkpoints into a file",
            "python train.py callbacks.checkpoint.dirpath=DIR/empty/x",
            "before training",
            "ConfigError",
            "callbacks.checkpoint.dirpath=DIR/empty/x: DIR/empty is not a folder that one can "
            "write to",
            before=files,
        ),
        Row(
            "curves into a file",
            "python train.py logger.csv.save_dir=DIR/empty/x",
            "before training",
            "NotADirectoryError",
            "[Errno 20] Not a directory: 'DIR/empty/x'",
            before=files,
        ),
    ],
}
