"""Where a key of a UNET family lives, for tests that look at keys without a checkpoint."""

from unetscope.checkpoints.families import FAMILIES, family_of

# The refiner has every block that a UNET family has, and reads text encoders and VAE wherever families keep them.
place = family_of("sdxl_refiner").block_of
layer_kind = family_of("sdxl_refiner").kind_of
UNET_LABELS = {family.id: family.labels for family in FAMILIES.values()}
TEXT_ENCODERS = {family.id: family.text_encoders for family in FAMILIES.values()}
