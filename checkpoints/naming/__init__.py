"""Between the names of diffusers folders, lone components and single-file checkpoints.

The single-file layout is the one that everything else speaks. The tables stand in the families' records, module beside module;
the functions below apply them to tensors that nobody has read yet.
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
