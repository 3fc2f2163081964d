"""`python -m lit_share.cli` is `lit-share`."""

import sys

from lit_share.cli import main

if __name__ == "__main__":
    sys.exit(main())
