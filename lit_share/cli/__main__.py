"""Run `python -m lit_share.cli`, which is the program `lit-share`."""

from __future__ import annotations

from lit_share.lab.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
