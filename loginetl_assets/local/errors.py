"""The one way in which the embedded stack fails."""

from loginetl_assets.errors import OperatorError


class EmbeddedStackError(OperatorError):
    """The embedded stack cannot do what was asked.

    The message is one line and names the setting, the command or the log file that mends it.
    """
