"""The command line: the same core calls as the pages, plain JSON out, for scripts and clusters."""

from core.cli.main import main as main
