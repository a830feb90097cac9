"""What a user is told and what stops nothing: warnings of a plan, notes on a file, findings of lint and of a scan.

All of it is one record, a `Notice`. Code branches on its code and asks for its subject; its text is for people alone, so it can
be worded anew at any time. What stops something is an `UnetscopeError`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

# Every code, by topic, those of errors as well. Each is told in one place. A code that is out stays, whatever its text becomes.
_CODES = """
    architecture: differs
    base: farther unrelated
    convert: kept lacking noise_unmarked not_finite nothing_left too_large
    difference: base_lacking
    diffusers: absent depth_estimator lacking prediction_guessed tokenizers
    draft: unfinished
    dtype: fewer_digits
    ema: not_read
    encoding: not_decoded
    file: beside_state_dict half_characters metadata_left_out metadata_not_text trailing_bytes
    folder: empty no_index only_variant prediction_unknown variants
    header: absent bytes_left dtype entry metadata name_twice not_json not_read order size truncated
    health: absent constant ema_only huge lacking lacking_unused mixed_dtypes needless not_finite not_finite_beside
        position_ids subnormal too_large unknown vanishing zero_vectors zero_weights
    import: adjust alpha_default apply_stock automb_exchanged automb_text_encoders base_in_vector base_parameters
        best_row beta_vector blocks_twice cast chattiori column config_source discarded dropout_zeros
        dtype_not_recorded dtype_unknown elemental_blocks elemental_line embeddings_follow_in00 embeddings_guessed
        embeddings_left embeddings_merged embeddings_of_xl embeddings_out11 fault filed_without_hash found_by_name
        instruct_pix2pix intermediate_rounding layer_range line line_setting loaded_alone loaded_dtype logit_scale
        median_bounds median_limits method model_not_named model_stock_rows negative_weight no_equivalent no_hash
        no_mode no_part no_record not_a_recipe not_found number_zero one_element_more one_number output_mode
        own_ancestor own_recipe parameter parameter_unused parameter_without_effect parts_alone printed_lines random
        record_broken record_not_unrolled refused release revision rounding rows_unread sampling setting shares
        tensors_not_merged vae_copied vae_not_found vae_of_inner vote_sgn web_ui_rounding worked_dtype
    index: ambiguous
    inpainting: not_first
    journal: anew damaged tensors_damaged
    kernels: not_kept
    kind: not_a_model
    labels: unknown
    lora: alpha_zero outside unknown unused
    merge: clamped not_finite
    missing: file
    models: architectures predictions
    names: adapter_layers adapter_not_merged attention_linear component_alone component_elsewhere dropped lacking
        text_model_lacking unknown wrapper
    nan: sampled
    output: exists folder_put_back folder_removed in_use is_input leftover leftover_removed not_as_written
    plan: component_absent component_lacking ema_left_out ema_only lora_without_model result_lacking step_unmet
        tensors_lacking text_encoder_left_out unknown_kept unknown_left_out unknown_merged unused
    prediction: levels mixed no_mark noise unknown
    range: parameter share
    recipe: circle component is_model missing name_twice names no_text not_mapping not_read not_yaml parameter refused
        space too_deep unknown_field unknown_name value weights
    refused: by_merge
    rounding: lost
    search: damaged_journal no_image out_of_order
    text_encoder: copies
    total: not_one
    twice: file weights
    uniform: chain
    unused: by_result weight
    vae: averaged odd
    vector: length middle not_finite
    weights: default_unused empty scale_unused two_sources
"""


def _read(table: str) -> frozenset[str]:
    found, topic = set(), ""
    for word in table.split():
        if word.endswith(":"):
            topic = word[:-1]
        else:
            found.add(f"{topic}.{word}")
    return frozenset(found)


CODES = _read(_CODES)


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that a user should know.

    Attributes:
        code: what it is, for programs: a topic and a word, `vae.averaged`. All of them are in `CODES`.
        text: what, in a sentence without its full stop; it may be worded anew in any release.
        subject: the files, models, components or tensors that it is about, the widest first.
        severity: an `error` stops or spoils something, a `warning` is likely a mistake, a `note` is worth knowing.
        why: why it matters.
        remedy: what to do.
        step: the step of a recipe that it is about, empty where it is about none.
    """

    code: str
    text: str
    subject: tuple[str, ...] = ()
    severity: Severity = "note"
    why: str = ""
    remedy: str = ""
    step: str = ""

    def __str__(self) -> str:
        return self.text

    @property
    def topic(self) -> str:
        """The first part of its code."""
        return self.code.split(".")[0]

    def of(self, name: str) -> Notice:
        """The same of one of several files or models, which its text then names first."""
        return replace(self, text=f"{name}: {self.text}", subject=(name, *self.subject))


def texts(notices: Iterable[Notice]) -> list[str]:
    """What notices say, as JSON has it."""
    return [notice.text for notice in notices]


def worst_first(notices: Iterable[Notice]) -> list[Notice]:
    """Notices by severity; those of one severity stay in their order."""
    return sorted(notices, key=lambda notice: SEVERITIES.index(notice.severity))


def to_plain(notice: Notice) -> dict[str, Any]:
    """A notice for JSON."""
    return {"code": notice.code, "text": notice.text, "subject": list(notice.subject)}


def from_plain(plain: dict[str, Any]) -> Notice:
    """What `to_plain` made of a notice."""
    return Notice(plain["code"], plain["text"], tuple(plain["subject"]))
