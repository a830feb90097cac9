"""Prompts to what the UNET reads, the way of the web UI: emphasis by weights, and prompts of any length in chunks of 75 tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...checkpoints.families import Family
from ...checkpoints.families.parts.clip import TOKENS
from .prompts import Weighted, weighted

if TYPE_CHECKING:
    import torch

_INSIDE = TOKENS - 2


@dataclass(frozen=True)
class Chunk:
    """77 token numbers and the weight of each."""

    tokens: tuple[int, ...]
    weights: tuple[float, ...]


def chunks(prompt: str, tokenizer: Any) -> list[Chunk]:
    """A prompt in chunks of 75 tokens, each with start and end and filled up as its encoder was trained; at least one."""
    rows: list[list[tuple[int, float]]] = [[]]
    for stretch in weighted(prompt):
        if stretch.text is None:
            rows.append([])
            continue
        for token in _numbers(stretch, tokenizer):
            if len(rows[-1]) == _INSIDE:
                rows.append([])
            rows[-1].append((token, stretch.weight))
    return [_chunk(row, tokenizer) for row in rows]


def _numbers(stretch: Weighted, tokenizer: Any) -> list[int]:
    return tokenizer(stretch.text, add_special_tokens=False, truncation=False, verbose=False).input_ids


def _chunk(row: list[tuple[int, float]], tokenizer: Any) -> Chunk:
    fill = TOKENS - 2 - len(row)
    tokens = [tokenizer.bos_token_id, *(t for t, _ in row), tokenizer.eos_token_id, *[tokenizer.pad_token_id] * fill]
    return Chunk(tuple(tokens), (1.0, *(w for _, w in row), 1.0, *[1.0] * fill))


class Conditioning:
    """Encodes prompts with the live text encoders, and remembers the result until their weights change.

    Args:
        family: whose text encoders they are.
        encoders, tokenizers: by the pipeline's names, in its order.
    """

    def __init__(self, family: Family, encoders: dict[str, Any], tokenizers: dict[str, Any]):
        self._family, self._encoders, self._tokenizers = family, encoders, tokenizers
        self._known: dict[tuple, tuple[torch.Tensor, torch.Tensor | None]] = {}

    def forget(self) -> None:
        """The weights of a text encoder have changed."""
        self._known.clear()

    def encoded(self, prompt: str, length: int, skip: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What the UNET reads of a prompt.

        Args:
            prompt: with the web UI's emphasis.
            length: chunks; shorter prompts are filled up with empty ones.
            skip: the web UI's clip skip: 1 reads the last layer, 2 the last but one. SDXL always reads the last but one.

        Returns:
            (1, 77 length, width), and for SDXL the pooled (1, width) of the first chunk.
        """
        key = (prompt, length, skip)
        if key not in self._known:
            self._known[key] = self._encode(prompt, length, skip)
        return self._known[key]

    def length(self, prompt: str) -> int:
        """How many chunks a prompt has."""
        return max(len(chunks(prompt, tokenizer)) for tokenizer in self._tokenizers.values())

    def _encode(self, prompt: str, length: int, skip: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        import torch

        states, pooled = [], None
        for name, encoder in self._encoders.items():
            tokenizer = self._tokenizers[name]
            rows = chunks(prompt, tokenizer)
            rows += [_chunk([], tokenizer)] * (length - len(rows))
            found = [self._run(encoder, row, skip) for row in rows]
            states.append(torch.cat([state for state, _ in found], dim=1))
            pooled = found[0][1]
        return torch.cat(states, dim=-1), pooled if self._family.pipeline.pooled else None

    def _run(self, encoder: Any, chunk: Chunk, skip: int) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        tokens = torch.tensor([chunk.tokens], device=encoder.device)
        if self._family.pipeline.pooled:
            out = encoder(tokens, output_hidden_states=True)
            return _emphasised(out.hidden_states[-2], chunk.weights), out[0]
        if skip <= 1:
            out = encoder(tokens)
            return _emphasised(out[0], chunk.weights), out[1]
        out = encoder(tokens, output_hidden_states=True)
        inner = getattr(encoder, "text_model", encoder)
        return _emphasised(inner.final_layer_norm(out.hidden_states[-skip]), chunk.weights), out[1]


def _emphasised(state: torch.Tensor, weights: tuple[float, ...]) -> torch.Tensor:
    """Tokens times their weights, the mean of all as it was."""
    import torch

    if all(weight == 1.0 for weight in weights):
        return state
    before = state.float().mean()
    scaled = state * torch.tensor(weights, dtype=state.dtype, device=state.device)[None, :, None]
    return (scaled * (before / scaled.float().mean()).to(state.dtype)).to(state.dtype)
