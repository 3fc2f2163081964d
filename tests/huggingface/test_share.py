"""Hard sharing in `transformers.Trainer`, and files of shared models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

import lit_share as ls
from lit_share.huggingface import Share, from_pretrained, save_pretrained

from ._training import EPOCHS, Pair, data, hugging_face, lightning, sgd, weights

TINY = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 11}
SIZES = {"intermediate_size": 12, "max_position_embeddings": 8}
IDS = torch.tensor([[1, 5, 2, 9, 3], [7, 0, 4, 8, 6]])
SGD = {"optim": "sgd", "optim_args": "momentum=0.5", "learning_rate": 0.1,
       "lr_scheduler_type": "constant"}  # fmt: skip
TIES = ls.Ties("encoder.embeddings.*", "decoder.bert.embeddings.*")


def bert(seed=0):
    torch.manual_seed(seed)
    config = transformers.BertConfig(**TINY, **SIZES)
    return transformers.BertForSequenceClassification(config).eval()


def encoder_decoder(seed=0):
    torch.manual_seed(seed)
    encoder = transformers.BertConfig(**TINY, **SIZES)
    decoder = transformers.BertConfig(
        **TINY, **SIZES, is_decoder=True, add_cross_attention=True, tie_word_embeddings=True
    )
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    config.decoder_start_token_id = config.pad_token_id = 0
    return transformers.EncoderDecoderModel(config=config).eval()


def gpt2():
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=11, n_positions=8, n_embd=8, n_layer=3, n_head=2, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config).eval()


MODELS = {
    "layers": (bert, ls.Ties("bert.encoder.layer.0.*", "bert.encoder.layer.1.*"), {}),
    "three layers, head by the class": (
        gpt2,
        ls.Ties(*(f"transformer.h.{i}.*" for i in range(3))),
        {},
    ),
    "encoder and decoder": (encoder_decoder, TIES, {"decoder_input_ids": IDS}),
    "transposed": (
        bert,
        ls.Ties(
            "bert.encoder.layer.*.intermediate.dense.weight",
            "bert.encoder.layer.*.output.dense.weight.T",
            exclude=["*.attention.*"],
        ),
        {},
    ),
}


@torch.no_grad()
def outputs(model, inputs):
    return model(input_ids=IDS, **inputs).logits


def stored(folder):
    return sum(tensor.numel() for tensor in load_file(f"{folder}/model.safetensors").values())


@pytest.mark.parametrize("name", MODELS)
def test_each_shared_parameter_is_stored_once(name):
    make, ties, inputs = MODELS[name]
    model = make()
    everything = sum(p.numel() for p in model.parameters())
    ls.share(model, ties)
    one_copy = sum(p.numel() for p in model.parameters())
    assert one_copy < everything
    save_pretrained(model, "once")
    assert stored("once") == one_copy
    assert not hasattr(model.config, "lit_share")
    again = from_pretrained(type(model), "once")
    assert torch.equal(outputs(again.eval(), inputs), outputs(model, inputs))
    assert sum(p.numel() for p in again.parameters()) == one_copy
    ls.verify_shared(again)
    assert not hasattr(again.config, "lit_share")


@pytest.mark.parametrize("name", MODELS)
def test_copies_load_without_lit_share(name):
    make, ties, inputs = MODELS[name]
    model = make()
    ls.share(model, ties)
    save_pretrained(model, "copies", copies=True)
    again, info = type(model).from_pretrained("copies", output_loading_info=True)
    assert not info["missing_keys"]
    assert torch.equal(outputs(again.eval(), inputs), outputs(model, inputs))
    ls.share(again, ties, where="equal")
    assert len(list(again.parameters())) == len(list(model.parameters()))


def test_a_model_without_aliases():
    model = bert()
    save_pretrained(model, "plain")
    assert "lit_share" not in json.loads(Path("plain/config.json").read_text(encoding="utf-8"))
    again = from_pretrained(type(model), "plain")
    assert torch.equal(outputs(again, {}), outputs(model, {}))


def test_a_folder_that_lacks_other_parameters():
    model = bert()
    ls.share(model, MODELS["layers"][1])
    save_pretrained(model, "once")
    with pytest.warns(UserWarning, match=r"no entries for \['qa_outputs.bias', 'qa_outputs.weight"):
        again = from_pretrained(transformers.BertForQuestionAnswering, "once")
    layers = again.bert.encoder.layer
    assert layers[0].output.dense.weight is layers[1].output.dense.weight


def test_parameters_that_are_no_longer_shared():
    model = bert()
    ls.share(model, MODELS["layers"][1])
    dense = model.bert.encoder.layer[1].output.dense
    dense.weight = nn.Parameter(torch.zeros_like(dense.weight))
    with pytest.raises(ls.TieError, match=r"layer\.0\.output.* were shared, but have different"):
        save_pretrained(model, "once")


@pytest.mark.parametrize("how", [{}, {"accumulate": 2}])
def test_the_weights_are_those_of_lightning(how):
    ties = ls.Ties("a.*", "b.*")
    model = Pair()
    trainer = hugging_face(Share(ties), model=model, optimizer=None, **SGD, **how)
    module, _ = lightning(ls.Share(ties), **how)
    assert model.a[0].weight is model.b[0].weight
    ours, theirs = weights(trainer.model), weights(module)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-9, atol=1e-10)


def test_a_checkpoint_of_the_trainer(monkeypatch):
    """It stores shared parameters once, resumes, and loads."""
    labels = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1])
    words = torch.randint(11, (8, 5), generator=torch.Generator().manual_seed(0))
    examples = [{"input_ids": w, "labels": y} for w, y in zip(words, labels, strict=True)]
    monkeypatch.setattr("tests.huggingface._training.data", lambda: examples)
    ties = MODELS["layers"][1]

    def trained(folder, **options):
        return hugging_face(
            Share(ties), model=bert().train(), optimizer=None, output_dir=folder,
            save_strategy="epoch", per_device_train_batch_size=4, **options,
        )  # fmt: skip

    whole = trained("whole")
    assert stored("whole/checkpoint-2") == sum(p.numel() for p in whole.model.parameters())
    resumed = trained("other", resume="whole/checkpoint-2")
    layers = resumed.model.bert.encoder.layer
    assert layers[0].output.dense.weight is layers[1].output.dense.weight
    for name, value in weights(resumed.model).items():
        assert torch.equal(value, weights(whole.model)[name]), name
    again = from_pretrained(type(whole.model), f"whole/checkpoint-{2 * EPOCHS}")
    for name, value in again.named_parameters(remove_duplicate=False):
        assert torch.equal(value, whole.model.get_parameter(name)), name
    whole.save_model("last")
    assert stored("last") == sum(p.numel() for p in again.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"save_strategy": "epoch"}, "the Trainer saves a Pair as a plain state dict"),
        ({"optimizer": sgd}, "the optimizer was made before"),
        ({"ties": ["a.*", "c.*"]}, r"c\.\*"),
    ],
)
def test_what_cannot_be_shared_is_said_before_training(options, message):
    ties = options.pop("ties", ["a.*", "b.*"])
    with pytest.raises(ls.TieError, match=message):
        hugging_face(Share(ties), **{"optimizer": None, **options})


def test_transposes_in_checkpoints():
    with pytest.raises(ls.TieError, match=r"is a transpose, which checkpoints of .* cannot hold"):
        hugging_face(
            Share(MODELS["transposed"][1]), model=bert(), optimizer=None, save_strategy="epoch"
        )


def test_a_trainer_that_makes_another_model():
    arguments = TrainingArguments("x", use_cpu=True, report_to="none", save_strategy="no")
    trainer = Trainer(
        None, arguments, model_init=Pair, callbacks=[Share(["a.*", "b.*"])], train_dataset=data()
    )
    with pytest.raises(ls.TieError, match="in model_init"):
        trainer.train()


def test_parameters_that_training_separates():
    class Separates(TrainerCallback):
        def on_epoch_end(self, args, state, control, model, **_):
            model.b[0].weight = nn.Parameter(torch.zeros_like(model.b[0].weight))

    with pytest.raises(ls.TieError, match=r"'a\.0\.weight' and 'b\.0\.weight' were shared"):
        hugging_face(Share(["a.*", "b.*"]), Separates(), optimizer=None, **SGD)
