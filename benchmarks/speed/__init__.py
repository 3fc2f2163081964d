"""How fast the library is: one file per question, and `python -m benchmarks.speed` for all of them."""
