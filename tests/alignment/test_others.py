"""Models of Hugging Face, and the groups that Torch-Pruning finds."""

import pytest
import torch
from torch import nn

from lit_share.alignment import axis_graph, check_outputs, run

from ._nets import NETS, made, some_permutations

IDS = torch.tensor([[1, 5, 2, 9, 3], [7, 0, 4, 8, 6]])
SMALL = {"vocab_size": 11, "bos_token_id": 0, "eos_token_id": 0}


def bert(transformers):
    config = transformers.BertConfig(
        **SMALL, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=12,
        max_position_embeddings=6,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def gpt2(transformers):
    config = transformers.GPT2Config(
        **SMALL, n_embd=8, n_layer=2, n_head=2, n_inner=12, n_positions=6
    )
    return transformers.GPT2LMHeadModel(config)


def llama(transformers):
    config = transformers.LlamaConfig(
        **SMALL, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=12, max_position_embeddings=6,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("make", "sizes"),
    [
        # The stream; of each layer heads, dimensions of q and k, of v and o, hidden units; the
        # pooler's outputs.
        (bert, [8, *[2, 4, 4, 12] * 2, 8]),
        # The same, with one embedding for inputs and outputs.
        (gpt2, [8, *[2, 4, 4, 12] * 2]),
        # Positions turn pairs of dimensions of q and k, which stay; 2 heads of keys · 2 queries.
        (llama, [16, *[2, 2, 4, 12] * 2]),
    ],
)
def test_models_of_hugging_face(make, sizes):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    module = make(transformers)
    inputs = {"input_ids": IDS}
    if make is not bert:
        inputs["use_cache"] = False
    graph = axis_graph(module, inputs)
    assert [axis.size for axis in graph.free] == sizes
    # Heads, queries of a head, and units of layers and of the stream stand by themselves.
    own = {axis.index for axis in graph.free if axis.within is None}
    assert len(own) == len(sizes) - 4
    before = run(module, inputs)
    graph.permute_(module, some_permutations(graph, torch.Generator().manual_seed(0)))
    check_outputs(module, before, inputs, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    "name", ["mlp", "mlp_with_batch_norm", "cnn", "residual", "resnet", "bottlenecks", "convnext"]
)
def test_torch_pruning_finds_the_same_groups(name):
    """All units of an axis depend on each other, and reach the same layers."""
    pruning = pytest.importorskip("torch_pruning")
    net = NETS[name]
    module = made(net)
    graph = axis_graph(module, net.inputs)
    dependencies = pruning.DependencyGraph().build_dependency(module, net.inputs)
    names = {layer: name for name, layer in module.named_modules()}
    names |= {own: name.rpartition(".")[0] for name, own in module.named_parameters()}
    for axis in graph.free:
        first = axis.occurrences[0].name.rpartition(".")[0]
        layer = module.get_submodule(first)
        kind = {nn.Linear: pruning.prune_linear_out_channels}.get(
            type(layer), pruning.prune_conv_out_channels
        )
        group = dependencies.get_pruning_group(layer, kind, idxs=[0])
        reached = {names.get(item.dep.target.module) for item in group} - {None}
        ours = {o.name.rpartition(".")[0] for o in axis.occurrences}
        assert {
            layer for layer in reached if list(module.get_submodule(layer).parameters())
        } == ours
