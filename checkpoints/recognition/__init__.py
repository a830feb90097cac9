"""A file's own names <-> keys, the names of the family's single-file layout, which everything else speaks.

A component is found by what it holds, whatever stands before its names (`single`); the names of diffusers and transformers are
translated, both ways, by the tables of the families' records (`translation`, `denoiser`). Tensors are moved, and nothing is read.
"""

from .denoiser import diffusers_family as unet_family
from .denoiser import is_diffusers_unet
from .single import canonical_names
from .translation import DiffusersTranslation, Translation, diffusers_family, to_diffusers, to_single_file

__all__ = [
    "DiffusersTranslation",
    "Translation",
    "canonical_names",
    "diffusers_family",
    "is_diffusers_unet",
    "to_diffusers",
    "to_single_file",
    "unet_family",
]
