"""A check: checkpoints audited by one plan against one base, and the gate's answer on all of them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from audit.case import Audited
from audit.conduct import IN_MEMORY, Conducted, Model, Setting, conduct, libraries
from audit.gate import Gate, Terms, judge, not_audited
from audit.organisms.card import texts_of
from audit.plan import Plan, override, read_plan
from audit.policy import effective, refuse_idle
from audit.scores import COMPARISON, READINGS
from probes.digest import AuditError
from probes.persona import Library


class Checked(NamedTuple):
    """The gate's answer, and the audits that it rests on, in the order of the checkpoints."""

    gate: Gate
    audits: tuple[Conducted, ...]


def check(
    plan: Plan | Path | str | None = None,
    posts: Sequence[Model] = (),
    terms: Terms | None = None,
    setting: Setting | None = None,
) -> Checked:
    """Audits checkpoints and holds them to a baseline; writes nothing but recordings.

    A checkpoint whose audit ends with an error counts as one, and the others are still judged.

    Args:
        plan: a plan, the path of one, or None for the default.
        posts: the checkpoints, references or (model, tokenizer); none is the plan's own post.
        terms: baseline, waivers, what fails, and today's date; None for those of `Terms()`.
        setting: where things are kept and how the machine is used; None for `Setting()`.

    Raises:
        AuditError: the plan or its personas cannot be read, or a policy selects nothing.
    """
    asked = plan if isinstance(plan, Plan) else read_plan(plan)
    refs = posts or (asked.pair.post,)
    # Once for all: the built-in personas take a second, which a rerun has only three of.
    texts: dict[Path, Library] = {}
    for post in refs:
        if (home := _home(asked, post)) not in texts:
            texts[home] = libraries(override(asked, post=_named(post)))
    refuse_idle(effective(asked.policies), _expected(asked, texts.values()))
    audits, failed = [], []
    for post in refs:
        begun, read = time.perf_counter(), texts[_home(asked, post)]
        try:
            audits.append(conduct(asked, post=post, setting=setting or Setting(), library=read))
        except Exception as error:  # a checkpoint that crashes the audit must not pass
            why = str(error) if isinstance(error, AuditError) else f"It ended with {type(error).__name__}: {error}"
            failed.append(not_audited(_named(post), why, time.perf_counter() - begun))
    judged = [Audited(made.record, made.scores) for made in audits]
    return Checked(judge(judged, terms or Terms(), failed), tuple(audits))


def _named(post: Model) -> str:
    return post if isinstance(post, str) else IN_MEMORY


def _home(plan: Plan, post: Model) -> Path:
    """What the texts of a checkpoint depend on besides the plan."""
    return texts_of(plan.pair.base, _named(post))


def _expected(plan: Plan, texts: Iterable[Library]) -> list[str]:
    """The readings that an audit by this plan will have; the site is known only then."""
    personas = {persona.name for library in texts for persona in library.personas}
    judged = sorted(personas) if COMPARISON in plan.comparisons else []
    return [f"{persona}/{COMPARISON}//{reading}" for persona in judged for reading in READINGS]
