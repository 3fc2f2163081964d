"""Property tests try the same inputs in every run, so that a failure is never a matter of luck."""

from hypothesis import settings

settings.register_profile(
    "functional", derandomize=True, database=None, deadline=None, max_examples=200
)
settings.load_profile("functional")
