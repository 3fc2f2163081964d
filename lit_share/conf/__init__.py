"""The configs that lit_share adds to every Hydra application: the group `regularizer`.

Each recipe is a callback. Those that tie parameters read the application's own key
``ties.patterns``, and ``ties.exclude`` if it is there.
"""
