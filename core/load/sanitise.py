"""The separate process behind ``core.load.weights.sanitise_weights``: bound memory, read, write, leave.

Run as ``python -m core.load.sanitise SOURCE DESTINATION MEMORY_LIMIT_BYTES``. Exit status 2 with one sentence on the
standard output when the file is refused.
"""

from __future__ import annotations

import sys
from pathlib import Path

import safetensors.torch

from core.errors import LoadError
from core.load.weights import read_state_dict


def bound_memory(limit_bytes: int) -> None:
    """Let this process take at most ``limit_bytes`` more address space than it has now. POSIX only."""
    try:
        import resource
    except ImportError:
        return
    status = Path("/proc/self/statm")
    taken = int(status.read_text().split()[0]) * resource.getpagesize() if status.exists() else 0
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    wanted = taken + limit_bytes
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))


def main(source: str, destination: str, limit_bytes: int) -> int:
    bound_memory(limit_bytes)
    try:
        state = read_state_dict(source)
        safetensors.torch.save_file({name: value.clone() for name, value in state.items()}, destination)
    except LoadError as error:
        print(error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
