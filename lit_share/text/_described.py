"""Describe a value that is not what an argument needs."""


def described(value: object) -> str:
    """Return the end of an error message: the value, or the class if it is one.

    Example:
        >>> described(3), described(int)
        ('3', 'the class int, not an object of it')
    """
    # A class in place of an object is a common mistake, and its repr hides that.
    if isinstance(value, type):
        return f"the class {value.__name__}, not an object of it"
    return repr(value)
