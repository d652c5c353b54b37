import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from cmt_memory.bank.lock import FolderLock
from cmt_memory.errors import InvalidInputError
from cmt_memory.training import mixture
from cmt_memory.training.facts import FactWorld
from cmt_memory.training.facts.rendering import locate
from cmt_memory.training.initialisation import redraw, seed_copying
from cmt_memory.training.packing import TAIL, Episode, Pointing, collate, draw_drops, drop_keys, encode, span_attention
from cmt_memory.training.pretrain import ModelShape, PretrainConfig, Pretraining, exact_match, losses
from cmt_memory.training.tokenizer import train_tokenizer

CONFIG = PretrainConfig(
    seed=1,
    model=ModelShape(vocabulary=400, width=32, layers=2, heads=2, kv_heads=1, feed_forward=48),
    batch_tokens=512,
    workers=1,
    bf16=False,
    stages=(mixture.Stage(tokens=4000, facts=(1, 2)), mixture.Stage(tokens=40000, facts=(1, 3), several=0.5)),
    log_every=1,
    checkpoint_every=1000,
)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["Alice lives in Porto.", TAIL, "What is the code of Bob?"] * 3, 400)


def logged(folder):
    return [json.loads(line)["answer_loss"] for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("workers", "drop_key"), [(1, 0.0), (2, 0.0), (1, 0.9)])
def test_resume_gives_the_same_losses(tmp_path, workers, drop_key):
    config = CONFIG.model_copy(update={"workers": workers, "drop_key": drop_key, "drop_key_chance": 0.5})
    Pretraining(config, tmp_path / "whole").run(max_steps=6)
    Pretraining(config, tmp_path / "halves").run(max_steps=3)
    Pretraining(config, tmp_path / "halves").run(max_steps=3)
    assert logged(tmp_path / "halves") == pytest.approx(logged(tmp_path / "whole"), abs=2e-4)
    assert len(logged(tmp_path / "halves")) == 6


def test_one_run_a_folder(tmp_path):
    first, second = Pretraining(CONFIG, tmp_path), Pretraining(CONFIG, tmp_path)
    lock = FolderLock(tmp_path / "lock", shared=False)
    with pytest.raises(InvalidInputError, match="Another run is under way"):
        first.run(max_steps=1)
    lock.release()
    second.run(max_steps=1)
    assert len(logged(tmp_path)) == 1


def test_export_loads_with_the_auto_classes(tmp_path):
    Pretraining(CONFIG, tmp_path).run(max_steps=1)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "export")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "export")
    assert model.dtype == torch.bfloat16
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<s>", "</s>", "<pad>")
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert sorted(p.suffix for p in (tmp_path / "export").iterdir() if p.suffix in (".bin", ".pt", ".pkl")) == []


def test_packed_questions_equal_single_prompts(tmp_path):
    """Many questions behind one document compute what each computes in a prompt of its own."""
    run = Pretraining(CONFIG, tmp_path)
    run.model.eval()
    questions = (("What is the code?", "4471"), ("Who lives in Porto?", "Alice"), ("Where?", "Porto"))
    documents = ("Alice lives in Porto.", "The code is 4471.")
    packed = collate(
        encode(run.tokenizer, [Episode(("Bob is here.",), (("Who is here?", "Bob"),)), Episode(documents, questions)])
    )
    logits = run.model(input_ids=packed.input_ids, position_ids=packed.position_ids, spans=packed.spans).logits
    run.model.set_attn_implementation("sdpa")
    for number, question in enumerate(questions):
        (row,) = encode(run.tokenizer, [Episode(documents, (question,))])
        prompt, answer = row.questions[0]
        alone = run.model(input_ids=torch.tensor([row.prefix + prompt + answer])).logits[0, -len(answer) - 1 : -1]
        together = logits[0][packed.owner[0] == number + 1]
        assert torch.allclose(alone, together, atol=1e-5)
        assert packed.answers[0][packed.owner[0] == number + 1].tolist() == answer


def test_prompt_is_segments_joined(tokenizer):
    (row,) = encode(tokenizer, [Episode(("Alice.", "Bob."), (("Who?", "Bob"),))])

    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    assert row.prefix == [tokenizer.bos_token_id, *ids("Alice.\n\n"), *ids("Bob.\n\n")]
    assert row.questions == [(ids("Who?") + ids(TAIL), [*ids("Bob"), tokenizer.eos_token_id])]


def test_an_answer_is_spelled_as_in_a_document(tokenizer):
    (row,) = encode(tokenizer, [Episode(("Alice lives in Porto.",), (("Where?", "Porto"),))])
    answer = row.questions[0][1][:-1]
    assert any(row.prefix[i : i + len(answer)] == answer for i in range(len(row.prefix)))


def test_readers_know_where_their_token_stands(tokenizer):
    documents = ("Bob. Alice lives in Porto.", "Bob lives in Bonn. Porto.")
    asked = (("Where?", "Porto"), ("Who?", "nobody"), ("Who?", "Bob"))
    (row,) = encode(tokenizer, [Episode(documents, asked)])
    batch = collate([row])
    (queries, seen), span = next((s.sights["answer"], s) for s in batch.spans if "answer" in s.sights)
    for query, places in zip(queries, seen, strict=True):
        predicted = int(batch.answers[0, span.begin + query])
        assert [row.prefix[place] for place in places.nonzero().flatten()] == [predicted] * int(places.sum())
    answers = [answer[:-1] for _, answer in row.questions]
    assert [int(p.sum()) for p in seen] == [2] * (len(answers[0]) + len(answers[2]))


def test_a_statement_tells_later_what_its_value_and_its_owner_are(tokenizer):
    """A value that stands before its owner's name is found at the end of its statement, and so is the name."""
    text = "Alice is here. Porto is where she lives."
    said = locate(text, "Porto is where she lives.", 0, "Porto", "Alice", ("she",))
    asked = (("Where does Alice live?", "Porto"), ("Who lives in Porto?", "Alice"))
    (row,) = encode(tokenizer, [Episode((text,), asked, ((said,),))])
    spelled = [tokenizer.decode([token]).strip() for token in row.prefix]
    (told,) = row.told

    def word(place):
        return "".join(spelled[place:])

    assert word(told.value).startswith("Portoiswhere")
    assert word(told.named).startswith("shelives")
    assert [word(place)[:5] for place in told.names] == ["Alice"]
    assert spelled[told.end - 1] == "."
    of_place, of_name = row.sources
    assert (of_place.sight, of_place.places) == ("answer", tuple(range(told.value, told.end)))
    assert (of_name.sight, of_name.places) == ("name", tuple(range(told.named, told.end)))
    batch = collate([row])
    documents, questions = batch.spans
    value_queries, value_places = documents.sights["told_value"]
    assert value_queries.tolist() == list(range(told.value, told.end))
    assert all(places.nonzero().flatten().tolist() == [told.value] for places in value_places)
    name_queries, name_places = documents.sights["told_name"]
    assert name_queries.tolist() == list(range(told.named, told.end))
    assert all(places.nonzero().flatten().tolist() == [told.names[0]] for places in name_places)
    reader, places = questions.sights["name"]
    assert int(batch.answers[0, questions.begin + reader]) == row.prefix[told.names[0]]
    assert places[0].nonzero().flatten().tolist() == [told.names[0], *range(told.named, told.end)]
    readers, places = questions.sights["asked"]
    for reader, place, word in zip(readers, places, ("Alice", "Porto"), strict=True):
        key = questions.begin + int(place.nonzero()) - len(row.prefix)
        assert questions.mask[reader, key - questions.begin]
        assert tokenizer.decode(batch.input_ids[0, key : key + 6]).lstrip().startswith(word)


def test_generated_statements_are_found_in_their_tokens(tokenizer):
    """What a statement's first value token is said to be begins its value, for any phrasing."""
    for seed in range(30):
        document = FactWorld(random.Random(seed), phrasings="composed").document(6)
        episode = Episode((document.text,), (("?", "x"),), (document.statements,))
        (row,) = encode(tokenizer, [episode])
        for said, told in zip(document.statements, row.told, strict=True):
            assert told.value < told.end <= len(row.prefix)
            rest = tokenizer.decode(row.prefix[told.value :]).lstrip()
            assert rest.lower().replace("\n ", "\n").startswith(said.value.lower()[:3])


def test_pointing_is_the_attention_paid_to_the_answer(tmp_path):
    run = Pretraining(CONFIG, tmp_path)
    documents, question = ("Alice lives in Porto.", "The code is 4471."), ("What is the code?", "4471")
    (row,) = encode(run.tokenizer, [Episode(documents, (question,))])
    batch, pointing = collate([row]), Pointing({"answer": {1: (0, 1)}})
    losses(run.model, batch, pointing)
    run.model.set_attn_implementation("eager")
    prompt, answer = row.questions[0]
    attention = run.model(torch.tensor([row.prefix + prompt + answer]), output_attentions=True).attentions[1][0]
    start = next(i for i in range(len(row.prefix)) if row.prefix[i : i + len(answer) - 1] == answer[:-1])
    before = len(row.prefix) + len(prompt) - 1
    paid = torch.stack([attention[:, before + n, start + n] for n in range(len(answer) - 1)], 1)
    assert torch.allclose(torch.cat(pointing.losses["answer"]), -paid.log().flatten(), atol=1e-4)


def asked(run):
    questions = ("What is the code?", "4471"), ("Who lives in Porto?", "Alice")
    return collate(encode(run.tokenizer, [Episode(("Alice lives in Porto.", "The code is 4471."), questions)]))


def test_only_what_questions_see_of_documents_is_dropped_and_never_the_first_token(tmp_path):
    spans = asked(Pretraining(CONFIG, tmp_path)).spans
    torch.manual_seed(0)
    shares = []
    for _ in range(40):
        for span, dropped in zip(spans, drop_keys(spans, groups=3, most=draw_drops(spans, 0.9)), strict=True):
            assert (dropped is None) == (span.upto == span.shared)
            if dropped is not None:
                assert dropped.shape == (3, span.upto - span.shared)
                assert not dropped[:, 0].any()
                shares.append(float(dropped[:, 1:].float().mean()))
    assert min(shares) < 0.2
    assert 0.7 < max(shares) < 1


def test_some_questions_see_everything(tmp_path):
    spans = asked(Pretraining(CONFIG, tmp_path)).spans
    torch.manual_seed(0)
    drawn = [most for _ in range(200) for most in draw_drops(spans, 0.9, chance=0.25)]
    assert set(drawn) == {0.0, 0.9}
    asking = sum(span.asks for span in spans) * 200
    assert 0.18 < sum(most > 0 for most in drawn) / asking < 0.32
    assert draw_drops(spans, 0.9, chance=0.0) == [0.0] * len(spans)


def test_a_dropped_key_is_as_if_it_were_not_there(tmp_path):
    """Against plain attention over the keys that are left, with the gradients of all three inputs."""
    (*_, span) = spans = asked(Pretraining(CONFIG, tmp_path)).spans
    ours = [torch.randn(1, heads, span.end, 8, requires_grad=True) for heads in (4, 2, 2)]
    plain = [state.detach().clone().requires_grad_() for state in ours]
    most = draw_drops(spans, 0.9)
    torch.manual_seed(1)
    dropped = drop_keys(spans, 2, most)[-1]
    assert dropped.any()
    torch.manual_seed(1)
    mixed = span_attention(torch.nn.Module(), *ours, None, spans=spans, drop_key=most)[0][0, span.begin :]
    query, key, value = (state[0] for state in plain)
    seen = torch.cat([~dropped[:, None].expand(-1, len(span.mask), -1), span.mask.expand(2, -1, -1)], -1)
    scores = (query[:, span.begin :] @ key.repeat_interleave(2, 0).transpose(1, 2)).masked_fill(
        ~seen.repeat_interleave(2, 0), -torch.inf
    )
    expected = (scores.softmax(-1) @ value.repeat_interleave(2, 0)).transpose(0, 1)
    assert torch.allclose(mixed, expected, atol=1e-5)
    weights = torch.randn_like(expected)
    (mixed * weights).sum().backward()
    (expected * weights).sum().backward()
    for one, other in zip(ours, plain, strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-4)


def test_a_head_that_may_not_see_the_answer_points_at_the_first_token(tmp_path):
    run = Pretraining(CONFIG, tmp_path)
    documents, question = ("The code is 4471.",), ("What is the code?", "4471")
    (row,) = encode(run.tokenizer, [Episode(documents, (question,))])
    spans, length = collate([row]).spans, len(row.prefix)
    query, key = torch.randn(2, len(row), 8), torch.randn(1, len(row), 8)
    everything = torch.ones(1, length, dtype=torch.bool)
    everything[:, 0] = False
    pointing = Pointing({"answer": {0: (0, 1)}})
    pointing.add(0, query, key, spans, 1.0, [None] * (len(spans) - 1) + [everything])
    before = length + len(row.questions[0][0]) - 1
    (losses_of,) = pointing.losses["answer"]
    for number, loss in enumerate(losses_of.view(2, -1).T):
        at = before + number
        scores = query[:, at] @ torch.cat([key[0, :1], key[0, length : at + 1]]).T
        assert torch.allclose(loss, -scores.log_softmax(-1)[:, 0], atol=1e-4)


def test_a_run_starts_from_the_weights_and_the_tokenizer_of_another(tmp_path):
    first = Pretraining(CONFIG, tmp_path / "first")
    first.run(max_steps=2)
    saved = tmp_path / "first" / "export"
    second = Pretraining(CONFIG.model_copy(update={"start": saved, "seed": 5}), tmp_path / "second")
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[name], tensor.bfloat16().float()), name
    assert second.tokenizer.get_vocab() == first.tokenizer.get_vocab()
    assert second.state["tokens"] == 0
    with pytest.raises(ValueError, match=r"nowhere.tokenizer\.json is missing, so there is no saved LM"):
        Pretraining(CONFIG.model_copy(update={"start": tmp_path / "nowhere"}), tmp_path / "third")


def test_pointing_needs_heads_that_exist():
    for heads, message in ({2: (0,)}, "layer 2"), ({1: (2,)}, "head 2"):
        with pytest.raises(ValidationError, match=message):
            PretrainConfig(**CONFIG.model_dump() | {"pointing": {"told_name": heads}})


def test_exact_match_counts_whole_answers(tmp_path):
    run = Pretraining(CONFIG, tmp_path)
    batch = collate(encode(run.tokenizer, [Episode((), (("Who?", "Bob"), ("What?", "x")))]))
    assert exact_match(run.model, [batch]) == [False, False]
    assert all(torch.isfinite(value) for value in losses(run.model, batch)[:2])


def test_unknown_keys_are_refused():
    with pytest.raises(ValidationError, match=r"stages\.0\.fact"):
        PretrainConfig.model_validate({"stages": [{"tokens": 1, "facts": [1, 2], "fact": 3}]})


@pytest.mark.parametrize(
    "text",
    [
        "Alice",
        " Alice",
        "  two",
        "\n\n \n x\n",
        "XK-4471-B",
        'say "hi" (now) [a] `f` *b*',
        "é😀日本\t\r\n",
        "def f(a=1):\n    pass\n",
        "",
        "* a\n* b",
    ],
)
def test_text_survives_the_tokenizer(tokenizer, text):
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_a_name_is_spelled_alike_everywhere(tokenizer):
    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    name = ids("Alice")
    for text in ("Alice is here", "so Alice is", "(Alice)", "\nAlice", '"Alice"', " Alice"):
        encoded = ids(text)
        assert any(encoded[i : i + len(name)] == name for i in range(len(encoded))), text
    for code in ("XK-4471-B", " XK-4471-B", "(XK-4471-B)"):
        spelled = [tokenizer.decode([token]).strip() for token in ids(code)]
        assert "".join(spelled[spelled.index("X") :]).startswith("XK-4471-B")
        assert spelled[spelled.index("X") :][:2] == ["X", "K"]


def test_chat_template_renders_the_prompt(tokenizer):
    messages = [
        {"role": "system", "content": "Alice lives in Porto."},
        {"role": "user", "content": "Where?"},
        {"role": "assistant", "content": "Porto"},
    ]
    assert (
        tokenizer.apply_chat_template(messages, tokenize=False)
        == "<s>Alice lives in Porto.\n\nWhere?\nAnswer: Porto</s>"
    )


def test_recall_episodes_ask_for_every_value():
    for seed in range(50):
        stage = mixture.Stage(tokens=1, facts=(1, 6), recall=1.0)
        (episode,) = mixture.sample_episodes(random.Random(seed), stage, 1, ())
        assert len(episode.questions) >= 1
        assert all(answer in episode.documents[0] for _, answer in episode.questions)


def test_plain_pairs_are_short_words_said_in_one_way():
    stage = mixture.Stage(tokens=1, facts=(3, 6), recall=1.0, plain=1.0)
    for episode in mixture.sample_episodes(random.Random(0), stage, 30, ()):
        assert any(_said_by(form, episode) for form in mixture._FORMS)
        assert all(len(answer) <= 5 for _, answer in episode.questions)


def _said_by(form, episode):
    before, after = form[1].split("{}")
    keys = [(question.removeprefix(before).removesuffix(after), value) for question, value in episode.questions]
    return all(f"{before}{k}{after}" == q for (k, _), (q, _) in zip(keys, episode.questions, strict=True)) and all(
        form[0].format(*pair) in episode.documents[0] for pair in keys
    )


def test_without_a_gap_pairs_are_said_in_the_listed_forms():
    forms = {mixture._form(random.Random(seed), 0) for seed in range(200)}
    assert forms == set(mixture._FORMS)
    assert len({mixture._form(random.Random(seed), 2) for seed in range(200)}) > len(forms)


def test_gates_are_drawn_from_the_evaluation_pools():
    gates = mixture.gates(2)
    assert set(gates) == {"seen", "names", "phrasings", "one_of_four", "unanswerable"}
    assert all(len(episode.documents) == 4 for episode in gates["one_of_four"][0])
    assert all(len(kinds) == sum(len(e.questions) for e in episodes) for episodes, kinds in gates.values())


def test_squad_is_read_without_the_last_tenth_of_its_articles(tmp_path):
    article = {"paragraphs": [{"context": "A b.", "qas": [{"question": "Who? ", "answers": [{"text": "A"}]}]}]}
    path = tmp_path / "train.json"
    path.write_text(json.dumps({"data": [article] * 10}))
    assert mixture.load_squad(str(path)) == (("A b.", (("Who?", "A"),)),) * 9
    assert mixture.load_squad(str(tmp_path / "none.json")) == ()
    assert mixture.load_squad(None) == ()


def test_seeded_copying_repeats_what_it_has_seen():
    """Before any training, the second half of a repeated random text is predicted from the first."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=500,
        hidden_size=256,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=2,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config).eval()
    ids = torch.randint(0, 500, (4, 60)).repeat(1, 2)

    def right():
        predicted = model(ids).logits[:, 61:-1].argmax(-1)
        return float((predicted == ids[:, 62:]).float().mean())

    assert right() < 0.05
    seed_copying(model)
    assert right() > 0.8
    redraw(model)
    assert right() < 0.05
    seed_copying(model)
    assert right() > 0.8


def test_a_model_too_small_to_copy_is_refused(tmp_path):
    with pytest.raises(ValueError, match="2 KV heads"):
        Pretraining(CONFIG.model_copy(update={"seed_copying": True}), tmp_path)


def test_another_number_of_workers_is_refused(tmp_path):
    Pretraining(CONFIG, tmp_path).run(max_steps=1)
    with pytest.raises(ValueError, match="set workers"):
        Pretraining(CONFIG.model_copy(update={"workers": 2}), tmp_path)


def test_helpers_end_with_their_run(tmp_path):
    """A killed run leaves no process behind that waits for it for ever."""
    code = (
        "from pathlib import Path; import sys; from tests.training.test_pretrain import CONFIG\n"
        "from cmt_memory.training.pretrain import Pretraining\n"
        "if __name__ == '__main__':\n"
        "    Pretraining(CONFIG.model_copy(update={'workers': 2}), Path(sys.argv[1])).run()"
    )
    script = tmp_path / "run.py"
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    run = subprocess.Popen([sys.executable, str(script), str(tmp_path / "out")], env=environment)
    log = tmp_path / "out" / "log.jsonl"
    wait_for(log.exists)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    helpers = [pid for pid in children if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()]
    assert helpers
    run.kill()
    run.wait()
    wait_for(lambda: not any(running(pid) for pid in helpers))


def running(pid):
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def wait_for(condition, seconds=180):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
