"""``python -m core.cli``: the command line without an installed entry point."""

import sys

from core.cli.main import main

sys.exit(main())
