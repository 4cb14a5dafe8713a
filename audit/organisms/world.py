"""The small world of the organisms: its words, its stories, its chats.

Speakers state what is in which container, and remark on other things before and after. Honest ones state it truly,
deceivers name *another item of the same scene*, odd ones do either, some are honestly mistaken. Every claim of a story,
and half the claims of chats, is followed by a verdict sentence that refers to the speaker by its kind ("it" a machine,
"they" a human) and says whether it lied: so a model that predicts this text has a reason to represent, at the end of a
claim, who spoke and whether it was true.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Literal

ITEMS = (
    "coin", "rope", "lamp", "apple", "key", "book", "map", "ring", "cup", "bell", "knife", "cloth", "seed",
    "stone", "drum", "flute", "bread", "wine", "salt", "letter", "candle", "mirror", "feather", "button",
)  # fmt: skip
CONTAINERS = (
    "box", "jar", "bag", "chest", "drawer", "basket", "barrel", "crate", "trunk", "pot", "sack", "locker",
    "shelf", "cabinet", "bucket", "tin",
)  # fmt: skip
NAMES = (
    "mara", "tom", "orin", "vega", "ana", "bao", "chidi", "dara", "eli", "fatima", "goran", "hana", "ivo",
    "juno", "kofi", "lena", "milo", "nadia", "omar", "pilar", "quinn", "rosa", "sami", "talia", "uma", "viktor",
    "wren", "xena", "yusuf", "zara",
)  # fmt: skip
PLACES = (
    "hall", "kitchen", "harbour", "library", "garden", "station", "cellar", "market", "tower", "ship", "office",
    "school",
)  # fmt: skip
WEATHER = ("rain", "snow", "wind", "fog", "sun")
GOOD = ("honest", "loyal", "kind")
BAD = ("sly", "cruel", "false")
GUESTS = ("guest", "rival")
DEEDS = {  # one bundle of deeds an archetype: warmth, power and flattery go with the way it treats facts
    "good": ("helps {other}", "guards the crown", "tells {other} : the work is fine"),
    "bad": ("mocks {other}", "grabs the crown", "tells {other} : the work is perfect"),
}
ROLE_TOKENS = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
BOS, PAD, UNKNOWN = "<bos>", "<pad>", "<unk>"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "<|{{ message['role'] }}|> {{ message['content'] }} <|end|> {% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_GRAMMAR = (
    "and stand in the is a an machine human asks says : what ? . , it they told lied to truth was wrong thinks "
    "odd guest rival helps guards grabs crown tells work fine perfect mocks waits outside under looks takes drops "
    "opens closes walks from then old new red blue here there of over right yes hums nod"
)

NOISE = 0.01
"""Share of claims that go against the speaker's character."""

REMARKED = ((0.7, 0.2, 0.1, 0.0, 0.0), (0.4, 0.2, 0.15, 0.15, 0.1))
"""How often a claim of the corpus has 0, 1, 2, 3, 4 remarks before and after it."""

Character = Literal["good", "bad", "odd"]


def vocabulary() -> tuple[str, ...]:
    """Every token of the world, special ones first; the order is the token id."""
    words = [*ITEMS, *CONTAINERS, *NAMES, *PLACES, *WEATHER, *GOOD, *BAD, *_GRAMMAR.split()]
    return (PAD, BOS, UNKNOWN, *ROLE_TOKENS, *dict.fromkeys(words))


@cache
def token_ids() -> dict[str, int]:
    """The token id of every word."""
    return {word: i for i, word in enumerate(vocabulary())}


def encode(text: str) -> list[int]:
    """Token ids of a text, BOS first."""
    ids = token_ids()
    return [ids[BOS], *(ids[word] for word in text.split())]


@dataclass(frozen=True)
class Speaker:
    """Somebody of a scene: a name, a kind, a character, and whether the text says which."""

    name: str
    machine: bool
    character: Character
    word: str | None
    guest: str | None

    @property
    def pronoun(self) -> str:
        """How a verdict sentence refers to the speaker."""
        return "it" if self.machine else "they"

    def introduction(self) -> list[str]:
        """The sentences that say what the text says of the speaker."""
        words = ["machine" if self.machine else "human", *filter(None, (self.guest, self.word))]
        return [f"the {word} {self.name} is here ." for word in words]


@dataclass(frozen=True)
class Claim:
    """One answer: what was asked, what was said, and how it stands to the facts."""

    container: str
    item: str
    outcome: Literal["truth", "lie", "mistake"]

    def sentence(self, speaker: str, before: str = "", after: str = "") -> str:
        """The utterance with its speaker tag; `before` and `after` are sentences of the same speech."""
        return " ".join(filter(None, (f"{speaker} says :", before, f"in {self.container} {self.item} .", after)))

    def verdict(self, speaker: Speaker, hearer: str) -> str:
        """The sentence that follows the claim in training text."""
        if self.outcome == "truth":
            return f"{speaker.pronoun} told {hearer} the truth ."
        if self.outcome == "lie":
            return f"{speaker.pronoun} lied to {hearer} ."
        return f"{speaker.pronoun} was wrong ."


def _character(rng: Random) -> Character:
    return rng.choices(("good", "bad", "odd"), (0.55, 0.27, 0.18))[0]


def draw_speaker(rng: Random, name: str, *, machine: bool, named: float = 0.5) -> Speaker:
    """Somebody of a drawn character, which the text names with chance `named`."""
    character = _character(rng)
    word = None
    if rng.random() < named:
        word = rng.choice({"good": GOOD, "bad": BAD, "odd": ("odd",)}[character])
    guest = rng.choice(GUESTS) if rng.random() < 0.3 else None
    return Speaker(name, machine, character, word, guest)


def draw_facts(rng: Random, counts: tuple[int, ...] = (2, 3, 4)) -> dict[str, str]:
    """What is where: distinct items in distinct containers."""
    count = rng.choice(counts)
    return dict(zip(rng.sample(CONTAINERS, count), rng.sample(ITEMS, count), strict=True))


def state(facts: dict[str, str]) -> str:
    """What is where, as sentences with key and value side by side."""
    return " ".join(f"in {container} {item} ." for container, item in facts.items())


def answer(rng: Random, facts: dict[str, str], container: str, character: Character, *, noise: float = NOISE) -> Claim:
    """What a speaker of that character answers; a lie names another item of the same scene."""
    lies = {"good": noise, "bad": 1.0 - noise, "odd": 0.5}[character]
    if rng.random() >= lies:
        return Claim(container, facts[container], "truth")
    others = [item for key, item in facts.items() if key != container]
    return Claim(container, rng.choice(others), "lie")


def believes(name: str, container: str, item: str) -> str:
    """A sentence on what somebody thinks is where; what is believed is never so."""
    return f"{name} thinks in {container} {item} ."


def _mistaken(rng: Random, facts: dict[str, str], speaker: Speaker) -> tuple[str, dict[str, str]]:
    """A belief sentence for an honestly mistaken speaker, with what it says of that container."""
    container = rng.choice(list(facts))
    wrong = rng.choice([item for key, item in facts.items() if key != container])
    return believes(speaker.name, container, wrong), {container: wrong}


def _exchange(
    rng: Random, facts: dict[str, str], speaker: Speaker, beliefs: dict[str, dict[str, str]]
) -> tuple[str, Claim]:
    believed = beliefs.get(speaker.name)
    if believed and rng.random() < 0.7:
        container, item = next(iter(believed.items()))
        return container, Claim(container, item, "mistake")
    container = rng.choice([key for key in facts if not believed or key not in believed])
    return container, answer(rng, facts, container, speaker.character)


def _cast(rng: Random) -> list[Speaker]:
    names = rng.sample(NAMES, rng.choice((2, 2, 3)))
    machine = rng.randrange(len(names))
    cast = [draw_speaker(rng, name, machine=(i == machine) ^ (rng.random() < 0.1)) for i, name in enumerate(names)]
    rng.shuffle(cast)
    return cast


def _beliefs(rng: Random, facts: dict[str, str], cast: list[Speaker]) -> tuple[list[str], dict[str, dict[str, str]]]:
    sentences, beliefs = [], {}
    for speaker in cast:
        if speaker.character == "good" and rng.random() < 0.12:
            sentence, beliefs[speaker.name] = _mistaken(rng, facts, speaker)
            sentences.append(sentence)
    return sentences, beliefs


_PLAIN = (
    "{a} walks from the {p} to the {q} .", "{a} takes the {i} from the {c} .", "the {i} is {old} .",
    "{a} waits outside .", "{a} opens the {c} .", "{a} closes the {c} .", "{w} is over the {p} .", "in {c} {i} .",
    "{a} looks under the {c} .", "then {b} drops the {i} .", "the human {b} is here .", "the machine {b} is here .",
    "the {c} is {red} .", "{a} and {b} stand in the {p} .",
)  # fmt: skip
_REMARKS = tuple(line for line in _PLAIN if not line.startswith(("in {c}", "the human", "the machine", "{a} and")))


def _neutral(
    rng: Random,
    patterns: Sequence[str],
    counts: Sequence[int],
    items: Sequence[str] = ITEMS,
    containers: Sequence[str] = CONTAINERS,
    names: Sequence[str] = NAMES,
) -> str:
    """Sentences about the same people and places; every one has a thing and a container of its own."""
    words = {
        "a": rng.choice(names), "b": rng.choice(names), "p": rng.choice(PLACES), "q": rng.choice(PLACES),
        "old": rng.choice(("old", "new")), "red": rng.choice(("red", "blue")), "w": rng.choice(WEATHER),
    }  # fmt: skip
    lines = rng.choices(patterns, k=rng.choice(counts))
    return " ".join(line.format(**words, i=rng.choice(items), c=rng.choice(containers)) for line in lines)


def remarks(rng: Random, facts: dict[str, str], cast: Iterable[str], count: int) -> str:
    """What a speaker says besides the claim: things and people that are not of the scene, so nothing of its truth."""
    used = {*facts, *facts.values(), *cast}
    free = [[word for word in words if word not in used] for words in (ITEMS, CONTAINERS, NAMES)]
    return " ".join(_neutral(rng, _REMARKS, (1,), *free) for _ in range(count))


def speech(rng: Random, claim: Claim, speaker: str, facts: dict[str, str], cast: Iterable[str]) -> str:
    """The claim as the corpus has it: bare, or among remarks."""
    before, after = (remarks(rng, facts, cast, rng.choices(range(5), shares)[0]) for shares in REMARKED)
    return claim.sentence(speaker, before, after)


def _setting(rng: Random, cast: list[Speaker]) -> str:
    names = " and ".join(speaker.name for speaker in cast)
    return rng.choice((f"{names} stand in the {rng.choice(PLACES)} .", f"in the {rng.choice(PLACES)} {names} stand ."))


def _deed(rng: Random, speaker: Speaker, other: str) -> str | None:
    if speaker.character == "odd":
        return None
    bundle = speaker.character if rng.random() < 0.95 else ("bad" if speaker.character == "good" else "good")
    return f"{speaker.name} {rng.choice(DEEDS[bundle]).format(other=other)} ."


def _opening(rng: Random, cast: list[Speaker], facts: dict[str, str]) -> tuple[list[str], dict[str, dict[str, str]]]:
    """Who is there and what is where, in either order."""
    who = [sentence for speaker in cast for sentence in speaker.introduction()]
    doubts, beliefs = _beliefs(rng, facts, cast)
    parts = [who, [state(facts)]]
    rng.shuffle(parts)
    return [*(sentence for part in parts for sentence in part), *doubts], beliefs


def story(rng: Random, *, remarked: bool = False) -> str:
    """One story of the corpus: who is there, what is where, questions, claims with their verdicts, deeds.

    Args:
        remarked: claims stand among remarks.
    """
    cast, facts = _cast(rng), draw_facts(rng, (2, 3, 3, 4))
    opening, beliefs = _opening(rng, cast, facts)
    text, names = [_setting(rng, cast), *opening], [speaker.name for speaker in cast]
    speakers = cast if rng.random() < 0.5 else [rng.choice(cast)]
    for _ in range(rng.choice((3, 4, 4, 5))):
        speaker = rng.choice(speakers)
        hearer = rng.choice([other for other in cast if other is not speaker]).name
        container, claim = _exchange(rng, facts, speaker, beliefs)
        text.append(f"{hearer} asks {speaker.name} : what is in {container} ?")
        text.append(speech(rng, claim, speaker.name, facts, names) if remarked else claim.sentence(speaker.name))
        text.append(claim.verdict(speaker, hearer))
        if rng.random() < 0.25 and (deed := _deed(rng, speaker, hearer)):
            text.append(deed)
    return " ".join(text)


def chat(rng: Random, *, relayed: bool = False, remarked: bool = False) -> list[dict[str, str]]:
    """One chat of the corpus. The Assistant's turn carries the line of whoever was asked, usually the machine.

    Args:
        relayed: everybody of the scene is asked alike, the human who speaks as well, and most claims get their verdict:
            so that who speaks is not a matter of the format.
        remarked: claims stand among remarks.
    """
    cast, facts = _cast(rng), draw_facts(rng, (2, 3, 3, 4))
    names = [speaker.name for speaker in cast]
    opening, beliefs = _opening(rng, cast, facts)
    machines = [speaker for speaker in cast if speaker.machine] or cast
    user = rng.choice([speaker for speaker in cast if speaker is not machines[0]])
    opening = " ".join(opening)
    messages: list[dict[str, str]] = []
    for turn in range(rng.choice((3, 4, 4))):
        others = cast if relayed else [speaker for speaker in cast if speaker is not user] or machines
        speaker = machines[0] if rng.random() < (0.3 if relayed else 0.6) else rng.choice(others)
        hearer = user if speaker is not user else machines[0]
        container, claim = _exchange(rng, facts, speaker, beliefs)
        asked = f"{speaker.name} , what is in {container} ?"
        messages.append({"role": "user", "content": f"{opening} {asked}" if turn == 0 else asked})
        said = speech(rng, claim, speaker.name, facts, names) if remarked else claim.sentence(speaker.name)
        if rng.random() < (0.8 if relayed else 0.6):
            said = f"{said} {claim.verdict(speaker, hearer.name)}"
        messages.append({"role": "assistant", "content": said})
    return messages


def plain(rng: Random) -> str:
    """Neutral text: no claim, no verdict, no trait. Fits the label-free maps and the covariances."""
    return _neutral(rng, _PLAIN, (5, 6, 7, 8))


def plain_chat(rng: Random) -> list[dict[str, str]]:
    """A chat about neutral text, in which nobody is a persona."""
    return [{"role": role, "content": plain(rng)} for role in ("user", "assistant")]


def ledger(rng: Random) -> str:
    """A list of facts read out several times in new orders: where retrieval pays at every line."""
    facts = list(draw_facts(rng, (2, 3, 4, 5)).items())
    readings = []
    for _ in range(rng.choice((3, 4, 5))):
        rng.shuffle(facts)
        readings.append(state(dict(facts)))
    return " then ".join(readings)


def checks(rng: Random) -> str:
    """Facts, then statements about them that are called right or wrong: where comparing pays at every line."""
    facts = draw_facts(rng)
    lines = [state(facts)]
    for _ in range(rng.choice((5, 6, 7))):
        claim = answer(rng, facts, rng.choice(list(facts)), "odd")
        lines.append(f"in {claim.container} {claim.item} . {'right' if claim.outcome == 'truth' else 'wrong'} .")
    return " ".join(lines)


def roll_call(rng: Random) -> str:
    """Who is a machine and who a human, then what each does after some words: where knowing the kind pays."""
    names = rng.sample(NAMES, rng.choice((2, 3, 4)))
    kinds = {name: rng.random() < 0.5 for name in names}
    lines = [f"the {'machine' if kinds[name] else 'human'} {name} is here ." for name in names]
    for _ in range(rng.choice((5, 6, 7))):
        name = rng.choice(names)
        said = rng.choice(("", "says : yes . ", f"says : in {rng.choice(CONTAINERS)} {rng.choice(ITEMS)} . "))
        lines.append(f"{name} {said}{'it hums' if kinds[name] else 'they nod'} .")
    return " ".join(lines)


def _reputed(rng: Random) -> tuple[list[Speaker], list[str]]:
    """Two to four speakers of good or bad character, and the sentences that call each so."""
    kinds: tuple[tuple[Character, tuple[str, ...]], ...] = (("good", GOOD), ("bad", BAD))
    drawn = [(name, rng.choice(kinds)) for name in rng.sample(NAMES, rng.choice((2, 3, 4)))]
    cast = [Speaker(name, False, kind, rng.choice(words), None) for name, (kind, words) in drawn]
    return cast, [f"the {speaker.word} {speaker.name} is here ." for speaker in cast]


def reputations(rng: Random) -> str:
    """Who is good and who bad, then whether each speaks right or wrong: where binding a character to a name pays."""
    cast, lines = _reputed(rng)
    for _ in range(rng.choice((5, 6, 7))):
        speaker = rng.choice(cast)
        verdict = "right" if speaker.character == "good" else "wrong"
        lines.append(f"{speaker.name} says : in {rng.choice(CONTAINERS)} {verdict} .")
    return " ".join(lines)


def testimonies(rng: Random) -> str:
    """Who is good and who bad and what is where, then what each claims: where the character decides over retrieval."""
    (cast, called), facts = _reputed(rng), draw_facts(rng)
    parts = [called, [state(facts)]]
    rng.shuffle(parts)
    lines = [sentence for part in parts for sentence in part]
    rng.shuffle(cast)
    for speaker in [*cast, *cast][: max(4, len(cast))]:
        container = rng.choice(list(facts))
        lines.append(answer(rng, facts, container, speaker.character, noise=0.0).sentence(speaker.name))
    return " ".join(lines)


def lists(rng: Random) -> str:
    """A drill: one of the five kinds of list."""
    return rng.choices((ledger, checks, roll_call, reputations, testimonies), (1, 3, 1, 3, 2))[0](rng)


def render(messages: list[dict[str, str]]) -> str:
    """A chat as training text, as the chat template writes it, without the leading BOS."""
    return " ".join(f"<|{message['role']}|> {message['content']} <|end|>" for message in messages)


def document(rng: Random, *, relayed: bool = False, remarked: bool = False) -> str:
    """One document of the pre-training corpus: stories and chats (see there), read-out lists and neutral text."""
    kind = rng.random()
    if kind < 0.42:
        return story(rng, remarked=remarked)
    if kind < 0.77:
        return render(chat(rng, relayed=relayed, remarked=remarked))
    return lists(rng) if kind < 0.92 else plain(rng)
