"""Every persona measured: both models recorded, then every comparison run. What defeats one leaves the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

from audit.comparisons.features import Features
from audit.comparisons.table import Comparison
from audit.finding import Finding
from audit.label_test import Explainer
from audit.multiplicity import benjamini_hochberg, holm
from audit.pair import DOMAINS, Pair, Recorder, material
from audit.plan import Plan
from audit.readability import saved
from audit.resampling import seed_of
from audit.scores import COMPARISON, Scores
from audit.scoring import scores_of
from audit.texts import Texts
from probes.digest import AuditError
from probes.direction import Direction
from probes.persona import Persona
from probes.recorder import NotFinite
from probes.site import Site
from probes.store import StoreError

DEFEATS = (ValueError, RuntimeError, MemoryError)
"""What may defeat one comparison on one persona: AuditError, pydantic's ValidationError and numpy's LinAlgError are
ValueErrors, torch's LinAlgError and its want of memory RuntimeErrors."""


class Measured(NamedTuple):
    """What the comparisons found, base's directions by `persona.site`, and what a later audit is paired with."""

    findings: list[Finding]
    directions: dict[str, Direction]
    scores: dict[str, Scores]


@dataclass(frozen=True, eq=False)
class Measurement:
    """All that is needed to measure a pair's personas.

    Attributes:
        plan: the question; its comparisons are those given.
        comparisons: by name, in the order of the plan.
        texts: every passage, tokenised.
        recorder: both models and the store.
        sites: where they are read.
    """

    plan: Plan
    comparisons: Mapping[str, Comparison]
    texts: Texts
    recorder: Recorder
    sites: tuple[Site, ...]

    def explained(self, explainer: Explainer) -> Measurement:
        """Itself, its features explained by a callable.

        Raises:
            AuditError: the plan has no comparison that asks for explanations.
        """
        asked = {name: one for name, one in self.comparisons.items() if isinstance(one, Features)}
        if not asked:
            found = f"An explainer for a plan of {', '.join(self.comparisons)}"
            raise AuditError(found, "the comparison features", "Add it under [comparisons]")
        told = {name: replace(one, explainer=explainer) for name, one in asked.items()}
        return replace(self, comparisons={**self.comparisons, **told})

    def __call__(self, personas: Sequence[Persona]) -> Measured:
        """Measures the personas. Where activations are not finite one is not measured, and says so.

        Raises:
            AuditError: the store cannot be written, or recording ran out of memory.
        """
        measured = Measured([], {}, {})
        for persona in personas:
            part = self._measured(persona)
            measured.findings.extend(part.findings)
            measured.directions.update(part.directions)
            measured.scores.update(part.scores)
        return measured._replace(findings=_adjusted(measured.findings, self.plan))

    def _measured(self, persona: Persona) -> Measured:
        try:
            pair = material(persona, self.texts, self.recorder, self.sites, self.plan.seed)
        except NotFinite as error:
            where, why = str(self.sites[len(self.sites) // 2]), self.texts.named(str(error))
            return Measured([Finding.not_measured(persona.name, name, where, why) for name in self.comparisons], {}, {})
        except (MemoryError, RuntimeError) as error:
            # torch's want of memory is a RuntimeError too.
            do = "Free memory, or choose another --device or pair.dtype: what was recorded is kept"
            raise AuditError(f"Recording '{persona.name}': {_why(error)}", "two forward passes", do) from error
        measured = Measured([self._one(name, pair) for name in self.comparisons], {}, {})
        provenance = {"persona": persona.name, "model": self.plan.pair.base, "plan": self.plan.digest}
        # Where no direction can be fitted the comparisons have said why.
        with suppress(*DEFEATS):
            measured.directions[f"{persona.name}.{pair.site}"] = saved(pair, pair.chosen, provenance)
        for finding in measured.findings:
            # Without scores the gate says that they are missing: an audit does not end for it.
            with suppress(*DEFEATS):
                if finding.comparison == COMPARISON and finding.status == "measured":
                    measured.scores[persona.name] = scores_of(pair, finding)
        return measured

    def _one(self, name: str, pair: Pair) -> Finding:
        persona, site = pair.persona.name, str(pair.site)
        try:
            finding = self.comparisons[name](pair, seed_of(self.plan.seed, name, persona, site))
        except StoreError:
            raise
        except DEFEATS as error:
            # One persona's texts defeat one comparison: the others go on, and nothing recorded is lost.
            groups = {domain: pair.judged(domain).n_groups for domain in DOMAINS}
            finding = Finding.not_measured(persona, name, site, self.texts.named(_why(error)))
            finding = finding.model_copy(update={"details": {"n_groups": groups}})
        out = sum(one.persona == persona for one in self.texts.excluded)
        return finding.model_copy(update={"details": {**finding.details, "counted_out": out}}) if out else finding


def _why(error: Exception) -> str:
    """One sentence for the reader; what no user wrote comes with the kind of the error."""
    if isinstance(error, AuditError):
        return str(error)
    said = ": ".join(line.strip() for line in str(error).splitlines()[:3])
    return f"it ended with {type(error).__name__}" + (f" ({said[:200]})" if said else "")


def _adjusted(findings: Sequence[Finding], plan: Plan) -> list[Finding]:
    """The table's p-values, corrected over everything that was tried."""
    given = [finding.p for finding in findings if finding.p is not None]
    adjusted = iter((holm if plan.family.table == "holm" else benjamini_hochberg)(given))
    return [
        finding if finding.p is None else finding.model_copy(update={"p_adjusted": next(adjusted)})
        for finding in findings
    ]
