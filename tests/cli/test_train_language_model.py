"""`xent train language_model` as a user meets it; what all recipes share is tested with digits."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.test_command_line import HEAVY, XENT, with_interrupts
from tests.recipes.test_digits import fingerprints
from xent.cli import main

COMMAND = ["train", "language_model"]
SMALL = ["--features", "16", "--layers", "1", "--context", "12", "--steps", "3", "--batch-size", "4", "--threads", "1"]
QUICK = [*COMMAND, "--data", "text", *SMALL, "--epochs", "2", "--sample", "30"]


@pytest.fixture(autouse=True)
def in_a_directory_with_a_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    Path("text").write_text("".join(f"line {n}\x1b of a [bold] café\n" for n in range(200)), encoding="utf-8")


def test_help_at_once_with_examples(capfd):
    code = (
        f"import sys; from xent.cli import main; main({[*COMMAND, '--help']!r}); print(*sys.modules, file=sys.stderr)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert not (HEAVY | {"tokenizers"}) & {name.partition(".")[0] for name in result.stderr.split()}
    words = ["--data", "--tokens", "--temperature", "Examples:", "xent train language_model --data a.txt b.txt docs/"]
    assert [word for word in words if word not in result.stdout] == []
    assert max(map(len, result.stdout.splitlines())) <= 80


WRONG_USAGE = {
    "the other spelling": (["train", "language-model"], "did you mean xent train language_model?"),
    "missing path": (
        [*COMMAND, "--data", "nowhere"],
        "nowhere, which does not exist; it must be text files and folders",
    ),
    "one path missing": ([*COMMAND, "--data", "text", "nowhere"], "nowhere, which does not exist"),
    "path alone": ([*COMMAND, "text"], "text files come with --data: xent train language_model --data text"),
    "unknown tokens": ([*COMMAND, "--tokens", "word"], "'word' is not one of 'byte', 'char', 'bpe'"),
    "vocabulary of bytes": ([*COMMAND, "--vocabulary", "500"], "pass --tokens bpe, or leave --vocabulary out"),
    "context of one": ([*COMMAND, "--context", "1"], "context is 1; it must lie in [2, 100,000]"),
    "odd heads": ([*COMMAND, "--model", "transformer", "--features", "30"], "pass --features 32"),
    "no temperature": ([*COMMAND, "--temperature", "-1"], "temperature is -1.0; it must be a number of 0 or more"),
    "empty prompt": ([*QUICK, "--prompt", ""], "prompt is ''"),
    "prompt without tokens": ([*QUICK, "--tokens", "char", "--prompt", "Ж"], "prompt: there is no token for 'Ж'"),
    "resume and out": ([*COMMAND, "--resume", "a", "--out", "b"], "leave --out out"),
}


@pytest.mark.parametrize(("arguments", "sentence"), WRONG_USAGE.values(), ids=WRONG_USAGE.keys())
def test_wrong_usage_is_one_line_and_exit_2(capfd, arguments, sentence):
    assert main(arguments) == 2
    shown = capfd.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert sentence in shown.err
    assert [path.name for path in Path().iterdir()] == ["text"]


BAD_DATA = {
    "binary": (b"\x7fELF\x02\x01\x01\0\0", "file is no UTF-8 text"),
    "latin-1": (b"x\xe9", "file is no UTF-8 text (byte 1 is 0xe9)"),
    "empty": (b"", "file: no text"),
    "too short": (b"a few words", "10 tokens in the training part; a window needs 128: pass more text, or a smaller"),
}


@pytest.mark.parametrize(("content", "sentence"), BAD_DATA.values(), ids=BAD_DATA.keys())
def test_bad_data_is_one_line_and_exit_1(capfd, content, sentence):
    Path("file").write_bytes(content)
    assert main([*COMMAND, "--data", "file"]) == 1
    shown = capfd.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert sentence in shown.err
    assert not Path("runs").exists()


def test_a_run_as_plain_lines_and_a_second_beside_it(capfd):
    assert main([*QUICK, "--prompt", "[bold]\x1b[31m"]) == 0
    shown = capfd.readouterr()
    assert shown.err == ""
    assert "\x1b" not in shown.out  # not even from the prompt
    for word in ("bits/byte", "tokens/s", "perplexity", "unigram", "= ln 256, guessing", r"[bold]\x1b[31m"):
        assert word in shown.out
    assert "xent train language_model --resume runs/language_model-1 --epochs 4" in shown.out
    table = shown.out[shown.out.index("── train") : shown.out.index("sample ")]
    assert max(map(len, table.splitlines())) <= 80
    first = fingerprints(Path("runs/language_model-1"))
    assert main(QUICK) == 0
    assert fingerprints(Path("runs/language_model-1")) == first
    assert fingerprints(Path("runs/language_model-2")) == first  # neither prompt nor sample is part of a run


@pytest.mark.parametrize("tokens", ["char", "bpe"])
def test_json_is_alone_on_stdout(capfd, tokens):
    vocabulary = ["--vocabulary", "300"] if tokens == "bpe" else []
    assert main([*QUICK, "--tokens", tokens, *vocabulary, "--out", "run", "--json"]) == 0
    shown = capfd.readouterr()
    summary = json.loads(shown.out)
    assert (summary["recipe"], summary["epoch"], summary["epochs_trained"]) == ("language_model", 2, 2)
    assert set(summary["validation"]) == {"tokens", "bytes", "loss", "bits_per_byte", "perplexity"}
    assert summary["landmarks"]["uniform"]["perplexity"] == pytest.approx(summary["landmarks"]["num_tokens"])
    assert summary["sample"]["prompt"] in Path("text").read_text(encoding="utf-8")
    assert len(summary["sample"]["text"]) >= 30
    assert "epoch" in shown.err


def test_a_prompt_that_is_no_utf8(capfd):
    arguments = [*XENT, *QUICK, "--prompt", b"\xff"]
    result = subprocess.run(arguments, capture_output=True, timeout=60, check=False)
    assert (result.returncode, result.stderr.count(b"\n")) == (2, 1)


def test_ctrl_c_leaves_a_run_to_go_on_with(capfd):
    arguments = [*XENT, *QUICK, "--epochs", "100000", "--out", "run"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(arguments, stdout=pipe, stderr=pipe, text=True, preexec_fn=with_interrupts)  # noqa: PLW1509
    try:
        deadline = time.monotonic() + 120
        while not (Path("run/metrics.jsonl").exists() and Path("run/metrics.jsonl").stat().st_size):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert error == "xent: stopped; go on with xent train language_model --resume run\n"
    epochs = str(len(Path("run/metrics.jsonl").read_text().splitlines()) + 1)
    assert main([*COMMAND, "--resume", "run", "--epochs", epochs, "--sample", "0"]) == 0
    shown = capfd.readouterr().out
    assert "resumed    after epoch " in shown
    assert "sample " not in shown
    assert main([*QUICK, "--epochs", epochs, "--out", "whole"]) == 0
    assert fingerprints(Path("run")) == fingerprints(Path("whole"))


def test_a_narrow_terminal_is_no_reason_to_fail(monkeypatch):
    monkeypatch.setenv("COLUMNS", "10")
    assert main(QUICK) == 0
