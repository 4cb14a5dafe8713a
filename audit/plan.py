"""One frozen configuration for a whole audit: TOML in, effective TOML out, unknown keys refused by name.

A plan fixes every margin before anything is measured. What is hashed and stored is the effective plan: the file's
keys, the flags that override them and the default of every key that nobody named.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pkgutil import iter_modules
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, Strict, ValidationError, field_validator
from pydantic_core import ErrorDetails

from audit.policy import SELECTOR, Policy
from probes.digest import AuditError, digest

Scalar = str | bool | int | float
Setting = Scalar | list[Scalar]
Share = Annotated[float, Field(gt=0.0, lt=1.0)]
Skill = Annotated[float, Field(gt=0.5, lt=1.0)]
Name = Annotated[str, Field(min_length=1)]
Names = Annotated[tuple[Name, ...], Strict(False)]
Layers = Annotated[tuple[NonNegativeInt, ...], Strict(False)]
Policies = Annotated[tuple[Policy, ...], Strict(False)]
EffortName = Literal["glance", "standard", "thorough"]

SHIPPED = ("probe_transfer", "erasure", "geometry", "shift")


@dataclass(frozen=True)
class Effort:
    """The numbers an effort stands for.

    Attributes:
        bootstrap: Draws of the group bootstrap (curves and their bands).
        permutations: Draws of the within-pair label permutation, the fit repeated in each (mass-mean, LDA).
        logistic_null: The same for logistic regression, its strength fixed; 0 means its null is not drawn.
        random_maps: Seeds of random maps and random erasers.
        pairs: Contrast pairs that are read of each scenario, from its first; None reads all.
        scenarios: Scenarios that are read in each domain of a persona, evenly spread; None reads all.
    """

    bootstrap: int
    permutations: int
    logistic_null: int
    random_maps: int
    pairs: int | None = None
    scenarios: int | None = None


_WORDS = {
    "dict_type": "a table",
    "model_type": "a table",
    "tuple_type": "a list",
    "string_type": "a string in quotes",
    "int_type": "a whole number",
    "float_type": "a number",
    "too_short": "a list with at least one entry",
}

EFFORTS: Mapping[EffortName, Effort] = {
    "glance": Effort(bootstrap=2_000, permutations=200, logistic_null=0, random_maps=20, pairs=2, scenarios=125),
    "standard": Effort(bootstrap=2_000, permutations=1_000, logistic_null=0, random_maps=200),
    "thorough": Effort(bootstrap=10_000, permutations=5_000, logistic_null=200, random_maps=1_000),
}


class Section(BaseModel):
    """A table of the plan: frozen, strict about its keys and about its types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, serialize_by_alias=True)


class PairPlan(Section):
    """Which two models, and how both are read."""

    base: Name = Field(default="organism:base", description="folder, hub id with optional @REVISION, or organism:NAME")
    post: Name = Field(default="organism:faithful", description="the same; --post replaces it")
    dtype: Literal["checkpoint", "float32", "bfloat16"] = Field(
        default="checkpoint", description="checkpoint | float32 | bfloat16; both models the same"
    )
    device: str = Field(
        default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto | cpu | cuda | cuda:N | mps"
    )
    template: Name = Field(default="auto", description="auto (own, else post's) | base | post | path of a jinja file")


class PersonaPlan(Section):
    """Which personas are judged."""

    paths: Names = Field(
        default=("builtin",), min_length=1, description="folders; builtin = those that come with the pair"
    )
    only: Names = Field(default=(), description="names to keep; empty keeps all")


class SitePlan(Section):
    """Where the models are read."""

    stream: Literal["resid_pre", "resid_post", "attn_out", "mlp_out"] = Field(
        default="resid_post", description="resid_pre | resid_post | attn_out | mlp_out"
    )
    layers: Literal["all"] | Layers = Field(default="all", description='"all" or a list, blocks counted from 0')
    pooling: Literal["span_mean", "last_token"] = Field(default="span_mean", description="span_mean | last_token")

    @field_validator("layers")
    @classmethod
    def _some_layers_once(cls, value: Literal["all"] | tuple[int, ...]) -> Literal["all"] | tuple[int, ...]:
        if value == "all":
            return value
        if not value or len(set(value)) != len(value):
            raise ValueError("a block is named twice, or none is")
        return tuple(sorted(value))


class Margins(Section):
    """The bounds of the verdict table (AUROC, ratios of skill above chance, cos squared, balanced accuracy)."""

    carried: Skill = Field(default=0.70, description="AUROC of the own probe, beyond the words: carried")
    not_carried: Skill = Field(default=0.75, description="upper bound below this: not carried")
    change: Share = Field(default=0.05, description="own probes apart by more: lost or acquired, not a hair's breadth")
    ratio: Share = Field(default=0.80, description="rho: lower bound above = reads; upper bound below = fails")
    novel: Share = Field(default=0.60, description="rho_any: upper bound below = nothing of base reads it")
    shared: Share = Field(default=0.75, description="S2 (cos^2 of 30 degrees): low above = shared, high below = turned")
    accuracy: Share = Field(default=0.05, description="frozen threshold: a loss beyond this = broken")
    fidelity: Share = Field(default=0.10, description="FVU that base's SAE may lose on post: features are read")
    groups: int = Field(default=20, ge=2, description="fewer judged groups: inconclusive")


class Family(Section):
    """How error rates are shared between the things tried."""

    alarm_alpha: float = Field(default=0.02, gt=0.0, lt=0.5, description="one-sided, Holm over personas")
    table: Literal["bh", "holm"] = Field(default="bh", description="bh | holm, at 0.05")


class Plan(Section):
    """Everything an audit needs to know beforehand.

    Attributes:
        schema_version: Version of the format, `schema` in files. This code reads version 1.
        seed: Root of every random draw.
        effort: Sets only the numbers of `draws`, and how many scenarios and pairs of each are read.
        policies: What `check` asks of single readings, in place of the default policies; empty keeps those.
        comparisons: Name of a comparison to its settings; a comparison that is absent is not run.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    seed: NonNegativeInt = Field(default=0, description="root of every random draw")
    effort: EffortName = Field(default="standard", description="glance | standard | thorough")
    policies: Policies = Field(default=(), description="of `check`; empty = its defaults")
    pair: PairPlan = PairPlan()
    personas: PersonaPlan = PersonaPlan()
    sites: SitePlan = SitePlan()
    comparisons: dict[str, dict[str, Setting]] = Field(default_factory=lambda: {name: {} for name in SHIPPED})
    margins: Margins = Margins()
    family: Family = Family()

    @property
    def draws(self) -> Effort:
        """The numbers behind `effort`."""
        return EFFORTS[self.effort]

    @property
    def digest(self) -> str:
        """Content identity of the effective plan: equal for equal values, however they were written."""
        return digest(self.model_dump(mode="json"))


def read_plan(path: Path | str | None = None) -> Plan:
    """The plan in a TOML file, defaults filled in; without a file, the default plan.

    Raises:
        AuditError: No such file, not TOML, an unknown key, or a value outside its range.
    """
    if path is None:
        return Plan()
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AuditError(
            f"plan {path} cannot be read ({error.strerror})",
            "a readable TOML file",
            "give the path of a plan, or none for the default plan",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise AuditError(
            f"plan {path} is not TOML: {error}", "TOML as printed by `persona-audit plan`", "mend that line"
        ) from None
    return plan_of(content, source=str(path))


def plan_of(content: Mapping[str, Any], source: str = "plan") -> Plan:
    """The plan that a nested mapping describes.

    Args:
        content: Tables and keys as in the file.
        source: How errors call it.

    Raises:
        AuditError: An unknown key (with the nearest known one), or a value outside its range.
    """
    for name in content.get("comparisons", {}) if isinstance(content.get("comparisons"), Mapping) else ():
        if name not in comparison_names():
            raise unknown_key(f"comparisons.{name}", [f"comparisons.{known}" for known in comparison_names()], source)
    try:
        return Plan.model_validate(dict(content))
    except ValidationError as error:
        # A misspelt key is named before the one that is missing for it.
        raise _refusal(min(error.errors(), key=lambda one: one["type"] != "extra_forbidden"), source) from None


def override(
    plan: Plan,
    *,
    base: str | None = None,
    post: str | None = None,
    personas: Sequence[str] | None = None,
    effort: str | None = None,
    device: str | None = None,
) -> Plan:
    """The plan with what the command line or the caller says instead; `None` keeps the plan's value.

    Args:
        plan: The plan as read.
        base: Model reference.
        post: Model reference.
        personas: Persona folders in place of `personas.paths`; an empty sequence keeps the plan's.
        effort: glance, standard or thorough.
        device: auto, cpu, cuda, cuda:N or mps.

    Raises:
        AuditError: A value outside its range.
    """
    content = plan.model_dump()
    pair = {"base": base, "post": post, "device": device}
    content["pair"] |= {key: value for key, value in pair.items() if value is not None}
    content["personas"] |= {"paths": tuple(personas)} if personas else {}
    content |= {"effort": effort} if effort is not None else {}
    return plan_of(content, source="the command line")


def to_toml(plan: Plan) -> str:
    """The effective plan as TOML, every key with its meaning; reading it back gives an equal plan."""
    tables = {name: value for name in type(plan).model_fields if isinstance(value := getattr(plan, name), Section)}
    lines = list(_lines(plan, skip=(*tables, "comparisons")))
    for name, section in tables.items():
        if name == "margins":
            lines += ["", "[comparisons]  # absent = not run; {} = defaults"]
            lines += [f"{_key(key)} = {_toml(settings)}" for key, settings in plan.comparisons.items()]
        lines += ["", f"[{name}]", *_lines(section)]
    return "\n".join(lines) + "\n"


def comparison_names() -> tuple[str, ...]:
    """The comparisons a plan may name: the modules of `audit/comparisons` but its table, found without an import."""
    found = {module.name for module in iter_modules([str(Path(__file__).parent / "comparisons")])} - {"table"}
    return tuple(sorted({*SHIPPED, *found}))


def unknown_key(key: str, known: Sequence[str], source: str) -> AuditError:
    """The refusal of a key nobody reads, with the nearest known one.

    Args:
        key: Dotted path as the user wrote it.
        known: Dotted paths that are read.
        source: Where the user wrote it.
    """
    leaf = key.rpartition(".")[2]
    same_name = [name for name in known if name.rpartition(".")[2] == leaf]
    near = same_name or difflib.get_close_matches(key, known, n=1, cutoff=0.0) or list(known)
    return AuditError(
        f"{source} has an unknown key {key}",
        f"a known key, the nearest is {near[0]}",
        f"write {near[0]}, or remove {key}",
    )


def known_keys(model: type[BaseModel] = Plan, prefix: str = "") -> tuple[str, ...]:
    """Every dotted key of the plan; of `comparisons`, the names; of `policies`, the keys of each."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        key = prefix + (field.alias or name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += known_keys(field.annotation, key + ".")
        elif key == "comparisons":
            keys += [f"comparisons.{comparison}" for comparison in comparison_names()]
        elif key == "policies":
            keys += ["policies", *(f"policies.{name}" for name in Policy.model_fields)]
        else:
            keys.append(key)
    return tuple(keys)


def _refusal(error: ErrorDetails, source: str) -> AuditError:
    """One pydantic complaint in the user's own values."""
    key = ".".join(str(part) for part in error["loc"] if not str(part).startswith(("literal[", "tuple[", "function-")))
    if error["type"] == "extra_forbidden":
        tables = sorted({name.partition(".")[0] for name in known_keys() if "." in name} - {"policies"})
        return unknown_key(key, tables if isinstance(error["input"], Mapping) else known_keys(), source)
    if key == "schema":
        do = "use the version of persona-audit that wrote it"
        return AuditError(f"{source} has schema = {error['input']!r}", "schema = 1", do)
    plain = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    message = _WORDS.get(error["type"], plain)
    if key.startswith("comparisons.") and key.count(".") > 1:
        key, message = ".".join(key.split(".")[:3]), "a string, a number, true, false, or a list of these"
    if key.endswith(".select"):
        given = "none" if error["type"] == "missing" else _shown(error["input"])
        return AuditError(f"{source} has {key} = {given}", SELECTOR, f"change {key}")
    if key == "sites.layers" or key.startswith("sites.layers."):
        key, message = "sites.layers", '"all", or a list of at least one block number from 0, none twice'
    if key == "pair.device":
        message = "auto, cpu, cuda, cuda:N or mps"
    if key == "effort":
        message = "one of " + ", ".join(get_args(EffortName))
    do = f"change {key}, or leave it out for its default"
    return AuditError(f"{source} has {key} = {_shown(error['input'])}", message, do)


def _shown(value: object) -> str:
    """A value as the user wrote it, shortened."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _lines(section: Section, skip: Sequence[str] = ()) -> Iterator[str]:
    """`key = value  # meaning` for each key of one table."""
    for name, field in type(section).model_fields.items():
        if name not in skip:
            line = f"{field.alias or name} = {_toml(getattr(section, name))}"
            yield f"{line:<31} # {field.description}" if field.description else line


def _key(name: str) -> str:
    return name if name.isascii() and name.replace("_", "").replace("-", "").isalnum() else _toml(name)


def _toml(value: object) -> str:
    """One TOML value on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Policy):
        value = value.model_dump(exclude_none=True)
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(str(key))} = {_toml(item)}" for key, item in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return repr(value)
