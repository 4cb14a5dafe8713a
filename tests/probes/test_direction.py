"""Directions: planted Gaussians, scikit-learn's PCA, files, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probes.digest import AuditError
from probes.direction import Direction, lda, logistic, mass_mean, pca
from probes.moments import Moments
from probes.site import Site

SITE = Site(3, "resid_post")


def planted(n: int, d: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows of two Gaussian classes with one covariance; also the true delta and covariance."""
    source = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=source, dtype=torch.float64) / d**0.5 + torch.eye(d, dtype=torch.float64)
    delta = torch.randn(d, generator=source, dtype=torch.float64)
    labels = torch.arange(n) % 2 == 0
    rows = torch.randn(n, d, generator=source, dtype=torch.float64) @ mix + labels[:, None] * delta + 7.0
    return rows, labels, delta, mix.T @ mix


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0))


def test_mass_mean_recovers_delta_and_lda_recovers_whitened_delta() -> None:
    rows, labels, delta, covariance = planted(40_000, 12)
    everyone = torch.ones(1, len(rows))
    whitened = torch.linalg.solve(covariance, delta)
    mean, discriminant = mass_mean(rows, labels, everyone), lda(rows, labels, everyone)
    assert cosine(mean, delta) > 0.999
    assert cosine(discriminant, whitened) > 0.999
    # The control: each misses what the other finds.
    assert cosine(mean, whitened) < 0.9
    assert cosine(discriminant, delta) < 0.9


def test_random_labels_recover_nothing() -> None:
    rows, _, delta, covariance = planted(4_000, 200)
    labels = torch.rand(len(rows), generator=torch.Generator().manual_seed(1)) < 0.5
    everyone = torch.ones(1, len(rows))
    assert abs(cosine(lda(rows, labels, everyone), torch.linalg.solve(covariance, delta))) < 0.3


def test_all_fits_point_toward_label_one_and_turn_with_the_labels() -> None:
    rows, labels, _, _ = planted(200, 5)
    weight = torch.ones(1, len(rows))
    for fit in (mass_mean, lda, lambda *given: logistic(*given, torch.tensor([0.1])).vector[..., 0, :]):
        vector = fit(rows, labels, weight)[0]
        assert (rows[labels] @ vector).mean() > (rows[~labels] @ vector).mean()
        torch.testing.assert_close(fit(rows, ~labels, weight)[0], -vector)


def test_mass_mean_batches_over_layers_and_fits() -> None:
    rows, labels, _, _ = planted(60, 6)
    layers = torch.stack([rows, rows.flip(1), rows**2]).reshape(3, 1, 60, 6)
    weight = (torch.arange(60) // 2 % 5 != torch.arange(5)[:, None]).double()
    found = mass_mean(layers, labels, weight)
    assert found.shape == (3, 1, 5, 6)
    kept = weight[2].bool()
    expected = layers[1, 0][kept & labels].mean(0) - layers[1, 0][kept & ~labels].mean(0)
    torch.testing.assert_close(found[1, 0, 2], expected / expected.norm())


def test_coinciding_means_give_no_direction() -> None:
    rows, labels = torch.ones(8, 3), torch.arange(8) % 2 == 0
    for fit in (mass_mean, lda):
        assert torch.equal(fit(rows, labels, torch.ones(1, 8)), torch.zeros(1, 3, dtype=torch.float64))


@pytest.mark.parametrize("fit", [mass_mean, lda])
def test_a_fit_without_a_class_and_rows_with_nan_are_refused(fit) -> None:
    rows, labels, _, _ = planted(20, 4)
    with pytest.raises(AuditError, match="fit 1 trains on 10 rows of label 1 and 0 of label 0"):
        fit(rows, labels, torch.stack([torch.ones(20), labels.float()]))
    with pytest.raises(AuditError, match="0/1"):
        fit(rows, labels, torch.full((1, 20), 0.5))
    rows[3, 2] = float("nan")
    with pytest.raises(AuditError, match="1 of 80 activations"):
        fit(rows, labels, torch.ones(1, 20))


def test_pca_equals_scikit_learn() -> None:
    from sklearn.decomposition import PCA

    rows, _, _, _ = planted(300, 10)
    axes = pca(Moments.empty(10).update(rows), 4)
    expected = torch.as_tensor(PCA(4).fit(rows.numpy()).components_)
    torch.testing.assert_close((axes @ expected.T).abs(), torch.eye(4, dtype=torch.float64), atol=1e-8, rtol=0)
    assert bool((axes.gather(1, axes.abs().argmax(1, keepdim=True)) > 0).all())
    for k in (0, 11):
        with pytest.raises(AuditError, match="1 to 10"):
            pca(Moments.empty(10).update(rows), k)


def test_through_sets_sign_norm_and_threshold() -> None:
    rows, labels, delta, _ = planted(4_000, 6)
    for sign in (1.0, -1.0):
        direction = Direction.through(5 * sign * delta, rows, labels, SITE, "pca", {})
        assert cosine(direction.vector, delta) > 0.999
        scores = direction(rows.float())
        assert scores.dtype == torch.float64
        assert float(scores[labels].mean()) == pytest.approx(-float(scores[~labels].mean()), abs=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(0, 10_000), st.floats(-1e6, 1e6), st.text(max_size=20))
def test_what_is_saved_is_what_is_loaded(tmp_path_factory, d: int, seed: int, offset: float, note: str) -> None:
    vector = torch.randn(d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    direction = Direction(vector / vector.norm(), offset, SITE, "lda", {"note": note, "persona": "deception"})
    path = direction.save(tmp_path_factory.mktemp("directions") / "deep" / "a.direction.safetensors")
    again = Direction.load(path)
    assert torch.equal(again.vector, Direction(direction.vector, offset, SITE, "lda").vector)
    assert (again.offset, again.site, again.fit, again.origin) == (offset, SITE, "lda", direction.origin)


def test_the_file_says_which_layer_it_means(tmp_path: Path) -> None:
    from safetensors import safe_open

    path = Direction(torch.tensor([1.0, 0.0]), 0.5, SITE, "lda").save(tmp_path / "a.safetensors")
    with safe_open(str(path), framework="pt") as file:
        assert list(file.keys()) == ["direction.blocks.3.hook_resid_post"]
        assert file.metadata()["layer_convention"] == "layer counts blocks from 0; resid_post = block output"
        assert file.metadata()["sign"] == "positive = toward label 1"


def test_what_is_no_direction_is_refused(tmp_path: Path) -> None:
    for vector in (torch.ones(3), torch.zeros(3), torch.full((3,), float("nan")), torch.eye(1)):
        with pytest.raises(AuditError, match="norm"):
            Direction(vector, 0.0, SITE, "lda")
    with pytest.raises(AuditError, match="offset"):
        Direction(torch.tensor([1.0]), float("nan"), SITE, "lda")
    (tmp_path / "torn.safetensors").write_bytes(b"\x10\x00")
    from safetensors.torch import save_file

    save_file({"x": torch.ones(2)}, tmp_path / "other.safetensors")
    for name in ("torn.safetensors", "other.safetensors", "absent.safetensors"):
        with pytest.raises(AuditError, match=name):
            Direction.load(tmp_path / name)
    (tmp_path / "file").write_text("")
    with pytest.raises(AuditError, match="cannot be written"):
        Direction(torch.tensor([1.0]), 0.0, SITE, "lda").save(tmp_path / "file" / "a.safetensors")


def test_the_notebook_view_escapes_text() -> None:
    view = Direction(torch.tensor([1.0]), 0.0, SITE, "lda", {"persona": "<script>"})._repr_html_()
    assert "<script>" not in view and "&lt;script&gt;" in view and "L3.resid_post" in view
