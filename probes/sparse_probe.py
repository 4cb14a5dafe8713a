"""k-sparse probing: how well a handful of a dictionary's latents tell label 1 from label 0.

After Gurnee et al. (2023): latents are ranked by how far they differ between the labels, and a linear probe reads the
best k. Ranking and fitting see the training groups alone; ranking is by the difference over its standard error, which
a latent that fires in one scenario only cannot win.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.codes import Codes
from probes.direction import lda


def contrasted(
    rows: Codes, labels: Bool[Tensor, " row"], group: Int[Tensor, " row"], train: Bool[Tensor, "fit group"]
) -> Float[Tensor, "fit latent"]:
    """Each latent's mean difference, label 1 - label 0, over its standard error between groups; positive = label 1.

    Args:
        rows: activations, e.g. pooled by passage.
        labels: True for label 1.
        group: each row's group, from 0; one that lacks a label is left out.
        train: the groups that each fit may see.
    """
    n_groups = train.shape[1]
    ones, zeros = (torch.bincount(group[mark], minlength=n_groups).double() for mark in (labels, ~labels))
    both = (ones > 0) & (zeros > 0)
    each = torch.where(labels, 1 / ones.clamp(min=1)[group], -1 / zeros.clamp(min=1)[group]) * both[group]
    entry = rows.row
    keys, at = (group[entry] * rows.width + rows.latents).unique(return_inverse=True)
    apart = torch.zeros(len(keys), dtype=torch.float64).index_add_(0, at, rows.values.double() * each[entry])
    where, latent = keys // rows.width, keys % rows.width
    found = []
    for seen in train & both:
        count = int(seen.sum())
        inside = seen[where]
        sums = torch.zeros(2, rows.width, dtype=torch.float64)
        sums.index_add_(1, latent[inside], torch.stack([apart[inside], apart[inside].square()]))
        mean = sums[0] / max(count, 1)
        spread = (sums[1] - count * mean.square()).clamp(min=0) / max(count - 1, 1)
        # The same difference in every group has no spread but rounding: a millionth of it stands in.
        error = (spread / max(count, 1)).sqrt().clamp(min=1e-6 * mean.abs())
        found.append(torch.where(mean == 0, 0.0, mean / error.clamp(min=torch.finfo(torch.float64).tiny)))
    return torch.stack(found)


def strongest(contrast: Float[Tensor, "*fit latent"], k: int) -> Int[Tensor, "*fit k"]:
    """The k latents that differ most either way, the lower number first among equals."""
    order = (-contrast.abs()).sort(dim=-1, stable=True).indices
    return order[..., :k]


@dataclass(frozen=True, eq=False)
class SparseProbe:
    """A linear probe on a few latents; positive = label 1.

    Attributes:
        latents: which.
        weights: of their activations.
    """

    latents: Int[Tensor, " k"]
    weights: Float[Tensor, " k"]

    def __call__(self, rows: Codes) -> Float[Tensor, " row"]:
        """Scores of rows of the same dictionary."""
        return rows.of_latents(self.latents).double() @ self.weights


def sparse_probe(
    rows: Codes, labels: Bool[Tensor, " row"], train: Bool[Tensor, " row"], latents: Int[Tensor, " k"]
) -> SparseProbe:
    """Shrunk LDA on the latents, each in units of its spread over the training rows; one that is constant has no say.

    Args:
        rows: activations.
        labels: True for label 1.
        train: rows that may be seen; both labels are among them.
        latents: chosen on those rows, or on others.
    """
    dense = rows.of_latents(latents).double()
    spread = dense[train].std(0)
    scale = torch.where(spread > 0, 1 / spread.clamp(min=torch.finfo(torch.float32).tiny), 0.0)
    if not bool((scale > 0).any()):
        return SparseProbe(latents, torch.zeros(len(latents), dtype=torch.float64))
    return SparseProbe(latents, lda(dense * scale, labels, train[None].double())[0] * scale)
