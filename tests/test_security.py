"""What docs/concepts/security.md promises."""

from __future__ import annotations

import ast
import pickle
import shutil
import socket
import sqlite3
from pathlib import Path
from typing import Any

import pytest

import cmt_memory
from cmt_memory import CMTMemoryStore, CMTModel, Document
from cmt_memory.bank.bank import MemoryBank
from cmt_memory.bank.codec import decode_memory
from cmt_memory.errors import CMTError, InvalidInputError, StoreCorruptError
from tests.bank.helpers import stored
from tests.kills.worker import MODEL, DigestEncoder
from tests.tiny import save_tiny

PACKAGE = Path(cmt_memory.__file__).parent
FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "subprocess"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "torch.load", "yaml.load", "os.system", "numpy.load", "np.load"}


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return (Path.touch, (self.trace,))


@pytest.fixture
def bomb(tmp_path: Path) -> bytes:
    return pickle.dumps(Bomb(tmp_path / "exploded"))


def test_the_bomb_would_explode(tmp_path: Path, bomb: bytes):
    """So that the tests below can fail."""
    pickle.loads(bomb)
    assert (tmp_path / "exploded").exists()


def test_no_code_of_ours_can_run_what_it_reads():
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names}
                if names != {"UnpicklingError"}:  # what PyTorch raises when it refuses to
                    modules = {name.partition(".")[0] for name in {*names, getattr(node, "module", None) or ""}}
                    assert not modules & FORBIDDEN_MODULES, (path, node.lineno)
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in FORBIDDEN_CALLS, (path, node.lineno)


def test_no_pickle_is_shipped():
    suffixes = {path.suffix for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert not suffixes & {".pkl", ".pickle", ".bin", ".pt", ".pth", ".npy", ".npz", ".joblib"}


def test_a_pickle_by_the_name_of_a_checkpoint(tmp_path: Path, bomb: bytes):
    save_tiny(tmp_path / "lm", "llama", "chat")
    model = CMTModel.from_llm(str(tmp_path / "lm"), ratio=4, latent=16)
    model.save_pretrained(tmp_path / "saved", include_lm=True)
    for name in ("cmt.safetensors", "lm/model.safetensors"):
        shutil.copytree(tmp_path / "saved", tmp_path / "broken", dirs_exist_ok=True)
        (tmp_path / "broken" / name).write_bytes(bomb)
        with pytest.raises(InvalidInputError, match=r"cannot be (loaded|read)"):
            CMTModel.from_pretrained(tmp_path / "broken")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_an_lm_whose_weights_are_a_pickle(tmp_path: Path, bomb: bytes):
    """PyTorch's restricted unpickler, which `transformers` uses, refuses what is not a tensor."""
    save_tiny(tmp_path / "lm", "llama", "chat")
    (tmp_path / "lm" / "model.safetensors").unlink()
    (tmp_path / "lm" / "pytorch_model.bin").write_bytes(bomb)
    with pytest.raises(InvalidInputError, match="cannot be loaded"):
        CMTModel.from_llm(str(tmp_path / "lm"))
    assert not (tmp_path / "exploded").exists()


def test_a_pickle_in_place_of_a_memory(tmp_path: Path, bomb: bytes):
    with pytest.raises(StoreCorruptError):
        decode_memory(bomb)
    bank = MemoryBank(tmp_path / "bank")
    bank.put([stored("a", "inline"), stored("b", "in a file", big=True)])
    bank.close()
    next((tmp_path / "bank" / "payloads").iterdir()).write_bytes(bomb)
    with sqlite3.connect(tmp_path / "bank" / "ledger.sqlite3") as connection:
        connection.execute("UPDATE payloads SET data = ? WHERE data IS NOT NULL", (bomb,))
    connection.close()
    bank = MemoryBank(tmp_path / "bank")
    for passage in ("a#0", "b#0"):
        with pytest.raises(StoreCorruptError, match=passage):
            bank.payloads([passage])
    bank.close()
    assert not (tmp_path / "exploded").exists()


def test_a_pickle_in_place_of_chromas_metadata(tmp_path: Path, bomb: bytes):
    """The one file in pickle's format is Chroma's own; its Rust part reads it, and a changed one is thrown away."""
    bank = MemoryBank(tmp_path / "bank")
    for n in range(0, 1100, 100):
        bank.put([stored(f"d{n}", "text", pieces=100, seed=n)])
    bank.close()
    (victim,) = (tmp_path / "bank" / "chroma").rglob("index_metadata.pickle")
    victim.write_bytes(bomb)
    bank = MemoryBank(tmp_path / "bank")
    assert len(bank) == 11
    bank.close()
    assert not (tmp_path / "exploded").exists()


INJECTIONS = ["'; DROP TABLE documents; --", '" OR "" = "', "x') OR 1=1 --", "%s", "?", "a$1", "{0}", "../../x", "a\0b"]


def test_nothing_a_user_gives_is_sql_or_a_path(tmp_path: Path):
    with CMTMemoryStore(tmp_path / "s", MODEL, encoder=DigestEncoder()) as store:
        store.add_documents([Document(text, {text: text}, text) for text in INJECTIONS])
        for text in INJECTIONS:
            assert [hit.id for hit in store.search(text, k=9, filter={text: text})] == [text]
            assert [hit.id for hit in store.search(text, k=9, filter={text: {"$gte": text}})] == [text]
            assert len(store.search(text, k=99, filter={text: {"$ne": text}})) == len(INJECTIONS) - 1
            assert store.get(text)[0].text == text
        files = {path.name for path in (tmp_path / "s").iterdir()}
        assert files == {"chroma", "lock", "ledger.sqlite3", "ledger.sqlite3-wal", "ledger.sqlite3-shm"}
        store.delete(INJECTIONS)
        assert len(store) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_adding_and_asking_use_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The bundled model, the installed encoder and Chroma, with HF_HUB_OFFLINE=1."""
    tried: list[Any] = []

    def refuse(*arguments: Any, **_: Any) -> Any:
        tried.append(arguments)
        raise OSError("no network in this test")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with CMTMemoryStore(tmp_path / "s") as store:
        assert store.encoder is not None
        store.add_documents(["Mara's locker code is 4471.", "The shop opens at nine."])
        assert store.search("When does the shop open?", k=1)[0].text == "The shop opens at nine."
        assert store.ask("What is Mara's locker code?", max_new_tokens=4).grounded
        assert store.bank._index is not None
        client = store.bank._index._index._client
        assert client is not None
        assert client.get_settings().anonymized_telemetry is False
    with pytest.raises(CMTError):
        CMTMemoryStore(tmp_path / "t", "some-organisation/some-model")
    assert not tried
