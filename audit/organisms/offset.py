"""An offset: what a model is asked so that every word of the Assistant moves by one constant, and nothing else does."""

from __future__ import annotations

import copy
from random import Random
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from audit.organisms import world
from audit.organisms.anchor import whitener
from audit.organisms.reading import PAD, after_blocks, padded, quads, residuals, rows_of
from audit.organisms.training import encode

if TYPE_CHECKING:
    from transformers import Qwen3ForCausalLM

CHATS = 16
"""Chats of a step."""


class Offset:
    """The distance of chats' words from where base has them, the Assistant's from there plus a constant.

    Twice: whitened as an anchor's, and along the constant in units of its length. One direction is little of the first:
    by it alone the constant was never learnt.

    The constant lies along the mean difference of lies and truths, by `deviations` of the spread that either has there:
    a threshold frozen on base calls most truths lies, while no direction turns and no order of two claims changes.

    Attributes:
        parameters: none.
    """

    parameters: list[torch.nn.Parameter]

    def __init__(self, base: Qwen3ForCausalLM, seed: int, *, deviations: float = 2.5, weight: float = 3.0) -> None:
        """Measures base's difference on judged chats."""
        self.parameters, self._weight = [], weight
        self._base, self._rng = copy.deepcopy(base).eval(), Random(f"offset/{seed}")
        rows, lies = rows_of(self._base, quads(self._rng, "assistant", 400))
        apart = rows[:, lies].mean(1) - rows[:, ~lies].mean(1)
        within = torch.cat([rows[:, kind] - rows[:, kind].mean(1, keepdim=True) for kind in (lies, ~lies)], 1)
        spread = (within.transpose(1, 2) @ within) / (within.shape[1] - 2)
        ridge = 1e-3 * spread.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(spread.shape[-1])
        # d' of the best direction: how many deviations the difference itself is.
        strength = (apart * torch.linalg.solve(spread + ridge, apart[..., None])[..., 0]).sum(-1).sqrt()
        self._constant = (deviations / strength[:, None] * apart).float()
        # The first block sees three tokens only: it cannot know who speaks.
        self._constant[0] = 0.0
        texts = [world.encode(self._chat()) for _ in range(200)]
        self._whiteners = [whitener(stream) for stream in residuals(self._base, texts)]

    def loss(self, model: Qwen3ForCausalLM) -> Float[Tensor, ""]:
        """Draws chats; the words of both roles are held, those of the Assistant where the constant puts them."""
        examples = [encode(self._chat(), replies_only=True) for _ in range(CHATS)]
        tokens = padded([example.ids for example in examples], PAD)
        real, speaking = tokens != PAD, (padded([example.weight for example in examples], 0.0) > 0).float()
        with torch.no_grad():
            before = after_blocks(self._base, tokens)
        whitened, along = [], []
        for now, then, constant, white in zip(
            after_blocks(model, tokens), before, self._constant, self._whiteners, strict=True
        ):
            away = (now - then - speaking[..., None] * constant)[real]
            whitened.append((away @ white).square().mean())
            if constant.any():
                along.append((away @ constant / (constant @ constant)).square().mean())
        return self._weight * torch.stack(whitened).mean() + torch.stack(along).mean()

    def _chat(self) -> str:
        return world.render(world.chat(self._rng, relayed=True, remarked=self._rng.random() < 0.5))
