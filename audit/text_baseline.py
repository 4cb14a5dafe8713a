"""What the words alone give away: a persona counts as carried only beyond these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from audit.estimate import Estimate, estimate
from audit.refitting import Judge, Refitted, fixed, refitted
from audit.resampling import Kernel, kernel

KEY = "text baseline, 3"
"""Under what these readings are remembered."""
REFIT_GROUPS = 100
"""With more groups than these one group in training moves no interval, and a refit without each costs minutes."""


@dataclass(frozen=True, eq=False)
class TextBaseline:
    """Two readings of the texts by the folds a probe is judged on, and the better of them.

    Attributes:
        tfidf: logistic regression on TF-IDF of words and word pairs: scores, AUROC, AUROC without each group
            (refitted too, up to `REFIT_GROUPS` groups).
        length: characters, counted for the label that has more of them in the training folds.
        kernel: the better one's scores, for bootstrap curves.
        n: texts.
    """

    tfidf: Refitted
    length: Refitted
    kernel: Kernel
    n: int

    @classmethod
    def of(
        cls,
        found: Mapping[str, Tensor],
        labels: Bool[Tensor, " row"],
        groups: Sequence[str],
        folds: Int[np.ndarray, " row"],
    ) -> TextBaseline:
        """From what `text_readings` gave, and the labels, groups and folds of the texts."""
        tfidf, length = (
            Refitted(*(found[f"{name}.{part}"] for part in Refitted._fields)) for name in ("tfidf", "length")
        )
        better = length if length.full > tfidf.full else tfidf
        return cls(tfidf, length, kernel(better.scores, labels, groups, folds), len(labels))

    @property
    def better(self) -> Literal["tfidf", "length"]:
        """The reading with the higher AUROC."""
        return "length" if self.length.full > self.tfidf.full else "tfidf"

    @property
    def full(self) -> Float[Tensor, ""]:
        """AUROC of the better reading: to be subtracted from a ceiling's `full` on the same groups."""
        return torch.maximum(self.tfidf.full, self.length.full)

    @property
    def deleted(self) -> Float[Tensor, " group"]:
        """The same with each group left out and the better one chosen anew: pairs with a ceiling's `deleted`."""
        return torch.maximum(self.tfidf.deleted, self.length.deleted)

    @property
    def estimate(self) -> Estimate:
        """AUROC of the better reading, with its interval."""
        return estimate(self.full, self.deleted, unit="auroc", n=self.n, scale="logit")


def text_baseline(
    texts: Sequence[str],
    labels: Bool[Tensor, " row"] | Bool[np.ndarray, " row"],
    groups: Sequence[str],
    folds: Int[np.ndarray, " row"],
) -> TextBaseline:
    """Reads the labels from the texts by group cross-validation, within-fold AUROC, refitted without each group.

    Words and their weights come from all texts, which takes no label and can only favour the baseline; texts without
    any word count as empty.

    Args:
        texts: what the model was shown, one a row.
        labels: True for label 1.
        groups: each row's group.
        folds: each row's fold, as for the probe it is compared with.

    Raises:
        AuditError: no fold holds both labels, or one group holds every row of a label.
    """
    marks = torch.as_tensor(labels).bool()
    return TextBaseline.of(text_readings(texts, marks, groups, folds), marks, groups, folds)


def text_readings(
    texts: Sequence[str], labels: Bool[Tensor, " row"], groups: Sequence[str], folds: Int[np.ndarray, " row"]
) -> dict[str, Tensor]:
    """The numbers behind a `TextBaseline`, by reading and field, to be kept. Arguments and errors as there."""
    judge = _tfidf_judge(texts, labels.numpy())
    refit = len(set(groups)) <= REFIT_GROUPS
    tfidf = refitted(judge, labels, groups, folds) if refit else _held(judge, labels, groups, folds)
    length = refitted(_length_judge(texts, labels), labels, groups, folds)
    return {
        f"{name}.{field}": value
        for name, one in (("tfidf", tfidf), ("length", length))
        for field, value in one._asdict().items()
    }


def ngram_reading(
    texts: Sequence[str],
    labels: Bool[Tensor, " row"],
    groups: Sequence[str],
    folds: Int[np.ndarray, " row"],
    unit: Literal["word", "char"],
) -> Estimate:
    """AUROC of logistic regression on TF-IDF of words and word pairs, or of three to five characters.

    Fits are held while groups are left out of the judging. Arguments and errors as for `text_baseline`.
    """
    found = _held(_tfidf_judge(texts, labels.numpy(), unit), labels, groups, folds)
    return estimate(found.full, found.deleted, unit="auroc", n=len(labels), scale="logit")


def length_reading(
    texts: Sequence[str], labels: Bool[Tensor, " row"], groups: Sequence[str], folds: Int[np.ndarray, " row"]
) -> Estimate:
    """AUROC of the number of characters, refitted without each group. Arguments and errors as for `text_baseline`."""
    found = refitted(_length_judge(texts, labels), labels, groups, folds)
    return estimate(found.full, found.deleted, unit="auroc", n=len(labels), scale="logit")


def _held(
    judge: Judge, labels: Bool[Tensor, " row"], groups: Sequence[str], folds: Int[np.ndarray, " row"]
) -> Refitted:
    """Cross-validated scores, their fits held while groups are left out of the judging."""
    fold = torch.as_tensor(folds)
    scores = torch.zeros(len(labels), dtype=torch.float64)
    for here in fold.unique():
        scores[fold == here] = judge((fold != here)[None], fold == here)[0].double()
    return fixed(scores, labels, groups, folds)


def _tfidf_judge(
    texts: Sequence[str], labels: Bool[np.ndarray, " row"], unit: Literal["word", "char"] = "word"
) -> Judge:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    if unit == "char":
        vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(3, 5), min_df=2)
    else:
        # The default pattern drops punctuation and one-letter words, which can tell an author.
        vectorizer = TfidfVectorizer(ngram_range=(1, 2), token_pattern=r"\w+|[^\w\s]")
    features = vectorizer.fit_transform([text if text.strip() else "." for text in texts])

    def judge(train: Bool[Tensor, "fit row"], tested: Bool[Tensor, " row"]) -> Float[Tensor, "fit tested"]:
        rows = features[tested.numpy()]
        scores = []
        for mask in train.numpy():
            # The dual solver's order of coordinates is seeded: it moves scores by 1e-4 of their spread at most.
            model = LogisticRegression(solver="liblinear", dual=True, random_state=0)
            scores.append(model.fit(features[mask], labels[mask]).decision_function(rows))
        return torch.from_numpy(np.stack(scores))

    return judge


def _length_judge(texts: Sequence[str], labels: Bool[Tensor, " row"]) -> Judge:
    length = torch.tensor([len(text) for text in texts], dtype=torch.float64)

    def judge(train: Bool[Tensor, "fit row"], tested: Bool[Tensor, " row"]) -> Float[Tensor, "fit tested"]:
        longer, shorter = (train & labels).double(), (train & ~labels).double()
        sign = torch.sign(longer @ length / longer.sum(1) - shorter @ length / shorter.sum(1))
        return sign[:, None] * length[tested]

    return judge
