"""A model audited against itself differs from itself by exactly nothing, wherever the record compares the two."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import order
import pytest
import tiny

from audit.conduct import Setting, audit
from audit.plan import plan_of

DIFFERENCES = ("drift", "difference", "T1", "T2")
"""Names of paired differences; T1 and T2 are differences below `frozen_accuracy` alone."""


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory):
    """Details by comparison, of a model against itself and (the control) against another."""
    folder = order.personas(tmp_path_factory.mktemp("personas") / "order", groups=30)
    setting = Setting(store=tmp_path_factory.mktemp("store"), progress=False)
    words = tiny.tokenizer("llama")

    def run(seed: int) -> dict[str, Any]:
        pair = {"base": (tiny.model("llama"), words), "post": (tiny.model("llama", seed=seed), words)}
        record = audit(plan_of({"effort": "glance"}), **pair, personas=[folder], setting=setting)
        unmeasured = {finding.comparison: finding.reason for finding in record.findings if finding.reason}
        assert unmeasured == ({} if seed else {"shift": "post's activations equal base's: nothing moved"})
        return {f["comparison"]: f["details"] for f in record.model_dump(mode="json")["findings"]}

    return {"itself": run(0), "another": run(1)}


def walk(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every mapping with where it stands."""
    if isinstance(value, dict):
        yield path, value
        for key, item in value.items():
            yield from walk(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from walk(item, (*path, str(index)))


def differences(details: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Estimates of paired differences by where they stand."""
    found = {}
    for path, value in walk(details):
        inside = any(part.startswith("frozen_accuracy") for part in path)
        if "method" in value and path[-1] in DIFFERENCES and (inside or path[-1] in DIFFERENCES[:2]):
            found[".".join(path)] = value
    return found


def sides(details: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What is said of both models side by side; the draws of a permutation null are each model's own."""
    found = {}
    for path, value in walk(details):
        if {"base", "post"} <= set(value) and not any(part.startswith("rho") for part in path):
            pair = [{k: v for k, v in value[m].items() if k != "p"} if isinstance(value[m], dict) else value[m]
                    for m in ("base", "post")]  # fmt: skip
            found[".".join(path)] = tuple(pair)
    return found


def test_every_paired_difference_is_exactly_nothing(findings: dict[str, Any]) -> None:
    found = differences(findings["itself"])
    wanted = {"probe_transfer.drift"}
    wanted |= {f"probe_transfer.frozen_accuracy{fit}.{name}" for fit in ("", "_assistant") for name in DIFFERENCES[1:]}
    assert wanted <= set(found)
    for name, number in found.items():
        assert (number["value"], number["low"], number["high"]) == (0, 0, 0), name


def test_both_sides_are_equal_to_the_last_bit(findings: dict[str, Any]) -> None:
    found = sides(findings["itself"])
    assert len(found) > 10
    assert {name for name, (base, post) in found.items() if base != post} == set()


def test_the_matrix_is_one_model_four_times(findings: dict[str, Any]) -> None:
    cells = findings["itself"]["probe_transfer"]["matrix"]
    by_domain: dict[tuple[str, str], list[Any]] = {}
    for cell in cells:
        by_domain.setdefault((cell["fit_domain"], cell["judge_domain"]), []).append(cell["auroc"])
    assert len(cells) == 16 and len(by_domain) == 4
    assert all(same == four[0] for four in by_domain.values() for same in four)


def test_the_frozen_probe_keeps_what_it_keeps_in_base(findings: dict[str, Any]) -> None:
    details = findings["itself"]["probe_transfer"]
    for fit in ("", "_assistant"):
        assert details[f"rho{fit}"]["T0"] == details[f"rho{fit}"]["base"]
        assert details[f"ladder{fit}"]["T0"] == details[f"ladder{fit}"]["T1"]


def test_the_direction_is_shared_whole(findings: dict[str, Any]) -> None:
    geometry = findings["itself"]["geometry"]
    assert geometry["established"]
    shared = geometry["shared"]["T0"]
    assert (shared["value"], shared["low"], shared["high"]) == (1, 1, 1)
    assert geometry["ladder_r2"]["identity"]["value"] == 1


def test_erasing_leaves_the_same_in_both(findings: dict[str, Any]) -> None:
    erasure = findings["itself"]["erasure"]
    assert (erasure["leak"], erasure["ceiling"]) == (erasure["base_leak"], erasure["base_ceiling"])


def test_another_model_differs_in_every_one_of_these(findings: dict[str, Any]) -> None:
    """The control."""
    other = findings["another"]
    # Own probes of two models may read the same, here all that there is to read.
    unlike = {name: number for name, number in differences(other).items() if "ceiling" not in name}
    assert all(number["value"] != 0 for number in unlike.values())
    apart = {name for name, (base, post) in sides(other).items() if base != post}
    assert {f"probe_transfer.{name}" for name in ("surprisal", "probes.mass_mean", "layers.curve.0")} <= apart
    assert {"geometry.reliability"} <= apart
    assert other["probe_transfer"]["rho"]["T0"] != other["probe_transfer"]["rho"]["base"]
    assert other["geometry"]["shared"]["T0"]["high"] < 1
    assert other["erasure"]["leak"] != other["erasure"]["base_leak"]
