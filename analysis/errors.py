"""The mistake of a user who asks for numbers that do not exist."""

from ..checkpoints.errors import UnetscopeError


class AnalysisError(UnetscopeError):
    """Checkpoints that cannot be measured or compared, or a metric that does not exist."""
