"""What each objective computes on a real tiny LM, and which parameters its gradient reaches."""

from __future__ import annotations

import hashlib

import pytest
import torch
import torch.nn.functional as F

from cmt_memory import CMTModel
from cmt_memory.training.config import Episodes, Stage, checked
from cmt_memory.training.sources import Mixture
from cmt_memory.training.trainer import CMTTrainer, CMTTrainingArguments
from cmt_memory.training.units import AnswerUnit, Row, TextUnit, Units
from tests.tiny import DOCUMENTS, QUESTION
from tests.training.helpers import descend, facts, learner, start, trainable, units

FAMILIES = ["llama", "gpt2", "gemma3"]


def lm_hash(model) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.lm.model.state_dict().items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def unit_of(model, ratio=4, answers=(" 4471\n", " at nine\n")) -> AnswerUnit:
    lm = model.lm
    documents = tuple(tuple(lm.encode_document(text)) for text in DOCUMENTS)
    prompts = ["Question: " + QUESTION + "\nAnswer:", "Question: When?\nAnswer:"]
    return AnswerUnit(
        ratio,
        documents,
        tuple(
            Row(given, gold, tuple(lm.encode_document(p)), tuple(lm.encode_words(p)), tuple(lm.encode_words(a)))
            for given, gold, p, a in zip([(0, 2), (1,)], [(0,), (1,)], prompts, answers, strict=True)
        ),
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_the_answer_loss_is_that_of_generation(family):
    """The loss of a batch with unequal memories is the mean of what the generator's own prefix gives each row."""
    model = trainable(family)
    unit = unit_of(model)
    with torch.no_grad():
        found = learner(model)(unit)["answer"].item()
        total, count = 0.0, 0
        for row in unit.rows:
            memories = model.compressor.compress(model.lm, [unit.documents[i] for i in row.documents])
            prefix = model.prefix([memories])
            ids = torch.tensor([[*row.prompt, *row.answer]])
            positions = {"position_ids": prefix.starts[:, None] + torch.arange(ids.shape[1])}
            mask = torch.cat([prefix.mask, torch.ones_like(ids)], dim=1)
            cache = prefix.to_cache(model.lm)
            logits = model.lm.model(ids, attention_mask=mask, past_key_values=cache, **positions).logits[0]
            total += F.cross_entropy(logits[len(row.prompt) - 1 : -1], torch.tensor(row.answer), reduction="sum").item()
            count += len(row.answer)
    assert found == pytest.approx(total / count, rel=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_teacher_is_the_lm_reading_the_text(family):
    model = trainable(family, disturb=0.3)
    unit = unit_of(model)
    teacher = learner(model).read_text(unit)
    expected = []
    for row in unit.rows:
        text = [i for place in row.documents for i in unit.documents[place]]
        ids = torch.tensor([[*model.lm.prompt.head_ids, *text, *row.prompt, *row.answer]])
        with torch.no_grad():
            expected.append(model.lm.model(ids).logits[0, -len(row.answer) - 1 : -1])
    torch.testing.assert_close(teacher, torch.cat(expected), atol=1e-3, rtol=1e-3)


OBJECTIVES = {
    "answer": {"answer": 1.0},
    "distillation": {"answer": 0.0, "distillation": {"weight": 1.0, "top_k": 5}},
    "memory_aware": {"answer": 0.0, "memory_aware": {"weight": 1.0, "alpha": 0.5}},
    "self_matching": {"answer": 0.0, "self_matching": {"weight": 1.0, "lambda": 0.2}},
}


@pytest.mark.parametrize("trains", ["maps", "all"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_each_gradient_reaches_what_it_should_and_nothing_else(objective, trains):
    model = trainable()
    before = lm_hash(model)
    made = learner(model, trains=trains, **OBJECTIVES[objective])
    out = made(unit_of(model))
    assert objective in out
    assert out["loss"].item() == pytest.approx(out[objective].item())
    out["loss"].backward()
    reached = {name for name, p in made.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    maps = {name for name, _ in made.named_parameters() if ".down." in name}
    reader = {name for name, _ in made.named_parameters() if name.startswith("compressor.")} - maps
    assert {name.split(".")[1] for name in reader} == {"adapters", "weighing", "places", "sharpness", "importance"}
    aligner = {name for name, _ in made.named_parameters() if name.startswith("aligner.")}
    expected = maps | (reader if trains == "all" else set())
    if objective != "self_matching":  # which compares slots, before they are aligned
        expected |= aligner
    assert reached == expected
    assert all(parameter.grad is None for parameter in model.lm.model.parameters())
    torch.optim.SGD([p for p in made.parameters() if p.requires_grad], lr=0.1).step()
    assert lm_hash(model) == before


@pytest.mark.parametrize("family", FAMILIES)
def test_pretraining_marks_what_it_asks_for(family):
    model = trainable(family)
    lm = model.lm
    one, two = (tuple(lm.encode_document(text)) for text in DOCUMENTS[:2])
    unit = TextUnit(2, (one, two), (one, two[:5]), (True, False))
    made = learner(model, "pretrain")
    out = made(unit)
    with model.compressor.at(unit.ratio):
        memories = made.compress(unit.documents)
    with torch.no_grad():
        for place, (name, target) in enumerate(zip(("reconstruction", "continuation"), unit.targets, strict=True)):
            prefix = model.prefix([[memories[place]]])
            words = lm.model.get_input_embeddings()(torch.tensor([target[:-1]]))
            embedded = torch.cat([made.marks[place][None, None], words], dim=1)
            mask = torch.cat([prefix.mask, torch.ones(1, len(target), dtype=torch.long)], dim=1)
            positions = prefix.starts[:, None] + torch.arange(len(target))
            cache = prefix.to_cache(lm)
            logits = lm.model(
                inputs_embeds=embedded, attention_mask=mask, past_key_values=cache, position_ids=positions
            ).logits[0]
            assert out[name].item() == pytest.approx(F.cross_entropy(logits, torch.tensor(target)).item(), rel=1e-4)
    tokens = len(one), 5
    shared = (tokens[0] * out["reconstruction"] + tokens[1] * out["continuation"]) / sum(tokens)
    assert out["loss"].item() == pytest.approx(shared.item(), rel=1e-5)
    out["loss"].backward()
    assert made.marks.grad.abs().amax(1).min() > 0
    only = TextUnit(2, (one,), (one,), (True,))
    made.zero_grad()
    made(only)["loss"].backward()
    assert made.marks.grad[1].abs().max() == 0


def test_objectives_add_up_by_weight():
    model = trainable()
    unit = unit_of(model)
    out = learner(
        model,
        answer=0.5,
        distillation={"weight": 2.0},
        memory_aware={"weight": 0.25, "alpha": -0.3},
        self_matching={"weight": 3.0, "lambda": 0.1},
    )(unit)
    expected = 0.5 * out["answer"] + 2 * out["distillation"] + 0.25 * out["memory_aware"] + 3 * out["self_matching"]
    assert out["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_what_is_off_costs_no_pass():
    model = trainable()
    seen = []
    hook = model.lm.decoder.register_forward_pre_hook(lambda *_: seen.append(1))
    made = learner(model)
    seen.clear()
    made(unit_of(model))
    assert len(seen) == 1
    learner(model, distillation={"weight": 1.0}, memory_aware={"weight": 1.0})
    seen.clear()
    learner(model, distillation={"weight": 1.0}, memory_aware={"weight": 1.0})(unit_of(model))
    assert len(seen) == 3
    hook.remove()


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_made_for_answers_alone(family):
    model = trainable(family)
    unit, seen = unit_of(model), []
    made = learner(model, distillation={"weight": 1.0})
    head = model.lm.model.get_output_embeddings()
    hook = head.register_forward_hook(lambda module, args, output: seen.append(output.numel() // output.shape[-1]))
    made(unit)
    hook.remove()
    assert seen == [sum(len(row.answer) for row in unit.rows)] * 2


@pytest.mark.parametrize("family", FAMILIES)
def test_questions_about_the_same_documents_share_one_prefix_and_learn_as_if_each_had_its_own(family, monkeypatch):
    model = trainable(family)
    unit = unit_of(model)
    several = AnswerUnit(4, unit.documents, (*unit.rows, *unit.rows, Row((2, 0), (0,), *_words(unit.rows[0]))))
    made = learner(model)
    aligned: list[int] = []
    align = made.aligner.align
    monkeypatch.setattr(made.aligner, "align", lambda lm, slots: aligned.append(len(slots)) or align(lm, slots))
    loss = made(several)["loss"]
    assert aligned == [3]
    loss.backward()
    found = [p.grad.clone() for p in made.chosen()]
    made.zero_grad()
    count = sum(len(row.answer) for row in several.rows)
    for row in several.rows:
        (made(AnswerUnit(4, unit.documents, (row,)))["loss"] * len(row.answer) / count).backward()
    torch.testing.assert_close(found, [p.grad for p in made.chosen()], atol=1e-4, rtol=1e-3)
    assert any(gradient.abs().max() > 1e-3 for gradient in found)


def _words(row: Row) -> tuple[tuple[int, ...], ...]:
    return row.question, row.prompt, row.answer


def test_a_unit_without_documents_gives_every_trained_parameter_a_gradient_of_zero():
    model = trainable()
    unit = unit_of(model)
    empty = AnswerUnit(4, (), tuple(Row((), (), row.question, row.prompt, row.answer) for row in unit.rows))
    made = learner(model, distillation={"weight": 1.0}, self_matching={"weight": 1.0})
    out = made(empty)
    out["loss"].backward()
    assert out["distillation"].item() == pytest.approx(0, abs=1e-4)
    assert all(p.grad is not None and p.grad.abs().max() == 0 for p in made.chosen())


@torch.no_grad()
def greedy(model, memories, prompt, count=2) -> tuple[int, ...]:
    """The LM's own answer after memories."""
    prefix, ids = model.prefix([memories]), list(prompt)
    for _ in range(count):
        mask = torch.cat([prefix.mask, torch.ones(1, len(ids), dtype=torch.long)], dim=1)
        positions = prefix.starts[:, None] + torch.arange(len(ids))
        cache = prefix.to_cache(model.lm)
        logits = model.lm.model(
            torch.tensor([ids]), attention_mask=mask, past_key_values=cache, position_ids=positions
        ).logits
        ids.append(int(logits[0, -1].argmax()))
    return tuple(ids[len(prompt) :])


def test_training_and_inference_are_one_path():
    """Memories learn to give the answer that the full keys and values give, and the model saved says the same."""
    model = trainable(disturb=0.0)
    row = unit_of(model).rows[1]
    exact = model.exact()
    target = greedy(exact, exact.compress([DOCUMENTS[1]]), row.prompt)
    assert greedy(model, model.compress([DOCUMENTS[1]]), row.prompt) != target
    document = tuple(model.lm.encode_document(DOCUMENTS[1]))
    unit = AnswerUnit(4, (document,), (Row((0,), (0,), row.question, row.prompt, target),))
    made = learner(model)
    losses = descend(made, unit, 30, 5e-3)
    assert losses[-1] < losses[0] / 2
    snapshot = model.with_state(model.config, model.state())
    assert greedy(snapshot, snapshot.compress([DOCUMENTS[1]]), row.prompt) == target
    assert greedy(snapshot, [], row.prompt) != target


def test_a_model_after_the_trainer_is_the_one_that_was_saved(tmp_path):
    model = trainable(dropout=0.3)
    before = model.fingerprint["compressor"]
    made, drawn = learner(model), units(model, batch=2, steps=1)
    values = {"output": "x", "device": "cpu", "train": [{"kind": "facts"}], "stages": [{"task": "answers", "steps": 1}]}
    config = checked(values, "test")
    CMTTrainer(made, CMTTrainingArguments.of(config, config.stages[0], tmp_path, 1), drawn).train()
    assert model.fingerprint["compressor"] != before
    twin = model.with_state(model.config, model.state())
    for ours, theirs in zip(model.compress(DOCUMENTS), twin.compress(DOCUMENTS), strict=True):
        assert torch.equal(ours.slots, theirs.slots)


@pytest.mark.slow
def test_facts_are_learned_from_memories_on_the_bundled_lm():
    """Twenty steps on a few documents at 4x: the right memories answer, those of another document do not."""
    base = CMTModel.from_llm("cmt-tiny", ratio=1, device="cpu")
    mixture = Mixture([facts()], "overfit")
    model = start(base, [mixture.passage(number) for number in range(30)], latent=128)
    stage = Stage(task="answers", steps=1, batch=4)
    drawn = Units(model.lm, mixture, stage, Episodes(questions=2), [4], 1, "0")[0]
    rows = tuple(row for row in drawn.rows if row.gold)
    unit = AnswerUnit(4, drawn.documents, rows)
    made = learner(model)
    losses = descend(made, unit, 20, 1e-3)
    count = len(unit.documents)
    wrong = tuple(
        Row(tuple((i + 1) % count for i in row.documents), row.gold, row.question, row.prompt, row.answer)
        for row in rows
    )
    with torch.no_grad():
        shuffled = made(AnswerUnit(4, unit.documents, wrong))["answer"].item()
    assert losses[0] > 4
    assert losses[-1] < 1.5
    assert shuffled > 2 * losses[-1]


@pytest.mark.parametrize("kind", ["plain", "chat", "spaced"])
def test_units_are_the_same_whenever_they_are_asked_for(kind):
    model = trainable(kind=kind)
    forward, again = units(model), units(model)
    backward = [again[i] for i in reversed(range(12))]
    assert [forward[i] for i in range(12)] == backward[::-1]
    assert units(model, seed="1")[0] != forward[0]
    assert {forward[i].ratio for i in range(12)} == {2, 4}
    for i in range(12):
        for row in forward[i].rows:
            assert len(row.answer) > 1
            assert set(row.gold) <= set(row.documents)
    assert learner(model)(forward[0])["loss"].isfinite()


def test_one_process_uses_one_gpu(tmp_path):
    """Where a machine has two, `Trainer` would read two units at once and split them between replicas."""
    config = checked(
        {
            "output": str(tmp_path),
            "train": [{"kind": "facts"}],
            "stages": [{"task": "answers", "steps": 1}],
            "device": "cpu",
        },
        "test",
    )
    arguments = CMTTrainingArguments.of(config, config.stages[0], tmp_path, 1)
    arguments._n_gpu = 2
    assert arguments.n_gpu == 1
    assert arguments.train_batch_size == 1
