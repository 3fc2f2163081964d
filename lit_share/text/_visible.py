"""Text without what a terminal obeys."""


def visible(text: str) -> str:
    r"""The text with escapes in place of what does not print: names may be anyone's, and terminals obey characters.

    Args:
        text: A name, a path or a message.

    Returns:
        One line of printable text, which every encoding of text can write that has the letters in it.

    Example:
        >>> print(visible("größe \x1b[31mred\n"))
        größe \x1b[31mred\n
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
