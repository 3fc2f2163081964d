"""Adapters of peft are parameters as others: tied softly or exactly, and shared."""

from __future__ import annotations

import peft
import pytest
import torch

import lit_share as ls
from lit_share.huggingface import Regularize, Share

from ._training import hugging_face
from .test_share import IDS, bert, outputs

LAYERS = [f"base_model.model.bert.encoder.layer.{i}.*lora_*" for i in range(2)]
TIES = ls.Ties(*LAYERS)
EXAMPLES = [{"input_ids": ids, "labels": torch.tensor(i)} for i, ids in enumerate(IDS)]


def adapted():
    torch.manual_seed(0)
    config = peft.LoraConfig(
        r=2, target_modules=["query", "value"], task_type="SEQ_CLS", init_lora_weights=False
    )
    return peft.get_peft_model(bert(), config)


@pytest.fixture(autouse=True)
def _examples(monkeypatch):
    monkeypatch.setattr("tests.huggingface._training.data", lambda: EXAMPLES)


def test_adapters_tied():
    start = adapted()
    base = {name: p for name, p in start.named_parameters() if not p.requires_grad}
    distances = []
    for strength in (0.0, 1000.0):
        model = adapted()
        hugging_face(
            Regularize("layer_tie", TIES, strength), model=model, optimizer=None,
            learning_rate=0.01,
        )  # fmt: skip
        assert all(torch.equal(model.get_parameter(name), p) for name, p in base.items())
        distances.append(ls.overall_distance([tie.tensors() for tie in TIES.find(model)]))
    assert distances[0] > 0.5
    assert distances[1] == 0.0


def test_adapters_shared_saved_and_loaded():
    model = adapted()
    before = sum(p.numel() for p in model.parameters() if p.requires_grad)
    trainer = hugging_face(
        Share(TIES), model=model, optimizer=None, learning_rate=0.01, save_strategy="epoch"
    )
    own = sum(p.numel() for p in model.parameters() if p.requires_grad)
    ties = TIES.find(model)
    assert all(tie.is_shared for tie in ties)
    assert len(ties) == 4
    assert own == before - sum(tie.numel for tie in ties)
    # Adapters are saved in full, by the Trainer as by save_pretrained.
    trainer.save_model("adapters")
    again = peft.PeftModel.from_pretrained(bert(), "adapters", is_trainable=True)
    assert torch.equal(outputs(again.eval(), {}), outputs(model.eval(), {}))
    ls.share(again, TIES, where="equal")
    assert sum(p.numel() for p in again.parameters() if p.requires_grad) == own
    resumed = hugging_face(
        Share(TIES), model=adapted(), optimizer=None, learning_rate=0.01,
        resume="trained/checkpoint-1",
    )  # fmt: skip
    for name, p in resumed.model.named_parameters(remove_duplicate=False):
        assert torch.allclose(p, model.get_parameter(name), atol=1e-6), name
