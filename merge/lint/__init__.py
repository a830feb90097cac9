"""What is questionable about a recipe, before hours are spent on it.

`lint(recipe)` reads the recipe, the headers of its models and a sample of their weights, and answers in sentences: what was
found, why it matters, what to do. Nothing is written.
"""

from .finding import Finding, Severity
from .linter import LintReport, lint, lint_file
from .shares import ComponentShares, component_shares

__all__ = ["ComponentShares", "Finding", "LintReport", "Severity", "component_shares", "lint", "lint_file"]
