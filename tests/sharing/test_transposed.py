"""A matrix shared with its transpose, which is computed whenever it is read."""

from __future__ import annotations

import copy
import pickle
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lit_share.aliases import verify_shared
from lit_share.functional import Penalty
from lit_share.metrics import sharing_stats
from lit_share.penalties import add_penalty_gradient, apply_prox
from lit_share.sharing import share, unshare
from lit_share.ties import TieError, Ties

from .._modules import mlp, named, pair_of

TIES = Ties("enc.weight", "dec.weight.T")
X = torch.randn(7, 6, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


class Autoencoder(nn.Module):
    def __init__(self, seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.enc, self.dec = (
                nn.Linear(*size, dtype=torch.float64) for size in ((6, 4), (4, 6))
            )

    def forward(self, x):
        return self.dec(torch.tanh(self.enc(x)))


@pytest.fixture
def module():
    module = Autoencoder()
    share(module, TIES)
    return module


def is_one(module):
    return module.dec.weight.data_ptr() == module.enc.weight.data_ptr() and torch.equal(
        module.dec.weight, module.enc.weight.T
    )


def by_hand(module, x):
    """The same network, written with one weight."""
    w = module.enc.weight
    return F.linear(torch.tanh(F.linear(x, w, module.enc.bias)), w.T, module.dec.bias)


@pytest.mark.parametrize("init", ["mean", "first"])
def test_the_shared_value(init):
    module, apart = Autoencoder(), Autoencoder()
    share(module, TIES, init)
    enc, dec = apart.enc.weight, apart.dec.weight
    expected = enc if init == "first" else (enc + dec.T) / 2
    torch.testing.assert_close(module.enc.weight, expected, rtol=1e-15, atol=1e-15)
    assert is_one(module)


def test_one_parameter_is_stored(module):
    assert list(named(module)) == ["enc.weight", "enc.bias", "dec.bias"]
    assert sharing_stats(module).total == 24 + 4 + 24 + 6
    assert sharing_stats(module).unique == 24 + 4 + 6
    assert sharing_stats(module, TIES).unique == 24 + 4 + 6


def test_what_the_module_says_of_itself_is_unchanged(module):
    apart = Autoencoder()
    assert list(module.state_dict()) == list(apart.state_dict())
    assert {k: v.shape for k, v in module.state_dict().items()} == {
        k: v.shape for k, v in apart.state_dict().items()
    }
    assert repr(module) == repr(apart)
    assert isinstance(module.dec, nn.Linear)


def test_order_of_state_dict_entries_in_modules_with_children():
    def build():
        return nn.ModuleDict({"a": nn.MultiheadAttention(4, 2), "b": nn.Linear(12, 4)})

    module = build()
    names = list(module.state_dict())
    share(module, Ties("b.weight", "a.in_proj_weight.T"))
    assert module["a"].in_proj_weight.shape == (12, 4)
    assert list(module.state_dict()) == names


def test_gradients_of_both_uses_meet(module):
    module(X).square().sum().backward()
    expected = torch.autograd.grad(by_hand(module, X).square().sum(), module.enc.weight)
    torch.testing.assert_close(module.enc.weight.grad, expected[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_are_tied_in_themselves(module, copied):
    other = copied(module)
    assert is_one(other)
    assert other.enc.weight.data_ptr() != module.enc.weight.data_ptr()
    with torch.no_grad():
        other.enc.weight.fill_(1.0)
    assert torch.all(other.dec.weight == 1.0)
    assert not torch.any(module.dec.weight == 1.0)
    with pytest.raises(TieError, match=r"'enc\.weight' and 'dec\.weight'"):
        other.load_state_dict(Autoencoder(1).state_dict())


def test_files(module, tmp_path):
    torch.save(module, tmp_path / "module.pt")
    assert is_one(torch.load(tmp_path / "module.pt", weights_only=False))
    torch.save(module.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["dec.weight"].data_ptr() == state["enc.weight"].data_ptr(), "written once"


@pytest.mark.parametrize(
    "move", [lambda m: m.to(torch.bfloat16), lambda m: m.float(), lambda m: m.requires_grad_(False)]
)
def test_moves(module, move):
    move(module)
    assert is_one(module)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("assign", [True, False])
def test_a_shared_state_is_loaded(module, tied, assign):
    other = Autoencoder(1)
    if tied:
        share(other, TIES)
    other.load_state_dict(module.state_dict(), assign=assign)
    torch.testing.assert_close(other(X), module(X))
    assert torch.equal(other.dec.weight, module.dec.weight)
    assert len(named(other)) == (3 if tied else 4)


def test_a_part_is_loaded_alone(module):
    """As with one Parameter in two places, the other place follows."""
    module.dec.load_state_dict(Autoencoder(1).dec.state_dict())
    assert torch.equal(module.enc.weight, Autoencoder(1).dec.weight.T)
    assert is_one(module)


def test_missing_and_misshapen_entries(module):
    state = module.state_dict()
    with pytest.raises(RuntimeError, match=r'Missing key.*"dec\.weight"'):
        module.load_state_dict({k: v for k, v in state.items() if k != "dec.weight"})
    module.load_state_dict({k: v for k, v in state.items() if k != "dec.weight"}, strict=False)
    with pytest.raises(
        RuntimeError,
        match=r"size mismatch for weight: \(2, 4\) in the state dict, \(6, 4\) in the module",
    ):
        module.dec.load_state_dict({"weight": torch.zeros(2, 4), "bias": torch.zeros(6)})


def test_from_meta(module):
    with torch.device("meta"):
        other = Autoencoder()
    share(other, TIES)
    other.to_empty(device="cpu")
    other.load_state_dict(module.state_dict())
    assert is_one(other)
    torch.testing.assert_close(other(X), module(X))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled(module, backend):
    compiled = torch.compile(module, backend=backend, fullgraph=True)
    torch.testing.assert_close(compiled(X), by_hand(module, X))
    compiled(X).sum().backward()
    compiled_grad, module.enc.weight.grad = module.enc.weight.grad, None
    by_hand(module, X).sum().backward()
    torch.testing.assert_close(module.enc.weight.grad, compiled_grad)


def test_sharing_again_changes_nothing(module):
    before = named(module)
    share(module, TIES)
    assert all(named(module)[name] is parameter for name, parameter in before.items())


def test_more_places_follow():
    """The transpose is shared with a third place, and stored once for all."""
    module = nn.ModuleDict(
        {
            "enc": nn.Linear(6, 4),
            "dec": nn.Linear(4, 6),
            "more": nn.Linear(4, 6),
            "z": nn.Linear(6, 4),
        }
    )
    share(module, TIES)
    share(module, Ties("dec.weight", "more.weight"), init="first")
    share(module, Ties("z.weight", "more.weight.T"), init="first")
    assert [n for n in named(module) if n.endswith("weight")] == ["enc.weight", "z.weight"]
    assert module["enc"].weight is module["z"].weight
    for place in ("dec", "more"):
        assert torch.equal(module[place].weight, module["z"].weight.T)


def test_a_matrix_cannot_be_its_own_transpose():
    module = nn.ModuleDict({"enc": nn.Linear(4, 4), "dec": nn.Linear(4, 4)})
    share(module, TIES)
    with pytest.raises(TieError, match="already the transpose"):
        share(module, Ties("enc.weight", "dec.weight"))
    assert torch.equal(module["dec"].weight, module["enc"].weight.T)


def test_recurrent_layers_are_refused():
    module = nn.ModuleDict({"a": nn.LSTM(3, 12), "b": nn.Linear(48, 3)})
    with pytest.raises(
        TieError,
        match=r"'a\.weight_ih_l0\.T' belongs to a LSTM, which cannot use a transposed parameter",
    ):
        share(module, Ties("b.weight", "a.weight_ih_l0.T"))


def test_recurrent_layers_of_one_shape_are_shared():
    """They keep a list of their weights, which has to follow."""
    module = pair_of(a=nn.LSTM(3, 4), b=nn.LSTM(3, 4))
    share(module, Ties("a.*", "b.*"))
    x = torch.randn(5, 1, 3)
    with torch.no_grad():
        module["a"].weight_ih_l0.mul_(2.0)
    assert torch.equal(module["a"](x)[0], module["b"](x)[0])


@pytest.mark.parametrize("pattern", ["bias", "kernel"])
def test_only_matrices(pattern):
    module = nn.Module()
    module.bias, module.kernel = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2, 2, 2))
    with pytest.raises(TieError, match=re.escape(f"'{pattern}.T' transposes '{pattern}'")):
        share(module, Ties("bias" if pattern == "kernel" else "kernel", f"{pattern}.T"))


def test_unshare(module):
    before = {k: v.clone() for k, v in module.state_dict().items()}
    unshare(module)
    assert type(module.dec) is nn.Linear
    assert list(named(module)) == list(before)
    assert module.dec.weight.is_contiguous()
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    with torch.no_grad():
        module.enc.weight.zero_()
    assert module.dec.weight.any()
    module.load_state_dict(Autoencoder(1).state_dict())


def test_tied_activations_stay_correct_in_training(module):
    reference = Autoencoder()
    weight = nn.Parameter(((reference.enc.weight + reference.dec.weight.T) / 2).detach())
    biases = [reference.enc.bias, reference.dec.bias]
    ours = torch.optim.Adam(module.parameters(), lr=0.1)
    theirs = torch.optim.Adam([weight, *biases], lr=0.1)
    for _ in range(5):
        ours.zero_grad()
        (module(X) - X).square().mean().backward()
        ours.step()
        theirs.zero_grad()
        (
            F.linear(torch.tanh(F.linear(X, weight, biases[0])), weight.T, biases[1]) - X
        ).square().mean().backward()
        theirs.step()
    torch.testing.assert_close(module.enc.weight, weight, rtol=1e-10, atol=1e-10)


# What user code does to such a module


def test_what_is_put_into_the_place_is_used_and_noticed(module):
    module.dec.weight = nn.Parameter(torch.zeros(6, 4, dtype=torch.float64))
    assert not module.dec.weight.any()
    with pytest.raises(
        TieError,
        match=r"'dec\.weight' was the transpose of 'enc\.weight', and one of them has been repl",
    ):
        verify_shared(module)


def test_functional_calls(module):
    state = {k: torch.ones_like(v) for k, v in module.state_dict().items()}
    expected = Autoencoder()
    expected.load_state_dict(state)
    assert torch.equal(torch.func.functional_call(module, state, X), expected(X))
    assert is_one(module)


def test_another_object_of_the_class(module):
    other = type(module.dec)(4, 6)
    assert isinstance(other.weight, nn.Parameter)
    assert other(torch.zeros(1, 4)).shape == (1, 6)


def test_registries_of_subclasses():
    known = []

    class Registered(nn.Linear):
        def __init_subclass__(cls):
            known.append(cls)

    module = nn.ModuleDict({"enc": nn.Linear(6, 4), "dec": Registered(4, 6)})
    share(module, TIES)
    assert type(module["dec"]) is not Registered
    assert known == []


def test_parametrizations_on_top_are_not_lost(module):
    nn.utils.parametrize.register_parametrization(module.dec, "bias", nn.Identity())
    assert is_one(module)
    with pytest.raises(
        TieError, match=r"a ParametrizedLinear was parametrized or sharded after its 'weight'"
    ):
        unshare(module)
    assert nn.utils.parametrize.is_parametrized(module.dec)


def test_lazy_modules_have_no_shape_yet():
    module = nn.ModuleDict({"a": nn.LazyLinear(4), "b": nn.LazyLinear(4)})
    with pytest.raises(TieError, match=r"'a\.weight' has no shape yet: run the module once"):
        share(module, Ties("a.*", "b.*"))
    for part in module.values():
        part(torch.zeros(1, 3))
    share(module, Ties("a.*", "b.*"))


@pytest.mark.parametrize(
    "call", [lambda m: share(m, "a.*"), lambda m: unshare(m, "a.*"), lambda m: share(TIES, m)]
)
def test_arguments_of_other_types(module, call):
    with pytest.raises((TypeError, TieError), match=r"ties must be a lit_share\.Ties"):
        call(module)


@pytest.mark.parametrize("center", ["zero", "mean"])
def test_penalties_see_the_transpose(module, center):
    """Ties of both parameters: the gradients of equal members meet in one parameter."""
    penalty = Penalty("squared", "element", center)
    add_penalty_gradient(module, penalty, TIES, 0.5)
    expected = (
        2 * 0.5 * module.enc.weight if center == "zero" else torch.zeros(4, 6, dtype=torch.float64)
    )
    torch.testing.assert_close(module.enc.weight.grad, expected.detach())
    before = module.enc.weight.detach().clone()
    apply_prox(module, penalty, TIES, 0.5)
    torch.testing.assert_close(
        module.enc.weight.detach(), before / 2 if center == "zero" else before
    )


def test_one_pattern_finds_it_once(module):
    assert [tie.name for tie in Ties("*.weight").find(module)] == ["enc.weight"]


def test_module_of_mlps_is_left_alone():
    module = pair_of(a=mlp(0), b=mlp(1))
    share(module, Ties("a.*", "b.*"))
    assert all(type(part).__module__.startswith("torch.nn") for part in module.modules())
