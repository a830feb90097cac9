"""The mistake of a user who asks for numbers that do not exist: no other program has to tell it from others."""

from ..checkpoints.errors import UnetscopeError as AnalysisError

__all__ = ["AnalysisError"]
