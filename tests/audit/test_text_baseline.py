from __future__ import annotations

import numpy as np
import pytest
import torch

from audit import text_baseline as module
from audit.resampling import auroc
from audit.text_baseline import text_baseline, tfidf
from probes.split import folds as deal

WORDS = [f"word{i}" for i in range(60)]


def corpus(kind, n_groups=16, seed=0):
    """Contrast pairs whose label shows in a word, in the length, or nowhere: there the halves are twins."""
    rng = np.random.default_rng(seed)
    texts, labels, groups = [], [], []
    for g in range(n_groups):
        for _ in range(2):
            words = list(rng.choice(WORDS, 12))
            for label in (0, 1):
                said = list(rng.permutation(words)) if kind == "nothing" else list(words)
                if kind == "word" and label:
                    said[int(rng.integers(12))] = "slyly"
                if kind == "length" and label:
                    said += list(rng.choice(WORDS, 6))
                texts.append(" ".join(said))
                labels.append(bool(label))
                groups.append(f"g{g}")
    return texts, torch.tensor(labels), groups, deal(groups, 4, rng)


def test_finds_a_word_that_tells():
    found = text_baseline(*corpus("word"))
    assert found.better == "tfidf" and found.estimate.value > 0.9 and found.estimate.above(0.6)
    assert 0.3 < found.length.full < 0.8
    assert (found.estimate.n, found.estimate.n_groups) == (64, 16)


def test_finds_length_in_either_direction():
    texts, labels, groups, fold = corpus("length")
    for marks in (labels, ~labels):
        found = text_baseline(texts, marks, groups, fold)
        assert found.length.full == pytest.approx(1.0) and found.better == "length"


def test_finds_nothing_between_twins():
    found = [text_baseline(*corpus("nothing", seed=s)) for s in range(4)]
    assert abs(np.mean([x.tfidf.full for x in found]) - 0.5) < 0.1
    assert all(x.length.full == 0.5 for x in found)


def test_scores_come_from_the_other_folds_and_deletions_refit():
    texts, labels, groups, fold = corpus("word")
    found = text_baseline(texts, labels, groups, fold)
    areas = [auroc(found.tfidf.scores[fold == f], labels[fold == f]) for f in range(4)]
    assert found.tfidf.full.item() == pytest.approx(np.mean(areas))
    keep = np.array(groups) != "g0"
    # Leaving a group out leaves its words in the vocabulary: close to, not equal to, a corpus without it.
    without = text_baseline(
        [x for x, k in zip(texts, keep, strict=True) if k], labels[keep], list(np.array(groups)[keep]), fold[keep]
    )
    assert found.tfidf.deleted[0].item() == pytest.approx(without.tfidf.full.item(), abs=0.05)
    torch.testing.assert_close(found.kernel.auroc(), found.full)
    assert torch.equal(found.deleted, torch.maximum(found.tfidf.deleted, found.length.deleted))


def test_empty_texts_are_read_as_empty():
    texts, labels, groups, fold = corpus("word", n_groups=8)
    assert text_baseline(["" for _ in texts], labels, groups, fold).full == 0.5


@pytest.mark.parametrize("unit", ["word", "char"])
def test_words_are_weighed_as_by_scikit_learn(unit):
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = ["He said:  \"No!\" - twice, no?", "\u00c9mile a dit non", "", "no no no", *corpus("word")[0]]
    settings = {
        "word": {"ngram_range": (1, 2), "token_pattern": r"\w+|[^\w\s]"},
        "char": {"analyzer": "char", "ngram_range": (3, 5), "min_df": 2},
    }[unit]
    expected = TfidfVectorizer(**settings).fit_transform([text or "." for text in texts])
    found = tfidf(texts, unit)
    np.testing.assert_allclose((found @ found.T).toarray(), (expected @ expected.T).toarray(), atol=1e-12)


def test_many_texts_are_read_without_their_inner_products_to_the_same_scores(monkeypatch):
    given = corpus("word", n_groups=120)
    held = text_baseline(*given)
    monkeypatch.setattr(module, "MOST_ROWS", 10)
    apart = text_baseline(*given)
    torch.testing.assert_close(apart.tfidf.scores, held.tfidf.scores, atol=2e-7, rtol=0)
    assert held.tfidf.full > 0.9 and torch.equal(apart.tfidf.full, held.tfidf.full)


def test_equal_texts_tie_to_the_last_bit():
    texts, labels, groups, fold = corpus("word")
    twins = [text for text in texts[::2] for _ in range(2)]
    scores = text_baseline(twins, labels, groups, fold).tfidf.scores
    assert torch.equal(scores[::2], scores[1::2]) and text_baseline(twins, labels, groups, fold).tfidf.full == 0.5
