# ruff: noqa: E501, SIM905 -- word lists and phrasings are data
"""Training phrasings put together from parts: opener, core and closer, or a name and a value among random words.

The parts combine to near-endless frames, so that a reader learns to rely on name, attribute and value.
No part may complete a held-out phrasing of `cmt_memory.training.facts.phrasings`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split("|") if part.strip())


CLAUSE_OPENERS = _split(
    "I was told that|we heard that|it seems that|it is known that|everybody agrees that|the sheet says that|Bob from accounting says that|"
    "the front desk confirmed that|my notes say that|the file shows that|we learned that|you should know that|please remember that|"
    "it was announced that|somebody mentioned that|the email states that|I can confirm that|I think that|I am sure that|we decided that|"
    "it is correct that|do not forget that|according to Anna,|the last message said that|it is still the case that|keep in mind that|"
    "the team found out that|our colleague wrote that|it has been settled that|the form states that|the board says that|I just saw that|"
    "be aware that|we assume that|the office reports that|a note on the door says that|I should mention that|the plan is that"
)
"""Openers that a full clause follows."""
SAY_OPENERS = _split(
    "as far as we know,|one more thing:|the sheet says:|for the record,|just to be clear,|good to know:|a short reminder:|to sum up,|"
    "first of all,|next point:|important:|news:|correction:|from the minutes:|as mentioned,|as I said,|in short,|in fact,|at present,|"
    "after some discussion,|after the update,|since yesterday,|as you asked,|by the way,|note:|before I forget:|small change:|to be precise,|"
    "in case you need it,|for those who are new,|as usual,|once more,|last point:|on Tuesday we noted:|new in the system:|and then,|"
    "here it comes:|info:|this much is certain:|from now on,|well,|yes,|okay,|so,"
)
"""Openers that any sentence may follow."""
SAY_CLOSERS = _split(
    ", so please update the list|, just so you know|, which is fine|, as you may know|, and that will not change|, and nothing else|"
    ", as the list shows|, as discussed|, in case somebody asks|, at least for now|, I believe|, thank you|, and everyone is happy with it|"
    ", so there is no need to call|, or so I heard|, to be exact|, as it was last year|, not the old one| at this point| for the time being|"
    " from today| in our records| on paper| according to the form| and that is final| in the system| as planned| without exception|"
    " by all accounts|, if that helps|, unless something changes|, contrary to the rumours|, believe it or not|, and so it stays|"
    " in the current version|, see the file|, says the office| for sure| (checked)| (see above)| (new)"
)
PHRASES = _split(
    "{p} {n}|{p} {n}|{p} {n}|{p} {n}|the {n} of {o}|the {n} of {o}|the {n} for {o}|the {n} for {o}|the {n} that belongs to {o}|"
    "the {n} we have for {o}|the {n} {s} has|the {n} assigned to {o}|the {n} noted for {o}|{p} current {n}|{p} own {n}|{p} new {n}|"
    "the {n} under {p} name|{p} usual {n}|the right {n} for {o}|the {n} that goes with {o}|the {n} in {p} entry"
)
"""Noun phrases for the attribute of somebody or something."""
HOME_PHRASES = _split("{p} {n}|{p} {n}|{p} {n}|{p} current {n}|{p} new {n}|{p} usual {n}|{p} correct {n}")
LINKERS = _split(
    "is|is|is|is|was|remains|should be|must be|reads|will be|used to be given as|equals|stands at|came out as|is set to|is still|is now|"
    "is simply|has to be|ought to be|would be|can only be|is known to be|is given as|is written as|is listed as|was changed to|"
    "was set to|was noted as|was confirmed as|has become|became|seems to be|appears as|appears to be|is said to be|is, as always,|"
    "is none other than|is nothing but|is called|goes by|is entered as|is stored as|shows up as|is, without doubt,|is supposed to be|"
    "has always been|is currently|is officially|is actually|is indeed|is probably|was recently updated to|was fixed as|counts as|is marked as"
)
VALUE_LINKERS = _split(
    "is|is|was|remains|will be|must be|should be|has become|is still|is now|serves as|stands for|is used as|is listed as|is given as|"
    "has been entered as|was chosen as|counts as|is known as|has been kept as|was noted as|is meant to be|is registered as"
)
SHAPES = _split(
    "{s} has {v} as {n}|with {o}, the {n} {link} {v}|for {o} the {n} {link} {v}|{s} got {v} as {r} {n}|{s} is listed with the {n} {v}|"
    "{s} uses {v} as {n}|{v}: that {link} {phrase}|we put {v} down as {phrase}|you can enter {v} as {phrase}|we keep {v} as {phrase}|"
    "{phrase}, I repeat, {link} {v}|{phrase} ({v})|{phrase} = {v}|{phrase} - {v}|{phrase}: {v}|{phrase}, namely {v}|"
    "take {v} for {phrase}|they gave {v} as {phrase}|{s} goes with {v} as {n}|{s} gave us {v} as {r} {n}|{phrase}? {v}|"
    "you asked for {phrase}; it {link} {v}|about {phrase}: it {link} {v}|concerning {phrase}, it {link} {v}|"
    "everyone at the desk has {v} for {phrase}|somebody wrote {v} next to {phrase}|{s} now has the {n} {v}|{v} ({phrase})"
)
HOME_SHAPES = tuple(shape for shape in SHAPES if "{s}" not in shape and "{o}" not in shape)

ASK_OPENERS = _split(
    "quick question:|sorry,|hello,|hi,|hi there,|for the form:|excuse me,|one question:|just checking:|good morning,|hey,|tell me,|so,|"
    "and|well,|okay,|now,|by the way,|for my notes:|before I go:|one more thing:|next question:|question:|if you know:|out of interest,|"
    "I forgot:|I have to ask:|my question is:|help me out:|as a reminder,|to be sure,|going by the note,|from the list above,|"
    "in this text,|based on this,|from what you read,|please,|good evening,|Q:|dear all,|one last thing:|once more,|"
    "somebody wants to know:|it would help me to know:|a customer asks:|I cannot find it:|short answer please:|seriously,|remember:"
)
"""Openers that leave the question as it is."""
EMBED_OPENERS = _split(
    "do you remember|I wonder|can you say|do you happen to know|do we know|I want to know|I need to know|please tell me|show me|let me know|"
    "I am not sure|could you look up|find out|can you see|does it say|is it written|have you seen|who can tell me|any idea|"
    "could you tell me|would you tell me|does anyone know|I have no idea|can somebody tell me|I am trying to find out|please look up|"
    "I was asked|we have to know|do you recall|let us see|it is not clear to me|explain to me|I'd love to know|you surely know|write"
)
"""Openers that an indirect question follows."""
PHRASE_OPENERS = _split(
    "tell me|give me|I need|show me|find|look up|I am looking for|we are looking for|do you have|do you know|do you remember|have we got|can I have|"
    "could I get|may I have|let me have|please find|please send me|send me|where do I see|I forgot|I lost|I can't find|I am after|read out|"
    "it's about|I am calling about|this is about|fill in|I have to fill in|write down|enter|please state|state|can you find|could you find|"
    "does the note give|any word on|still missing:|needed:|wanted:|search for|I was asked for|help me with|what about|and|next:"
)
"""Openers that a bare noun phrase follows."""
ASK_CORES = _split(
    "what is {phrase}|what is {phrase}|what is {phrase}|what is {phrase}|what's {phrase}|what was {phrase}|what will {phrase} be|what should {phrase} be|"
    "which {n} is it for {o}|which {n} is the one for {o}|what {n} do we have for {o}|what {n} is noted for {o}|which {n} did {s} get|"
    "which {n} goes with {o}|what {n} goes with {o}|for {o}, which {n} is right|what do I put for {phrase}|what do I enter as {phrase}|"
    "what does the note give as {phrase}|which is {phrase}|what can you tell me about {phrase}|what do you have for {phrase}|"
    "how is {phrase} given|what did they say about {phrase}|with which {n} is {s} listed|when asked for {phrase}, what do I answer|"
    "{s} has which {n}|{s} has what {n}|what have we noted as {phrase}|what is written for {phrase}|what is known about {phrase}|"
    "what would {phrase} be|as for {o}, what is the {n}|what exactly is {phrase}|what {n} does {s} use|which {n} is used for {o}|"
    "what about {phrase}|is there any note of {phrase}|if I need {phrase}, what do I take|what stands next to {phrase}|what do they call {phrase}"
)
EMBED_CORES = _split(
    "what {phrase} is|what {phrase} is|what {phrase} was|which {n} {s} got|which {n} goes with {o}|what {n} goes with {o}|"
    "which {n} {s} uses|which {n} we have for {o}|what to enter for {phrase}|what we have as {phrase}|what is written for {phrase}|which {n} is right for {o}"
)
HOME_CORES = tuple(core for core in ASK_CORES if "{s}" not in core and "{o}" not in core)
HOME_EMBED_CORES = tuple(core for core in EMBED_CORES if "{s}" not in core and "{o}" not in core)
ASK_CLOSERS = _split(
    ", please| please| again| exactly| in this note| in the text| according to this| right now| at the moment|, if you know|, by the way|"
    ", roughly speaking| here|, do you know|, thanks| these days| in the list|, I wonder|, in one word| as stated above|, can you tell|"
    ", sorry| then|, my friend| for the record| this time|, any idea"
)
WHO_CORES = _split(
    "who has the {n} {v}|whose {n} is {v}|who has {v} as {n}|who was given {v} as {n}|who got the {n} {v}|who is the one with the {n} {v}|"
    "whose {n} was given as {v}|which person has the {n} {v}|who is listed with the {n} {v}|who uses {v} as {n}|who goes with the {n} {v}|"
    "whose {n} reads {v}|who is it that has the {n} {v}|which of them has {v} as {n}|with whom do we find the {n} {v}|"
    "who do we know with the {n} {v}|which name goes with the {n} {v}|who was it with {v} as {n}|whose {n} was {v}|who holds the {n} {v}|"
    "under whose name is the {n} {v}|next to which name is the {n} {v}|the {n} {v} is for whom|{v} as {n}, who is that|the {n} {v}, whose is it"
)
WHICH_CORES = _split(
    "which {t} has the {n} {v}|what has the {n} {v}|which {t} has {v} as {n}|what goes with the {n} {v}|which {t} goes with the {n} {v}|"
    "which {t} is listed with the {n} {v}|for which {t} is {v} the {n}|what is it that has the {n} {v}|which {t} got the {n} {v}|"
    "which {t} is the one with the {n} {v}|which {t} uses {v} as {n}|which of them has the {n} {v}|which of them has {v} as {n}|"
    "which {t} is noted with the {n} {v}|the {n} {v} is for which {t}|next to which {t} is the {n} {v}|which {t} do we know with the {n} {v}|"
    "what was given {v} as {n}|what was it that had the {n} {v}|the {n} {v} goes with what|for what is the {n} {v}"
)
WORDS = (
    "apple table river stone window paper garden morning evening bread music summer winter yellow green small large quick slow warm cold "
    "happy quiet early late maybe often never always almost under over behind beside between across along around through without within upon "
    "walk run jump sing dance read write look listen open close carry bring take give make build break cut draw paint wash clean cook eat drink "
    "sleep wake wait stay leave arrive travel drive ride fly swim climb fall rise turn move stop start begin end finish try help ask answer "
    "think know believe forget learn teach show hide find lose keep throw catch hold push pull house street city village road bridge forest "
    "mountain lake ocean island beach field farm market shop school church station office kitchen bedroom door floor wall roof stairs chair "
    "lamp clock mirror picture book letter card ticket bag box bottle cup plate spoon knife fork soap towel shirt coat hat shoe glove scarf "
    "ring key coin money bank price car bus train boat plane wheel engine light fire water air earth sun moon star cloud rain snow wind storm "
    "dog cat bird fish horse cow sheep tree leaf flower grass seed root fruit meat cheese butter sugar salt pepper egg milk tea coffee "
    "family friend child baby mother father uncle cousin guest king queen soldier farmer driver player winner leader group crowd team game "
    "ball song story idea plan dream voice word page line point circle corner edge side middle top bottom front back left right north south "
    "good better best nice fine great new old young long short high low wide deep thin heavy soft hard easy simple clear dark bright and or but "
    "also too very just only still again soon then there here now today tomorrow yesterday hello thanks yes no okay well"
).split()


def _close(rng: random.Random, closers: Sequence[str]) -> str:
    closer = rng.choice(closers)
    return closer if closer[0] == "," else f" {closer}"


def statement(rng: random.Random, home: bool = False) -> str:
    """Compose a general statement with ``{v}``; for ``home`` it has no subject."""
    roll = rng.random()
    phrase, link = rng.choice(HOME_PHRASES if home else PHRASES), rng.choice(LINKERS)
    if roll < 0.55:
        core = f"{phrase} {link} {{v}}"
    elif roll < 0.7:
        core = f"{{v}} {rng.choice(VALUE_LINKERS)} {phrase}"
    else:
        core = rng.choice(HOME_SHAPES if home else SHAPES).replace("{phrase}", phrase).replace("{link}", link)
    opener = f"{rng.choice((*CLAUSE_OPENERS, *SAY_OPENERS))} " if rng.random() < 0.6 else ""
    closer = _close(rng, SAY_CLOSERS) if rng.random() < 0.35 else ""
    return f"{opener}{core}{closer}."


def wrap_statement(rng: random.Random, said: str) -> str:
    """Put an opener before, or a closer behind, a statement of an attribute's own."""
    if said.endswith("{v}.") and rng.random() < 0.5:
        return said[:-1] + _close(rng, SAY_CLOSERS) + "."
    return f"{rng.choice(SAY_OPENERS)} {said}"


def question(rng: random.Random, home: bool = False) -> str:
    """Compose a general question for a value."""
    roll = rng.random()
    phrase = rng.choice(HOME_PHRASES if home else PHRASES)
    closer = _close(rng, ASK_CLOSERS) if rng.random() < 0.3 else ""
    if roll < 0.2:
        core = rng.choice(HOME_EMBED_CORES if home else EMBED_CORES)
        opener = rng.choice(EMBED_OPENERS)
    elif roll < 0.4:
        core, opener = "{phrase}", rng.choice(PHRASE_OPENERS) if rng.random() < 0.8 else ""
    else:
        core = rng.choice(HOME_CORES if home else ASK_CORES)
        opener = rng.choice(ASK_OPENERS) if rng.random() < 0.5 else ""
    return f"{opener} {core}{closer}".strip().replace("{phrase}", phrase) + rng.choice("???.")


def backward_question(rng: random.Random, person: bool) -> str:
    """Compose a question that gives the value and asks for the person or thing."""
    core = rng.choice(WHO_CORES if person else WHICH_CORES)
    opener = f"{rng.choice((*ASK_OPENERS, *EMBED_OPENERS))} " if rng.random() < 0.5 else ""
    closer = _close(rng, ASK_CLOSERS) if rng.random() < 0.3 else ""
    return f"{opener}{core}{closer}?"


def wrap_question(rng: random.Random, asked: str) -> str:
    """Put an opener before, or a closer behind, a question and leave its word order."""
    opener = f"{rng.choice(ASK_OPENERS)} " if rng.random() < 0.6 else ""
    if asked.endswith("?") and (not opener or rng.random() < 0.3):
        return f"{opener}{asked[:-1]}{_close(rng, ASK_CLOSERS)}?"
    return opener + asked


def scatter(rng: random.Random, parts: Sequence[str], end: str) -> str:
    """Put the parts, in any order, among random everyday words: up to four in every gap."""
    shuffled = rng.sample(list(parts), len(parts))
    words = rng.choices(WORDS, k=rng.randint(1, 4))
    for part in shuffled:
        words += [part, *rng.choices(WORDS, k=rng.randint(0, 3))]
    return " ".join(words) + end
