"""How channel labels pass through operators: one small rule per kind of operator.

Operators that only move data are run on the label tensor itself, so a new one costs a name in a set. An operator
without a rule locks the channels it touches and is reported by name: nothing is guessed.
"""

from core.trace.rules import layers, moves, pointwise, products  # noqa: F401 - importing enters their rules
from core.trace.rules.flow import Flow as Flow
from core.trace.rules.moves import MOVES as MOVES
