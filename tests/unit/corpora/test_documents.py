"""Documents come out of every kind of source, and a bad source says what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oblong.corpora import BUNDLED, read_documents
from oblong.errors import DataError

TEXTS = ("Der Anfang.", "Zweites\nDokument, mit Komma.", "Ende: ß 漢")


def test_text_file_is_one_document(tmp_path: Path) -> None:
    path = tmp_path / "buch.txt"
    path.write_text("a\n\nb", encoding="utf-8")
    documents = read_documents(str(path))
    assert documents.texts == ("a\n\nb",)
    assert documents.name == "buch"


def test_folder_is_one_document_per_file_in_name_order(tmp_path: Path) -> None:
    for name, text in (("b.md", "zwei"), ("a.txt", "eins"), ("c.bin", "nein"), ("d.txt", "  \n")):
        (tmp_path / name).write_text(text)
    assert read_documents(str(tmp_path)).texts == ("eins", "zwei")


def test_json_lines_and_json_array_agree(tmp_path: Path) -> None:
    lines, array = tmp_path / "a.jsonl", tmp_path / "b.json"
    lines.write_text("\n".join(json.dumps({"body": text}) for text in TEXTS))
    array.write_text(json.dumps([{"body": text} for text in TEXTS]))
    first, second = (read_documents(str(path), text_field="body") for path in (lines, array))
    assert first.texts == second.texts == TEXTS
    assert first.digest == second.digest


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tables_go_through_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    table = pa.table({"text": list(TEXTS), "n": [1, 2, 3]})
    pq.write_table(table, tmp_path / "t.parquet")
    table.to_pandas().to_csv(tmp_path / "t.csv", index=False)
    assert read_documents(str(tmp_path / "t.parquet")).texts == TEXTS
    assert read_documents(str(tmp_path / "t.csv")).texts == TEXTS


def test_limit_keeps_the_first(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    assert read_documents(str(path), limit=2).texts == TEXTS[:2]


def test_skip_leaves_the_first_out_and_limit_counts_the_others(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))
    assert read_documents(str(path), skip=1).texts == TEXTS[1:]
    assert read_documents(str(path), skip=1, limit=1).texts == TEXTS[1:2]
    with pytest.raises(DataError, match="contains no text after the first 99 documents"):
        read_documents(str(path), skip=99)


def test_digest_depends_on_where_documents_end(tmp_path: Path) -> None:
    one, two = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
    one.write_text('{"text": "ab"}\n{"text": "c"}')
    two.write_text('{"text": "a"}\n{"text": "bc"}')
    assert read_documents(str(one)).digest != read_documents(str(two)).digest


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_texts_are_there_and_enough(name: str) -> None:
    documents = read_documents(f"bundled:{name}")
    assert len(documents.texts) >= 40
    assert documents.name == name


@pytest.mark.parametrize("name", ["german", "office"])
def test_held_out_help_shares_no_paragraph_with_the_training_text(name: str) -> None:
    train = {line for text in read_documents(f"bundled:{name}-train").texts for line in text.split("\n")}
    test = {line for text in read_documents(f"bundled:{name}-test").texts for line in text.split("\n")}
    cut_off = {text.split("\n")[-1] for text in read_documents(f"bundled:{name}-test").texts}
    assert (test - cut_off) & train == set()


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("", "leer.txt", "contains no text"),
        ("  \n ", "leer.txt", "contains no text"),
        ('{"txt": "a"}', "a.jsonl", r"line 1: has no field 'text'; it has txt.*--text-field"),
        ('{"text": "a"}\n{"text": ', "a.jsonl", "line 2: is not valid JSON"),
        ('{"text": 3}', "a.jsonl", "holds int, not text"),
        ("n,m\n1,2\n", "a.csv", "row 1: has no field 'text'; it has n, m"),
    ],
)
def test_bad_text_names_the_place(tmp_path: Path, content: str, name: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        read_documents(str(path))
    assert name in str(caught.value)


def test_missing_file_binary_file_and_unknown_bundled_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        read_documents(str(tmp_path / "nichts.txt"))
    (tmp_path / "leer").mkdir()
    (tmp_path / "x.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"x\.txt: is not UTF-8"):
        read_documents(str(tmp_path / "x.txt"))
    with pytest.raises(DataError, match="bundled:german-train"):
        read_documents("bundled:klingon")
    with pytest.raises(DataError, match=r"the folder holds no \.txt"):
        read_documents(str(tmp_path / "leer"))


def test_unknown_hub_dataset_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"nobody/nothing: cannot be read as a dataset; it is no local file"):
        read_documents("nobody/nothing")
