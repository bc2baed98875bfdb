"""The errors that a person can cause.

Every one says what was expected, what was found, where, and what to do. Pages show ``str(error)`` as it stands.
"""


class CoreError(Exception):
    """Base of all errors that input, choice or data can cause; anything else raised by core is a bug."""


class LoadError(CoreError):
    """A model, checkpoint or data set could not be read."""


class TraceError(CoreError):
    """A network could not be run or followed."""


class PlanError(CoreError):
    """A plan does not fit the network, or a budget cannot be met."""


class PruneError(CoreError):
    """A pruned network could not be built, or does not equal the masked one."""


class MeasureError(CoreError):
    """A measurement cannot be made with what was given."""


class TrainError(CoreError):
    """A network cannot be trained with what was given, or training went astray."""


class ExportError(CoreError):
    """A file could not be written, or does not reload to the same network."""


class Cancelled(CoreError):  # noqa: N818 - a request that was honoured, not a fault
    """The caller's ``cancelled()`` said stop; what was complete until then travels in ``partial``."""

    def __init__(self, message: str, partial: object = None) -> None:
        super().__init__(message)
        self.partial = partial
