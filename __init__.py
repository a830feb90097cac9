"""See inside the checkpoints of diffusion models, compare them layer by layer, and merge them.

The rooms, each of which may import those before it: `checkpoints` (files as named tensors), `analysis` (numbers about weights) and
`diagrams` (pictures), `merge` (recipes and the engine), `search` (finds a recipe), `dashboard` (the app), `cli` (the command line).
docs/architecture.md is their map. Importing this package imports none of them, and never torch.
"""

__version__ = "0.1.0"
