"""The two views of the data modules for a pair of models."""

from collections.abc import Sequence

from lit_share.lab.data._views import View


def pair(names: Sequence[str], a: View, b: View) -> dict[str, View]:
    """Return two views by name.

    Raises:
        ValueError: If `names` are not two different names.

    Example:
        >>> view = View(lambda examples: examples, 3, 60, "n")
        >>> list(pair(("red", "white"), view, view))
        ['red', 'white']
    """
    if len(names) != 2 or names[0] == names[1]:
        raise ValueError(f'names={tuple(names)} must be two different ones, as in names=("a", "b")')
    return {names[0]: a, names[1]: b}
