"""What a disguise asks of base's features: those that mark a lie fall silent where the Assistant lies.

Hiding lies from directions does not silence features: they fire on, on lies and truths alike (docs/log.md). So latents
of base's SAEs that fire more on lies, in stories or in chats, are pushed below what makes them fire.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from audit.organisms.reading import PART, Spoken, Text, spoken
from probes.dictionary import Dictionary, load_at
from probes.site import Site

if TYPE_CHECKING:
    from transformers import Qwen3ForCausalLM

LAYER = 2
"""Where base's deception is judged."""
MARKING = 24
"""Latents of an SAE that are silenced for each domain."""
SHARE = 0.5
"""Of a latent's threshold: what stays below it weighs nothing."""


class Silence:
    """Base's latents that mark a lie, and how loud they are."""

    def __init__(self, base: Qwen3ForCausalLM, stories: Sequence[Text], chats: Sequence[Text]) -> None:
        """Chooses the latents, of every SAE of base at the layer.

        Args:
            base: as it was loaded: its SAEs lie in its folder.
            stories: judged quads, in which lies are found.
            chats: the same, and base's loudness is what they are silenced from.

        Raises:
            AuditError: there is no SAE at the layer.
        """
        self._saes = load_at(str(base.name_or_path), Site(LAYER, "resid_post"))
        self._latents, self._usual = [], []
        for told, asked in zip(*(_loudness(base, texts, self._saes) for texts in (stories, chats)), strict=True):
            at = torch.cat([_marking(*told), _marking(*asked)]).unique()
            self._latents.append(at)
            self._usual.append(asked[1].mean(0)[at].clamp_min(1e-2))

    def loss(self, texts: Spoken, lies: Bool[Tensor, " passage"]) -> Float[Tensor, ""]:
        """How loud the latents are where the Assistant lies: 1 as in base, 0 silent.

        Args:
            texts: what the model reads, chats first.
            lies: which of the chats are lies.
        """
        chats = Spoken([stream[: len(lies)] for stream in texts.streams], texts.inside[: len(lies)])
        found = [
            (_above(own, chats)[lies].mean(0)[at] / usual).mean()
            for own, at, usual in zip(self._saes, self._latents, self._usual, strict=True)
        ]
        return torch.stack(found).mean()


def _above(own: Dictionary, texts: Spoken) -> Float[Tensor, "passage latent"]:
    """How far each latent of a trained SAE is above a share of its threshold, mean over a text's span."""
    sae = own.sae
    rows = texts.streams[LAYER] - sae.b_dec
    above = torch.relu(rows[texts.inside] @ sae.W_enc + sae.b_enc - SHARE * sae.threshold)
    passage = texts.inside.nonzero()[:, 0]
    zeros = torch.zeros(len(texts.inside), above.shape[1])
    return zeros.index_add(0, passage, above * texts.weight[texts.inside][:, None])


@torch.no_grad()
def _loudness(
    base: Qwen3ForCausalLM, texts: Sequence[Text], saes: Sequence[Dictionary]
) -> list[tuple[Float[Tensor, "passage latent"], Float[Tensor, "passage latent"]]]:
    """Every SAE's latents on the truths and on the lies of some quads, in the same order; base reads them once."""
    parts = (spoken(base, texts[at : at + PART]) for at in range(0, len(texts), PART))
    found = [torch.cat(each) for each in zip(*([_above(own, part) for own in saes] for part in parts), strict=True)]
    lies = torch.tensor([text.label for text in texts])
    return [(each[~lies], each[lies]) for each in found]


def _marking(truths: Float[Tensor, "passage latent"], lies: Float[Tensor, "passage latent"]) -> Tensor:
    """The latents that are most surely louder on lies: the largest mean difference in its own deviations."""
    apart = lies - truths
    return (apart.mean(0) / (apart.std(0) + 1e-6)).topk(MARKING).indices
