"""One training in three ways: transformers.Trainer, Lightning, and a plain loop."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer as HuggingFaceTrainer
from transformers import TrainingArguments

from lit_share import PenaltySteps

from .._modules import mlp

EPOCHS, BATCHES, SIZE = 3, 4, 5


class Pair(nn.Module):
    """Two models that a batch trains together."""

    def __init__(self):
        super().__init__()
        self.a, self.b = mlp(0), mlp(1)

    def forward(self, x, y):
        return {"loss": (self.a(x) - y).square().mean() + (self.b(-x) - y).square().mean()}


class Lit(LightningModule):
    """The same with names that Ties find, too."""

    def __init__(self, optimizer):
        super().__init__()
        pair = Pair()
        self.a, self.b, self.make_optimizer = pair.a, pair.b, optimizer

    def training_step(self, batch):
        return Pair.forward(self, **batch)["loss"]

    def configure_optimizers(self):
        return self.make_optimizer(self.parameters())


def data():
    rng = torch.Generator().manual_seed(3)
    x, y = (torch.randn(BATCHES * SIZE, n, generator=rng, dtype=torch.float64) for n in (4, 2))
    return [{"x": a, "y": b} for a, b in zip(x, y, strict=True)]


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.5)


def adamw(parameters):
    return torch.optim.AdamW(parameters, lr=0.05)


def weights(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def hugging_face(
    *callbacks, model=None, optimizer=sgd, accumulate=1, clip=0.0, resume=None, **arguments
):
    """Train, and return the Trainer."""
    arguments = {
        "output_dir": "trained",
        "num_train_epochs": EPOCHS,
        "per_device_train_batch_size": SIZE,
        "gradient_accumulation_steps": accumulate,
        "max_grad_norm": clip,
        "train_sampling_strategy": "sequential",
        "use_cpu": True,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "logging_strategy": "epoch",
        "remove_unused_columns": False,
    } | arguments
    model = model or Pair()
    optimizers = (None, None)
    if optimizer is not None:
        own = optimizer(model.parameters())
        optimizers = own, torch.optim.lr_scheduler.LambdaLR(own, lambda _: 1.0)
    trainer = HuggingFaceTrainer(
        model,
        TrainingArguments(**arguments),
        train_dataset=data(),
        callbacks=list(callbacks),
        optimizers=optimizers,
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def lightning(*callbacks, optimizer=sgd, accumulate=1, clip=None):
    """Train, and return the LightningModule and the Trainer."""
    module = Lit(optimizer)
    trainer = Trainer(
        max_epochs=EPOCHS,
        callbacks=list(callbacks),
        accumulate_grad_batches=accumulate,
        gradient_clip_val=clip,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(data(), SIZE))
    return module, trainer


def plain_loop(penalty, optimizer=sgd, accumulate=1, clip=None, **options):
    """Train with `PenaltySteps`, and return the model."""
    model = Pair()
    own = optimizer(model.parameters())
    steps = PenaltySteps(penalty, ["a.*", "b.*"], **options)
    steps.attach(model, own)
    for _ in range(EPOCHS):
        for i, batch in enumerate(DataLoader(data(), SIZE), start=1):
            (model(**batch)["loss"] / accumulate).backward()
            if i % accumulate == 0:
                steps.before_step()
                if clip:
                    nn.utils.clip_grad_norm_(model.parameters(), clip)
                own.step()
                steps.after_step()
                own.zero_grad()
        steps.end_epoch()
    return model
