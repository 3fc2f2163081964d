"""A package, so that processes that tests start can import it by name."""
