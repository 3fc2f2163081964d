"""The sentences of an advice, from the choice that the rows support."""

from __future__ import annotations

from lit_share.lab.report._choice import Choice, Contrast, is_smaller
from lit_share.lab.report._words import Words, all_of, fraction, listed, seeds

# More seeds than these are not recommended.
MOST_SEEDS = 200
# Of the strategies that cannot be told apart, those that need the fewest seeds are named.
MOST_NAMES = 4


def sentences_of(choice: Choice, words: Words) -> list[str]:
    """Say what to use, what it is worth, what may be as good, and what is smaller."""
    sentences = [_use(choice, words), _worth(choice, words), _undecided(choice, words)]
    if choice.small is not None:
        sentences += _smaller(choice, choice.small, words)
    return sentences


def _use(choice: Choice, words: Words) -> str:
    if choice.of_row is None:
        return _use_baseline(choice, words)
    use = f"Use {words.name(choice.row)}"
    if choice.row.strength is not None:
        use += f" (median strength {choice.row.strength:.3g})"
    n = len(choice.contrasts)
    if n == 1:
        return f"{use}: it is better than {words.baseline} on test data."
    better = sum(contrast.sign > 0 for contrast in choice.contrasts)
    if better == 1:
        return f"{use}: of {n} strategies, it alone is better than {words.baseline} on test data."
    text = f"{use}: of {n} strategies, {better} are"
    if better == n:
        text = f"{use}: {all_of(n)} strategies are"
    text += f" better than {words.baseline} on test data,"
    left = len(choice.contenders)
    if left == 1:
        return f"{text} and it alone is not worse than another of these."
    if left < better:
        text += f" {left} of these are not worse than another,"
    return f"{text} and of these {_chosen(choice, words)}."


def _chosen(choice: Choice, words: Words) -> str:
    row, best = choice.row, choice.best.row
    if row is best:
        return "it is the best on validation data"
    within = "it is within one standard error of the best on validation data"
    return f"{within}, {words.name(best)}, with {fraction(row, best)} of its parameters"


def _use_baseline(choice: Choice, words: Words) -> str:
    use = f"Use {words.baseline}"
    if words.strategy == "none":
        use += " (separate models, no penalty)"
    contrasts = choice.contrasts
    name, n = words.name(contrasts[0].row), len(contrasts)
    if all(contrast.sign < 0 for contrast in contrasts):
        if n == 1:
            return f"{use}: {name} is worse on test data."
        return f"{use}: {all_of(n)} strategies are worse on test data."
    if n == 1:
        return f"{use}: {seeds(contrasts)} do not show that {name} is better."
    return f"{use}: {seeds(contrasts)} do not show that any of {n} strategies is better."


def _worth(choice: Choice, words: Words) -> str:
    contrast, subject, end = choice.of_row, "it", ""
    if contrast is None:
        contrast = choice.best
        subject = words.name(contrast.row)
        if contrast.comparisons > 1:
            subject += ", the best of them on validation data,"
        # What is not shown is bounded.
        if contrast.sign == 0 and contrast.gain.high is not None:
            end = f", so it is worth at most {words.amount(contrast.gain.high)}"
    elif is_smaller(contrast.row, choice.baseline):
        end = f", with {fraction(contrast.row, choice.baseline)} of the parameters"
    interval = f"95 % interval of {seeds([contrast])}"
    if contrast.comparisons > 1:
        interval += f", corrected for {contrast.comparisons} strategies"
    text = f"Compared with {words.baseline}, {subject} {words.change(contrast)}"
    # Gains that do not vary have no interval.
    if contrast.is_even:
        text += f" in each of {seeds([contrast])}"
        if contrast.gain.mean != 0:
            text += ", which leaves no chance to judge by"
        return f"{text}."
    return f"{text} ({interval}){end}."


def _undecided(choice: Choice, words: Words) -> str:
    if not choice.others:
        no_other = f"no other strategy was compared with {words.baseline}"
        return f"There is nothing to tell it from: {no_other}."
    it = "it"
    if choice.of_row is None:
        it = words.baseline
    undecided = [other for other in choice.others if other.sign == 0]
    better = [other for other in choice.others if other.sign > 0]
    worse = [other for other in choice.others if other.sign < 0]
    parts = []
    if undecided:
        parts.append(f"not told apart from {it}: {_named_all(undecided, words)}")
    if better:
        # Few seeds may be too few to choose it, though it is better on both kinds of data.
        named = listed([f"{words.name(o.row)} ({_on_common(o, words)})" for o in better])
        parts.append(f"better than {it} on test data: {named}")
    if worse:
        parts.append(_worse(worse, len(choice.others), it, words))
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _on_common(other: Contrast, words: Words) -> str:
    return f"{words.gain(other.gain)} on {len(other.gains)} common seeds"


def _worse(worse: list[Contrast], n: int, it: str, words: Words) -> str:
    if len(worse) < n:
        return f"worse: {len(worse)} other{'s' * (len(worse) > 1)}"
    if n == 1:
        return f"{seeds(worse)} tell {it} from {words.name(worse[0].row)}, which is worse"
    return f"{seeds(worse)} tell {it} from {all_of(n)} others, which are worse"


def _named_all(undecided: list[Contrast], words: Words) -> str:
    more = [(other, other.more_seeds(MOST_SEEDS)) for other in undecided]
    more.sort(key=lambda pair: pair[1] or MOST_SEEDS)
    named = [_named(other, needed, words) for other, needed in more[:MOST_NAMES]]
    if len(more) > MOST_NAMES:
        named.append(f"{len(more) - MOST_NAMES} more")
    return listed(named)


def _named(other: Contrast, more: int | None, words: Words) -> str:
    name = words.name(other.row)
    if other.is_even and other.gain.mean == 0:
        return f"{name} (equal in each of {seeds([other])})"
    if other.is_even:
        by = f"{words.gain(other.gain)} in each of {seeds([other])}"
        return f"{name} ({by}, which leaves no chance to judge by)"
    text = f"{name} ({words.gain(other.gain)}: if so, "
    if more is None:
        return f"{text}{MOST_SEEDS} seeds would hardly tell)"
    return f"{text}{more} more seed{'s' * (more > 1)} would probably tell)"


def _smaller(choice: Choice, small: Contrast, words: Words) -> list[str]:
    row, than = small.row, choice.row
    text = (
        f"If size matters: {words.name(row)} has {fraction(row, than)} of the parameters of "
        f"{words.name(than)} ({row.unique:,.0f} of {than.unique:,.0f})"
    )
    low = small.gain.low
    if low is None:
        low = small.gain.mean
    if low >= 0:
        return [f"{text} and loses nothing."]
    text += f" and loses at most {words.amount(-low)}"
    score = choice.baseline.score
    if score is None or words.unit:
        return [f"{text}."]
    # A loss larger than the score itself says that the seeds tell nothing of it.
    if -low >= abs(score.mean):
        return []
    return [f"{text}, {-100 * low / abs(score.mean):.0f} % of the {words.baseline} score."]
