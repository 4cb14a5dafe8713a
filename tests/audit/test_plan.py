"""The plan: defaults of the interface, a TOML round trip, and refusals that name the nearest key."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from audit.plan import EFFORTS, Effort, Plan, comparison_names, known_keys, override, plan_of, read_plan, to_toml
from probes.digest import AuditError

DEFAULTS: dict[str, Any] = {
    "schema": 1,
    "seed": 0,
    "effort": "standard",
    "policies": [],
    "pair": {
        "base": "organism:base",
        "post": "organism:faithful",
        "dtype": "checkpoint",
        "device": "auto",
        "template": "auto",
    },
    "personas": {"paths": ["builtin"], "only": []},
    "sites": {"stream": "resid_post", "layers": "all", "pooling": "span_mean"},
    "comparisons": {"probe_transfer": {}, "erasure": {}, "geometry": {}, "shift": {}},
    "margins": {
        "carried": 0.70,
        "not_carried": 0.75,
        "change": 0.05,
        "ratio": 0.80,
        "novel": 0.60,
        "shared": 0.75,
        "accuracy": 0.05,
        "fidelity": 0.10,
        "groups": 20,
    },
    "family": {"alarm_alpha": 0.02, "table": "bh"},
}
text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
plans = st.fixed_dictionaries(
    {},
    optional={
        "seed": st.integers(0, 2**40),
        "effort": st.sampled_from(sorted(EFFORTS)),
        "pair": st.fixed_dictionaries({"base": text}, optional={"template": text, "device": st.just("cuda:1")}),
        "personas": st.fixed_dictionaries({"paths": st.lists(text, min_size=1, max_size=3), "only": st.lists(text)}),
        "sites": st.fixed_dictionaries({"layers": st.lists(st.integers(0, 99), min_size=1, unique=True)}),
        "comparisons": st.dictionaries(
            st.sampled_from(["probe_transfer", "erasure", "geometry", "shift"]),
            st.dictionaries(text, st.one_of(st.booleans(), st.integers(-9, 9), text, st.lists(text)), max_size=2),
        ),
        "margins": st.fixed_dictionaries({"ratio": st.floats(0.01, 0.99), "groups": st.integers(2, 500)}),
    },
)


def write(folder: Path, content: str) -> Path:
    path = folder / "plan.toml"
    path.write_text(content, encoding="utf-8")
    return path


def test_defaults_are_those_of_the_interface() -> None:
    assert Plan().model_dump(mode="json") == DEFAULTS
    assert tomllib.loads(to_toml(Plan())) == DEFAULTS
    assert read_plan() == Plan()


@settings(deadline=None, max_examples=60)
@given(plans)
def test_effective_toml_reads_back_as_the_same_plan(content: dict[str, Any]) -> None:
    plan = plan_of(content)
    again = plan_of(tomllib.loads(to_toml(plan)))
    assert again == plan and again.digest == plan.digest
    assert (plan.digest == Plan().digest) == (plan == Plan())


def test_a_file_says_what_it_changes_and_nothing_else(tmp_path: Path) -> None:
    plan = read_plan(write(tmp_path, 'effort = "glance"\n[sites]\nlayers = [7, 3]\n[comparisons]\ngeometry = {}\n'))
    assert plan.sites.layers == (3, 7) and plan.comparisons == {"geometry": {}}
    assert plan.margins == Plan().margins and plan.digest != Plan().digest
    assert plan.draws == Effort(2_000, permutations=200, logistic_null=0, random_maps=20, pairs=2, scenarios=125)


def test_effort_sets_only_the_numbers_of_its_table() -> None:
    rows = {name: tuple(vars(effort).values()) for name, effort in EFFORTS.items()}
    assert rows == {
        "glance": (2_000, 200, 0, 20, 2, 125),
        "standard": (2_000, 1_000, 0, 200, None, None),
        "thorough": (10_000, 5_000, 200, 1_000, None, None),
    }


def test_a_plan_is_frozen() -> None:
    with pytest.raises(ValidationError):
        Plan().margins.ratio = 0.1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("content", "key", "nearest"),
    [
        ("sed = 1", "sed", "seed"),
        ("[margins]\nratios = 0.8", "margins.ratios", "margins.ratio"),
        ('base = "org/name"', "base", "pair.base"),
        ("[sight]\nlayers = [1]", "sight", "sites"),
        ("[comparisons]\nprobe_transfre = {}", "comparisons.probe_transfre", "comparisons.probe_transfer"),
        ("[pair]\npots = 'x'", "pair.pots", "pair.post"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known_one(
    tmp_path: Path, content: str, key: str, nearest: str
) -> None:
    with pytest.raises(AuditError) as refused:
        read_plan(write(tmp_path, content))
    assert f"unknown key {key}." in str(refused.value) and f"nearest is {nearest}." in str(refused.value)
    assert "plan.toml" in refused.value.found


@pytest.mark.parametrize(
    ("content", "found", "expected"),
    [
        ('[pair]\ndtype = "f16"', 'pair.dtype = "f16"', "'checkpoint', 'float32' or 'bfloat16'"),
        ('[pair]\ndevice = "gpu"', 'pair.device = "gpu"', "auto, cpu, cuda"),
        ('effort = "hard"', 'effort = "hard"', "one of glance, standard, thorough"),
        ("seed = -1", "seed = -1", "greater than or equal to 0"),
        ("seed = true", "seed = true", "a whole number"),
        ("schema = 2", "schema = 2", "schema = 1"),
        ("[sites]\nlayers = [3, 3]", "sites.layers = [3, 3]", "none twice"),
        ("[sites]\nlayers = []", "sites.layers = []", "at least one block number"),
        ("[sites]\nlayers = [-1]", "sites.layers = [-1]", "from 0"),
        ("[margins]\nshared = 1.5", "margins.shared = 1.5", "less than 1"),
        ('[margins]\ngroups = "20"', 'margins.groups = "20"', "a whole number"),
        ("[margins]\nratio = nan", "margins.ratio", "finite"),
        ("[personas]\npaths = []", "personas.paths = []", "at least one entry"),
        ("pair = 3", "pair = 3", "a table"),
        ("comparisons = 3", "comparisons = 3", "a table"),
        ("[comparisons.erasure]\nrank = [[1]]", "comparisons.erasure.rank", "a string, a number"),
        ('policies = [{select = "*", on = "low"}]', 'policies.0.select = "*"', "persona/comparison/site"),
        ("[pair", "is not TOML", "TOML as printed"),
    ],
)
def test_a_bad_value_is_refused_in_the_users_own_words(tmp_path: Path, content: str, found: str, expected: str) -> None:
    with pytest.raises(AuditError) as refused:
        read_plan(write(tmp_path, content))
    assert found in refused.value.found and expected in refused.value.expected and refused.value.do


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match=r"nowhere\.toml cannot be read \(No such file"):
        read_plan(tmp_path / "nowhere.toml")


def test_flags_override_the_plan_and_are_hashed() -> None:
    plan = override(Plan(), base="a/b@c", personas=["mine"], effort="thorough", device="cpu")
    assert (plan.pair.base, plan.pair.post, plan.pair.device) == ("a/b@c", "organism:faithful", "cpu")
    assert plan.personas.paths == ("mine",) and plan.draws.permutations == 5_000
    assert override(Plan()) == Plan() and override(Plan(), personas=()) == Plan()
    assert plan.digest != Plan().digest
    with pytest.raises(AuditError, match="the command line has effort"):
        override(Plan(), effort="hard")


def test_every_key_is_known_and_the_comparisons_are_those_of_the_table() -> None:
    from audit.comparisons.table import TABLE

    assert {key.partition(".")[0] for key in known_keys()} == set(DEFAULTS)
    assert set(comparison_names()) == set(TABLE)
