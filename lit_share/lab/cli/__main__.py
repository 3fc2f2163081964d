"""`python -m lit_share.lab.cli` is `lit-share`."""

import sys

from lit_share.lab.cli import main

if __name__ == "__main__":
    sys.exit(main())
