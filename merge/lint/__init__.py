"""What is questionable about a recipe, before hours are spent on it.

`lint(recipe)` reads the recipe, the headers of its models and a sample of their weights, and answers in sentences: what was
found, why it matters, what to do. Nothing is written.

In the order in which data passes:

- `steps`: what the recipe says
- `headers`: what its models' headers say
- `shares`: how much of every model is in the result
- `values`, `sampling`: what a sample of the weights says
- `finding`, `linter`: a finding, and the report of them all
"""

from .linter import LintReport, lint, lint_file
from .shares import ComponentShares, component_shares

__all__ = ["ComponentShares", "LintReport", "component_shares", "lint", "lint_file"]
