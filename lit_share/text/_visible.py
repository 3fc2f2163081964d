"""Escape characters that a terminal would obey."""


def visible(text: str) -> str:
    r"""Return the text with escapes in place of characters that do not print.

    Args:
        text: A name, a path or a message.

    Returns:
        One line of printable text.

    Example:
        >>> print(visible("größe \x1b[31mred\n"))
        größe \x1b[31mred\n
    """
    # Names may come from untrusted files, and escape sequences can rewrite a terminal's screen.
    return "".join(map(_escape, text))


def _escape(character: str) -> str:
    if character.isprintable():
        return character
    # `ascii` puts quotes around its result.
    return ascii(character)[1:-1]
