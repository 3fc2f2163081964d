"""Speed of the library, one file per question: `python -m benchmarks.speed` runs all."""
