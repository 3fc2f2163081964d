"""Two agents, whose data come from what they do."""

from __future__ import annotations

import copy
import random
from collections import deque
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from ._foreign import Foreign, mlp, seeded


class Walk:
    """A game: go left or right towards the origin."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def reset(self) -> torch.Tensor:
        self.state = torch.tensor([self.random.uniform(-1.0, 1.0) for _ in range(4)])
        return self.state

    def step(self, action: int) -> tuple[torch.Tensor, float]:
        self.state = self.state + 0.1 * (2 * action - 1)
        return self.state, -float(self.state.abs().sum())


class Generated(IterableDataset):
    """Samples of a function that returns an iterator."""

    def __init__(self, generate: Any) -> None:
        self.generate = generate

    def __iter__(self) -> Any:
        return self.generate()


def define(L: Any) -> dict[str, Foreign]:
    """Return the modules, of the LightningModule of a package."""

    class OnPolicyRollouts(L.LightningModule):
        """Plays with its own actor whenever its loader is read."""

        def __init__(self, seed: int = 0, clip: float = 0.2) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.encoder, self.critic = mlp(n_out=2), mlp(n_out=1)
            self.game, self.random = Walk(seed), random.Random(seed)

        def play(self):
            for _ in range(8):
                state = self.game.reset()
                for _ in range(8):
                    with torch.no_grad():
                        logits, value = self.encoder(state), self.critic(state)
                    probabilities = logits.softmax(-1)
                    action = int(self.random.random() > probabilities[0])
                    after, reward = self.game.step(action)
                    yield state, action, probabilities[action].log(), reward - value[0]
                    state = after

        def training_step(self, batch, batch_idx):
            state, action, old_log_p, advantage = batch
            log_p = self.encoder(state).log_softmax(-1).gather(1, action[:, None])[:, 0]
            ratio = (log_p - old_log_p).exp()
            clipped = ratio.clamp(1 - self.hparams.clip, 1 + self.hparams.clip)
            actor = -torch.minimum(ratio * advantage, clipped * advantage).mean()
            critic = (self.critic(state)[:, 0] - advantage).square().mean()
            self.log("loss_actor", actor, on_step=False, on_epoch=True)
            return actor + critic

        def train_dataloader(self):
            return DataLoader(Generated(self.play), batch_size=8)

        def configure_optimizers(self):
            return torch.optim.Adam(self.parameters(), lr=1e-2)

    class ReplayBuffer(L.LightningModule):
        """Explores by the step's number, and copies its weights to a target every few steps."""

        def __init__(self, seed: int = 0, sync_rate: int = 3) -> None:
            super().__init__()
            self.save_hyperparameters()
            self.encoder = mlp(n_out=2)
            self.target = copy.deepcopy(self.encoder)
            self.game, self.random, self.buffer = Walk(seed), random.Random(seed), deque(maxlen=64)
            self.state = self.game.reset()
            for _ in range(16):
                self.play(epsilon=1.0)

        @torch.no_grad()
        def play(self, epsilon):
            action = self.random.randrange(2)
            if self.random.random() > epsilon:
                action = int(self.encoder(self.state).argmax())
            after, reward = self.game.step(action)
            self.buffer.append((self.state, action, reward, after))
            self.state = after

        def sample(self):
            for _ in range(64):
                yield self.buffer[self.random.randrange(len(self.buffer))]

        def training_step(self, batch, batch_idx):
            self.play(epsilon=max(0.1, 1.0 - self.global_step / 10))
            state, action, reward, after = batch
            values = self.encoder(state).gather(1, action[:, None])[:, 0]
            with torch.no_grad():
                expected = reward.float() + 0.9 * self.target(after).max(1).values
            if self.global_step % self.hparams.sync_rate == 0:
                self.target.load_state_dict(self.encoder.state_dict())
            self.log_dict({"reward": reward.float().mean(), "steps": float(self.global_step)})
            return nn.functional.mse_loss(values, expected)

        def train_dataloader(self):
            return DataLoader(Generated(self.sample), batch_size=8)

        def configure_optimizers(self):
            return torch.optim.Adam(self.encoder.parameters(), lr=1e-2)

    return {
        "on_policy_rollouts": Foreign(lambda seed: seeded(seed, lambda: OnPolicyRollouts(seed))),
        "replay_buffer": Foreign(lambda seed: seeded(seed, lambda: ReplayBuffer(seed))),
    }
