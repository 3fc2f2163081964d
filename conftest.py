"""What doctests leave out: modules of extras that are not installed."""

from importlib.util import find_spec

collect_ignore_glob: list[str] = []
if find_spec("transformers") is None or find_spec("accelerate") is None:
    collect_ignore_glob.append("lit_share/huggingface/*")
