"""Format sizes for people."""


def size(nbytes: int) -> str:
    """Format a number of bytes in the largest decimal unit that it fills.

    Example:
        >>> size(999), size(1000), size(4_567_890), size(12 * 10**9)
        ('999 bytes', '1.0 kB', '4.6 MB', '12.0 GB')
    """
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if nbytes >= factor:
            return f"{nbytes / factor:,.1f} {unit}"
    return f"{nbytes} bytes"
