"""How two workers share the suite out, so that both are at work to the end.

The browser's tests are one share: a second worker would start a server, its workers and a Chromium of its own, and two
browsers at once only wait for each other. Every other file is a share too, for what its fixtures make is made once.
What takes long begins first.
"""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

BROWSER = "tests/browser"
# The longest first; all others take ten seconds at most, and come as they are found.
LONG = (
    BROWSER,
    "tests/laws/test_pruned_nets_live.py",
    "tests/laws/test_random_nets.py",
    "tests/core/export/test_export.py",
    "tests/contracts/test_criteria.py",
    "tests/core/measure/test_latency.py",
    "tests/pages/test_sensitivity.py",
    "tests/core/test_recipes.py",
    "tests/pages/test_learn.py",
    "tests/pages/test_channels.py",
    "tests/contracts/test_reconstruction.py",
    "tests/pages/test_export.py",
    "tests/pages/test_model.py",
    "tests/laws/test_torchvision.py",
    "tests/core/apply/test_front_to_back.py",
    "tests/core/keep/test_uploads.py",
    "tests/core/apply/test_iterative.py",
    "tests/core/export/test_papers.py",
)


def share_of(test: str) -> str:
    """What is done by one worker, one after the other: the file, or all that needs a browser."""
    return BROWSER if test.startswith(f"{BROWSER}/") else test.partition("::")[0]


def place_of(test: str) -> int:
    """When a test's share begins: low is early."""
    share = share_of(test)
    return LONG.index(share) if share in LONG else len(LONG)


class Shares(LoadScopeScheduling):
    """Gives whole shares to whoever is free."""

    def _split_scope(self, nodeid: str) -> str:
        return share_of(nodeid)
