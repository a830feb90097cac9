"""What training keeps in a file next to the model: no program that makes pictures reads it."""

from __future__ import annotations

import re

# Optimisers, schedules of learning rates, counters, scalers and random states, as Lightning, accelerate and DeepSpeed call
# them; the networks that judge an autoencoder while it is trained.
_TRAINING = re.compile(
    r"^(optimizers?|optimizer_states?|optim|lr_schedulers?|scheduler_states?|callbacks|loops|(native_)?amp_scaling_state"
    r"|grad_scaler|rng_states?|random_states?)(\.|$)"
    r"|^(global_step|epoch|iteration|num_updates|steps?)$"
    r"|(^|\.)(exp_avg|exp_avg_sq|max_exp_avg_sq|momentum_buffer)(\.|$)"
    r"|^first_stage_model\.loss\."
)


def is_training_state(key: str) -> bool:
    """Whether a key is of training alone."""
    return bool(_TRAINING.search(key))
