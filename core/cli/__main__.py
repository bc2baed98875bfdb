"""``python -m core.cli``: the command line without an installed entry point."""

import sys

from core.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
