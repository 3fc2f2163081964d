import json
from pathlib import Path

import pytest


@pytest.fixture
def write():
    """Writes a `result.json` as a run does; keywords replace what is in it, `None` for whole keys leaves them out."""

    def write(directory: Path, strategy="none", seed=0, val=0.5, test=0.5, **keywords) -> Path:
        content = {
            "schema": 1,
            "status": "finished",
            "error": None,
            "strategy": strategy,
            "data": "digits",
            "ties": "all",
            "model": "mlp",
            "strength": None,
            "seed": seed,
            "objective": "b/val/acc",
            "mode": "max",
            "validation": {"a/val/acc": 0.9, "b/val/acc": val},
            "test": {"a/test/acc": 0.9, "b/test/acc": test},
            "sharing": {"penalty": 0.1, "distance": 2.0, "total": 100, "unique": 100, "compression": 1.0},
            "seconds": 10.0,
            "overrides": [f"seed={seed}"],
        }
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / "result.json"
        path.write_text(json.dumps(content | keywords))
        return path

    return write
