"""The text recipe: words to vectors to loss, on files and pipelines made on the spot."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from pathlib import Path

import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch
from rich.console import Console

from tests.recipes.test_digits import fingerprints
from xent.errors import DataError, DependencyError, OptionError, RunError
from xent.recipes import text, text_runs
from xent.recipes._display import Display
from xent.recipes._docstrings import Docstrings
from xent.recipes._encoded_texts import Reading
from xent.recipes._spacy_words import SpacyWords
from xent.recipes._text_classifier import TextClassifier, initialised, trained_vectors
from xent.recipes._text_rows import UNKNOWN, Batch, epoch_order, load_text_rows
from xent.recipes._text_tables import TextTable
from xent.recipes.text_config import TextConfig

STOP_WORDS = Path(__file__).parents[2] / ".." / "shared" / "data" / "stopwords" / "stopwords-tl.txt"
FOODS, PLACES, FILLERS = ("kanin", "isda", "mangga"), ("bahay", "ilog", "bundok"), ("ang", "Ang", "sa", "ay", "!")


@pytest.fixture(autouse=True)
def a_cache_of_its_own(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XENT_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def lines(count: int = 120) -> list[tuple[str, str]]:
    generator = torch.Generator().manual_seed(1)

    def one(words: tuple[str, ...]) -> str:
        return words[int(torch.randint(len(words), (1,), generator=generator))]

    kinds = [("pagkain", FOODS), ("pook", PLACES), ("pook", PLACES)]  # places twice as often
    rows = [(label, [one(FILLERS), one(words), one(FILLERS), one(words)]) for label, words in kinds * (count // 3)]
    return [(" ".join(words[: 2 + place % 3]), label) for place, (label, words) in enumerate(rows)]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "texts.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *lines(), ("", "pook"), ("wala roon", "pagkain")])
    return path


@pytest.fixture(scope="module")
def small(table: Path) -> TextConfig:
    return TextConfig(data=str(table), features=8, hidden=8, epochs=3, batch_size=8, lr=0.02, threads=1)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A blank Tagalog pipeline with vectors of 200 for the words of the table; not for "wala", "roon" and "!"."""
    spacy = pytest.importorskip("spacy")
    nlp = spacy.blank("tl")
    generator = torch.Generator().manual_seed(2)
    for word in (*FOODS, *PLACES, *FILLERS[:-1]):
        nlp.vocab.set_vector(word, torch.randn(200, generator=generator).numpy())
    path = tmp_path_factory.mktemp("pipeline") / "tl_made"
    nlp.to_disk(path)
    return path


def of(config: TextConfig, **changes) -> TextConfig:
    return dataclasses.replace(config, **changes)


def with_vectors(config: TextConfig, pipeline: Path, **changes) -> TextConfig:
    return of(config, vectors=str(pipeline), features=None, **changes)


def finish(learner, run) -> dict:
    latest = {"epoch": 0, **text.measure(learner)}
    try:
        with Display(Console(file=io.StringIO()), learner.landmarks, learner.config.epochs, latest) as display:
            text.train(learner, run, display)
    finally:
        run.close()
    return run.last_metrics()


def run(config: TextConfig, out: Path) -> dict:
    return finish(*text_runs.begin(config, out))


@pytest.mark.parametrize("pooling", ["last", "attention"])
def test_it_learns_what_words_tell(small: TextConfig, tmp_path: Path, pooling):
    metrics = run(of(small, pooling=pooling), tmp_path / "run")
    assert metrics["validation"]["loss"] < 0.35  # below the label prior's entropy, ln 3 − ⅔ ln 2 = 0.6365
    assert metrics["validation"]["accuracy"] == 1.0
    assert metrics["validation"]["macro_f1"] == 1.0


@pytest.mark.parametrize("changes", [{}, {"pooling": "attention", "class_weights": True}])
def test_two_runs_write_the_same_bytes_and_a_resumed_one_too(small: TextConfig, tmp_path: Path, changes):
    config = of(small, **changes)
    run(config, tmp_path / "whole")
    run(of(config, epochs=1), tmp_path / "part")
    torch.rand(3)  # the global generator has no part in it
    finish(*text_runs.resume(tmp_path / "part", {"epochs": 3}))
    whole, part = fingerprints(tmp_path / "whole"), fingerprints(tmp_path / "part")
    assert {name: part[name] for name in whole} == whole


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_pipeline_on_disk_the_whole_way(small: TextConfig, pipeline: Path, tmp_path: Path, processes):
    config = with_vectors(small, pipeline, stop_words=str(STOP_WORDS) if STOP_WORDS.exists() else None)
    learner = text.build(config, None, Reading(processes))
    data = learner.data
    assert learner.model.words.table.shape == (data.num_words, 200)
    assert not any(name.startswith("words.") for name in learner.model.state_dict())  # the vectors are not copied
    words = data.texts.words
    without = {word for number, word in enumerate(words) if data.vocabulary[number] == UNKNOWN}
    assert without <= {"!", "wala", "roon", "Ang"}
    if STOP_WORDS.exists():  # of both cases, because case is folded
        assert not {"ang", "Ang", "sa", "ay"} & set(words)
        assert data.texts.counts.stop_words > 60
    metrics = run(config, tmp_path / "run")
    learner = text_runs.trained(tmp_path / "run")
    rows, logits = text.validation_logits(learner)
    wrong = rows[logits.argmax(1) != learner.data.labels(rows)]
    # All but "wala roon": it is two zero vectors, which say the commoner class, "pook", and is labelled the other.
    assert [learner.data.text(row, 99) for row in wrong.tolist()] == ["wala roon"]
    assert metrics["validation"]["accuracy"] == pytest.approx(11 / 12)


def test_vectors_are_the_pipelines_and_tokens_without_keep_their_place(small: TextConfig, pipeline: Path):
    import spacy

    data = load_text_rows(with_vectors(small, pipeline), None, Reading())
    nlp = spacy.load(pipeline)
    learner = text.build(with_vectors(small, pipeline))
    first = torch.tensor([0, 1, 2, len(lines()) + 1])
    batch = learner.data.batch(first)
    for row, sentence in enumerate([*[lines()[i][0] for i in (0, 1, 2)], "wala roon"]):
        doc = nlp(sentence)
        assert batch.lengths[row] == len(doc)
        expected = torch.stack([torch.as_tensor(token.vector) for token in doc])
        assert torch.equal(learner.model.words(batch.words)[row, : len(doc)], expected)
    tokens, texts = data.unknown()
    said = [token for sentence, _ in [*lines(), ("wala roon", "")] for token in sentence.split()]
    assert tokens == sum(word in ("!", "wala", "roon") for word in said)
    assert texts == 1


def test_the_cache_is_read_the_second_time(small: TextConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("XENT_CACHE", str(tmp_path))
    met: list[int] = []
    reading = Reading(show=lambda rows, share: met.append(rows))
    first = load_text_rows(small, None, reading)
    assert met[-1] == len(lines()) + 2
    met.clear()
    second = load_text_rows(of(small, seed=3), None, reading)  # another split of the same texts
    assert not met
    assert first.texts.sha256 == second.texts.sha256
    assert not torch.equal(first.validation, second.validation)
    tokens = next(tmp_path.rglob("tokens.bin"))
    tokens.write_bytes(tokens.read_bytes()[:-4])
    with pytest.raises(DataError, match=r"is damaged .* rm -r"):
        load_text_rows(small, None, reading)


def test_a_second_run_calls_no_pipeline(small: TextConfig, pipeline: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XENT_CACHE", str(tmp_path))
    with (tmp_path / "many.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *lines(1200)])
    config = with_vectors(of(small, data=str(tmp_path / "many.csv")), pipeline)
    first = load_text_rows(config, None, Reading())
    monkeypatch.setattr(SpacyWords, "pipeline", property(lambda self: pytest.fail("the pipeline is loaded")))
    second = load_text_rows(of(config, seed=3), None, Reading())
    assert first.texts.sha256 == second.texts.sha256
    assert torch.equal(first.texts.vectors, second.texts.vectors)
    assert first.texts.vectors.shape == (len(first.texts.words), 200)  # each word once, not each token
    (pipeline / "vocab" / "vectors").touch()  # another pipeline, as far as one can know
    with pytest.raises(pytest.fail.Exception, match="the pipeline is loaded"):
        load_text_rows(config, None, Reading())


def test_the_share_that_was_read_rises_with_the_rows(tmp_path: Path):
    """A file that is one block, of each kind, and packages of docstrings: none stays at 0 or jumps to 1."""
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        functions = [f'def f{n}():\n    "What {name} does at {n}."\n' for n in range(60)]
        (tmp_path / name / "__init__.py").write_text("".join(functions))
    docstrings = Docstrings(tmp_path)
    shares = [docstrings.share_read for _ in docstrings.rows()]
    assert len(shares) == 180
    assert sorted(set(shares)) == pytest.approx([1 / 3, 2 / 3, 1.0])
    table = pyarrow.table({"text": ["isda"] * 100, "label": ["a", "b"] * 50})
    pyarrow.csv.write_csv(table, tmp_path / "t.csv")
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    for path in (tmp_path / "t.csv", tmp_path / "t.parquet"):
        rows = TextTable(path, label_column="label")
        assert [rows.share_read for _ in rows.rows()] == pytest.approx([n / 100 for n in range(1, 101)])


def classifier(attention: bool) -> TextClassifier:
    with torch.device("meta"):
        model = TextClassifier(trained_vectors(30, 6), 6, 5, 3, attention=attention)
    return initialised(model, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("attention", [False, True])
def test_padding_changes_nothing(attention: bool):
    """More padding: not one bit, whatever stands there. Longer neighbours: the last bits, since sums are ordered anew.

    float32 has 2⁻²⁴ ≈ 6e-8; outputs are below 1, and a state sums 5 + 6 products for each of up to 9 steps: 1e-6.
    """
    model = classifier(attention)
    lengths = torch.tensor([4, 0, 9, 1])
    words = torch.randint(1, 30, (4, 9)) * (torch.arange(9) < lengths.unsqueeze(1))
    labels = torch.zeros(4, dtype=torch.long)
    together = model(Batch(words, lengths, labels))
    junk = torch.where(torch.arange(9) < lengths.unsqueeze(1), words, 7)
    padded = torch.cat([junk, torch.full((4, 40), 11)], 1)
    assert torch.equal(model(Batch(padded, lengths, labels)), together)
    for row, length in enumerate(lengths.tolist()):
        alone = model(Batch(words[row : row + 1, : max(length, 1)], lengths[row : row + 1], labels[:1]))
        torch.testing.assert_close(alone[0], together[row], atol=1e-6, rtol=0)
    assert torch.equal(together[1], model.head.bias)  # the empty text


def test_batches_of_empty_and_unknown_texts(small: TextConfig):
    learner = text.build(small)
    empty, unknown = len(lines()), len(lines()) + 1
    batch = learner.data.batch(torch.tensor([empty]))
    assert torch.equal(learner.model(batch)[0], learner.model.head.bias)
    both = learner.data.batch(torch.tensor([empty, unknown]))
    assert both.lengths.tolist() == [0, 2]
    assert both.words[1].tolist() == [UNKNOWN, UNKNOWN]
    described = learner.data.to_dict()
    assert (described["empty_texts"], described["unknown_texts"]) == (1, 1)


def test_the_order_is_a_function_of_seed_and_epoch(small: TextConfig):
    data = load_text_rows(small, None, Reading())
    first, again, next_one = (epoch_order(data, small, epoch) for epoch in (0, 0, 1))
    assert [rows.tolist() for rows in first] == [rows.tolist() for rows in again]
    assert [rows.tolist() for rows in first] != [rows.tolist() for rows in next_one]
    assert sorted(torch.cat(list(next_one)).tolist()) == data.train.tolist()
    assert not set(data.train.tolist()) & set(data.validation.tolist())


def test_class_weights_are_inverse_frequencies(small: TextConfig):
    learner = text.build(of(small, class_weights=True))
    labels = learner.data.labels(learner.data.train)
    counts = [int((labels == c).sum()) for c in (0, 1)]
    assert learner.class_weights.tolist() == pytest.approx([len(labels) / (2 * count) for count in counts])
    measured = text.measure(learner)["validation"]
    batch = learner.data.batch(learner.data.validation)
    expected = torch.nn.functional.cross_entropy(learner.model(batch), batch.labels, weight=learner.class_weights)
    assert measured["weighted_loss"] == pytest.approx(expected.item(), abs=1e-6)  # float32 sums of 12 rows
    assert learner.landmarks.label_prior == pytest.approx(
        -sum(n / len(labels) * math.log(n / len(labels)) for n in counts)
    )


REFUSED = {
    "one class": ("text,label\na,x\nb,x\n", DataError, "only one class: all 2 rows are 'x'"),
    "a class a row": ("text,label\na,1\nb,2\nc,3\n", DataError, "3 classes in 3 rows"),
    "too few rows": ("text,label\na,1\nb,2\na,1\n", DataError, "3 rows, 0 of them to validate on"),
    "bad row": ("text,label\na,1\nb\n", DataError, "row 3: 1 cell under 2 columns"),
    "no column": ("text,labels\na,1\n", OptionError, "pass one of them as --label-column"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_tables_leave_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str):
    content, error, sentence = REFUSED[case]
    monkeypatch.setenv("XENT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(error) as caught:
        text_runs.begin(TextConfig(data=str(tmp_path / "a.csv")), tmp_path / "run")
    assert sentence in str(caught.value)
    assert not (tmp_path / "run").exists()
    if case != "too few rows":  # which has been read, and is in the cache as it is
        assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_a_pipeline_that_is_not_there_or_has_no_vectors(small: TextConfig, tmp_path: Path):
    spacy = pytest.importorskip("spacy")
    with pytest.raises(DependencyError, match="python -m spacy download xx_not_there"):
        text.build(with_vectors(small, Path("xx_not_there")))
    with pytest.raises(DependencyError, match=r"environment of its own: .*pip install 'xent\[calamancy\]'"):
        text.build(with_vectors(small, Path("tl_calamancy_md")))
    spacy.blank("tl").to_disk(tmp_path / "blank")
    with pytest.raises(DataError, match="has no word vectors"):
        text.build(with_vectors(small, tmp_path / "blank"))


def test_names_of_calamancy_are_resolved_by_it(
    small: TextConfig, pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A stand-in with calamanCy's own two functions: its package cannot share an environment with transformers 5."""
    code = f"""
import spacy
def models():
    return ["tl_calamancy_md-0.1.0", "tl_calamancy_md-0.10.0", "tl_calamancy_md-0.2.0", "tl_calamancy_lg-0.1.0"]
def load(model):
    if model == "tl_calamancy_lg-0.1.0":
        raise OSError("no network:\\ntried in vain")
    assert model == "tl_calamancy_md-0.10.0", model
    return spacy.load({str(pipeline)!r})
"""
    (tmp_path / "calamancy.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    learner = text.build(with_vectors(small, Path("tl_calamancy_md")))
    assert learner.data.texts.vectors.shape[1] == 200
    with pytest.raises(DataError, match=r"can't load tl_calamancy_lg-0.1.0 \(no network: tried in vain\)"):
        text.build(with_vectors(small, Path("tl_calamancy_lg")))
    with pytest.raises(OptionError, match="calamanCy has no pipeline tl_calamancy_xl"):
        text.build(with_vectors(small, Path("tl_calamancy_xl")))


def test_a_run_keeps_its_words(small: TextConfig, tmp_path: Path):
    (tmp_path / "stop.txt").write_text("sa\n")
    config = of(small, stop_words=str(tmp_path / "stop.txt"), epochs=1)
    run(config, tmp_path / "run")
    (tmp_path / "stop.txt").write_text("ay\n")
    with pytest.raises(RunError, match="the pipeline and the stop words must be the same"):
        text_runs.resume(tmp_path / "run")
    kept = json.loads((tmp_path / "run" / "vocabulary.json").read_bytes())
    assert kept["classes"] == ["pagkain", "pook"]
    assert {*FOODS, *PLACES, "ang"} <= set(kept["words"])


@pytest.mark.slow
def test_docstrings_beat_the_label_prior(tmp_path: Path):
    learner, directory = text_runs.begin(TextConfig(epochs=2, threads=1), tmp_path / "run")
    assert len(learner.data.texts.label_names) >= 8
    assert len(learner.data.train) > 1500
    metrics = finish(learner, directory)
    assert metrics["validation"]["loss"] < 0.7 * learner.landmarks.label_prior
    assert metrics["validation"]["accuracy"] > 0.45
