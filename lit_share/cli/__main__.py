"""`python -m lit_share.cli` is `lit-share`."""

from lit_share.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
