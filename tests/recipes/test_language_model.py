"""The language_model recipe: that its numbers mean what they say, that it repeats to the bit, and goes on so."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from rich.console import Console

from tests.recipes.test_digits import fingerprints
from xent.errors import DataError, OptionError, RunError
from xent.recipes import digits_runs, language_model, language_model_runs
from xent.recipes._display import Display, metrics_table, ruler
from xent.recipes._sampling import printable, sample
from xent.recipes._text_tokens import windows_of, windows_over
from xent.recipes.language_model_config import LanguageModelConfig, SampleOptions

SHAKESPEARE = Path(__file__).parents[2] / ".." / "shared" / "data" / "tinyshakespeare"
LINES = "".join(f"{n} naïve cafés, 漢字 {n % 7} 🙂 and so on\n" for n in range(400))  # 1 to 4 bytes a character
KINDS = ("byte", "char", "bpe")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> LanguageModelConfig:
    text = tmp_path_factory.mktemp("text") / "lines.txt"
    text.write_text(LINES, encoding="utf-8")
    return LanguageModelConfig(
        data=[str(text)], features=16, layers=1, context=12, epochs=3, steps=3, batch_size=4, threads=1
    )


def of(config: LanguageModelConfig, **changes) -> LanguageModelConfig:
    return dataclasses.replace(config, **changes)


def run(config: LanguageModelConfig, out: Path) -> dict:
    learner, run = language_model_runs.begin(config, out)
    finish(learner, run)
    return run.last_metrics()


def finish(learner, run) -> None:
    latest = {"epoch": 0, **language_model.measure(learner)}
    console = Console(file=io.StringIO())
    try:
        with Display(console, learner.landmarks, learner.config.epochs, latest, learner.tokens_per_step) as display:
            language_model.train(learner, run, display)
    finally:
        run.close()


def bpe_too(kind: str) -> dict:
    return {"tokens": kind, **({"vocabulary": 300} if kind == "bpe" else {})}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", ["lstm", "transformer"])
def test_metrics_by_hand(small, kind, model):
    learner = language_model.build(of(small, model=model, **bpe_too(kind)))
    tokens = learner.data.validation.long()
    weight = learner.model.embedding.weight.detach().double()
    nats = []
    for begin in range(0, len(tokens) - 1, 11):  # windows of 12 tokens, each beginning with the last of the one before
        window = tokens[begin : begin + 12]
        logits = learner.model(window[None]).detach().double()[0] @ weight.T
        nats += [-float(logits[t].log_softmax(0)[window[t + 1]]) for t in range(len(window) - 1)]
    metrics = language_model.measure(learner)["validation"]
    end = LINES[round(len(LINES) * 0.95) :]
    first = learner.data.tokenizer.decode(tokens[:1].tolist())  # only read, not predicted
    num_bytes = len(end.encode()) - (1 if kind == "byte" else len(first.encode()))
    assert (metrics["tokens"], metrics["bytes"]) == (len(nats), num_bytes) == (len(tokens) - 1, num_bytes)
    # Hidden states in float32, in batches of other sizes: some 2⁻²⁴ of logits of about 1 for each row.
    assert metrics["loss"] == pytest.approx(math.fsum(nats) / len(nats), rel=1e-6)
    assert metrics["bits_per_byte"] == pytest.approx(math.fsum(nats) / math.log(2) / num_bytes, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_baselines_by_hand(small, kind):
    data = language_model.build(of(small, **bpe_too(kind))).data
    train, predicted = Counter(data.train.tolist()), data.validation.tolist()[1:]
    total = len(data.train) + data.num_tokens
    unigram = -math.fsum(math.log((train[token] + 1) / total) for token in predicted) / len(predicted)
    landmarks = data.landmarks(None)
    assert landmarks.unigram == pytest.approx(unigram, rel=1e-12)
    assert landmarks.guessing == math.log(data.num_tokens)
    num_bytes = sum(int(data.tokenizer.bytes_of_token[token]) for token in predicted)
    bits_per_byte = unigram * len(predicted) / math.log(2) / num_bytes
    assert landmarks.baselines()["unigram"]["bits_per_byte"] == pytest.approx(bits_per_byte, rel=1e-12)


def test_a_uniform_model_has_eight_bits_per_byte(small):
    learner = language_model.build(small)
    with torch.no_grad():
        learner.model.embedding.weight.zero_()
    assert language_model.measure(learner)["validation"]["bits_per_byte"] == pytest.approx(8, abs=1e-6)
    assert learner.landmarks.baselines()["uniform"]["bits_per_byte"] == pytest.approx(8, abs=1e-12)


@pytest.mark.parametrize("num_tokens", [2, 11, 12, 13, 23, 24, 100])
@pytest.mark.parametrize("most", [None, 1, 5, 22])
def test_windows_predict_every_token_but_the_first_once(num_tokens, most):
    tokens = torch.arange(num_tokens)
    windows = windows_of(tokens, 12, most)
    predicted = [int(token) for batch in windows for token in batch[:, 1:].flatten()]
    assert predicted == list(range(1, num_tokens))[:most]
    assert max(batch.shape[1] for batch in windows) <= 12


def test_the_training_part_is_measured_all_over():
    windows = torch.cat(windows_over(torch.arange(1000), 11, 100))
    assert windows.shape[1] == 11
    assert windows[:, 1:].numel() <= 100
    assert windows[-1, 0] > 850


@pytest.mark.parametrize("model", ["lstm", "transformer"])
def test_a_prediction_sees_nothing_that_comes_later(small, model):
    decoder = language_model.build(of(small, model=model)).model
    tokens = torch.arange(12)[None]
    changed = tokens.clone()
    changed[0, 7:] = 99
    before, after = decoder(tokens), decoder(changed)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.equal(before[:, 7:], after[:, 7:])


@pytest.mark.parametrize("model", ["lstm", "transformer"])
def test_what_can_be_known_is_learned(tmp_path, model):
    (tmp_path / "text").write_text("abcdefgh" * 500)
    config = LanguageModelConfig(
        data=[tmp_path / "text"], model=model, features=32, layers=1, context=24, epochs=1, steps=300, threads=1
    )
    # The first letter of a window tells all the others; without a context the loss would be ln 8 = 2.08.
    assert run(config, tmp_path / "run")["validation"]["loss"] < 0.05


@pytest.mark.parametrize(("model", "kind"), [("lstm", "byte"), ("transformer", "bpe")])
def test_two_runs_write_the_same_bytes(small, tmp_path, model, kind):
    config = of(small, model=model, threads=2, **bpe_too(kind))
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    run(config, tmp_path / "first")
    assert torch.equal(torch.get_rng_state(), state)  # the global generator has no part in it
    assert torch.get_num_threads() == threads
    torch.rand(3)
    run(config, tmp_path / "second")
    assert fingerprints(tmp_path / "first") == fingerprints(tmp_path / "second")
    run(of(config, seed=1), tmp_path / "other")
    assert fingerprints(tmp_path / "other")["metrics.jsonl"] != fingerprints(tmp_path / "first")["metrics.jsonl"]


@pytest.mark.parametrize(("model", "kind"), [("lstm", "char"), ("transformer", "bpe")])
def test_a_run_goes_on_as_if_nothing_had_happened(small, tmp_path, model, kind):
    config = of(small, model=model, threads=2, **bpe_too(kind))
    run(config, tmp_path / "whole")
    run(of(config, epochs=1), tmp_path / "half")
    finish(*language_model_runs.resume(tmp_path / "half", {"epochs": 3}))
    assert fingerprints(tmp_path / "half") == fingerprints(tmp_path / "whole")
    finish(*language_model_runs.resume(tmp_path / "half"))  # nothing left to do, nothing changed
    assert fingerprints(tmp_path / "half") == fingerprints(tmp_path / "whole")


XENT = [sys.executable, "-c", "import sys; from xent.cli import main; sys.exit(main())"]


@pytest.mark.slow
def test_kill_9_in_the_middle_of_an_epoch(small, tmp_path):
    options = {"features": 16, "layers": 1, "context": 12, "steps": 40, "batch_size": 4, "threads": 1}
    typed = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    out = tmp_path / "killed"
    arguments = [*XENT, "train", "language_model", "--data", *small.data, *typed, "--epochs", "100000"]
    process = subprocess.Popen([*arguments, "--out", str(out)], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not ((out / "metrics.jsonl").exists() and (out / "metrics.jsonl").stat().st_size):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    assert process.wait(timeout=60) == -signal.SIGKILL
    epochs = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["epoch"] + 2
    finish(*language_model_runs.resume(out, {"epochs": epochs}))
    run(of(small, **options, epochs=epochs), tmp_path / "whole")
    assert fingerprints(out) == fingerprints(tmp_path / "whole")


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    run(of(small, tokens="char"), out)
    return out


def edited(pattern: bytes, by: bytes):
    return lambda content: re.sub(pattern, by, content, count=1)


DAMAGES = {
    "tokenizer edited": ("tokenizer.json", edited(rb"naive|n", b"m"), r"tokenizer\.json is damaged"),
    "tokenizer empty": ("tokenizer.json", lambda content: b"", r"tokenizer\.json is damaged"),
    "tokenizer gone": ("tokenizer.json", None, r"tokenizer\.json can't be read \(No such file"),
    "tokens changed": ("config.json", edited(rb'"tokens": "char"', b'"tokens": "byte"'), "does not (belong|fit)"),
    "context changed": ("config.json", edited(rb'"context": 12', b'"context": 13'), "does not belong to"),
    "threads changed": ("config.json", edited(rb'"threads": 1', b'"threads": 2'), "does not belong to"),
    "data a number": ("config.json", edited(rb'"data": \[[^]]*\]', b'"data": 5'), "data is 5; it must be a list"),
    "data sha256": ("config.json", edited(rb'"sha256": "', b'"sha256": "0'), "SHA-256 differs"),
    "metrics without bits": ("metrics.jsonl", edited(rb"bits_per_byte", b"bits"), r"metrics\.jsonl is damaged"),
    "checkpoint cut": ("checkpoint", lambda content: content[:-1], "go on from epoch 2"),
}


@pytest.mark.parametrize(("name", "how", "sentence"), DAMAGES.values(), ids=DAMAGES.keys())
def test_damage_is_found_and_left_as_it_is(whole, tmp_path, name, how, sentence):
    copy = Path(shutil.copytree(whole, tmp_path / "copy"))
    if how:
        (copy / name).write_bytes(how((copy / name).read_bytes()))
    else:
        (copy / name).unlink()
    before = fingerprints(copy)
    with pytest.raises(RunError, match=sentence):
        language_model_runs.resume(copy)
    assert fingerprints(copy) == before


def test_other_text_than_the_run_began_with(whole, tmp_path):
    copy = Path(shutil.copytree(whole, tmp_path / "copy"))
    (tmp_path / "moved").write_text(LINES, encoding="utf-8")
    finish(*language_model_runs.resume(copy, {"data": [tmp_path / "moved"]}))
    (tmp_path / "moved").write_text(LINES + "x", encoding="utf-8")
    with pytest.raises(RunError, match=r"is not the data that .* began with"):
        language_model_runs.resume(copy)


def test_options_stay_what_they_were(whole, tmp_path):
    copy = Path(shutil.copytree(whole, tmp_path / "copy"))
    with pytest.raises(OptionError, match=r"features is 17 but .* began with 16"):
        language_model_runs.resume(copy, {"features": 17})
    with pytest.raises(
        OptionError, match=r"a run of the recipe language_model; .*: xent train language_model --resume"
    ):
        digits_runs.resume(copy)


def test_a_loss_that_is_not_finite_ends_the_run(small, tmp_path):
    learner, directory = language_model_runs.begin(of(small, lr=1e38), tmp_path / "run")
    with pytest.raises(
        RunError, match=r"the loss is \w+ after epoch 1; it must be finite: start a new run with an --lr"
    ):
        finish(learner, directory)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == b""


TOO_SHORT = [
    ("short text", {}, r"10 tokens in the training part; a window needs 12: pass more text, or a smaller --context"),
    ("a text of some forty characters, no more.", {"validation_share": 0.01}, "0 tokens in the validation part"),
]


@pytest.mark.parametrize(("text", "options", "sentence"), TOO_SHORT)
def test_too_little_text(small, tmp_path, text, options, sentence):
    (tmp_path / "text").write_text(text)
    with pytest.raises(DataError, match=sentence):
        language_model_runs.begin(of(small, data=[tmp_path / "text"], **options), tmp_path / "run")
    assert not (tmp_path / "run").exists()


BAD_OPTIONS = [
    {"data": []}, {"data": "text"}, {"data": [5]}, {"data": [""]}, {"tokens": "word"}, {"model": "rnn"},
    {"context": 1}, {"steps": 0},
    {"features": 0}, {"layers": -1}, {"batch_size": 2.5}, {"epochs": True}, {"seed": -1}, {"threads": 0},
    {"vocabulary": 255, "tokens": "bpe"}, {"vocabulary": 500}, {"heads": 4}, {"max_bytes": 10},
    {"features": 30, "model": "transformer"}, {"lr": 0.0}, {"lr": math.nan}, {"validation_share": 0.0},
    {"validation_share": 1.0}, {"validation_share": math.nan}, {"max_validation_tokens": 0},
]  # fmt: skip


@pytest.mark.parametrize("options", BAD_OPTIONS, ids=str)
def test_options_are_checked_when_the_config_is_built(options):
    with pytest.raises(OptionError, match=next(iter(options))):
        LanguageModelConfig(**options)


@pytest.mark.parametrize(
    "options",
    [{"tokens": -1}, {"prompt": ""}, {"prompt": "\udcff"}, {"temperature": -1.0}, {"temperature": math.nan}],
    ids=str,
)
def test_sample_options_are_checked(options):
    with pytest.raises(OptionError):
        SampleOptions(**options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [0.0, 1e-320, 0.8, 1e300])
def test_a_sample_is_the_same_every_time(small, kind, temperature):
    learner = language_model.build(of(small, **bpe_too(kind)))
    state = learner.generator.get_state()
    options = SampleOptions(tokens=20, prompt="naïve 漢字 and so on", temperature=temperature)
    prompt, text = sample(learner, options)
    assert prompt == "naïve 漢字 and so on"  # longer than the context of 12
    assert len(learner.data.tokenizer.encode(text)) >= len(text) > 0
    assert sample(learner, options) == (prompt, text)
    assert torch.equal(learner.generator.get_state(), state)


def test_cold_samples_take_the_most_probable_token(small):
    learner = language_model.build(small)
    prompt, text = sample(learner, SampleOptions(tokens=1, prompt="abc", temperature=0))
    hidden = learner.model(learner.data.tokenizer.encode(prompt)[None].int())[0, -1]
    best = int((learner.model.embedding.weight @ hidden).argmax())
    assert text == learner.data.tokenizer.decode([best])


def test_a_prompt_with_a_character_that_is_no_token(small):
    learner = language_model.build(of(small, tokens="char"))
    with pytest.raises(OptionError, match=r"prompt: there is no token for 'Ж'; tokens are the 27 characters"):
        sample(learner, SampleOptions(prompt="naïve Ж"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a b\n\tc", "a b\n    c"),
        ("\x1b[2J\a\r\b", r"\x1b[2J\x07\r\x08"),
        ("\u202eabc\u200b\u2028", r"\u202eabc\u200b\u2028"),
        ("\x9b31m\x00", r"\x9b31m\x00"),
        ("漢 é [bold]", "漢 é [bold]"),
    ],
)
def test_nothing_in_a_text_moves_the_cursor(text, shown):
    assert printable(text) == shown


@pytest.mark.parametrize("width", [5, 40, 80])
def test_the_ruler_shows_both_landmarks(small, width):
    learner = language_model.build(small)
    metrics = language_model.measure(learner)
    lines = ruler(metrics, learner.landmarks, width).plain.splitlines()
    assert len(lines[0]) <= max(width, 24) + 2
    console = Console(file=io.StringIO(), width=80)
    console.print(metrics_table(metrics, learner.landmarks))
    shown = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert [word for word in ("bits/byte", "unigram", "uniform", "256") if word not in shown] == []


@pytest.mark.skipif(not SHAKESPEARE.is_dir(), reason=f"the text is not here ({SHAKESPEARE})")
def test_shakespeare(tmp_path):
    config = LanguageModelConfig(
        data=[SHAKESPEARE], features=64, layers=1, context=64, epochs=2, steps=100, max_validation_tokens=20_000
    )
    learner, directory = language_model_runs.begin(config, tmp_path / "run")
    assert learner.data.source.endswith("tinyshakespeare: 1 file, 1,115,394 bytes")
    finish(learner, directory)
    loss = directory.last_metrics()["validation"]["loss"]
    # 2.18 on the machine where this was written, unigram 3.34; the margin is for other last bits, not for luck
    assert loss < learner.landmarks.unigram - 0.9
