"""LEACE: no linear probe reads the erased label, the random-label eraser leaves it, and it is the library's own map."""

from __future__ import annotations

import pytest
import torch

from probes.digest import AuditError
from probes.discriminant import lda_null
from probes.eraser import leace


def planted(n: int, d: int, pull: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(d)
    rows = torch.randn(n, d, generator=source, dtype=torch.float64)
    rows = rows @ torch.randn(d, d, generator=source, dtype=torch.float64) + 50
    labels = torch.arange(n) % 2 == 0
    return rows + pull * rows.std(0)[0] * labels[:, None] * (torch.arange(d) == 0), labels


def readable(rows: torch.Tensor, labels: torch.Tensor) -> float:
    """Held-out AUROC of a retrained LDA probe."""
    scores = lda_null(rows, labels[None], torch.arange(len(rows)) // 2 % 5)[0]
    return float((scores[labels][:, None] > scores[~labels][None]).double().mean())


def test_erases_the_label_and_a_random_label_eraser_does_not() -> None:
    rows, labels = planted(2_000, 20)
    train, test = slice(0, 1_000), slice(1_000, None)
    eraser = leace(rows[train], labels[train])
    shuffled = labels[train][torch.randperm(1_000, generator=torch.Generator().manual_seed(0))]
    control = leace(rows[train], shuffled)
    assert readable(rows[test], labels[test]) > 0.95
    assert readable(eraser(rows[test]), labels[test]) < 0.6
    assert readable(control(rows[test]), labels[test]) > 0.95


@pytest.mark.parametrize("n,d", [(500, 20), (60, 100)])
def test_class_means_coincide_and_the_mean_stays(n: int, d: int) -> None:
    for pull in (2.0, 1e-6):
        rows, labels = planted(n, d, pull)
        erased = leace(rows, labels)(rows)
        torch.testing.assert_close(erased[labels].mean(0), erased[~labels].mean(0), rtol=0, atol=1e-6)
        torch.testing.assert_close(erased.mean(0), rows.mean(0))


def test_equals_concept_erasure() -> None:
    from concept_erasure import LeaceEraser

    rows, labels = planted(400, 12)
    expected = LeaceEraser.fit(rows, labels.double())(rows)
    torch.testing.assert_close(leace(rows, labels)(rows), expected, rtol=0, atol=1e-8)


def test_erasing_twice_changes_nothing_more() -> None:
    rows, labels = planted(300, 15)
    eraser = leace(rows.float(), labels)
    torch.testing.assert_close(eraser(eraser(rows)), eraser(rows))


def test_one_class_and_nan_are_refused() -> None:
    rows, labels = planted(40, 5)
    with pytest.raises(AuditError, match="both labels"):
        leace(rows, torch.zeros(40, dtype=torch.bool))
    rows[0, 0] = float("inf")
    with pytest.raises(AuditError, match="infinite"):
        leace(rows, labels)
