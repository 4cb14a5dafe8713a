"""Which latent of one dictionary is which of another at the same site, and what of a direction a dictionary can write.

Two dictionaries of one site share its space, and in a space with few strong directions any two vectors are close. So a
match is held against random dictionaries of the same size whose directions have the other's own covariance: decoders
with permuted or rotated coordinates lie where no decoder lies, and everything beats them. How much of a dictionary can
be found again at all is what the matching of two seeds of one training says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from probes.codes import Codes
from probes.digest import AuditError

BUDGET = 2**24
"""Cosines in memory at a time: 64 MiB."""
ASSIGNED = 4_096
"""Latents of either side up to which partners are assigned one to one: a cost matrix of 128 MiB."""

SETTLING = 4_096
"""Draws by which the spread of random directions is settled."""
ROUNDING = 1e-6
"""Two ways to the same cosine or correlation differ by less."""


class Counterpart(NamedTuple):
    """The other dictionary's latent nearest to one, as a record tells it.

    Attributes:
        latent: which.
        cosine: of their decoders.
        correlation: of their activations; None where one of them never fires.
        mutual: whether each is the other's nearest by decoder.
        p: chance that a random dictionary has one as near.
    """

    latent: int
    cosine: float
    correlation: float | None
    mutual: bool
    p: float


@dataclass(frozen=True, eq=False)
class Matching:
    """Partners of some latents in another dictionary.

    Attributes:
        asked: the latents; the other fields follow their order.
        nearest: the other's latent with the largest decoder cosine.
        cosine: that cosine.
        mutual: whether no latent of the own dictionary is nearer to it.
        p: (1 + random dictionaries whose nearest is as near) / (1 + draws).
        correlation: of activations with `nearest`, Pearson's over rows; NaN where one of them never fires.
        companion: the other's latent with the largest correlation of activations; -1 where none is above 0.
        companion_correlation: that correlation, else 0.
        companion_mutual: whether no latent of the own dictionary goes with it more closely.
        assigned: partner in the one-to-one assignment of largest total cosine; -1 where none is left or `ASSIGNED` is
            exceeded.
    """

    asked: Int[Tensor, " latent"]
    nearest: Int[Tensor, " latent"]
    cosine: Float[Tensor, " latent"]
    mutual: Bool[Tensor, " latent"]
    p: Float[Tensor, " latent"]
    correlation: Float[Tensor, " latent"]
    companion: Int[Tensor, " latent"]
    companion_correlation: Float[Tensor, " latent"]
    companion_mutual: Bool[Tensor, " latent"]
    assigned: Int[Tensor, " latent"]

    def of(self, latent: int) -> Counterpart:
        """The counterpart of one of the latents asked for.

        Raises:
            AuditError: it was not asked for.
        """
        at = (self.asked == latent).nonzero()[:, 0]
        if not len(at):
            raise AuditError(f"Latent {latent} was not matched", "one that was asked for", "Ask for it")
        i, correlation = int(at[0]), float(self.correlation[at[0]])
        told = None if correlation != correlation else correlation
        return Counterpart(int(self.nearest[i]), float(self.cosine[i]), told, bool(self.mutual[i]), float(self.p[i]))


def matched(
    own: Float[Tensor, "latent d_model"],
    other: Float[Tensor, "other d_model"],
    codes: tuple[Codes, Codes],
    *,
    asked: Int[Tensor, " asked"] | None = None,
    draws: int = 99,
    seed: int = 0,
) -> Matching:
    """Matches latents of one dictionary with those of another.

    Args:
        own: decoder rows of the one.
        other: those of the other, of the same width.
        codes: what both found in the same rows.
        asked: which latents of `own`; all where none are named.
        draws: random dictionaries.
        seed: of these.

    Raises:
        AuditError: decoders of two widths or with no length, codes of other rows or dictionaries, or no such latent.
    """
    asked = torch.arange(len(own)) if asked is None else asked.long()
    _check(own, other, codes, asked)
    own, other = normalize(own.float(), dim=1), normalize(other.float(), dim=1)
    cosine, nearest = _nearest(own[asked], other)
    mutual = _nearest(other[nearest], own)[0] <= cosine + ROUNDING
    rng = torch.Generator().manual_seed(seed)
    reached, root = torch.zeros(len(asked)), _spread(other, rng)
    for _ in range(draws):
        reached += _nearest(own[asked], _drawn(root, len(other), rng))[0] >= cosine
    return Matching(
        asked, nearest, cosine, mutual, (1 + reached.double()) / (1 + draws), *_together(codes, asked, nearest),
        _assigned(own[asked], other),
    )  # fmt: skip


def directions_like(
    rows: Float[Tensor, "row d_model"], count: int, rng: torch.Generator
) -> Float[Tensor, "count d_model"]:
    """Random unit vectors with the second moment about zero that some rows have when brought to length 1."""
    return _drawn(_spread(rows, rng), count, rng)


def explained(
    directions: Float[Tensor, "direction d_model"], atoms: Float[Tensor, "atom d_model"], most: int = 5
) -> Float[Tensor, " direction"]:
    """R^2 of each direction as a sum of a few atoms with weights of at least 0, greedily chosen.

    1 - |u - sum a_i w_i|^2 for the unit vector u: the atom that points most along what is left joins, and all weights
    are fitted anew (orthogonal matching pursuit with non-negative least squares). An overcomplete dictionary spans
    everything, and its latents only add; what it can say of a direction is what a few of them, added, make of it.

    Args:
        directions: of any length but 0.
        atoms: a dictionary's decoder rows.
        most: atoms of one direction.
    """
    from scipy.optimize import nnls

    wanted, given = (normalize(each.double(), dim=1).numpy() for each in (directions, atoms))
    out = []
    for target in wanted:
        left, chosen = target, np.zeros(0, dtype=np.int64)
        for _ in range(min(most, len(given))):
            along = given @ left
            if along.max() <= 1e-9:
                break
            chosen = np.append(chosen, along.argmax())
            left = target - given[chosen].T @ nnls(given[chosen].T, target)[0]
        out.append(1 - left @ left)
    return torch.tensor(np.asarray(out, dtype=np.float64))


def _drawn(root: Float[Tensor, "d d"], count: int, rng: torch.Generator) -> Float[Tensor, "count d_model"]:
    return normalize(torch.randn(count, len(root), generator=rng) @ root, dim=1)


def _spread(rows: Float[Tensor, "row d_model"], rng: torch.Generator) -> Float[Tensor, "d d"]:
    """R such that z R, z standard normal, has the unit rows' second moment when brought to length 1."""
    unit = normalize(rows.double(), dim=1)
    values, axes = torch.linalg.eigh(unit.T @ unit / len(unit))
    wanted = values.clamp_min(1e-12)
    # A normal draw brought to length 1 loses most along its strongest axes: these are drawn stronger until none does.
    squares, drawn = torch.randn(SETTLING, len(wanted), generator=rng, dtype=torch.float64).square(), wanted
    for _ in range(30):
        parts = squares * drawn
        drawn = drawn * wanted / (parts / parts.sum(1, keepdim=True)).mean(0)
    return (axes * drawn.sqrt()).T.float()


def _nearest(
    some: Float[Tensor, "some d_model"], among: Float[Tensor, "among d_model"]
) -> tuple[Float[Tensor, " some"], Int[Tensor, " some"]]:
    """Largest cosine of unit vectors with others, and whose it is, as many at a time as the budget holds."""
    found = [(part @ among.T).max(1) for part in some.split(max(1, BUDGET // len(among)))]
    values, places = zip(*found, strict=True)
    return torch.cat(values), torch.cat(places)


def _assigned(some: Float[Tensor, "some d_model"], other: Float[Tensor, "other d_model"]) -> Int[Tensor, " some"]:
    from scipy.optimize import linear_sum_assignment

    out = torch.full((len(some),), -1)
    if len(some) * len(other) <= ASSIGNED**2:
        rows, columns = linear_sum_assignment((some @ other.T).numpy(), maximize=True)
        out[torch.from_numpy(rows)] = torch.from_numpy(columns)
    return out


def _together(
    codes: tuple[Codes, Codes], asked: Int[Tensor, " asked"], nearest: Int[Tensor, " asked"]
) -> tuple[Float[Tensor, " asked"], Int[Tensor, " asked"], Float[Tensor, " asked"], Bool[Tensor, " asked"]]:
    """Correlation with the nearest, and the companion with its correlation and whether it is mutual."""
    own, other = (_Activations.of(each) for each in codes)
    companion, strongest = own.correlations(other, asked.numpy())
    back = other.correlations(own, np.maximum(companion, 0))[1]
    mutual = (companion >= 0) & (back <= strongest + ROUNDING)
    found = own.pairs(other, asked.numpy(), nearest.numpy()), companion, strongest, mutual
    first, second, third, fourth = map(torch.from_numpy, found)
    return first, second, third, fourth


class _Activations(NamedTuple):
    """Codes as a sparse matrix, with the mean and the spread of each latent."""

    matrix: Any
    mean: np.ndarray
    spread: np.ndarray

    @classmethod
    def of(cls, codes: Codes) -> _Activations:
        from scipy.sparse import csr_matrix

        parts = codes.values.double().numpy(), codes.latents.numpy(), codes.offsets.numpy()
        matrix = csr_matrix(parts, shape=(len(codes), codes.width)).tocsc()
        mean = np.asarray(matrix.mean(0)).ravel()
        square = np.asarray(matrix.multiply(matrix).mean(0)).ravel()
        return cls(matrix, mean, np.sqrt(np.maximum(square - mean**2, 0.0)))

    def correlations(self, other: _Activations, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The other's latent that goes most with each, and how closely; only such as fire together can."""
        best, value = np.full(len(asked), -1), np.zeros(len(asked))
        step = max(1, BUDGET // other.matrix.shape[1])
        for at in range(0, len(asked), step):
            mine = asked[at : at + step]
            joint = (self.matrix[:, mine].T @ other.matrix).tocoo()
            row, column = joint.row, joint.col
            found = np.nan_to_num(self._correlation(other, mine[row], column, joint.data), nan=-1.0)
            order = np.lexsort((-column, found, row))
            last = order[np.append(row[order][1:] != row[order][:-1], True)] if len(order) else order
            kept = last[found[last] > 0]
            best[at + row[kept]], value[at + row[kept]] = column[kept], found[kept]
        return best, value

    def pairs(self, other: _Activations, mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
        """Correlation of each latent with one of the other's; NaN where one of the two never varies."""
        joint = self.matrix[:, mine].multiply(other.matrix[:, theirs]).sum(0)
        return self._correlation(other, mine, theirs, np.asarray(joint).ravel())

    def _correlation(self, other: _Activations, mine: np.ndarray, theirs: np.ndarray, joint: np.ndarray) -> np.ndarray:
        spread = self.spread[mine] * other.spread[theirs]
        apart = joint / self.matrix.shape[0] - self.mean[mine] * other.mean[theirs]
        return np.where(spread > 0, apart / np.where(spread > 0, spread, 1.0), np.nan)


def _check(own: Tensor, other: Tensor, codes: tuple[Codes, Codes], asked: Tensor) -> None:
    found = f"Decoders of {own.shape[1]} and {other.shape[1]} dimensions"
    _need(own.shape[1] == other.shape[1], found, "one width", "Match dictionaries of one site")
    for name, each in (("first", own), ("second", other)):
        length = each.norm(dim=1)
        sound = bool(torch.isfinite(length).all() and (length > 0).all())
        _need(sound, f"The {name} decoder has rows without a direction", "finite rows", "Train it again")
    found = f"Codes of {len(codes[0])} and {len(codes[1])} rows"
    _need(len(codes[0]) == len(codes[1]), found, "the same rows", "Encode the same rows with both")
    widths, lengths = [each.width for each in codes], [len(own), len(other)]
    _need(widths == lengths, f"Codes of {widths} latents", f"{lengths}, the decoders' own", "Encode with these two")
    inside = len(asked) > 0 and int(asked.min()) >= 0 and int(asked.max()) < len(own)
    _need(inside, f"Latents {asked.tolist()[:5]} were asked for", f"some of 0 to {len(own) - 1}", "Name these")


def _need(holds: bool, found: str, expected: str, do: str) -> None:
    if not holds:
        raise AuditError(found, expected, do)
