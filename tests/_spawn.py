"""Training in processes that a Trainer spawns."""

from __future__ import annotations

from lightning.pytorch.strategies import DDPStrategy
from torch import distributed


class Spawned(DDPStrategy):
    """``ddp_spawn`` that ends its process group before its processes: gloo's threads may abort one that does not."""

    def __init__(self):
        super().__init__(start_method="spawn")

    def teardown(self):
        super().teardown()
        if distributed.is_initialized():
            distributed.destroy_process_group()
