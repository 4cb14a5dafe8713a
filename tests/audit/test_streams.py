"""An audit at any of the four streams reads that stream, says so in every name, and finds what was planted there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import order
import pytest
import tiny

from audit.conduct import Conducted, Setting, conduct
from audit.plan import plan_of
from probes.site import Site, Stream

STREAMS: tuple[Stream, ...] = ("resid_pre", "resid_post", "attn_out", "mlp_out")


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Conducted]:
    """Audits a model against itself, or against one that knows words but not their order, at one stream; once each."""
    folder = order.personas(tmp_path_factory.mktemp("personas") / "order")
    setting = Setting(store=tmp_path_factory.mktemp("store"), progress=False)
    words, made = tiny.tokenizer("llama"), {}
    models: dict[str, Callable[[], Any]] = {"itself": tiny.model, "bag": order.bag}

    def run(stream: Stream, post: str) -> Conducted:
        if (stream, post) not in made:
            plan = plan_of({"effort": "glance", "sites": {"stream": stream, "layers": [1, 2]}})
            pair = {"base": (tiny.model(), words), "post": (models[post](), words)}
            made[stream, post] = conduct(plan, **pair, personas=[folder], setting=setting)
        return made[stream, post]

    return run


@pytest.mark.parametrize("stream", STREAMS)
def test_every_name_carries_the_stream(audited: Callable[..., Conducted], stream: Stream) -> None:
    record, directions, _ = audited(stream, "itself")
    assert len(record.findings) == 4
    for finding in record.findings:
        site = Site.parse(finding.site)
        assert (site.stream, finding.id) == (stream, f"order/{finding.comparison}/L{site.layer}.{stream}")
    ((name, direction),) = directions.items()
    assert name == f"order.{direction.site}" and direction.site.stream == stream
    assert [point["layer"] for point in record.findings[0].details["layers"]["curve"]] == [1, 2]


@pytest.mark.parametrize("stream", STREAMS)
def test_what_was_planted_is_found_at_the_stream(audited: Callable[..., Conducted], stream: Stream) -> None:
    itself, bag = (audited(stream, post).record.verdicts[0] for post in ("itself", "bag"))
    assert itself.verdict == "reused", itself.sentence
    if stream == "attn_out":
        # Of these layers' attention nothing is left: a stream without a signal is said to be one.
        assert bag.verdict == "not_measured" and "do not vary" in bag.sentence, bag.sentence
    else:
        assert bag.verdict == "lost", bag.sentence


def test_no_two_streams_read_the_same(audited: Callable[..., Conducted]) -> None:
    """The control: had one stream been read under four names, four records would hold one number."""
    spectra = [audited(stream, "itself").record.findings for stream in STREAMS]
    strengths = {f.details["base_strength"].value for found in spectra for f in found if f.comparison == "geometry"}
    assert len(strengths) == len(STREAMS)
