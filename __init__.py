"""See inside Stable Diffusion checkpoints, compare them layer by layer, and merge them.

The rooms: `unetscope.checkpoints` (files as named tensors), `unetscope.merge` (recipes and the merge engine).
Importing this package imports none of them, and never torch.
"""

__version__ = "0.1.0"
