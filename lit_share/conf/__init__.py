"""The configs that lit_share adds to every Hydra application: the group `regularizer`.

Each recipe is a callback. Recipes that tie parameters read ``ties.patterns`` and, if present,
``ties.exclude`` of the application's config.
"""
