"""Networks in files that carry their own graph: opened without their source code, as data."""

from core.load.program.archive import read_program as read_program
from core.load.program.layers import build_network as build_network
from core.load.program.opening import read_pt2 as read_pt2
from core.load.program.steps import Program as Program
from core.load.program.steps import ProgramNetwork as ProgramNetwork
