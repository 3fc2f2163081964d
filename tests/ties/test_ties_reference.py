"""The tie language against a slow reading of its promises, on random modules and patterns."""

from __future__ import annotations

import io
import itertools

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from rich.console import Console
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

from lit_share.sharing import share, unshare
from lit_share.ties import TieError, Ties
from lit_share.ties._pattern import Pattern

from .._modules import module_of

pytestmark = pytest.mark.filterwarnings("ignore:.*exclude matches nothing")
same_in_every_run = settings(derandomize=True, database=None, deadline=None, max_examples=100)
a_few_in_every_run = settings(same_in_every_run, max_examples=40)


# The reference: what the docstring says, by trying everything


class Refused(Exception):
    pass


def readings(pattern, name):
    """All texts that the stars can stand for, by trying the pieces between them everywhere."""
    pieces = pattern.split("*")
    cuts = itertools.combinations_with_replacement(range(len(name) + 1), 2 * (len(pieces) - 1))
    for cut in cuts:
        ends = [0, *cut, len(name)]
        texts = [name[i:j] for i, j in itertools.pairwise(ends)]
        if texts[::2] == pieces:
            yield tuple(texts[1::2])


def split(pattern):
    for suffix in (".T", "[:]"):
        if pattern.endswith(suffix):
            return pattern[: -len(suffix)], suffix
    return pattern, ""


def reference(shapes, one, patterns, exclude):
    """The members of each tie by name, in order; ``one`` says which names hold one parameter."""
    excluded = {name for name in shapes for pattern in exclude if [*readings(pattern, name)]}
    if len({split(pattern)[0].count("*") for pattern in patterns}) > 1:
        raise Refused("same number of stars")
    matches = []
    for pattern in patterns:
        read = {name: set(readings(split(pattern)[0], name)) for name in shapes}
        read = {name: texts for name, texts in read.items() if texts}
        if not read:
            raise Refused("matches no parameter")
        if len(patterns) > 1 and any(len(texts) > 1 for texts in read.values()):
            raise Refused("ambiguous")
        # A single pattern has each name for itself, whatever its stars stand for.
        matches.append(
            {texts.pop() if len(patterns) > 1 else (name,): name for name, texts in read.items()}
        )
    rows = []
    for stars in dict.fromkeys(itertools.chain(*matches)):
        row = [match.get(stars) for match in matches]
        there = [name for name in row if name is not None]
        if None in row and not set(there) <= excluded:
            raise Refused("no counterpart")
        if not set(there) & excluded:
            rows.append(row)
    if not rows:
        raise Refused("leaves no parameter")
    ties = {tuple(one[name] for name in row): row for row in reversed(rows)}
    found = []
    for row in (row for row in rows if ties[tuple(one[name] for name in row)] is row):
        members, of_shape = [], []
        for (_, part), name in zip(map(split, patterns), row, strict=True):
            shape = shapes[name]
            if part == "[:]":
                if not shape or not shape[0]:
                    raise Refused("slices")
                members += [f"{name}[{i}]" for i in range(shape[0])]
                of_shape += [shape[1:]] * shape[0]
            elif part == ".T":
                if len(shape) != 2:
                    raise Refused("transposes")
                members.append(f"{name}.T")
                of_shape.append(shape[::-1])
            else:
                members.append(name)
                of_shape.append(shape)
        if len(set(of_shape)) > 1 and len(set(members)) == len(members):
            raise Refused("one shape")
        found.append(members)
    flat = [member for members in found for member in members]
    if len(set(flat)) < len(flat):
        raise Refused("twice")
    return found


def held(module):
    """The shapes by name, in order, and which names hold one parameter."""
    named = dict(module.named_parameters(remove_duplicate=False))
    return {name: tuple(p.shape) for name, p in named.items()}, {
        name: id(p) for name, p in named.items()
    }


def check(module, patterns, exclude):
    try:
        expected = reference(*held(module), patterns, exclude)
    except Refused as refused:
        with pytest.raises(TieError, match=str(refused)):
            Ties(*patterns, exclude=exclude).find(module)
        return None
    ties = Ties(*patterns, exclude=exclude).find(module)
    assert [[member.name for member in tie.members] for tie in ties] == expected
    assert len({tie.name for tie in ties}) == len(ties)
    named = dict(module.named_parameters(remove_duplicate=False))
    for tie, names in zip(ties, expected, strict=True):
        for member, name, tensor in zip(tie.members, names, tie.tensors(), strict=True):
            assert member.parameter is named[member.ref.name]
            whole = named[member.ref.name].detach()
            own = (
                whole.T
                if name.endswith(".T")
                else whole[member.index]
                if name.endswith("]")
                else whole
            )
            assert torch.equal(tensor, own)
            assert tensor.shape == tie.shape
    return ties


part = st.sampled_from(["a", "b", "ab", "aa", "x_y"])
names = st.lists(
    st.lists(part, min_size=1, max_size=3).map(".".join), min_size=1, max_size=6, unique=True
)
piece = st.sampled_from(["a", "b", "ab", "*", "*", "a*", "*b", "**", "aa", "x_y"])
suffix = st.sampled_from(["", "", "", ".T", "[:]"])
body = st.lists(piece, min_size=1, max_size=3).map(".".join)
pattern = st.builds(str.__add__, body, suffix)
shape = st.sampled_from([(), (2,), (2, 2), (2, 3), (3, 2), (0, 2), (2, 2, 2)])


def module_with(names, shapes):
    """A module with parameters of these names, less those that would be in the way of another."""
    fits = [name for name in names if not any(other.startswith(f"{name}.") for other in names)]
    return module_of(dict(zip(fits, shapes, strict=False)))


@settings(same_in_every_run, max_examples=400)
@given(st.text("aab.*", max_size=6), st.text("aab.\n", max_size=6))
def test_one_pattern_on_one_name(text, name):
    pattern = Pattern(f"{text}x")  # no suffix
    ways = set(readings(f"{text}x", f"{name}x"))
    found = pattern.match(f"{name}x")
    assert (found is None) == (not ways)
    assert pattern.is_ambiguous(f"{name}x") == (len(ways) > 1)
    if found is not None:
        assert found == max(ways, key=lambda stars: [len(star) for star in stars])
        assert pattern.fill(found) == f"{name}x"


@same_in_every_run
@given(names, st.lists(shape, min_size=6, max_size=6), st.lists(pattern, min_size=1, max_size=3),
       st.lists(body, max_size=2), st.booleans())  # fmt: skip
def test_any_patterns_on_any_module(names, shapes, patterns, exclude, alike):
    check(module_with(names, shapes[:1] * 6 if alike else shapes), patterns, exclude)


@st.composite
def related(draw):
    """Models with the same parameters, some missing, renamed, shared or reshaped; patterns."""
    roots = draw(
        st.lists(
            st.sampled_from(["a", "b", "m.n", "mm", "l.0", "l.1"]),
            min_size=1,
            max_size=3,
            unique=True,
        )
    )
    paths = draw(
        st.lists(
            st.lists(part, min_size=1, max_size=2).map(".".join),
            min_size=1,
            max_size=4,
            unique=True,
        )
    )
    paths = [path for path in paths if not any(other.startswith(f"{path}.") for other in paths)]
    kind = draw(st.sampled_from([(2, 3), (2, 2), (2,), (3, 2, 2)]))
    shapes = {f"{root}.{path}": kind for root in roots for path in paths}
    if draw(st.integers(0, 4)) == 0 and len(shapes) > 1:
        del shapes[draw(st.sampled_from(list(shapes)))]
    if draw(st.integers(0, 4)) == 0:
        shapes[draw(st.sampled_from(list(shapes)))] = draw(shape)
    module = module_of(shapes)
    if draw(st.integers(0, 2)) == 0:
        one, other = (draw(st.sampled_from(list(shapes))) for _ in range(2))
        owner, _, attribute = other.rpartition(".")
        setattr(module.get_submodule(owner), attribute, module.get_parameter(one))
    end = draw(st.sampled_from(["", "", "", ".T", "[:]"]))
    star = draw(st.sampled_from(["*", "*", "*", "*a*", "*.*"]))
    patterns = [
        f"{root}.{star}{end if i else draw(st.sampled_from(['', end]))}"
        for i, root in enumerate(roots)
    ]
    if draw(st.integers(0, 5)) == 0:
        patterns.append(draw(st.sampled_from(patterns)))
    exclude = draw(st.lists(st.sampled_from([*shapes, "*.a", "*b*", "zzz"]), max_size=2))
    return module, patterns, exclude


@same_in_every_run
@given(related())
def test_models_of_one_kind(drawn):
    module, patterns, exclude = drawn
    ties = check(module, patterns, exclude)
    if ties is not None and len(patterns) > 1 and not any(split(p)[1] for p in patterns):
        for tie in (
            ties
        ):  # the stars' own promise: put their text into each pattern, and there are the members
            texts = {tuple(readings(p, m.name)) for p, m in zip(patterns, tie.members, strict=True)}
            assert len(texts) == 1


@pytest.mark.filterwarnings(
    "ignore:.*torch.jit.script_method.*:DeprecationWarning"
)  # torch warns of its own code
@a_few_in_every_run
@given(related(), st.randoms(use_true_random=False))
def test_wrappers_are_not_in_names(drawn, chance):
    """Names are the unwrapped module's, whatever `torch.compile` and checkpointing add."""
    module, patterns, exclude = drawn
    try:
        before = [
            (tie.name, [m.name for m in tie.members])
            for tie in Ties(*patterns, exclude=exclude).find(module)
        ]
    except TieError as error:
        before = str(error)
    for owner in [m for m in module.modules() if m._modules]:
        for name, child in list(owner._modules.items()):
            kind = chance.choice(["plain", "compiled", "checkpointed", "both"])
            wrapped = checkpoint_wrapper(child) if kind in ("checkpointed", "both") else child
            owner._modules[name] = _compiled(wrapped) if kind in ("compiled", "both") else wrapped
    module = _compiled(module) if chance.random() < 0.5 else module
    try:
        after = [
            (tie.name, [m.name for m in tie.members])
            for tie in Ties(*patterns, exclude=exclude).find(module)
        ]
    except TieError as error:
        after = str(error)
    assert after == before


def _compiled(module):
    return torch.compile(module, backend="eager")


@a_few_in_every_run
@given(related())
def test_sharing_and_back_changes_no_name(drawn):
    module, patterns, exclude = drawn
    ties = Ties(*patterns, exclude=exclude)
    names, values = (
        list(held(module)[0]),
        {name: p.clone() for name, p in module.state_dict().items()},
    )
    try:
        found = [(tie.name, [m.name for m in tie.members]) for tie in ties.find(module)]
        share(module, ties)
    except TieError:
        # nothing has happened
        assert list(module.state_dict()) == names
        assert all(
            torch.equal(tensor, values[name]) for name, tensor in module.state_dict().items()
        )
        return
    assert list(module.state_dict()) == names
    shared = [(tie.name, [m.name for m in tie.members]) for tie in ties.find(module)]
    assert [name for name, _ in shared] == [name for name, _ in found] or len(shared) < len(found)
    assert all(
        torch.equal(tie.tensors()[0], tensor)
        for tie in ties.find(module)
        for tensor in tie.tensors()
    )
    at_one = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    unshare(module)
    assert list(module.state_dict()) == list(held(module)[0]) == names
    assert all(torch.equal(tensor, at_one[name]) for name, tensor in module.state_dict().items())
    assert len({*held(module)[1].values()}) == len(names)


odd = st.text(
    st.characters(exclude_characters=".*", exclude_categories=["Cs"]), min_size=1, max_size=8
)
markup = st.sampled_from(
    [
        "[bold]",
        "[/bold]",
        "[/]",
        "[link=x]y",
        "\x1b[31m",
        "a\nb",
        "\\[",
        ":smile:",
        "é",
        "\u202e",
        "漢",
    ]
)


@a_few_in_every_run
@given(st.lists(st.one_of(markup, odd), min_size=1, max_size=5, unique=True), st.booleans())
def test_any_name_is_found_and_printed(names, tied):
    names = [name for name in names if not hasattr(nn.Module(), name)]
    assume(names)
    pair = nn.Module()
    for root in "pq":
        pair.add_module(root, module_of(dict.fromkeys(names, (2,))))
    ties = (
        Ties("p.*", "q.*", exclude=["nobody[bold]x"]) if tied else Ties("*", exclude=["nobody[/]x"])
    )
    plan = ties.plan(pair)
    assert len(plan.ties) == (1 if tied else 2) * len(names)
    console = Console(file=io.StringIO(), width=400, force_terminal=False, emoji=True)
    console.print(plan)
    drawn = console.file.getvalue()
    for text in (str(plan), drawn):
        assert all(line.isprintable() for line in text.split("\n"))
        for name in names:
            if name.isprintable() and " " not in name and "\xad" not in name:
                assert name in text
    assert "exclude matches nothing: 'nobody[" in drawn


def test_names_of_several_lines():
    module = module_of({"a.one\ntwo": (2,), "b.one\ntwo": (2,)})
    assert check(module, ["a.*", "b.*"], []) is not None


def test_modules_that_are_named_like_wrappers():
    """Only what a wrapper has put there is taken out of a name."""
    module = module_of({"my_orig_mod.w": (2,), "my.w": (2,), "not_fsdp_wrapped_module.w": (2,)})
    assert check(module, ["*"], []) is not None


@pytest.mark.parametrize("count", [12, 40])
def test_many_stars_take_no_time(count):
    """As a regular expression this would try 10¹⁵ ways."""
    name = "a" * 120
    module = module_of({name: (2,)})
    assert check_refused(module, "*a" * count + "b") == "matches"
    assert [tie.name for tie in Ties("*a" * count).find(module)] == [name]


def check_refused(module, pattern):
    with pytest.raises(TieError, match="matches no parameter"):
        Ties(pattern).find(module)
    return "matches"


def test_the_reference_tries_everything():
    assert set(readings("a*a*", "aaa")) == {("", "a"), ("a", "")}
    assert list(readings("a", "b")) == []
    with pytest.raises(Refused, match="ambiguous"):
        reference({"aaa": (), "baa": ()}, {"aaa": 0, "baa": 1}, ["a*a*", "b*a*"], [])
