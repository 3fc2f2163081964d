"""The configs that any Hydra application gets with lit_share: the group `regularizer`, and nothing else.

Each recipe is a callback. Those that tie parameters read the application's own key ``ties.patterns``, and
``ties.exclude`` if it is there.
"""
