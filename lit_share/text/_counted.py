"""Count things in words."""


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is 1.

    Example:
        >>> counted(1, "tie"), counted(0, "tie"), counted(1200, "value")
        ('1 tie', '0 ties', '1,200 values')
    """
    if number == 1:
        return f"1 {noun}"
    return f"{number:,} {noun}s"
