"""`cmt-memory train` and `cmt-memory recipe`."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

import pytest
import yaml

from cmt_memory import CMTMemoryStore
from cmt_memory.cli.train import RECIPES
from cmt_memory.training.config import TrainConfig, checked
from tests.tiny import save_tiny

SHORT = {
    "latent": 16,
    "ratios": [2, 4],
    "adapter": {"rank": 2},
    "train": [{"kind": "facts", "facts": [1, 2]}],
    "fit": 8,
    "device": "cpu",
    "episodes": {"document_tokens": 96},
    "stages": [{"task": "answers", "steps": 2, "batch": 2}],
}


def run_file(tmp_path, lm, **changes):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(SHORT | {"output": str(tmp_path / "run"), "llm": str(lm)} | changes))
    return path


def test_a_run_and_what_it_trained_in_a_store(cmt, lm, notes, tmp_path):
    held = {"held_out": [{"kind": "facts", "facts": [1, 1], "split": "eval"}], "gates": {"questions": 4, "every": 5}}
    path = run_file(tmp_path, lm, **held, **{"log_every": 1})
    done = cmt("train", "--config", path, "--json")
    result = json.loads(done.stdout)
    assert result["model"] == str(tmp_path / "run/model")
    assert set(result["results"]) == {"2", "4"}
    assert "step 1/2: loss" in done.stderr
    assert "exact match" in done.stderr
    cmt("add", notes, "--store", tmp_path / "mem", "--model", result["model"], "--encoder", "none")
    assert cmt("ask", "Where is the spare key?", "--store", tmp_path / "mem", "--max-new-tokens", "2")
    cmt("store", "recompress", "--store", tmp_path / "mem", "--ratio", "2")
    with CMTMemoryStore(tmp_path / "mem", result["model"]) as store:
        assert (store.model.config.compressor, store.model.config.ratio) == ("adapted", 2)
        assert store.verify().ok
    said = cmt("store", "recompress", "--store", tmp_path / "mem", "--latent", "8", code=1).stderr
    assert "leave --latent out" in said
    again = cmt("train", "--config", path)
    assert "held-out questions right from memories" in again.stdout
    assert "step 1/2" not in again.stderr


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"stages": [{"task": "x", "steps": 1}]}, "stages.0.task: input should be 'pretrain' or 'answers', not 'x'"),
        ({"ratoi": 4}, "ratoi is not a key here; allowed: adapter, aggregator, batch_tokens"),
        ({"adapter": {"rank": 0}}, "adapter.rank: input should be greater than or equal to 1, not 0"),
        ({"objectives": {"self_matching": {"lamda": 1}}}, "lamda is not a key here; allowed: lambda, weight"),
        ({"train": [{"kind": "squad"}]}, "train.0.squad.path is missing"),
        ({"train": [{"kind": "squad", "path": "$NOT_SET/x"}]}, "environment variable that is not set"),
        ({"train": [{"kind": "text", "path": "x"}]}, "needs a source with questions"),
        ({"stages": [{"task": "answers", "steps": 1, "epochs": 1}]}, "give `steps` or `epochs`"),
        ({"stages": [{"task": "answers", "steps": 1, "documents": {0: 1}}]}, "at least one number of documents must"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_told_before_anything_is_loaded(cmt, tmp_path, change, said):
    done = cmt("train", "--config", run_file(tmp_path, "no such LM", **change), code=2)
    assert said in " ".join(done.stderr.split())
    assert "too short" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_ctrl_c_says_how_to_go_on(cmt, lm, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("cmt_memory.training.run.run_training", interrupt)
    said = cmt("train", "--config", run_file(tmp_path, lm), code=1).stderr
    assert f"Interrupted: the same command goes on from the last checkpoint in {tmp_path / 'run'}." in said


def test_files_that_are_no_settings(cmt, tmp_path):
    (tmp_path / "a.yaml").write_text("a: [")
    assert "not valid YAML" in cmt("train", "--config", tmp_path / "a.yaml", code=2).stderr
    (tmp_path / "b.yaml").write_text("just text")
    assert "keys and values" in cmt("train", "--config", tmp_path / "b.yaml", code=2).stderr
    cmt("train", "--config", tmp_path / "none.yaml", code=2)


def test_what_goes_wrong_later_is_one_line(cmt, lm, tmp_path):
    missing = run_file(tmp_path, lm, train=[{"kind": "squad", "path": str(tmp_path / "none.json")}])
    done = cmt("train", "--config", missing, code=1)
    assert "none.json cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_valid(cmt, name):
    text = cmt("recipe", name).stdout
    assert text == resources.files("cmt_memory").joinpath(f"training/recipes/{name}.yaml").read_text("utf-8")
    config = checked(yaml.safe_load(text), name)
    assert config.held_out
    assert config.default_ratio in config.used_ratios
    assert [stage.task for stage in config.stages][-1] == "answers"


def test_the_squad_recipe_needs_two_lines_changed(cmt):
    lines = [line for line in cmt("recipe", "squad").stdout.splitlines() if line.strip()]
    assert len(lines) <= 12


def test_the_published_schema_is_the_one_that_is_checked():
    """Made by `TrainConfig.model_json_schema()`, so that editors complete and check the YAML."""
    published = Path("docs/reference/train-config.schema.json").read_text("utf-8")
    assert json.loads(published) == TrainConfig.model_json_schema()


def test_the_squad_recipe_on_a_qwen(cmt, tmp_path):
    """The recipe with an LM, a file and a short length put in; a tiny Qwen stands for the hub's."""
    save_tiny(tmp_path / "qwen", "qwen3", "chat")
    articles = [
        {
            "title": f"Town {a}",
            "paragraphs": [
                {
                    "context": f"Town {a}{p} lies on the river Orm{p}. Its mayor is Mayor{a}{p}.",
                    "qas": [
                        {"id": "x", "question": f"Who is mayor of Town {a}{p}?", "answers": [{"text": f"Mayor{a}{p}"}]}
                    ],
                }
                for p in range(3)
            ],
        }
        for a in range(10)
    ]
    (tmp_path / "train-v1.1.json").write_text(json.dumps({"data": articles}))
    values = yaml.safe_load(cmt("recipe", "squad").stdout)
    values |= {"output": str(tmp_path / "run"), "llm": str(tmp_path / "qwen"), "device": "cpu", "fit": 8, "latent": 24}
    for source in (*values["train"], *values["held_out"]):
        source["path"] = str(tmp_path / source["path"])
    values["episodes"]["document_tokens"] = 80
    for stage in values["stages"]:
        stage |= {"batch": 2, "steps": 2}
        stage.pop("epochs", None)
    values["stages"][-1] = {k: v for k, v in values["stages"][-1].items() if k != "steps"} | {"epochs": 0.3}
    values["gates"] = {"questions": 4, "max_new_tokens": 2}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    result = json.loads(cmt("train", "--config", tmp_path / "run.yaml", "--json").stdout)
    assert set(result["results"]) == {"2", "4", "8", "16"}
    done = json.loads((tmp_path / "run/stage-2/done.json").read_text())["log"]
    assert max(line["step"] for line in done) == 5  # 0.3 of 27 paragraphs, two at a time
    card = (tmp_path / "run/model/README.md").read_text()
    assert "train-v1.1.json" in card
    assert str(tmp_path) not in card.replace(str(tmp_path / "qwen"), "")


def test_help_teaches(cmt):
    text = cmt("train", "--help").stdout
    for said in (
        "recipe facts-cpu",
        "torchrun",
        "goes on when the same command",
        "CMTModel.from_pretrained",
        "exit code 1",
    ):
        assert said in " ".join(text.split())
