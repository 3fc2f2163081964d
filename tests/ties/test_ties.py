"""The tie language."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from lit_share.ties import TieError, Ties

from .._modules import mlp, module_of, pair_of


def found(module, *patterns, exclude=()):
    """What is found: the members' names by the tie's name."""
    return {
        tie.name: [m.name for m in tie.members]
        for tie in Ties(*patterns, exclude=exclude).find(module)
    }


def refused(module, *patterns, exclude=()):
    """The message that refuses the patterns."""
    with pytest.raises(TieError) as error:
        Ties(*patterns, exclude=exclude).find(module)
    return str(error.value)


def numbers(*names):
    return module_of(dict.fromkeys(names, ()))


# What is found


def test_star_stands_for_the_same_text_in_every_pattern():
    pair = pair_of(a=mlp(0), b=mlp(1))
    assert found(pair, "a.*", "b.*") == {
        "0.weight": ["a.0.weight", "b.0.weight"],
        "0.bias": ["a.0.bias", "b.0.bias"],
        "2.weight": ["a.2.weight", "b.2.weight"],
        "2.bias": ["a.2.bias", "b.2.bias"],
    }


def test_order_is_that_of_the_parameters_and_members_are_in_the_order_of_the_patterns():
    module = numbers("b.z", "b.y", "a.y", "a.z")
    assert list(found(module, "a.*", "b.*").items()) == [
        ("y", ["a.y", "b.y"]),
        ("z", ["a.z", "b.z"]),
    ]
    assert list(found(module, "b.*", "a.*").items()) == [
        ("z", ["b.z", "a.z"]),
        ("y", ["b.y", "a.y"]),
    ]


def test_star_stands_for_any_text_dots_and_nothing_too():
    module = numbers("net.a", "net.ab", "net.a_.b.c", "xnet.a")
    assert list(found(module, "net.a*")) == ["net.a", "net.ab", "net.a_.b.c"]


def test_several_stars():
    module = numbers("a.0.q.w", "a.1.q.w", "a.1.k.w", "b.0.p.q.w", "b.1.p.q.w", "b.1.p.k.w")
    assert found(module, "a.*.*.w", "b.*.p.*.w") == {
        "0.q": ["a.0.q.w", "b.0.p.q.w"],
        "1.q": ["a.1.q.w", "b.1.p.q.w"],
        "1.k": ["a.1.k.w", "b.1.p.k.w"],
    }


def test_renames():
    module = numbers("a.encoder.0.w", "b.trunk.0.w", "a.head.w", "b.top.w")
    assert found(module, "a.encoder.*", "b.trunk.*") == {"0.w": ["a.encoder.0.w", "b.trunk.0.w"]}


def test_layers_of_one_model_are_three_members():
    module = numbers("layers.0.w", "layers.1.w", "layers.2.w", "layers.3.w")
    assert found(module, "layers.0.*", "layers.1.*", "layers.2.*") == {
        "w": ["layers.0.w", "layers.1.w", "layers.2.w"]
    }


def test_no_star_names_one_parameter_each():
    assert found(numbers("a.w", "b.v", "c.w"), "a.w", "b.v") == {"a.w": ["a.w", "b.v"]}


def test_one_pattern_is_one_member_per_tie():
    module = pair_of(a=mlp(0))
    assert found(module, "*.weight") == {name: [name] for name in ("a.0.weight", "a.2.weight")}


def test_dots_and_brackets_are_text():
    module = numbers("a.w", "axw", "net.w")
    assert list(found(module, "a.w")) == ["a.w"]
    assert "matches no parameter" in refused(module, "ne[t].w")


def test_exclude_leaves_out_ties_with_an_excluded_member():
    module = numbers("a.x.w", "a.x.bias", "a.norm.w", "b.x.w", "b.x.bias", "b.norm.w")
    assert list(found(module, "a.*", "b.*", exclude=["*.bias"])) == ["x.w", "norm.w"]
    assert list(found(module, "a.*", "b.*", exclude=["*.bias", "b.norm.*"])) == ["x.w"]


@pytest.mark.parametrize("patterns", [("a.*", "b.*"), ("b.*", "a.*"), ("b.*", "a.*", "c.*")])
def test_a_name_without_counterpart_can_be_excluded(patterns):
    module = numbers("a.x.w", "a.head.w", "b.x.w", "c.x.w")
    assert list(found(module, *patterns, exclude=["a.head.*"])) == ["x.w"]


def test_transposed_member():
    module = module_of({"enc.w": (3, 2), "dec.w": (2, 3)})
    (tie,) = Ties("enc.w", "dec.w.T").find(module)
    assert [m.name for m in tie.members] == ["enc.w", "dec.w.T"]
    assert tie.shape == (3, 2)
    assert tie.numel == 6
    torch.testing.assert_close(tie.tensors()[1], module.dec.w.detach().T, rtol=0, atol=0)
    tie.tensors()[1].fill_(7.0)
    assert bool((module.dec.w == 7.0).all())


def test_transposed_star():
    module = module_of({"enc.0.w": (3, 2), "enc.1.w": (4, 3), "dec.0.w": (2, 3), "dec.1.w": (3, 4)})
    assert found(module, "enc.*.w", "dec.*.w.T") == {
        "0": ["enc.0.w", "dec.0.w.T"],
        "1": ["enc.1.w", "dec.1.w.T"],
    }


def test_slices_are_members_of_one_tie():
    module = module_of({"local.weight": (3, 2, 2)})
    (tie,) = Ties("local.weight[:]").find(module)
    assert [m.name for m in tie.members] == [f"local.weight[{i}]" for i in range(3)]
    assert tie.name == "local.weight"
    for i, tensor in enumerate(tie.tensors()):
        assert torch.equal(tensor, module.local.weight[i])
    tie.tensors()[1].zero_()
    assert bool((module.local.weight[1] == 0.0).all())
    assert bool((module.local.weight[2] != 0.0).all())


def test_slices_beside_whole_members():
    module = module_of({"local.w": (2, 3), "conv.w": (3,)})
    assert found(module, "local.w[:]", "conv.w") == {
        "local.w": ["local.w[0]", "local.w[1]", "conv.w"]
    }


def test_slices_of_several_models_are_in_one_tie():
    module = module_of({"a.w": (2, 3), "b.w": (2, 3)})
    assert found(module, "a.*[:]", "b.*[:]") == {"w": ["a.w[0]", "a.w[1]", "b.w[0]", "b.w[1]"]}


def test_shared_parameter_is_found_once_by_one_pattern():
    module = pair_of(a=mlp(0), b=mlp(1))
    module["b"][0].weight = module["a"][0].weight
    assert list(found(module, "*.weight")) == ["a.0.weight", "a.2.weight", "b.2.weight"]


def test_shared_submodule_is_found_once_by_one_pattern_and_under_each_name():
    net = mlp(0)
    module = pair_of(a=net, b=net, c=mlp(1))
    assert list(found(module, "*.0.weight")) == ["a.0.weight", "c.0.weight"]
    assert found(module, "b.0.*", "c.0.*") == {
        "weight": ["b.0.weight", "c.0.weight"],
        "bias": ["b.0.bias", "c.0.bias"],
    }


def test_buffers_are_not_parameters():
    norm = nn.BatchNorm1d(3)
    assert list(found(pair_of(n=norm), "n.*")) == ["n.weight", "n.bias"]


# Wrapped modules

compiles = pytest.mark.filterwarnings(
    "ignore:.*torch.jit.script_method.*:DeprecationWarning"
)  # torch warns of its own code


def compiled(module):
    return torch.compile(module, backend="eager")


@compiles
def test_names_are_those_of_the_module_that_is_compiled():
    module = pair_of(a=compiled(mlp(0)), b=mlp(1))
    module["b"][0] = compiled(module["b"][0])
    assert any("_orig_mod" in name for name, _ in module.named_parameters())
    assert found(module, "a.*.weight", "b.*.weight") == {
        "0": ["a.0.weight", "b.0.weight"],
        "2": ["a.2.weight", "b.2.weight"],
    }
    assert list(found(compiled(pair_of(a=mlp(0))), "a.0.*")) == ["a.0.weight", "a.0.bias"]


@compiles
def test_names_are_those_of_the_module_that_is_checkpointed():
    module = pair_of(a=checkpoint_wrapper(mlp(0)), b=mlp(1))
    module["b"][2] = compiled(checkpoint_wrapper(module["b"][2]))
    assert any("_checkpoint_wrapped_module" in name for name, _ in module.named_parameters())
    assert list(found(module, "a.*", "b.*")) == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_names_are_those_of_the_module_that_is_run_in_parallel():
    module = nn.DataParallel(pair_of(a=mlp(0), b=nn.Sequential(mlp(1))))
    assert found(module, "a.0.*", "b.0.0.*") == {
        "weight": ["a.0.weight", "b.0.0.weight"],
        "bias": ["a.0.bias", "b.0.0.bias"],
    }


def test_a_module_that_is_called_module_keeps_its_name():
    assert list(found(pair_of(module=mlp(0)), "module.0.*")) == ["module.0.weight", "module.0.bias"]


# Members are looked up when they are used


def test_members_are_what_the_module_holds_now():
    module = pair_of(a=mlp(0), b=mlp(1))
    tie = Ties("a.*", "b.*").find(module)[0]
    new = nn.Parameter(torch.ones(3, 4))
    module["a"][0].weight = new
    assert tie.parameters[0] is new
    assert torch.equal(tie.tensors()[0], new)
    assert not tie.tensors()[0].requires_grad


# Refusals, in the user's own words


def test_no_pattern():
    with pytest.raises(TieError, match="at least one pattern"):
        Ties()


def test_a_text_is_one_pattern_and_a_list_are_several():
    assert repr(Ties(["a.*", "b.*"])) == repr(Ties("a.*", "b.*"))
    assert repr(Ties("a.*", ["b.*"], exclude="*.bias")) == repr(
        Ties("a.*", "b.*", exclude=["*.bias"])
    )


@pytest.mark.parametrize("pattern", [3, [["a.*"]], {"a.*"}])
def test_pattern_is_a_string(pattern):
    with pytest.raises(TieError, match="a pattern must be a string, got"):
        Ties(pattern)


@pytest.mark.parametrize("patterns", [(), ([],), (None,)])
def test_patterns_of_a_config_that_has_none(patterns):
    with pytest.raises(TieError, match=re.escape("in a config ties.patterns=[a.net.*,b.net.*]")):
        Ties(*patterns)


def test_number_of_stars():
    with pytest.raises(TieError, match=re.escape("'a.*.*' has 2, 'b.*' has 1")):
        Ties("a.*.*", "b.*")


def test_matches_nothing_with_a_suggestion():
    message = refused(pair_of(encoder=mlp(0)), "enkoder.0.weight")
    assert "'enkoder.0.weight' matches no parameter" in message
    assert "did you mean 'encoder.0.weight'" in message


@pytest.mark.parametrize(
    ("pattern", "meant"),
    [
        ("mn.*", "'mian.*'"),
        ("mian.nett.*.weight", "'mian.net.*.weight'"),
        ("mian.nett.*.weight.T", "'mian.net.*.weight.T'"),
        ("mian.net.*.wieght", "'mian.net.*.weight'"),
        ("*.wieght", "'*.weight'"),
    ],
)
def test_what_is_suggested_matches_something(pattern, meant):
    module = pair_of(mian=pair_of(net=mlp(0)), south=pair_of(net=mlp(1)))
    assert f"did you mean {meant}" in refused(module, pattern)


def test_matches_nothing_with_what_there_is():
    message = refused(numbers(*(f"x.{i}" for i in range(7))), "zzz.*")
    assert "'zzz.*' matches no parameter" in message
    assert all(repr(f"x.{i}") in message for i in range(5))
    assert "2 more" in message


def test_module_without_parameters():
    assert "none at all" in refused(nn.Tanh(), "*")


def test_name_without_counterpart():
    message = refused(numbers("a.x", "a.y", "b.x", "b.z"), "a.*", "b.*")
    assert "'a.y' has no counterpart 'b.y' in 'b.*'" in message
    assert "'b.z' has no counterpart 'a.z' in 'a.*'" in message
    assert "exclude" in message
    assert "a.x" not in message


def test_many_names_without_counterpart_are_counted():
    message = refused(numbers("b.x", "a.x", *(f"a.y{i}" for i in range(9))), "a.*", "b.*")
    assert "'a.y4'" in message
    assert "'a.y5'" not in message
    assert "4 more" in message


def test_shapes_differ():
    message = refused(module_of({"a.w": (3, 2), "b.w": (3, 5)}), "a.*", "b.*")
    assert "'a.w' is (3, 2), 'b.w' is (3, 5)" in message
    assert "exclude=['a.w'], in a config ties.exclude=[a.w]" in message


def test_transposed_shapes_differ():
    message = refused(module_of({"a.w": (3, 2), "b.w": (3, 2)}), "a.w", "b.w.T")
    assert "'a.w' is (3, 2), 'b.w.T' is (2, 3)" in message


def test_transposing_what_is_no_matrix():
    message = refused(module_of({"a.w": (3, 2, 2), "b.w": (2, 2, 3)}), "a.w", "b.w.T")
    assert "'b.w.T'" in message
    assert "(2, 2, 3)" in message


def test_slicing_a_single_number():
    assert "'x[:]' slices 'x', which is a single number" in refused(numbers("x"), "x[:]")


def test_slicing_what_has_no_slices():
    assert "'w[:]'" in refused(module_of({"w": (0, 3)}), "w[:]")


def test_ambiguous_star():
    message = refused(numbers("a.m.m.w", "b.m.m.w"), "a.*m*.w", "b.*m*.w")
    assert "'a.*m*.w' are ambiguous in 'a.m.m.w'" in message


def test_stars_of_a_single_pattern_are_never_ambiguous():
    assert list(found(numbers("a.m.m.w"), "a.*m*.w")) == ["a.m.m.w"]


def test_member_named_twice():
    message = refused(numbers("a.x", "a.y"), "a.*", "a.*")
    assert "names a member twice: 'a.x', 'a.y'" in message
    assert "twice: 'x'" in refused(numbers("x", "y"), "x", "x", "y")


def test_everything_excluded():
    message = refused(numbers("a.bias", "b.bias"), "a.*", "b.*", exclude=["*.bias"])
    assert "exclude=['*.bias'] leaves no parameter" in message


def test_repr_is_how_it_was_written():
    assert repr(Ties("a.*", "b.*.T")) == "Ties('a.*', 'b.*.T')"
    assert repr(Ties("a.*", exclude=["*.bias"])) == "Ties('a.*', exclude=['*.bias'])"


# Names of ties


@pytest.mark.parametrize(
    ("names", "patterns"),
    [
        (("w", "ww", "v", "vw"), ("w*", "v*")),
        (("m.a.b.k.c", "m.a.k.b.c", "n.a.b.k.c", "n.a.k.b.c"), ("m.*.k.*", "n.*.k.*")),
    ],
)
def test_names_of_ties_are_unique(names, patterns):
    """History, logs and reports are kept by the tie's name."""
    ties = Ties(*patterns).find(numbers(*names))
    assert len(ties) == 2
    assert len({tie.name for tie in ties}) == 2


# Any patterns on any names


def readings(pattern, name):
    """All texts that the stars of a pattern can stand for in a name, by trying."""
    before, star, after = pattern.partition("*")
    if not name.startswith(before):
        return []
    rest = name[len(before) :]
    if not star:
        return [()] if rest == "" else []
    return [(rest[:i], *more) for i in range(len(rest) + 1) for more in readings(after, rest[i:])]


def brute_force(names, patterns, exclude):
    """The names of the members of each tie, or None where the patterns are wrong."""
    if len({pattern.count("*") for pattern in patterns}) > 1:
        return None
    excluded = [name for name in names if any(readings(pattern, name) for pattern in exclude)]
    matches = [
        {name: readings(pattern, name) for name in names if readings(pattern, name)}
        for pattern in patterns
    ]
    if not all(matches):
        return None
    if len(patterns) > 1 and any(len(read) > 1 for match in matches for read in match.values()):
        return None
    if len(patterns) == 1:
        return [[name] for name in matches[0] if name not in excluded] or None
    by_stars = [{read[0]: name for name, read in match.items()} for match in matches]
    ties = []
    for stars in dict.fromkeys(stars for match in by_stars for stars in match):
        members = [match.get(stars) for match in by_stars]
        if any(name in excluded for name in members):
            if (
                any(name is not None and name not in excluded for name in members)
                and None in members
            ):
                return None  # it lacks more than the excluded counterpart
            continue
        if None in members:
            return None
        ties.append(members)
    flat = [name for members in ties for name in members]
    return ties if ties and len(set(flat)) == len(flat) else None


unused_exclude = pytest.mark.filterwarnings("ignore:.*exclude matches nothing")
same_in_every_run = settings(derandomize=True, database=None, deadline=None, max_examples=300)
part = st.sampled_from(["a", "b", "ab", "c"])
path = st.lists(part, min_size=1, max_size=2)
name = st.builds(lambda path, leaf: ".".join([*path, leaf]), path, st.sampled_from("wv"))
piece = st.sampled_from(["a", "b", "ab", "*", "*", "a*", "w", "v"])
pattern = st.lists(piece, min_size=1, max_size=4).map(".".join)


@unused_exclude
@same_in_every_run
@given(
    names=st.lists(name, min_size=1, max_size=8, unique=True),
    patterns=st.lists(pattern, min_size=1, max_size=3),
    exclude=st.lists(pattern, max_size=1),
)
def test_find_equals_trying_everything(names, patterns, exclude):
    check_against_brute_force(names, patterns, exclude)


@unused_exclude
@same_in_every_run
@given(
    paths=st.lists(st.lists(part, max_size=2).map(tuple), min_size=1, max_size=4, unique=True),
    missing=st.integers(0, 12),
    roots=st.lists(st.sampled_from(["a", "b", "m.n", "mm"]), min_size=1, max_size=3, unique=True),
    exclude=st.lists(pattern, max_size=2),
)
def test_find_equals_trying_everything_on_related_models(paths, missing, roots, exclude):
    """Models of the same parameters, one of which may be missing in a model."""
    names = [".".join([root, *path, "w"]) for root in roots for path in paths]
    if missing < len(names) and len(names) > 1:
        del names[missing]
    check_against_brute_force(names, [f"{root}.*" for root in roots], exclude)


def check_against_brute_force(names, patterns, exclude):
    module = numbers(*names)
    names = [name for name, _ in module.named_parameters()]
    expected = brute_force(names, patterns, exclude)
    if expected is None:
        with pytest.raises(TieError):
            Ties(*patterns, exclude=exclude).find(module)
    else:
        assert sorted(found_members(module, patterns, exclude)) == sorted(expected)


def found_members(module, patterns, exclude):
    return [[m.name for m in tie.members] for tie in Ties(*patterns, exclude=exclude).find(module)]


# Numbers of a tensor


def test_numbers_of_a_tensor_are_a_tie_of_one_member():
    module = module_of({"a.w": (3, 4), "a.b": (3,), "b.w": (2,)})
    (tie,) = Ties("a.w[...]").find(module)
    assert (tie.name, [member.name for member in tie.members]) == ("a.w", ["a.w[...]"])
    assert (tie.inside, tie.compares, tie.shape, tie.numel) == (True, True, (3, 4), 12)
    assert tie.tensors()[0].data_ptr() == module.a.w.data_ptr()
    assert found(module, "*.w[...]") == {"a.w": ["a.w[...]"], "b.w": ["b.w[...]"]}
    assert found(module, "*[...]", exclude="*.b") == found(module, "*.w[...]")
    (plain,) = Ties("a.w").find(module)
    assert (plain.inside, plain.compares) == (False, False)


def test_numbers_of_an_alias_are_found_once():
    module = module_of({"a.w": (3,), "b.w": (3,)})
    module.b.w = module.a.w
    assert found(module, "*[...]") == {"a.w": ["a.w[...]"]}


def test_numbers_that_cannot_be_compared():
    module = module_of({"w": (3,), "one": (1,), "scalar": (), "none": (0, 2)})
    for name, count in (("one", 1), ("scalar", 1), ("none", 0)):
        assert refused(module, f"{name}[...]") == (
            f"'{name}[...]' compares the numbers of '{name}', which has {count}: exclude it"
        )
    assert refused(module, "w[...]", "one") == (
        "'w[...]' compares the numbers of a parameter with each other, not with those of other "
        "patterns: write it alone, as Ties('w[...]')"
    )
    assert "only [:] (all slices along dim 0) and [...] (all numbers) are known" in refused(
        module, "w[1]"
    )
    assert "did you mean 'one[...]' or" in refused(module, "ones[...]")


# All that does not fit, at once, and what may be meant


def test_all_wrong_shapes_are_told_at_once():
    shapes = {f"a.{i}": (i, 2) for i in range(1, 8)} | {f"b.{i}": (i, 3) for i in range(1, 8)}
    module = module_of({**shapes, "a.x": (1,), "b.x": (1,)})
    lines = refused(module, "a.*", "b.*").splitlines()
    assert lines[0] == "members of a tie must have one shape:"
    assert lines[1:6] == [f"  'a.{i}' is ({i}, 2), 'b.{i}' is ({i}, 3)" for i in range(1, 6)]
    assert lines[6] == "  and 2 more"
    exclude = re.findall(r"exclude=(\[.*\]), in", lines[7])[0]
    assert list(found(module, "a.*", "b.*", exclude=eval(exclude))) == ["x"]
    assert lines[7].endswith("ties.exclude=[a.1,a.2,a.3,a.4,a.5,a.6,a.7]")


def test_all_that_cannot_be_transposed_is_told_at_once():
    message = refused(pair_of(a=mlp(0), b=mlp(1)), "a.*", "b.*.T")
    assert message.splitlines()[:3] == [
        "Ties('a.*', 'b.*.T') does not fit:",
        "  'b.*.T' transposes 'b.0.bias' of shape (3,): .T is for matrices, exclude others",
        "  'b.*.T' transposes 'b.2.bias' of shape (2,): .T is for matrices, exclude others",
    ]
    assert "exclude=['b.0.bias', 'b.2.bias']" in message


@pytest.mark.parametrize(
    ("pattern", "meant"),
    [
        ("0.*", "'a.0.*' or 'b.0.*'"),
        ("2.weight", "'a.2.weight' or 'b.2.weight'"),
        ("*.weight.T.x", None),
        ("model.a.*", "'a.*'"),
        ("net.module.b.2.bias", "'b.2.bias'"),
    ],
)
def test_names_of_a_child_or_of_a_module_around(pattern, meant):
    message = refused(pair_of(a=mlp(0), b=mlp(1)), pattern)
    assert (f": did you mean {meant}?" in message) == (meant is not None)


@pytest.mark.parametrize("pattern", ["a.running_mean", "*.running_mean"])
def test_a_buffer_is_no_parameter(pattern):
    message = refused(pair_of(a=nn.BatchNorm1d(2)), pattern)
    assert message == (
        f"pattern '{pattern}' matches buffers only, such as 'a.running_mean', which are not "
        "trained: name parameters, and share the buffers of their layers with buffers=True"
    )


def test_exclude_that_matches_nothing_warns():
    module = pair_of(a=mlp(0), b=nn.BatchNorm1d(2))
    remark = "exclude matches nothing: '*.wieght', did you mean '*.weight'?"
    ties = Ties("a.*", exclude=["*.wieght", "b.running_mean"])
    with pytest.warns(UserWarning, match=re.escape(f"{ties}: {remark}")) as warned:
        assert len(ties.find(module)) == 4
    assert [warning.filename for warning in warned] == [__file__]
    plan = ties.plan(module)
    assert (plan.unused, plan.remarks) == (("*.wieght",), (remark,))


def test_exclude_that_resembles_nothing():
    with pytest.warns(UserWarning, match=r"exclude matches nothing: 'zzzzzz'$"):
        Ties("*", exclude=["zzzzzz"]).find(mlp(0))
