"""What the words alone give away: a persona counts as carried only beyond these."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from audit.estimate import Estimate, estimate
from audit.refitting import Judge, Refitted, fixed, refitted
from audit.resampling import Kernel, kernel
from probes.regression import logistic_scores

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Scored = Callable[[Bool[Tensor, "fit row"]], Float[Tensor, "fit row"]]
"""Scores of all rows by each fit, from the rows each is trained on."""
KEY = "text baseline, 4"
"""Under what these readings are remembered."""
REFIT_GROUPS = 100
"""With more groups than these one group in training moves no interval, and nothing is refitted without each."""
STRENGTH = 1.0
"""Inverse regularisation of the words' logistic regression."""
DECIMALS = 7
"""Of a score, in nats. Fits settle to 1e-9; the scores of texts whose words tell hardly anything spread over 1e-4."""
MOST_ROWS = 4_000
"""Texts up to which their inner products are held: 128 MB, and five fits of a few seconds."""


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
    judge = _tfidf_judge(texts, labels)
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
    found = _held(_tfidf_judge(texts, labels, unit), labels, groups, folds)
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
    texts: Sequence[str], labels: Bool[Tensor, " row"], unit: Literal["word", "char"] = "word"
) -> Judge:
    features = tfidf(texts, unit)
    scored = _by_columns(features, labels) if len(texts) > MOST_ROWS else _by_inner_products(features, labels)

    def judge(train: Bool[Tensor, "fit row"], tested: Bool[Tensor, " row"]) -> Float[Tensor, "fit tested"]:
        # Where words tell nothing all scores are zero but for what the fit leaves unsettled: that must not be ranked.
        return scored(train)[:, tested].round(decimals=DECIMALS)

    return judge


def _by_inner_products(features: csr_matrix, labels: Bool[Tensor, " row"]) -> Scored:
    gram = torch.from_numpy((features @ features.T).toarray())
    return lambda train: logistic_scores(gram, labels, train.double(), STRENGTH)


def _by_columns(features: csr_matrix, labels: Bool[Tensor, " row"]) -> Scored:
    """The same optimum without the inner products of all rows, which would not fit in memory."""
    from sklearn.linear_model import LogisticRegression

    def scored(train: Bool[Tensor, "fit row"]) -> Float[Tensor, "fit row"]:
        model = LogisticRegression(C=STRENGTH, solver="newton-cg", tol=1e-10)
        fits = (model.fit(features[mask], labels.numpy()[mask]).decision_function(features) for mask in train.numpy())
        return torch.from_numpy(np.stack(list(fits)))

    return scored


def tfidf(texts: Sequence[str], unit: Literal["word", "char"] = "word") -> csr_matrix:
    """Term frequency times inverse document frequency, [text, term], rows of length one.

    Terms are words, signs and pairs of neighbours, or three to five characters that two texts have; of n texts, df
    with the term, it counts ln((1 + n)/(1 + df)) + 1: scikit-learn's TfidfVectorizer with its smoothing and norm, whose
    import takes longer than a persona's texts. Punctuation and one-letter words stay: they can tell an author.
    """
    from scipy.sparse import csr_matrix

    counts = [Counter(_terms(text.lower(), unit)) for text in texts]
    found = Counter(term for one in counts for term in one)
    column = {term: index for index, term in enumerate(t for t, df in found.items() if unit == "word" or df > 1)}
    weight = {term: np.log((1 + len(texts)) / (1 + found[term])) + 1 for term in column}
    rows = [{column[term]: count * weight[term] for term, count in one.items() if term in column} for one in counts]
    norms = [sum(value**2 for value in one.values()) ** 0.5 for one in rows]
    values = [value / norm for one, norm in zip(rows, norms, strict=True) for value in one.values()]
    columns = [index for one in rows for index in one]
    return csr_matrix((values, columns, np.cumsum([0, *map(len, rows)])), shape=(len(texts), max(1, len(column))))


def _terms(text: str, unit: Literal["word", "char"]) -> list[str]:
    if unit == "char":
        text = re.sub(r"\s\s+", " ", text)
        return [text[at : at + size] for size in (3, 4, 5) for at in range(len(text) - size + 1)]
    words = re.findall(r"\w+|[^\w\s]", text) or ["."]
    return [*words, *map(" ".join, pairwise(words))]


def _length_judge(texts: Sequence[str], labels: Bool[Tensor, " row"]) -> Judge:
    length = torch.tensor([len(text) for text in texts], dtype=torch.float64)

    def judge(train: Bool[Tensor, "fit row"], tested: Bool[Tensor, " row"]) -> Float[Tensor, "fit tested"]:
        longer, shorter = (train & labels).double(), (train & ~labels).double()
        sign = torch.sign(longer @ length / longer.sum(1) - shorter @ length / shorter.sum(1))
        return sign[:, None] * length[tested]

    return judge
