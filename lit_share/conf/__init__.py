"""The Hydra groups that lit_share adds to every application: `regularizer` and `align`.

Each config is a callback, and goes to ``callbacks`` of the application's config. Those that tie
parameters read ``ties.patterns`` there and, if present, ``ties.exclude``, ``ties.types`` and
``ties.min_ndim``.
"""
