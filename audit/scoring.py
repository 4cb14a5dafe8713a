"""A pair's scores and gated readings, kept so that a later audit of the same passages can be paired with this one."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from audit.finding import Finding
from audit.pair import DOMAINS, MODELS, Judged, Pair, cross_validated
from audit.readability import Pieces, balanced_accuracy, kept_ceiling, reading
from audit.refitting import fixed
from audit.scores import Halves, Name, Scores, Sheet, Statistic
from probes.digest import digest


def scores_of(pair: Pair, finding: Finding) -> Scores:
    """What is kept of the persona at the chosen site, of the readings that `finding` reports.

    Readability is A_T0, the ceiling A_T6 with its refitted deletions, accuracy that of the frozen threshold: value and
    deletions are the finding's own. Scores are rounded to float32; AUROC of them is the reading's but for ties.

    Args:
        pair: the recorded pair.
        finding: the measured finding of `probe_transfer`.
    """
    judged, fold = pair.assistant, torch.as_tensor(pair.assistant.fold)
    groups, home = np.unique(np.asarray(judged.groups, dtype=str), return_index=True)
    pairs, first = np.unique(np.asarray(judged.pairs, dtype=str), return_index=True)
    sheets = _sheets(pair)
    passages = tuple(passage.content for domain in DOMAINS for passage in pair.judged(domain).passages)
    return Scores(
        persona=pair.persona.name, site=str(pair.site), definition=finding.definition, ids=digest(passages),
        groups=tuple(groups.tolist()), folds=tuple(fold[home].tolist()), pairs=tuple(pairs.tolist()),
        scenario=tuple(judged.group[first].tolist()), **sheets,
    )  # fmt: skip


def _sheets(pair: Pair) -> dict[str, Sheet]:
    """Both models' scores, base's story direction fitted once."""
    judged, fold = pair.assistant, torch.as_tensor(pair.assistant.fold)
    frozen = reading(pair, pair.chosen, "story")
    rows = torch.stack([judged.rows[model][pair.chosen] for model in MODELS])
    read = fixed(rows @ frozen.directions[0], judged.labels, judged.groups)
    own = cross_validated(rows, judged)
    sheets = {}
    for at, model in enumerate(MODELS):
        distance = frozen.scores(rows[at], fold)
        readings: dict[Name, Pieces] = {
            "readability": Pieces(read.full[at], read.deleted[:, at]),
            "ceiling": kept_ceiling(pair, model),
            "accuracy": balanced_accuracy(judged, distance),
        }
        sheets[model] = Sheet(
            frozen=_halves(distance, judged),
            own=_halves(own[at], judged),
            readings={name: _statistic(pieces) for name, pieces in readings.items()},
        )
    return sheets


def _statistic(pieces: Pieces) -> Statistic:
    return Statistic(value=float(pieces.full), deleted=tuple(pieces.deleted.double().tolist()))


def _halves(scores: Float[Tensor, " row"], judged: Judged) -> Halves:
    """Scores by sorted pair: a pair has one half of each label."""
    order = np.argsort(np.asarray(judged.pairs, dtype=str), kind="stable")
    labels = judged.labels.numpy()[order]
    # The shortest text that reads back as the same float32.
    told = np.array([float(str(value)) for value in scores.numpy().astype(np.float32)[order]])
    return Halves(one=tuple(told[labels].tolist()), zero=tuple(told[~labels].tolist()))
