"""Whole runs on a tiny LM: stopping and going on, processes, gates, what is left in the folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from cmt_memory import CMTMemoryStore, CMTModel
from cmt_memory.errors import FingerprintMismatchError, GateFailedError, InvalidInputError
from cmt_memory.training.config import checked
from cmt_memory.training.learner import Learner
from cmt_memory.training.run import run_training
from cmt_memory.training.trainer import CMTTrainer
from tests.tiny import DOCUMENTS, QUESTION, save_tiny
from tests.training.helpers import QUIET
from tests.training.test_data import SQUAD

FACTS = {"kind": "facts", "facts": [1, 2]}
PRETRAIN = {"task": "pretrain", "trains": "maps", "steps": 3, "batch": 3}
ANSWERS = {"task": "answers", "steps": 6, "batch": 3}


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm")
    save_tiny(folder)
    return folder


def settings(lm, output, **changes):
    return {
        "output": str(output),
        "llm": str(lm),
        "latent": 24,
        "ratios": [2, 4],
        "adapter": {"rank": 2, "dropout": 0.1},
        "train": [FACTS],
        "fit": 8,
        "device": "cpu",
        "episodes": {"continuation_tokens": 8, "document_tokens": 96},
        "stages": [PRETRAIN, ANSWERS],
        "log_every": 1,
        "save_every": 2,
    } | changes


def losses(log):
    return [(line["stage"], line["step"], line["loss"]) for line in log if "loss" in line]


class Stopped(Exception):
    pass


@pytest.fixture(scope="module")
def whole(lm, tmp_path_factory):
    """A run that was never stopped."""
    return run_training(checked(settings(lm, tmp_path_factory.mktemp("run") / "whole"), "test"))


@pytest.mark.parametrize("at", [(1, 5), (1, 4), (0, 2)])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(lm, tmp_path, whole, monkeypatch, at):
    config = checked(settings(lm, tmp_path / "stopped"), "test")
    step = CMTTrainer.training_step

    def stopping(self, *args, **kwargs):
        if (f"stage-{at[0]}" in str(self.args.output_dir)) and self.state.global_step == at[1]:
            raise Stopped
        return step(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(CMTTrainer, "training_step", stopping)
        with pytest.raises(Stopped):
            run_training(config)
    again = run_training(config)
    assert losses(again.log) == losses(whole.log)
    assert len(losses(again.log)) == 9
    ours, theirs = (load_file(run.model / "cmt.safetensors") for run in (again, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_stopped_run_logs_means_over_the_same_steps(lm, tmp_path, monkeypatch):
    """Also where checkpoints and the lines of the log do not fall together."""
    logs = []
    for at in (None, 5):
        values = settings(lm, tmp_path / f"run-{at}", stages=[ANSWERS | {"steps": 7}], log_every=4, save_every=3)
        step = CMTTrainer.training_step

        def stopping(self, *args, at=at, step=step, **kwargs):
            if self.state.global_step == at:
                raise Stopped
            return step(self, *args, **kwargs)

        if at:
            with monkeypatch.context() as patch:
                patch.setattr(CMTTrainer, "training_step", stopping)
                with pytest.raises(Stopped):
                    run_training(checked(values, "test"))
        logs.append(run_training(checked(values, "test")).log)
    assert losses(logs[0]) == losses(logs[1])
    assert [line["loss_answer"] for line in logs[0] if "loss" in line] == [
        line["loss_answer"] for line in logs[1] if "loss" in line
    ]


def test_a_killed_run_goes_on_from_its_last_whole_checkpoint(lm, tmp_path, whole):
    values = settings(lm, tmp_path / "killed")
    (tmp_path / "run.yaml").write_text(json.dumps(values))
    process = subprocess.Popen(
        [sys.executable, "-m", "cmt_memory", "train", "--config", str(tmp_path / "run.yaml")],
        env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": os.getcwd()},
        stderr=subprocess.DEVNULL,
    )
    stage = tmp_path / "killed/stage-1"
    while not (stage / "checkpoint-2/trainer_state.json").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    # As a kill in the middle of writing leaves one.
    (stage / "checkpoint-6").mkdir(exist_ok=True)
    (stage / "checkpoint-6/trainer_state.json").write_text('{"global_st')
    (stage / "done.json").unlink(missing_ok=True)
    assert losses(run_training(checked(values, "test")).log) == losses(whole.log)


def test_a_finished_run_is_not_trained_again(lm, whole, monkeypatch):
    monkeypatch.setattr(CMTTrainer, "training_step", lambda *_: pytest.fail("trained again"))
    config = checked(settings(lm, whole.model.parent), "test")
    assert losses(run_training(config).log) == losses(whole.log)


def test_the_folder_of_another_run_is_refused(lm, whole):
    with pytest.raises(InvalidInputError, match="seed differ"):
        run_training(checked(settings(lm, whole.model.parent, seed=1), "test"))


def test_a_run_that_was_moved_goes_on_with_another_rhythm_of_its_log(lm, tmp_path):
    values = settings(lm, tmp_path / "here", stages=[ANSWERS])
    before = run_training(checked(values, "test"))
    (tmp_path / "here").rename(tmp_path / "there")
    moved = values | {"output": str(tmp_path / "there"), "log_every": 3, "save_every": 5, "keep_checkpoints": 1}
    assert losses(run_training(checked(moved, "test")).log) == losses(before.log)


def test_two_runs_in_one_folder_at_once_are_refused(lm, tmp_path, monkeypatch):
    config, refused = checked(settings(lm, tmp_path / "run", stages=[ANSWERS | {"steps": 2}]), "test"), []
    step = CMTTrainer.training_step

    def training_twice(self, *args, **kwargs):
        if not refused:
            with pytest.raises(InvalidInputError, match=r"Another training is under way in .*run: wait") as error:
                run_training(config)
            refused.append(error)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(CMTTrainer, "training_step", training_twice)
    run = run_training(config)
    assert refused
    assert losses(run_training(config).log) == losses(run.log)


@pytest.mark.parametrize("stage", [PRETRAIN, ANSWERS])
def test_a_loss_that_is_no_number_ends_the_run_before_it_is_saved(lm, tmp_path, monkeypatch, stage):
    config = checked(settings(lm, tmp_path / "run", stages=[stage | {"steps": 6}], log_every=5), "test")
    forward, calls = Learner.forward, []

    def spoiled(self, unit):
        calls.append(unit)
        return {name: loss * (float("nan") if len(calls) > 2 else 1.0) for name, loss in forward(self, unit).items()}

    monkeypatch.setattr(Learner, "forward", spoiled)
    with pytest.raises(GateFailedError, match="no number any more by step 4 of 6: choose a lower learning rate"):
        run_training(config)
    assert [path.name for path in (tmp_path / "run/stage-0").glob("checkpoint-*")] == ["checkpoint-2"]


def test_what_a_run_leaves(lm, whole, tmp_path):
    folder = whole.model.parent
    before = {name: tensor.clone() for name, tensor in load_file(lm / "model.safetensors").items()}
    model = CMTModel.from_pretrained(whole.model, ratio=2)
    assert model.config.trained_ratios == (2, 4)
    assert all(torch.equal(model.lm.model.state_dict()[name], tensor) for name, tensor in before.items())
    with CMTMemoryStore(tmp_path / "s", model, encoder=None, channels=("bm25",)) as store:
        store.add_documents(DOCUMENTS)
        assert store.ask(QUESTION, k=1, max_new_tokens=3).usage.memory_slots
    card = (whole.model / "README.md").read_text()
    for said in ("LoRA adapters of rank 2", "`facts`", "Seed 0", "| 1 | answers | all | 6 |", "Not measured"):
        assert said in card
    assert (folder / "training.png").read_bytes()[:4] == b"\x89PNG"
    assert list(folder.glob("stage-1/runs/*/events.out.tfevents*"))
    assert {path.suffix for path in whole.model.iterdir()} == {".json", ".safetensors", ".md"}
    names = {name for line in whole.log for name in line if name.startswith("loss_")}
    assert names == {"loss_answer", "loss_first_token", "loss_continuation", "loss_reconstruction"}


def test_stages_train_what_they_say(whole):
    first, last = (load_file(whole.model.parent / f"stage-{n}" / "learner.safetensors") for n in (0, 1))
    changed = {name for name in last if not torch.equal(first[name], last[name])}
    assert all("lora_B" not in name or not tensor.any() for name, tensor in first.items())
    assert {name for name in last if "lora_B" in name} <= changed
    assert "marks" not in changed
    assert not any(name.endswith((".mean", ".weight", ".scale")) for name in changed if "lora" not in name)


def test_a_run_can_start_from_a_trained_model(lm, whole, tmp_path):
    run = run_training(
        checked(settings(lm, tmp_path / "more", start=str(whole.model), stages=[ANSWERS | {"steps": 1}]), "test")
    )
    before, after = (load_file(folder / "cmt.safetensors") for folder in (whole.model, run.model))
    assert all(torch.allclose(before[name], after[name], atol=5e-3) for name in before)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    with pytest.raises(InvalidInputError, match="set the same"):
        run_training(checked(settings(lm, tmp_path / "x", start=str(whole.model), latent=16), "test"))
    save_tiny(tmp_path / "other", "gpt2")
    with pytest.raises(FingerprintMismatchError, match="another lm"):
        run_training(checked(settings(tmp_path / "other", tmp_path / "x", start=str(whole.model)), "test"))
    unnamed = settings(lm, tmp_path / "unnamed", start=str(whole.model), stages=[ANSWERS | {"steps": 1}])
    del unnamed["llm"]
    card = (run_training(checked(unnamed, "test")).model / "README.md").read_text()
    assert f"language model: `{lm}`" in card


@pytest.mark.parametrize(
    ("gates", "failure"),
    [
        ({"memory_over_shuffled": 0.5}, "do not depend on which memory"),
        ({"exact_match": 0.9}, "does not answer from the memories"),
        ({"effective_rank": 1000}, "collapsed"),
        ({"mean_cosine": -1}, "all alike"),
        ({"copy_probe": 0.9}, "codes, numbers and names"),
        ({"swap_changed": 1.1}, "the order in a document is lost"),
        ({"swap_right": 0.9}, "which of two dates"),
        ({"zeroed_over_none": -1.0}, "memories of zeros help"),
        ({"first_token_gain": 50.0}, "how an answer begins"),
    ],
)
def test_a_hopeless_run_is_ended_with_the_reason(lm, tmp_path, gates, failure):
    values = settings(
        lm,
        tmp_path / "run",
        held_out=[FACTS | {"split": "eval"}],
        stages=[ANSWERS],
        gates={"every": 2, "after": 4, "questions": 4, "max_new_tokens": 2} | QUIET | gates,
    )
    with pytest.raises(GateFailedError, match=failure):
        run_training(checked(values, "test"))
    state = json.loads((tmp_path / "run/stage-0/checkpoint-4/trainer_state.json").read_text())
    measured = [line for line in state["log_history"] if "gate_exact_match" in line]
    assert [line["step"] for line in measured] == [2, 4]
    assert [line["step"] for line in state["log_history"] if "loss_answer" in line] == [1, 2, 3, 4]
    with pytest.raises(GateFailedError, match="was ended"):
        run_training(checked(values, "test"))


def test_what_cannot_be_learned_by_heart_is_not_begun(lm, tmp_path, whole):
    def run(name, **gates):
        run = run_training(checked(settings(lm, tmp_path / name, gates=QUIET | gates), "test"))
        return run, json.loads((run.model.parent / "overfit.json").read_text())

    with pytest.raises(GateFailedError, match=r"after 1 steps on the same \d+ questions 0%"):
        run("hopeless", overfit_steps=1)
    assert not list((tmp_path / "hopeless").glob("stage-*"))
    checked_first, found = run("fine", overfit_steps=2, overfit=0.0)
    assert found["questions"] > 20
    assert found["known"] == 0.0
    assert losses(checked_first.log) == losses(whole.log)  # it is forgotten again


def test_settings_of_an_earlier_version_are_those_of_now(lm, whole):
    path = whole.model.parent / "settings.json"
    text = path.read_text()
    older = json.loads(text)
    del older["gates"]["swap_changed"]
    path.write_text(json.dumps(older))
    try:
        assert losses(run_training(checked(settings(lm, whole.model.parent), "test")).log) == losses(whole.log)
    finally:
        path.write_text(text)


def test_bf16_and_gradient_accumulation(lm, tmp_path):
    whole = {"stages": [ANSWERS | {"gradient_accumulation": 2, "steps": 3}], "adapter": {"rank": 2}}
    exact = run_training(checked(settings(lm, tmp_path / "a", **whole), "test"))
    half = run_training(checked(settings(lm, tmp_path / "b", **whole, bf16=True), "test"))
    for one, other in zip(losses(exact.log), losses(half.log), strict=True):
        assert one[2] == pytest.approx(other[2], rel=0.02)
        assert one[2] != other[2]
    assert {tensor.dtype for tensor in load_file(half.model / "cmt.safetensors").values()} == {torch.float32}


def test_two_processes_are_one(lm, tmp_path):
    stages = [PRETRAIN | {"gradient_accumulation": 2}, ANSWERS | {"gradient_accumulation": 2, "steps": 4}]
    gates = {"every": 2, "after": 0, "questions": 4, "max_new_tokens": 2} | QUIET
    held_out = [FACTS | {"split": "eval"}]
    common = {"stages": stages, "adapter": {"rank": 2}, "held_out": held_out, "gates": gates}
    one = run_training(checked(settings(lm, tmp_path / "one", **common), "test"))
    values = settings(lm, tmp_path / "two", **common)
    (tmp_path / "two.yaml").write_text(json.dumps(values))
    line = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29517"]
    done = subprocess.run(
        [*line, "-m", "cmt_memory", "train", "--config", str(tmp_path / "two.yaml")],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    log = [
        line | {"stage": number}
        for number in range(2)
        for line in json.loads((tmp_path / f"two/stage-{number}/done.json").read_text())["log"]
    ]
    for ours, theirs in zip(losses(log), losses(one.log), strict=True):
        assert ours[:2] == theirs[:2]
        assert ours[2] == pytest.approx(theirs[2], rel=1e-4)
    assert sum("gate_exact_match" in line for line in log) == 2
    assert set(json.loads((tmp_path / "two/results.json").read_text())["ratios"]) == {"2", "4"}
    a, b = (load_file(tmp_path / name / "model" / "cmt.safetensors") for name in ("one", "two"))
    assert all(torch.allclose(a[name], b[name], atol=2e-3) for name in a)


def test_batches_that_processes_cannot_share_are_refused(lm, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    values = settings(lm, tmp_path / "run", stages=[PRETRAIN | {"gradient_accumulation": 2}, ANSWERS])
    with pytest.raises(InvalidInputError, match="multiple of 2"):
        run_training(checked(values, "test"))
    assert not (tmp_path / "run").exists()


def test_data_without_end_has_no_epochs(lm, tmp_path):
    values = settings(lm, tmp_path / "run", stages=[PRETRAIN, {"task": "answers", "epochs": 1}])
    with pytest.raises(InvalidInputError, match=r"stages\.1\.epochs: a source has no end"):
        run_training(checked(values, "test"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("change", [{"train": [{"kind": "squad", "path": "none.json"}]}, {"llm": "no/such/folder"}])
def test_what_is_missing_is_told_before_the_folder_is_made(lm, tmp_path, change):
    """So that the file can be put right and the same output given again."""
    with pytest.raises(InvalidInputError):
        run_training(checked(settings(lm, tmp_path / "run") | change, "test"))
    assert not (tmp_path / "run").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInputError, match="file is a file"):
        run_training(checked(settings(lm, tmp_path / "file"), "test"))


@pytest.fixture
def squad(tmp_path):
    (tmp_path / "squad.json").write_text(json.dumps(SQUAD))
    return {"kind": "squad", "path": str(tmp_path / "squad.json")}


def test_plain_text_beside_questions_is_only_pretrained_on(lm, tmp_path, squad):
    (tmp_path / "text.txt").write_text(" ".join(DOCUMENTS * 20))
    text = {"kind": "text", "path": str(tmp_path / "text.txt")}
    stages = [PRETRAIN | {"steps": 1}, {"task": "answers", "epochs": 0.5, "batch": 3}]
    run = run_training(checked(settings(lm, tmp_path / "run", train=[squad, text], stages=stages), "test"))
    assert [line[:2] for line in losses(run.log)] == [(0, 1), (1, 1), (1, 2)]  # half of 12 paragraphs


def test_held_out_documents_longer_than_the_lm_are_cut_as_those_to_learn_from(lm, tmp_path):
    row = {"documents": ["It rains. " * 600 + "The code is 7731."], "question": "Code?", "answers": ["7731"]}
    (tmp_path / "long.jsonl").write_text((json.dumps(row) + "\n") * 4)
    long = {"kind": "jsonl", "path": str(tmp_path / "long.jsonl")}
    gates = {"every": 1, "questions": 4, "max_new_tokens": 2} | QUIET
    values = settings(lm, tmp_path / "run", train=[long], held_out=[long], stages=[ANSWERS | {"steps": 1}], gates=gates)
    assert set(run_training(checked(values, "test")).results) == {2, 4}


def test_gates_count_the_steps_of_earlier_stages_given_as_epochs(lm, tmp_path, squad):
    stages = [{"task": "answers", "epochs": 1, "batch": 3}, ANSWERS | {"steps": 2}]
    gates = {"every": 100, "after": 5, "questions": 4, "max_new_tokens": 2} | QUIET | {"exact_match": 1.0}
    values = settings(lm, tmp_path / "run", train=[squad], held_out=[squad], stages=stages, gates=gates)
    with pytest.raises(GateFailedError, match="Stopped at step 2 of stage 1"):
        run_training(checked(values, "test"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"episodes": {"document_tokens": 512}}, "episodes.document_tokens"),
        ({"episodes": {"document_tokens": 300, "documents": {1: 1, 4: 1}}}, r"stages\.1: .* 4 documents .* at ratio 2"),
        (
            {"episodes": {"document_tokens": 200, "documents": {3: 1}}, "objectives": {"distillation": {"weight": 1}}},
            "read as text for distillation",
        ),
        ({"episodes": {"document_tokens": 200, "continuation_tokens": 511}}, "511 tokens to predict"),
    ],
)
def test_episodes_longer_than_the_lm_are_refused(lm, tmp_path, change, said):
    with pytest.raises(InvalidInputError, match=said):
        run_training(checked(settings(lm, tmp_path / "run") | change, "test"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_long_texts_are_pretrained_on_as_far_as_the_lm_has_positions(tmp_path, family):
    """A text of 500 tokens and its repetition do not both fit into the 512 positions of these LMs."""
    save_tiny(tmp_path / "lm", family)
    (tmp_path / "text.txt").write_text(" ".join(DOCUMENTS * 200))
    values = settings(tmp_path / "lm", tmp_path / "run", train=[{"kind": "text", "path": str(tmp_path / "text.txt")}])
    values |= {"stages": [PRETRAIN], "episodes": {"document_tokens": 500, "continuation_tokens": 80}}
    assert len(losses(run_training(checked(values, "test")).log)) == 3
