"""A Lightning application in the structure of the best-known template: groups and instantiators."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

FILES = {
    "configs/train.yaml": """
        defaults:
          - _self_
          - data: numbers
          - model: sites
          - callbacks: default
          - logger: null
          - trainer: default
          - paths: default
          - experiment: null
          - optional local: default
          - debug: null
        task_name: train
        tags: [dev]
        train: true
        ckpt_path: null
        seed: 1
    """,
    "configs/data/numbers.yaml": """
        _target_: src.data.Numbers
        batch_size: 8
    """,
    "configs/model/sites.yaml": """
        _target_: src.model.Sites
        lr: 0.1
    """,
    "configs/callbacks/default.yaml": """
        defaults: [model_checkpoint, early_stopping, _self_]
        model_checkpoint:
          dirpath: ${paths.output_dir}/checkpoints
        early_stopping:
          patience: 100
    """,
    "configs/callbacks/model_checkpoint.yaml": """
        model_checkpoint:
          _target_: PACKAGE.callbacks.ModelCheckpoint
          dirpath: null
    """,
    "configs/callbacks/early_stopping.yaml": """
        early_stopping:
          _target_: PACKAGE.callbacks.EarlyStopping
          monitor: loss
          patience: 3
    """,
    "configs/callbacks/none.yaml": "",
    "configs/trainer/default.yaml": """
        _target_: PACKAGE.Trainer
        default_root_dir: ${paths.output_dir}
        max_epochs: 2
        accelerator: cpu
        enable_progress_bar: false
        enable_model_summary: false
    """,
    "configs/paths/default.yaml": "output_dir: ${hydra:runtime.output_dir}",
    "configs/debug/default.yaml": """
        # @package _global_
        callbacks: null
        trainer:
          max_epochs: 1
    """,
    "src/__init__.py": "",
    "src/data.py": """
        import torch
        from PACKAGE import LightningDataModule
        from torch.utils.data import DataLoader, TensorDataset

        class Numbers(LightningDataModule):
            def __init__(self, batch_size):
                super().__init__()
                self.batch_size = batch_size

            def train_dataloader(self):
                rows = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))
                return DataLoader(TensorDataset(rows), self.batch_size)
    """,
    "src/model.py": """
        import torch
        from PACKAGE import LightningModule
        from torch import nn

        class Sites(LightningModule):
            def __init__(self, lr):
                super().__init__()
                self.save_hyperparameters(logger=False)
                self.north, self.south = nn.Linear(3, 1), nn.Linear(3, 1)

            def training_step(self, batch, batch_idx):
                (rows,) = batch
                loss = (self.north(rows) - 1).square().mean() + self.south(rows).square().mean()
                self.log("loss", loss)
                return loss

            def configure_optimizers(self):
                return torch.optim.SGD(self.trainer.model.parameters(), lr=self.hparams.lr)
    """,
    "src/instantiators.py": """
        import hydra
        from omegaconf import DictConfig

        def instantiate_callbacks(config):
            made = []
            if not config:
                return made
            for _, node in config.items():
                if isinstance(node, DictConfig) and "_target_" in node:
                    made.append(hydra.utils.instantiate(node))
            return made
    """,
    "app.py": """
        import json
        import warnings

        import hydra
        import PACKAGE as L

        from src.instantiators import instantiate_callbacks

        @hydra.main(version_base="1.3", config_path="configs", config_name="train.yaml")
        def main(config):
            warnings.simplefilter("ignore")
            L.seed_everything(config.seed, workers=True)
            data = hydra.utils.instantiate(config.data)
            model = hydra.utils.instantiate(config.model)
            callbacks = instantiate_callbacks(config.get("callbacks"))
            trainer = hydra.utils.instantiate(config.trainer, callbacks=callbacks, logger=False)
            if config.train:
                trainer.fit(model=model, datamodule=data, ckpt_path=config.ckpt_path)
            weights = [model.north.weight.tolist(), model.south.weight.tolist()]
            names = [type(callback).__name__ for callback in callbacks]
            print("RESULT", json.dumps({"callbacks": names, "weights": weights}))

        main()
    """,
}


def write(folder: Path, package: str) -> None:
    """Write the application, which imports Lightning by this name."""
    for name, content in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(content).replace("PACKAGE", package).lstrip("\n"))
