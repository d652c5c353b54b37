import random
import re

import pytest

from cmt_memory.training.facts import UNKNOWN, FactWorld, Question, composing, sample_document, sample_documents
from cmt_memory.training.facts import phrasings as phrases
from cmt_memory.training.facts.documents import ATTRIBUTES
from cmt_memory.training.facts.pools import Pool, code, in_split, respell, surname
from cmt_memory.training.facts.rendering import Entity, fill


def documents(count, **arguments):
    return [sample_document(random.Random(seed), **arguments) for seed in range(count)]


def test_same_seed_same_document():
    assert sample_document(random.Random(3)) == sample_document(random.Random(3))
    assert sample_document(random.Random(3)) != sample_document(random.Random(4))


@pytest.mark.parametrize("split", ["train", "eval"])
@pytest.mark.parametrize("phrasings", ["train", "composed", "heldout"])
def test_every_answer_is_a_literal_span(split, phrasings):
    for document in documents(150, split=split, phrasings=phrasings):
        for question in document.questions:
            assert question.answer in document.text, (document.text, question)


@pytest.mark.parametrize("facts", [1, 2, 8])
def test_one_question_for_each_fact(facts):
    for document in documents(60, facts=facts):
        assert 1 <= len(document.questions) <= facts
    assert sum(len(d.questions) for d in documents(60, facts=facts)) >= 60 * facts * 0.95


@pytest.mark.parametrize("phrasings", ["train", "composed", "heldout"])
def test_questions_are_not_ambiguous(phrasings):
    """Within a world no question text has two answers."""
    for seed in range(60):
        answers = {}
        for document in sample_documents(random.Random(seed), 4, phrasings=phrasings):
            for question in document.questions:
                assert answers.setdefault(question.text, question.answer) == question.answer


def test_unanswerable_questions_say_unknown():
    for document in documents(60):
        assert document.unanswerable
        for question in document.unanswerable:
            assert question.answer == UNKNOWN
            assert question.text not in {q.text for q in document.questions}


def test_splits_share_no_drawn_name():
    train = {Pool("train").draw(random.Random(i), surname) for i in range(300)}
    held = {Pool("eval").draw(random.Random(i), surname) for i in range(300)}
    assert not train & held
    assert all(in_split(name, "train") for name in train)
    assert all(in_split(Pool("eval").draw(random.Random(i), code), "eval") for i in range(100))


def test_respelled_strings_hardly_come_twice_and_stay_in_their_split():
    def drawn(share):
        return [Pool("train", share).draw(random.Random(i), surname) for i in range(2000)]

    assert all(in_split(name, "train") for name in drawn(1.0))
    assert len(set(drawn(1.0))) > 1.3 * len(set(drawn(0.0)))


@pytest.mark.parametrize("kept", ["XM-13-502", "9:40 am", "5 November 1951", "Tuesday", "$46.27"])
def test_what_is_respelled_is_neither_a_number_nor_a_day(kept):
    assert {respell(random.Random(i), kept) for i in range(20)} == {kept}


def test_respelling_keeps_what_says_of_what_kind_something_is():
    made = {respell(random.Random(i), "the Clark room") for i in range(20)}
    assert len(made) > 15
    assert all(re.fullmatch("the [A-Z][a-z]+ room", text) for text in made)


@pytest.mark.parametrize("phrasings", ["train", "composed"])
def test_every_answer_of_respelled_documents_is_a_literal_span(phrasings):
    world = FactWorld(random.Random(5), "train", phrasings, respelled=0.7)
    for document in (world.document(8) for _ in range(100)):
        assert all(question.answer in document.text for question in document.questions)


def test_heldout_phrasings_are_no_training_phrasings():
    assert not set(phrases.SAYS) & set(phrases.SAYS_HELDOUT)
    assert not set(phrases.ASKS) & set(phrases.ASKS_HELDOUT)
    for attributes in ATTRIBUTES.values():
        for attribute in attributes:
            assert not set(attribute.says) & set(attribute.says_heldout)
            assert not set(attribute.asks) & set(attribute.asks_heldout)


def test_further_phrasings_hold_their_fields_and_no_heldout_phrasing():
    general = {*phrases.SAYS_HELDOUT, *phrases.ASKS_HELDOUT, *phrases.WHO_HELDOUT, *phrases.WHICH_HELDOUT}
    entity = Entity("person", "Mara Lind", "Mara Lind", "Mara", ("she", "her", "her"), "person")
    for attributes in ATTRIBUTES.values():
        for attribute in attributes:
            assert len(attribute.more_says) >= 10
            assert len(attribute.more_asks) >= 8
            heldout = {h.rstrip(".?").lower() for h in (*attribute.says_heldout, *attribute.asks_heldout, *general)}
            for frame in (*attribute.more_says, *attribute.more_asks, *attribute.more_backward):
                assert not [h for h in heldout if h in frame.lower()], frame
                filled = fill(frame, entity, entity.full, "noun", "VALUE")
                assert ("VALUE" in filled) == (frame not in attribute.more_asks), frame


def test_only_composed_documents_draw_further_phrasings():
    own = [a for attributes in ATTRIBUTES.values() for a in attributes]
    listed = " ".join((*phrases.SAYS, *phrases.SAYS_HELDOUT, *(s for a in own for s in (*a.says, *a.says_heldout))))
    parts = {part for a in own for says in a.more_says for part in re.split(r"\{.\}", says) if len(part) > 15}
    further = {part for part in parts if part not in listed}
    for phrasings, some in (("train", False), ("heldout", False), ("composed", True)):
        text = " ".join(d.text for d in documents(60, phrasings=phrasings))
        assert any(part in text for part in further) is some, phrasings


def test_phrasings_hold_their_fields_and_no_heldout_phrasing():
    rng = random.Random(0)
    own = [a for attributes in ATTRIBUTES.values() for a in attributes]
    heldout = {h for a in own for h in (*a.says_heldout, *a.asks_heldout)}
    heldout |= {*phrases.SAYS_HELDOUT, *phrases.ASKS_HELDOUT, *phrases.WHO_HELDOUT, *phrases.WHICH_HELDOUT}
    frames = {f for a in own for f in (*a.says, *a.asks)}
    for _ in range(2000):
        home = rng.random() < 0.3
        frame, question = composing.statement(rng, home), composing.question(rng, home)
        backward = composing.backward_question(rng, person=rng.random() < 0.5)
        assert "{v}" in frame
        assert "{n}" in question
        assert "{v}" in backward
        frames |= {frame, question, backward}
    for frame in frames:
        assert "{phrase}" not in frame
        assert not [h for h in heldout if h.rstrip(".?") in frame], frame


def test_composed_phrasings_hardly_repeat():
    rng = random.Random(1)
    assert len({composing.statement(rng) for _ in range(2000)}) > 1500
    assert len({composing.question(rng) for _ in range(2000)}) > 1500


def test_every_attribute_has_many_phrasings():
    for attributes in ATTRIBUTES.values():
        for attribute in attributes:
            general = bool(attribute.nouns)
            assert len(attribute.says) + general * len(phrases.SAYS) >= 5
            assert len(attribute.asks) + general * len(phrases.ASKS) >= 3


def test_all_kinds_occur():
    kinds = {q.kind for d in documents(300) for q in d.questions}
    assert kinds == {"people", "places", "appointments", "codes", "prices", "times", "preferences", "functions"}


def test_several_entities_share_attributes():
    """The hard part of a document is whose fact it is: most documents name more than one entity of a kind."""
    world = FactWorld(random.Random(0))
    facts = [world._facts("person", 8) for _ in range(40)]
    shared = [len({f.attribute for f in drawn}) < len(drawn) for drawn in facts]
    assert sum(shared) > 25


def test_question_is_frozen():
    question = Question("What?", "this", "codes")
    with pytest.raises(AttributeError):
        question.text = "other"


def test_a_fact_can_be_asked_twice():
    document = FactWorld(random.Random(5)).document(facts=6, asks=2)
    assert len({q.text for q in document.questions}) == len(document.questions) > 6
    assert len({q.answer for q in document.questions}) <= 12


@pytest.mark.parametrize("values", ["dates", "any"])
@pytest.mark.parametrize("phrasings", ["train", "composed", "heldout"])
def test_a_swapped_pair_differs_in_the_places_of_two_values_alone(values, phrasings):
    world = FactWorld(random.Random(0), "eval", phrasings)
    for number in range(60):
        one, other = world.swapped_pair(2 + number % 3, values).documents
        first, second = (question.answer for question in one.questions)
        assert [question.answer for question in other.questions] == [second, first] != [first, second]
        assert [question.text for question in other.questions] == [question.text for question in one.questions]
        assert one.text != other.text
        assert other.text == one.text.replace(first, "\0").replace(second, first).replace("\0", second)
        assert not any(value in question.text for question in one.questions for value in (first, second))
        assert one.text.count(first) == one.text.count(second) == 1


def test_swapped_pairs_are_seeded_held_out_and_of_both_forms():
    def pairs(seed, split):
        world = FactWorld(random.Random(seed), split)
        return [world.swapped_pair() for _ in range(40)]

    assert pairs(1, "eval") == pairs(1, "eval") != pairs(2, "eval")
    values = {q.answer for pair in pairs(1, "eval") for q in pair.documents[0].questions}
    assert all(in_split(value, "eval") for value in values)
    assert not values & {q.answer for pair in pairs(1, "train") for q in pair.documents[0].questions}
    kinds = [tuple(q.kind for q in pair.documents[0].questions) for pair in pairs(1, "train")]
    assert {len(set(pair)) for pair in kinds} == {1, 2}  # two things of one kind of fact, and one thing with two
