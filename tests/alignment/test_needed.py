"""What outputs depend on: noise anywhere else changes nothing, and what is planted is found."""

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from lit_share.alignment import AlignError
from lit_share.alignment._export import export, placeholder_values
from lit_share.alignment._needed import needed
from lit_share.alignment._run import evaluating

from ._nets import FLAT, IMAGES, NETS, Function, made, numbers


class Noisy(fx.Interpreter):
    """Adds noise to the numbers of each result that are not needed."""

    def __init__(self, module, masks):
        super().__init__(module)
        self.masks, self.changed = masks, 0

    def run_node(self, n):
        result = super().run_node(n)
        mask = self.masks.get(n.name)
        if n.op != "call_function" or mask is None or not result.is_floating_point():
            return result
        self.changed += int((~mask).sum())
        return torch.where(mask, result, result + 3.0)


def with_unread_inputs(net):
    """A net in which every matrix has a column of zeros."""
    module = made(net)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1 and parameter.shape[1] > 1:
                parameter[:, 1] = 0.0
    return module


@pytest.mark.parametrize(
    "name",
    [
        "mlp", "mlp_with_batch_norm", "cnn", "grouped", "transposed", "resnet", "bottlenecks",
        "densenet", "residual", "convnext", "shuffled", "gates", "multihead", "encoder",
        "attention", "attention_unbound", "attention_by_head", "attention_grouped", "vit", "mixer",
    ],
)  # fmt: skip
def test_noise_where_nothing_is_needed_changes_no_output(name):
    net = NETS[name]
    module = with_unread_inputs(net)
    _, masks = needed(module, net.inputs)
    program = export(module, net.inputs)
    given = [value for value, _ in placeholder_values(program, module, net.inputs)]
    noisy = Noisy(program.graph_module, masks)
    with evaluating(module):
        torch.testing.assert_close(noisy.run(*given)[0], module(net.inputs))
    assert noisy.changed


def units_needed(forward, inputs=FLAT, training=False, **layers):
    """Of the units of layer `up`, those that the outputs depend on."""
    module = made_function(forward, **layers)
    masks, _ = needed(module, inputs, training)
    return masks["up.bias"].tolist()


def made_function(forward, **layers):
    torch.manual_seed(0)
    module = Function(forward, **({"up": nn.Linear(3, 4), "out": nn.Linear(4, 2)} | layers))
    with torch.no_grad():
        module.out.weight[:, 1] = 0.0
    return module


READ, UNREAD = [True] * 4, [True, False, True, True]


@pytest.mark.parametrize(
    ("between", "expected"),
    [
        (torch.relu, UNREAD),
        (torch.sigmoid, UNREAD),
        (lambda h: h * 2 + 1, UNREAD),
        (lambda h: h.clone().relu_().add_(1.0), UNREAD),
        (lambda h: F.dropout(h, 0.5, training=True), UNREAD),
        (lambda h: torch.where(h > 0, h, 0.1 * h), UNREAD),
        (lambda h: torch.maximum(h, h.detach().neg()), UNREAD),
        (lambda h: F.pad(h, (1, 1))[:, 1:-1], UNREAD),
        (lambda h: F.pad(h, (1, 1), value=2.0)[:, 1:-1], UNREAD),
        (lambda h: F.glu(torch.cat([h, h], 1)), UNREAD),
        (lambda h: torch.stack([h, h], 1).mean(1), UNREAD),
        (lambda h: h.unflatten(1, (2, 2)).transpose(1, 2).transpose(1, 2).flatten(1), UNREAD),
        # Statistics over units read all of them.
        (lambda h: h.softmax(-1), READ),
        (lambda h: h.log_softmax(-1), READ),
        (lambda h: F.layer_norm(h, (4,)), READ),
        (lambda h: F.rms_norm(h, (4,)), READ),
        (lambda h: F.group_norm(h, 2), READ),
        (lambda h: h * torch.rsqrt(h.square().mean(-1, keepdim=True) + 1e-6), READ),
        (lambda h: F.normalize(h, dim=-1), READ),
        (lambda h: h - h.mean(-1, keepdim=True), READ),
        (lambda h: h + h.amax(-1, keepdim=True), READ),
        (lambda h: h + h.max(-1, keepdim=True).values, READ),
        (lambda h: h.cumsum(-1), READ),
        (lambda h: h.flip(-1), READ),
        (lambda h: h[:, torch.tensor([0, 1, 2, 3])], READ),
        # Statistics over samples do not read other units.
        (lambda h: h.softmax(0), UNREAD),
        (lambda h: F.batch_norm(h, None, None, training=True), UNREAD),
    ],
)
def test_units_behind_columns_of_zeros(between, expected):
    assert units_needed(lambda self, x: self.out(between(self.up(x)))) == expected


def test_a_unit_is_needed_if_one_of_its_readers_needs_it():
    layers = {"other": nn.Linear(4, 2)}

    def forward(self, x):
        h = torch.relu(self.up(x))
        return self.out(h), self.other(h)

    assert units_needed(forward, **layers) == READ
    with torch.no_grad():
        layers["other"].weight[:, 1:] = 0.0
    assert units_needed(forward, **layers) == UNREAD


def test_a_unit_is_needed_if_it_is_returned():
    def forward(self, x):
        h = torch.relu(self.up(x))
        return self.out(h), h

    assert units_needed(forward) == READ


def test_what_is_read_in_training_only():
    def forward(self, x):
        h = self.up(x)
        return self.out(h if not self.training else h.flip(-1))

    assert units_needed(forward) == UNREAD
    assert units_needed(forward, training=True) == READ


@pytest.mark.parametrize(
    ("between", "is_zero"),
    [
        (torch.relu, True),
        (lambda h: F.hardtanh(h, -1.0, 2.0), True),
        (lambda h: F.hardtanh(h, 1.0, 2.0), False),
        (lambda h: F.dropout(h), True),
        (lambda h: F.alpha_dropout(h), False),
        (torch.sigmoid, False),
        (lambda h: h + 1.0, False),
        (lambda h: h * torch.ones(4), True),
        (lambda h: h + torch.ones(4), False),
        (lambda h: h / (h + 1.0), False),
        (lambda h: h.pow(h), False),
        (lambda h: h.logsumexp(0, keepdim=True).expand(4, 4), False),
        (lambda h: F.pad(h, (0, 4), value=1.0)[:, :4], False),
    ],
)
def test_units_that_are_zero_for_all_inputs(between, is_zero):
    """They are not needed in sums, and statistics count them."""
    up, out = nn.Linear(3, 4), nn.Linear(4, 2)
    with torch.no_grad():
        up.weight[2], up.bias[2] = 0.0, 0.0

    def masks(forward):
        return needed(made_function(forward, up=up, out=out), FLAT)[1]

    found = masks(lambda self, x: self.out(between(self.up(x))))["linear"]
    assert found[0].tolist() == [True, False, not is_zero, True]
    found = masks(lambda self, x: self.out(between(self.up(x)).softmax(-1)))["linear"]
    assert found.all()


def test_channels_that_batch_normalization_makes_zero():
    """Its mean moves zeros, in one mode or the other."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    with torch.no_grad():
        module[0].weight[:3] = 0.0
        module[1].bias[1:] = 0.0
        module[1].running_mean[2] = 1.0
        module[1].bias[3] = 1.0
        module[1].bias[0] = 1.0
    _, masks = needed(module, IMAGES)
    assert masks["batch_norm"].flatten(2).any(2)[0].tolist() == [True, False, True, True]


def test_state_that_the_forward_writes_is_needed():
    class Memory(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.out = nn.Linear(3, 4), nn.Linear(4, 2)
            self.register_buffer("last", torch.zeros(4))

        def forward(self, x):
            h = self.up(x)
            read = self.out(self.last.expand(4, 4))
            self.last.copy_(h.detach().mean(0).relu())
            return read

    torch.manual_seed(0)
    module = Memory()
    with torch.no_grad():
        module.out.weight[:, 1:] = 0.0
        module.up.bias.fill_(-100.0)
    masks, _ = needed(module, FLAT)
    assert masks["up.bias"].all()
    assert not module.last.any()
    assert masks["last"].tolist() == [True, False, False, False]


def test_writing_that_cannot_be_followed_is_an_error():
    def forward(self, x):
        h = self.up(x)
        for part in h.split(2, 1):
            part.add_(1.0)
        return self.out(h)

    with pytest.raises(AlignError, match="cannot be followed, as it writes in place"):
        needed(made_function(forward), FLAT)


def test_queries_and_keys_of_zeros_are_not_needed():
    def forward(self, x):
        q, k, v = self.up(x).chunk(3, -1)
        return self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True))

    up, out = nn.Linear(3, 12), nn.Linear(4, 2)
    with torch.no_grad():
        up.weight[5], up.bias[5] = 0.0, 0.0  # the second dimension of keys
    found = units_needed(forward, numbers(2, 5, 3), up=up, out=out)
    assert found == [*UNREAD, *UNREAD, *UNREAD]


def test_keys_of_values_of_zeros_are_needed():
    """They are part of the sum that weights are divided by."""

    def forward(self, x):
        return self.out(F.scaled_dot_product_attention(self.up(x), self.k[None], self.v[None]))

    torch.manual_seed(0)
    k, v = (nn.Parameter(torch.randn(5, 4)) for _ in range(2))
    with torch.no_grad():
        v[2] = 0.0
    masks, _ = needed(made_function(forward, k=k, v=v), numbers(1, 6, 3))
    assert masks["k"].any(1).all()
    assert masks["v"].any(1).tolist() == [True, True, False, True, True]
