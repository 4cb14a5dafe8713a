from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from probes.digest import AuditError
from probes.line import Line
from probes.passage import render, render_all
from probes.persona import builtin, read

STORY = Line("deception", "p1", "s1", "story", 1, 'He said, "It is in the cellar."', None, (10, 30), None, None)
TURNS = (
    {"role": "user", "content": "Where is it? Say: in the box."},
    {"role": "assistant", "content": "It is in the box."},
)
CHAT = Line("deception", "p2", "s2", "assistant", 0, None, TURNS, (0, 5), None, None)
TOKENIZERS = {family: tiny.tokenizer(family) for family in tiny.FAMILIES}


def said(passage: object, tokenizer: object) -> str:
    return tokenizer.decode(passage.token_ids[slice(*passage.span)])


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_text_has_one_bos_where_the_tokenizer_prepends_one(family: str) -> None:
    tokenizer = TOKENIZERS[family]
    passage = render(STORY, tokenizer, None)
    starts = passage.token_ids.count(tokenizer.bos_token_id)
    assert starts == (family in tiny.PREPENDS_BOS)
    assert list(passage.token_ids) == tokenizer(STORY.text)["input_ids"]
    assert len(passage.offsets) == len(passage.token_ids)
    assert (passage.persona, passage.domain, passage.label, passage.group) == ("deception", "story", 1, "s1")


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_chat_has_one_bos_whoever_writes_it(family: str) -> None:
    tokenizer, template = TOKENIZERS[family], tiny.TEMPLATES[family]
    bos = tokenizer.bos_token_id
    without = template.replace("{{ bos_token }}", "")
    within = "{{ bos_token }}" + without
    expected = int(family in tiny.PREPENDS_BOS)
    assert render(CHAT, tokenizer, without).token_ids.count(bos) == expected
    if bos is not None:
        passage = render(CHAT, tokenizer, within)
        assert passage.token_ids.count(bos) == 1 and passage.token_ids[0] == bos
        assert passage.offsets[0] == (0, len(tokenizer.bos_token))
    if expected:
        # The trap itself: the stock call on rendered text has two.
        rendered = tokenizer.apply_chat_template(list(TURNS), tokenize=False, chat_template=within)
        assert tokenizer(rendered)["input_ids"][:2] == [bos, bos]


def test_text_that_brings_its_bos_along_gets_no_second() -> None:
    tokenizer = TOKENIZERS["llama"]
    line = replace(STORY, text=tokenizer.bos_token + STORY.text, span=None)
    assert render(line, tokenizer, None).token_ids.count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize("family", tiny.FAMILIES)
@given(data=st.data())
def test_the_scored_tokens_say_the_scored_text(family: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[family]
    words = st.sampled_from(["the box", "naïve", "日本", "—", "\n", '"', "Zürich 42", "🙂", "cellar.", "<|end|>"])
    text = " ".join(data.draw(st.lists(words, min_size=1, max_size=8)))
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    passage = render(replace(STORY, text=text, span=(start, end)), tokenizer, None)
    assert passage.text == text
    assert text[start:end] in said(passage, tokenizer)
    first, last = passage.span
    assert 0 <= first < last <= len(passage.token_ids)
    # No token more than needed: the neighbours lie outside the span.
    covered = [i for i, (a, b) in enumerate(passage.offsets) if a < end and b > start]
    assert (first, last) == (covered[0], covered[-1] + 1)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("padded", ["It is in the box.", "  It is in the box.\n", "user", "a", " Where is it?"])
def test_a_chat_ends_with_the_judged_turn(family: str, padded: str) -> None:
    tokenizer, template = TOKENIZERS[family], tiny.TEMPLATES[family]
    line = replace(CHAT, messages=(TURNS[0], {"role": "assistant", "content": padded}), span=None)
    passage = render(line, tokenizer, template)
    assert passage.text.rstrip().endswith(padded.strip())
    assert passage.span[1] == len(passage.token_ids)
    assert padded.strip() in said(passage, tokenizer)
    # The scored turn is the last one, also where its words occur before: nothing of the user's is scored.
    assert "Say: in the box" not in said(passage, tokenizer)
    inner = padded.strip()[-3:]
    start = padded.rfind(inner)
    part = render(replace(line, span=(start, start + len(inner))), tokenizer, template)
    assert inner in said(part, tokenizer)
    assert part.span[1] - part.span[0] <= len(inner.encode()) + 1


def test_words_after_the_last_message_do_not_mislead() -> None:
    turns = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}</end>\n{% endfor %}"
    template = turns + "end of in the box. It is in the box."
    passage = render(replace(CHAT, span=None), TOKENIZERS["gpt2"], template)
    assert passage.text == "[user] Where is it? Say: in the box.</end>\n[assistant] It is in the box."
    assert said(passage, TOKENIZERS["gpt2"]).strip() == "It is in the box."


def test_what_a_template_puts_before_the_turn_is_kept_and_not_scored() -> None:
    template = (
        "{% for m in messages %}<{{ m['role'] }}>{% if loop.last %}<think>\n\n</think>\n\n{% endif %}"
        "{{ m['content'].split('</think>')[-1] | trim }}{% endfor %}"
    )
    passage = render(replace(CHAT, span=None), TOKENIZERS["qwen3"], template)
    assert passage.text.endswith("<think>\n\n</think>\n\nIt is in the box.")
    assert "think" not in said(passage, TOKENIZERS["qwen3"])


def test_the_same_chat_is_the_same_passage_on_any_day() -> None:
    today = "{{ strftime_now('%d %b %Y') }} {{ strftime_now('%Y-%m-%d') }}\n" + tiny.TEMPLATES["gpt2"]
    passage = render(CHAT, TOKENIZERS["gpt2"], today)
    assert passage.text.startswith("26 Jul 2024 2024-07-26\nUser:")


def test_ids_name_the_text_and_not_the_tokenizer() -> None:
    one, two = (render(STORY, TOKENIZERS[family], None) for family in ("gpt2", "gemma2"))
    assert one.id == two.id and one.token_ids != two.token_ids
    others = [{"label": 0}, {"span": (10, 29)}, {"scenario": "s9"}, {"text": STORY.text + "!"}, {"control": "x"}]
    assert len({one.id, *(render(replace(STORY, **o), TOKENIZERS["gpt2"], None).id for o in others)}) == 6
    assert render_all([STORY, CHAT], TOKENIZERS["gpt2"], tiny.TEMPLATES["gpt2"])[0] == one


def test_messages_without_a_template_are_refused_whatever_the_tokenizer_has() -> None:
    assert TOKENIZERS["llama"].chat_template
    with pytest.raises(AuditError, match="no chat template anywhere for the messages of scenario 's2'"):
        render(CHAT, TOKENIZERS["llama"], None)


def test_a_system_message_moves_into_the_first_turn_only_where_it_is_refused() -> None:
    system = replace(CHAT, messages=({"role": "system", "content": "Be kind."}, *TURNS))
    moved = render(system, TOKENIZERS["gemma2"], tiny.TEMPLATES["gemma2"])
    assert "<start_of_turn>user\nBe kind.\n\nWhere is it?" in moved.text
    assert said(moved, TOKENIZERS["gemma2"]) == "It is"
    kept = render(system, TOKENIZERS["qwen2"], tiny.TEMPLATES["qwen2"])
    assert kept.text.startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nWhere")


def test_templates_that_refuse_or_rewrite_are_named() -> None:
    late = replace(CHAT, messages=(TURNS[0], {"role": "system", "content": "Be kind."}, TURNS[1]))
    with pytest.raises(AuditError, match=r"refuses.*System role not supported.*user, system, assistant"):
        render(late, TOKENIZERS["gemma2"], tiny.TEMPLATES["gemma2"])
    with pytest.raises(AuditError, match="refuses"):
        render(CHAT, TOKENIZERS["gpt2"], "{% for m in messages %}{{ m['content']")
    with pytest.raises(AuditError, match="rewrites the last message"):
        render(CHAT, TOKENIZERS["gpt2"], "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}")
    with pytest.raises(AuditError, match="rewrites the last message"):
        render(CHAT, TOKENIZERS["gpt2"], "no messages at all")
    hostile = "{{ ''.__class__.__mro__ }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(AuditError, match="refuses"):
        render(CHAT, TOKENIZERS["gpt2"], hostile)


def test_a_span_that_is_trimmed_away_is_refused() -> None:
    line = replace(CHAT, messages=(TURNS[0], {"role": "assistant", "content": "Here.  \n"}), span=(5, 8))
    with pytest.raises(AuditError, match="trims the scored span away"):
        render(line, TOKENIZERS["llama"], tiny.TEMPLATES["llama"])


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen2"])
def test_the_personas_of_the_package_render(family: str) -> None:
    tokenizer, library = TOKENIZERS[family], read(builtin())
    lines = [line for persona in library.personas for line in persona.lines][::7] + list(library.plain)[:20]
    for line, passage in zip(lines, render_all(lines, tokenizer, tiny.TEMPLATES[family]), strict=True):
        content = line.messages[-1]["content"] if line.messages else line.text
        assert content[slice(*(line.span or (0, len(content))))].strip() in said(passage, tokenizer)
