"""Training the paper's parts: what gradients reach, that a batch is learned, and whole runs of the recipes."""

from __future__ import annotations

import json
from importlib import resources

import pytest
import torch
import yaml
from safetensors.torch import load_file

from cmt_memory import CMTMemoryStore, CMTModel
from cmt_memory.errors import InvalidInputError
from cmt_memory.training.config import checked
from cmt_memory.training.run import run_training
from cmt_memory.training.units import AnswerUnit, Row
from tests.encoders import SLOTS, paper_model, settings
from tests.tiny import DOCUMENTS, QUESTION, save_tiny, tiny_model
from tests.training.helpers import QUIET, descend, learner, units

OBJECTIVES = {
    "answer": {"answer": 1.0},
    "distillation": {"answer": 0.0, "distillation": {"weight": 1.0, "top_k": 5}},
    "memory_aware": {"answer": 0.0, "memory_aware": {"weight": 1.0, "alpha": 0.5}},
    "self_matching": {"answer": 0.0, "self_matching": {"weight": 1.0, "lambda": 0.2}},
}


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm")
    save_tiny(folder, "qwen3", "chat")
    return folder


def unit_of(model, given=((0, 2), (1, 0))) -> AnswerUnit:
    lm = model.lm
    documents = tuple(tuple(lm.encode_document(text)) for text in DOCUMENTS)
    asked = [(QUESTION, " 4471\n"), ("When does the shop open?", " at nine\n")]
    rows = [
        Row(
            found,
            (gold,),
            tuple(lm.encode_document(question)),
            tuple(lm.encode_words(f"Question: {question}\nAnswer:")),
            tuple(lm.encode_words(answer)),
        )
        for found, gold, (question, answer) in zip(given, (0, 1), asked, strict=True)
    ]
    return AnswerUnit(1, documents, tuple(rows))


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(
    ("kind", "trains", "trained"),
    [("t5", "all", True), ("bert", "all", True), ("t5", "maps", True), ("t5", "all", False)],
)
def test_gradients_reach_what_a_stage_trains_and_nothing_else(encoders, objective, kind, trains, trained):
    model = paper_model(tiny_model(), encoders[kind], trained=trained)
    made = learner(model, trains=trains, **OBJECTIVES[objective])
    out = made(unit_of(model))
    assert out["loss"].item() == pytest.approx(out[objective].item())
    out["loss"].backward()
    reached = {name for name, p in made.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    names = {name for name, _ in made.named_parameters() if name != "marks" and "pooler" not in name}
    reader = {name for name in names if ".text_model." in name}
    assert bool(reader) == trained
    expected = {name for name in names - reader if name.startswith("compressor.")}
    if trains == "all":
        expected |= reader
    if objective != "self_matching":  # which compares slots, before anything looks at them
        expected |= {name for name in names if name.startswith(("aligner.", "aggregator."))}
    assert {n for n in expected - reached if not n.endswith(("k_proj.bias", "key.bias"))} == set()
    assert reached <= expected
    others = [*model.lm.model.parameters(), *([] if trained else model.compressor.encoder.model.parameters())]
    assert all(parameter.grad is None for parameter in others)


def test_pretraining_leaves_the_aggregator_alone(encoders):
    model = paper_model(tiny_model(), encoders["t5"])
    made = learner(model, "pretrain")
    out = made(units(model, "pretrain")[0])
    out["loss"].backward()
    reached = {name.split(".")[0] for name, p in made.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"compressor", "aligner", "marks"}


@pytest.mark.slow
@pytest.mark.parametrize("across", [True, False])
def test_a_batch_is_learned_and_wrong_memories_are_worse(encoders, across):
    model = paper_model(tiny_model(), encoders["t5"], across=across)
    made = learner(model, answer=1.0)
    unit = unit_of(model, ((0,), (1,)))
    # The same question after either document, so that the memory alone can tell the answer.
    first, second = unit.rows
    unit = AnswerUnit(1, unit.documents, (first, Row((1,), (1,), first.question, first.prompt, second.answer)))
    losses = descend(made, unit, 50, 1e-2)
    swapped = tuple(
        Row(other.documents, row.gold, row.question, row.prompt, row.answer)
        for row, other in zip(unit.rows, unit.rows[::-1], strict=True)
    )
    with torch.no_grad():
        wrong = made(AnswerUnit(1, unit.documents, swapped))["answer"].item()
    assert losses[-1] < losses[0] / 2
    assert wrong > 1.5 * losses[-1]
    twin = model.with_state(model.config, model.state())
    with torch.no_grad():
        assert learner(twin)(unit)["answer"].item() == pytest.approx(made(unit)["answer"].item(), rel=1e-4)


def run_settings(lm, encoder, output, **changes):
    return {
        "output": str(output),
        "llm": str(lm),
        "latent": 24,
        **settings(encoder),
        "train": [{"kind": "facts", "facts": [1, 2]}],
        "fit": 8,
        "device": "cpu",
        "episodes": {"documents": {2: 1.0}, "continuation_tokens": 8, "document_tokens": 96},
        "stages": [{"task": "answers", "steps": 4, "batch": 2}],
        "log_every": 1,
        "save_every": 2,
    } | changes


def test_a_run_goes_on_and_starts_another(lm, encoders, tmp_path):
    held = {"held_out": [{"kind": "facts", "facts": [1, 1], "split": "eval"}], "gates": {"questions": 4, **QUIET}}
    values = run_settings(lm, encoders["t5"], tmp_path / "run", **held)
    whole = run_training(checked(values, "test"))
    assert set(whole.results) == {1}
    stage = tmp_path / "run/stage-0"
    (stage / "done.json").unlink()
    for path in sorted((stage / "checkpoint-4").rglob("*")):
        path.unlink()
    again = run_training(checked(values, "test"))
    losses = [[(line["step"], line["loss"]) for line in run.log if "loss" in line] for run in (whole, again)]
    assert losses[0] == losses[1]
    assert len(losses[0]) >= 3
    card = (whole.model / "README.md").read_text()
    for said in (f"{SLOTS} slots of 24 numbers", "cross-attention from the question", "2 positions in each layer"):
        assert said in card
    assert str(tmp_path) not in card.replace(str(lm), "")
    more = run_settings(lm, encoders["t5"], tmp_path / "more", start=str(whole.model))
    assert run_training(checked(more, "test")).model.exists()
    other = run_settings(lm, encoders["t5"], tmp_path / "other", start=str(whole.model))
    other["prefix"] = {"positions": 3, "hidden": 24}
    with pytest.raises(InvalidInputError, match=r"has prefix positions=2 .*set the same"):
        run_training(checked(other, "test"))


@pytest.mark.parametrize("name", ["paper", "mac"])
def test_a_recipe_runs_on_a_tiny_lm(lm, encoders, tmp_path, name):
    """The recipe with LM, encoder, file and short lengths put in."""
    articles = [
        {
            "title": f"Town {a}",
            "paragraphs": [
                {
                    "context": f"Town {a}{p} lies on the river Orm{p}. Its mayor is Mayor{a}{p}.",
                    "qas": [{"question": f"Who is mayor of Town {a}{p}?", "answers": [{"text": f"Mayor{a}{p}"}]}],
                }
                for p in range(2)
            ],
        }
        for a in range(10)
    ]
    (tmp_path / "train-v1.1.json").write_text(json.dumps({"data": articles}))
    values = yaml.safe_load(resources.files("cmt_memory").joinpath(f"training/recipes/{name}.yaml").read_text("utf-8"))
    values |= {"output": str(tmp_path / "run"), "llm": str(lm), "device": "cpu", "fit": 8, "latent": 32}
    values["encoder"] |= {"model": str(encoders["t5"]), "slots": 12, "heads": 2, "head_size": 8}
    values["prefix"]["hidden"] = 16
    values["episodes"]["document_tokens"] = 80
    for source in (*values["train"], *values["held_out"]):
        source["path"] = str(tmp_path / source["path"])
    values["stages"] = [stage | {"batch": 2, "gradient_accumulation": 1, "epochs": 0.2} for stage in values["stages"]]
    values["gates"] = {"questions": 4, "max_new_tokens": 2, "after": 100}
    values["log_every"] = 1
    run = run_training(checked(values, name))
    losses = {name for line in run.log for name in line if name.startswith("loss_")}
    wanted = {"loss_answer", "loss_first_token"}
    assert losses == (wanted | {"loss_memory_aware", "loss_self_matching"} if name == "paper" else wanted)
    saved = load_file(run.model / "cmt.safetensors")
    assert saved["compressor.tokens"].shape == (12, 32)
    with CMTMemoryStore(tmp_path / "s", CMTModel.from_pretrained(run.model), encoder=None, channels=("bm25",)) as store:
        store.add_documents(DOCUMENTS)
        assert store.ask(QUESTION, k=2, max_new_tokens=3).usage.memory_slots == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ratios": [2, 4]}, "has `encoder.slots`, not `ratios`"),
        ({"adapter": {"rank": 3}}, "`adapter` needs `compressor: adapted`"),
        ({"compressor": "adapted"}, "`encoder` needs `compressor: encoder`"),
        ({"aggregator": "concat"}, "`cross_attention` needs `aggregator: cross_attention`"),
        ({"encoder": {"slotz": 3}}, "encoder.slotz is not a key here; allowed: .*slots"),
        ({"compressor": "encode"}, "input should be 'adapted' or 'encoder', not 'encode'"),
    ],
)
def test_settings_that_do_not_go_together_are_told(change, said):
    values = run_settings("x", "y", "z")
    assert checked(values, "test").default_ratio == 1
    assert checked(checked(values, "test").as_json(), "test").parts["encoder"].slots == SLOTS
    with pytest.raises(InvalidInputError, match=said):
        checked(values | change, "test")
