"""Files to documents."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pypdf import PdfWriter
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

from cmt_memory.cli.reading import read_file, read_paths
from cmt_memory.errors import InvalidInputError


def write_pdf(path: Path, pages: list[str], password: str | None = None) -> None:
    """A PDF with one line of text a page; an empty string makes a page without text."""
    writer = PdfWriter()
    font = DictionaryObject(
        {
            NameObject("/Type"): NameObject("/Font"),
            NameObject("/Subtype"): NameObject("/Type1"),
            NameObject("/BaseFont"): NameObject("/Helvetica"),
        }
    )
    fonts = DictionaryObject({NameObject("/F1"): writer._add_object(font)})
    for text in pages:
        page = writer.add_blank_page(width=300, height=200)
        stream = DecodedStreamObject()
        stream.set_data(f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET".encode())
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
        page[NameObject("/Contents")] = writer._add_object(stream)
    if password is not None:
        writer.encrypt(password, algorithm="RC4-128")
    writer.write(path)


def test_a_text_file_is_one_document_named_by_its_path(tmp_path, monkeypatch):
    path = tmp_path / "note.md"
    path.write_text("# A note\n\nWith emoji 🚲 and עברית.\n")
    [document] = read_file(path)
    assert document.text == path.read_text()
    assert document.id == document.metadata["source"] == str(path)
    monkeypatch.chdir(tmp_path)
    assert read_file(Path("note.md"))[0].id == document.id


def test_records_keep_their_id_and_source(tmp_path):
    path = tmp_path / "facts.jsonl"
    path.write_text('{"text": "One.", "id": "a", "metadata": {"source": "web"}}\n{"text": "Two."}\n')
    first, second = read_file(path)
    assert (first.id, first.metadata) == ("a", {"source": "web", "file": str(path)})
    assert second.metadata == {"source": str(path)}
    path.write_text('{"text": "New."}\n{"text": "Two."}\n')
    assert read_file(path)[1].id == second.id


def test_a_pdf_is_one_document_a_page(tmp_path):
    path = tmp_path / "report.pdf"
    write_pdf(path, ["The key is red.", "", "The door is blue."])
    first, third = read_file(path)
    assert first.text.strip() == "The key is red."
    assert third.metadata == {"source": str(path), "page": 3}
    assert third.id == f"{path}#page=3"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks_are_understood(tmp_path, encoding):
    path = tmp_path / "note.txt"
    path.write_text("Grüße", encoding)
    assert read_file(path)[0].text == "Grüße"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.txt", b"", "empty"),
        ("blank.md", b" \n\n", "empty"),
        ("latin.txt", "Grüße".encode("latin-1"), "UTF-8"),
        ("image.bin", bytes(2000), "binary"),
        ("broken.jsonl", b'{"text": "fine"}\n{"text": \n', "line 2"),
        ("list.jsonl", b"[1, 2]\n", "line 1"),
        ("keys.jsonl", b'{"text": "a", "author": "b"}\n', "line 1"),
        ("blank.jsonl", b'{"text": " "}\n', "empty text"),
        ("id.jsonl", b'{"text": "a", "id": 7}\n', "id is 7"),
        ("metadata.jsonl", b'{"text": "a", "metadata": [1]}\n', "metadata"),
        ("broken.pdf", b"%PDF-1.4 no more", "cannot be read"),
        ("text.pdf", b"just text", "cannot be read"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, said):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=said) as caught:
        read_paths([path])
    assert str(path) in str(caught.value)


def test_pdfs_without_text_or_with_a_password_are_named(tmp_path):
    write_pdf(tmp_path / "scan.pdf", [""])
    write_pdf(tmp_path / "locked.pdf", ["Secret."], password="sesame")
    with pytest.raises(InvalidInputError, match="no text"):
        read_file(tmp_path / "scan.pdf")
    with pytest.raises(InvalidInputError, match="password"):
        read_file(tmp_path / "locked.pdf")


def test_folders_are_read_recursively_and_leave_out_what_is_no_document(tmp_path):
    for name in ("a.md", "sub/b.txt", ".hidden.md", ".git/c.md", "mem/d.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    reading = read_paths([tmp_path, tmp_path / "a.md"], outside=tmp_path / "mem")
    assert reading.files == [str(tmp_path / "a.md"), str(tmp_path / "sub" / "b.txt")]
    assert reading.skipped == {str(tmp_path / "empty.txt"): "the file is empty."}
    assert reading.ignored == {".png": 1}


def test_any_text_file_can_be_named_itself(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text("port = 80")
    assert read_paths([path]).documents[0].text == "port = 80"


def test_links_and_pipes_in_a_folder(tmp_path):
    """A link to a file is followed, one to a folder is not; nothing waits for a pipe."""
    (tmp_path / "outside" / "sub").mkdir(parents=True)
    for name in ("a.md", "sub/b.md"):
        (tmp_path / "outside" / name).write_text("text")
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "linked.md").symlink_to(tmp_path / "outside" / "a.md")
    (notes / "gone.md").symlink_to(tmp_path / "nowhere.md")
    (notes / "folder").symlink_to(tmp_path / "outside" / "sub", target_is_directory=True)
    os.mkfifo(notes / "pipe.txt")
    reading = read_paths([notes])
    assert reading.files == [str(notes / "linked.md")]
    assert set(reading.skipped) == {str(notes / "gone.md"), str(notes / "pipe.txt")}
    assert "pipe" in reading.skipped[str(notes / "pipe.txt")]
