"""Text from files and folders, and its tokens: nothing is lost, nothing is taken that is no text."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

from xent.errors import DataError, OptionError
from xent.recipes._corpus import read_corpus
from xent.recipes._tokenizers import BpeTokenizer, CharTokenizer, new_tokenizer, read_tokenizer
from xent.recipes.language_model_config import LanguageModelConfig

MIXED = "naïve café\n\t漢字 🙂🙂 e\u0301 \ufeff def f(x):\r\n    return x  # 0123456789\n" * 20


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_folder_is_read_in_the_order_of_its_paths(tmp_path: Path):
    for name in ("b.txt", "a/z.md", "a/b/c", "c.py", ".hidden", ".git/config"):
        write(tmp_path / name, f"{name};")
    write(tmp_path / "logo.png", b"\x89PNG\r\n\x1a\n\0\0")
    write(tmp_path / "zeros", "text\0text")
    (tmp_path / "gone").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    corpus = read_corpus([str(tmp_path)], None)
    assert corpus.text == "a/b/c;a/z.md;b.txt;c.py;"
    assert corpus.source == f"{tmp_path}: 4 files, 24 bytes; left out, being no UTF-8 text: 2, such as logo.png"


def test_files_come_as_they_are_named_and_moved_ones_are_the_same_data(tmp_path: Path):
    one, two = write(tmp_path / "1", "one\r\n"), write(tmp_path / "2", "zwei")
    corpus = read_corpus([two, one], None)
    assert corpus.text == "zweione\r\n"
    assert corpus.source == f"{two} and 1 more: 2 files, 9 bytes"
    assert corpus.sha256 == read_corpus([write(tmp_path / "moved", "zweione\r\n")], None).sha256


@pytest.mark.parametrize(
    ("most", "text"), [(1, "a"), (2, "a"), (3, "aé"), (5, "aé"), (6, "aé漢"), (7, "aé漢b"), (99, "aé漢b")]
)
def test_a_bound_is_kept_and_cuts_no_character(tmp_path: Path, most, text):
    files = [write(tmp_path / "1", "aé漢"), write(tmp_path / "2", "b")]
    corpus = read_corpus(files, most)
    assert corpus.text == text
    assert ("the first" in corpus.source) == (most < 99)


def test_what_is_no_text_does_not_fill_the_bound(tmp_path: Path):
    write(tmp_path / "1", b"\0" * 100)
    write(tmp_path / "2", "text")
    assert read_corpus([tmp_path], 10).text == "text"


def test_the_default_is_the_standard_library():
    corpus = read_corpus(None, 200_000)
    library = Path(sysconfig.get_path("stdlib"))
    first = sorted(path for path in library.glob("*.py"))[0]
    assert corpus.text.startswith(first.read_bytes().decode())
    assert 199_990 < len(corpus.text.encode()) <= 200_000
    assert "standard library: the first " in corpus.source
    assert not any(part in corpus.source for part in ("left out", "no UTF-8"))


NO_TEXT = {
    "latin-1": ("x\xe9".encode("latin-1"), r"is no UTF-8 text \(byte 1 is 0xe9\); .*: convert it, or leave it out"),
    "utf-16": ("text".encode("utf-16"), r"is no UTF-8 text \(byte 0 is 0xff\)"),
    "binary": (b"ab\0c", r"is no UTF-8 text \(byte 2 is zero\)"),
    "cut": ("aé漢".encode()[:-1], r"is no UTF-8 text \(byte 3 is 0xe6\)"),
    "empty": (b"", "no text; there must be some to learn from"),
}


@pytest.mark.parametrize(("content", "sentence"), NO_TEXT.values(), ids=NO_TEXT.keys())
def test_a_named_file_must_be_text(tmp_path: Path, content, sentence):
    with pytest.raises(DataError, match=sentence):
        read_corpus([write(tmp_path / "file", content)], None)


def test_a_folder_without_text(tmp_path: Path):
    write(tmp_path / "binary", b"\0")
    with pytest.raises(DataError, match="no text"):
        read_corpus([tmp_path], None)


def test_paths_that_lead_nowhere(tmp_path: Path):
    with pytest.raises(OptionError, match=r"nowhere, which does not exist; it must be text files and folders"):
        read_corpus([tmp_path / "nowhere"], None)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OptionError, match=r"pipe, which is neither a file nor a folder"):
        read_corpus([tmp_path / "pipe"], None)
    with pytest.raises(DataError, match=r"can't be read \(File name too long\)"):
        read_corpus(["x" * 5000], None)


def test_no_right_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "folder" / "file", "text")

    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied", str(tmp_path))  # root, whom tests may run as, is never refused

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", refuse)
        with pytest.raises(DataError, match=r"file can't be read \(Permission denied\)"):
            read_corpus([tmp_path / "folder" / "file"], None)
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"can't be read \(Permission denied\)"):
        read_corpus([tmp_path / "folder"], None)


def tokenizer_of(kind: str):
    config = LanguageModelConfig(tokens=kind, vocabulary=300 if kind == "bpe" else None)  # pyright: ignore
    return config, new_tokenizer(config, MIXED, MIXED)


@pytest.mark.parametrize("kind", ["byte", "char", "bpe"])
def test_tokens_lose_nothing_and_know_their_bytes(kind):
    config, tokenizer = tokenizer_of(kind)
    tokens = tokenizer.encode(MIXED)
    assert tokenizer.decode(tokens.tolist()) == MIXED
    assert int(tokenizer.bytes_of_token[tokens.long()].sum()) == len(MIXED.encode())
    assert int(tokens.max()) < len(tokenizer.bytes_of_token)
    again = read_tokenizer(config, tokenizer.to_bytes())
    assert torch.equal(again.encode(MIXED), tokens)
    assert again.to_bytes() == tokenizer.to_bytes()


def test_bpe_knows_the_bytes_of_every_token():
    _, tokenizer = tokenizer_of("bpe")
    lengths = tokenizer.bytes_of_token.tolist()
    assert sorted(lengths)[:256] == [1] * 256  # every byte, so that there is no text without tokens
    assert tokenizer.decode(tokenizer.encode("Ж \0").tolist()) == "Ж \0"
    whole = [token for token in range(len(lengths)) if "\ufffd" not in tokenizer.decode([token])]
    assert [lengths[token] for token in whole] == [len(tokenizer.decode([token]).encode()) for token in whole]


def test_bpe_is_trained_alike_every_time_and_stops_where_there_is_no_more():
    first, second = (BpeTokenizer.trained(MIXED, 300) for _ in range(2))
    assert first.to_bytes() == second.to_bytes()
    assert len(first.bytes_of_token) == 300
    assert 256 < len(BpeTokenizer.trained(MIXED, 100_000).bytes_of_token) < 1000


def test_bpe_of_a_text_longer_than_a_block(monkeypatch: pytest.MonkeyPatch):
    _, tokenizer = tokenizer_of("bpe")
    monkeypatch.setattr("xent.recipes._tokenizers._BLOCK", 7)
    assert tokenizer.decode(tokenizer.encode(MIXED).tolist()) == MIXED


def test_an_unknown_character():
    with pytest.raises(OptionError, match="there is no token for 'é'; tokens are the 3 characters"):
        CharTokenizer("abc").encode("abé")


def test_no_tokenizers_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(DataError, match=r"pip install 'xent\[language_model\]', or pass --tokens byte or char"):
        tokenizer_of("bpe")
    tokenizer_of("char")  # the others need none
