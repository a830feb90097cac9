"""A file's own names <-> keys, the names of the family's single-file layout, which everything else speaks.

Tensors are moved, and nothing is read. In the order in which data passes:

- `single`: components, found by what they hold, whatever stands before their names
- `denoiser`, `translation`: names of diffusers and transformers, translated both ways by the tables of the families' records
- `averaged`: the denoiser that is there as EMA weights only
- `architecture`: keys -> the family, its variant, its parts
- `other_models`: what is not a checkpoint of a known family, by name
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
