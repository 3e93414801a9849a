"""Causal language models of transformers, from a directory or the hub, with their tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xent.errors import DataError, DependencyError, DtypeError, OptionError
from xent.integrations.transformers._accelerate import deferring
from xent.integrations.transformers._deferred_logits import DeferredLogits
from xent.scoring._text_scores import Tokens

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
)
_CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")
_PATIENCE = 10  # seconds
BEGINNINGS = ("auto", "bos", "eos", "none")


@dataclass(frozen=True)
class HubOptions:
    """How a model of transformers is loaded and read.

    Attributes:
        tokenizer: a directory or hub name; None for the model's own.
        beginning: what stands before every text: "bos", "eos", "none"; "auto": the first of these that there is.
        dtype: of the weights, a torch dtype by name, or "auto" for that of the files.
        device: where the model runs.
    """

    tokenizer: str | None = None
    beginning: str = "auto"
    dtype: str = "float32"
    device: str = "cpu"


class HubModel:
    """A `LanguageModel` on a model and a tokenizer of transformers."""

    def __init__(self, model: Any, tokenizer: Any, name: str, options: HubOptions) -> None:
        self.model = model.eval()
        self._sources = [_source(name), *([_source(options.tokenizer)] if options.tokenizer else [])]
        self.tokenizer = tokenizer
        self.name, self.device = name, torch.device(options.device)
        self.context = _context(model.config)
        self.prefix, self._beginning = _prefix(tokenizer, options.beginning)
        self.num_classes = int(model.get_input_embeddings().weight.shape[0])
        self.notes: list[str] = []
        try:
            deferring(model)  # for the life of the model
        except DtypeError as error:
            self.notes.append(f"logits     of a batch are held whole: {error.got}")
        self._check_causal()

    def describe(self) -> str:
        """Its name, kind and sizes."""
        context = "no bound of the context" if self.context is None else f"context {self.context:,}"
        dtype = str(self.model.dtype).removeprefix("torch.")
        commit = self._sources[0].get("commit")
        name = f"{self.name} at {commit[:8]}" if isinstance(commit, str) else self.name
        return f"{name}, {type(self.model).__name__}, {self.num_classes:,} classes, {context}, {dtype}"

    def beginning(self) -> str:
        """What stands before every text."""
        return self._beginning

    def identity(self) -> dict[str, object]:
        """The files of a directory, or the commit of the hub; of the tokenizer too, where it is another's."""
        return {
            "model": self._sources[0],
            "tokenizer": self._sources[-1],
            "beginning": self.prefix,
            "dtype": str(self.model.dtype),
        }

    def encode(self, text: str) -> Tokens:
        """The tokens of a text, without those that the tokenizer would add, after the beginning token."""
        fast = bool(self.tokenizer.is_fast)
        made = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=fast, verbose=False)
        ids = list(made["input_ids"])
        if ids and max(ids) >= self.num_classes:
            raise DataError(
                f"the tokenizer gives token {max(ids)} and the model knows {self.num_classes:,}",
                "the tokenizer must be the model's",
                "pass --tokenizer, or mend the model directory",
            )
        pieces = _pieces(text, made["offset_mapping"]) if fast else [self.tokenizer.decode([token]) for token in ids]
        return Tokens([*self.prefix, *ids], pieces, bool(self.prefix))

    @torch.no_grad()
    def logits(self, input_BT: Tensor, is_read_BT: Tensor, is_scored_BT: Tensor) -> _Rows:
        """Logits (N, V) of the positions that are scored."""
        output = self.model(
            input_ids=input_BT.to(self.device), attention_mask=is_read_BT.long().to(self.device), use_cache=False
        )
        return _Rows(output.logits[is_scored_BT.to(self.device)])

    def _check_causal(self) -> None:
        """Two texts that differ in their last token only must be predicted alike before it."""
        input_BT = torch.tensor([[0, 0, 0], [0, 0, min(1, self.num_classes - 1)]])
        every = torch.ones_like(input_BT, dtype=torch.bool)
        first = every & (torch.arange(3) == 0)
        one, other = self.logits(input_BT, every, first).rows(0, 2).double()
        # Both rows go through the same products, so that a causal model gives the same bits or nearly so.
        if (one - other).abs().max() > 0.05 * one.std():
            raise OptionError(
                f"{self.name} is a {type(self.model).__name__} whose predictions change with later tokens",
                "the surprisal of a token is that after the tokens before it",
                "pass a causal language model",
            )


class _Rows:
    def __init__(self, logits: DeferredLogits | Tensor) -> None:
        self._logits = logits
        self.shape = logits.shape

    def rows(self, begin: int, end: int) -> Tensor:
        part = self._logits[begin:end]
        return part.tensor() if isinstance(part, DeferredLogits) else part


def load_hub_model(name: str, options: HubOptions) -> HubModel:
    """A model and its tokenizer.

    Raises:
        DependencyError: transformers is not installed.
        OptionError: there is no such model, or it has no tokenizer.
        DataError: its files can't be read.
    """
    transformers = _transformers(name)
    _check_directory(name, options)
    dtype = "auto" if options.dtype == "auto" else getattr(torch, options.dtype, None)
    if dtype != "auto" and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise OptionError(
            f"--dtype {options.dtype}", "it is auto or a floating-point dtype of torch", "pass float32 or bfloat16"
        )
    place = _place(name, "model")
    with _quiet(transformers):
        with _said(name, "model"):
            model, loaded = transformers.AutoModelForCausalLM.from_pretrained(
                place, dtype=dtype, output_loading_info=True
            )
        _check_whole(name, loaded)
        with _said(options.tokenizer or name, "tokenizer"):
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                _place(options.tokenizer, "tokenizer") if options.tokenizer else place
            )
    try:
        model.to(options.device)
    except (RuntimeError, AssertionError) as error:  # the second is what torch says without CUDA
        raise OptionError(
            f"--device {options.device}: {_first_line(error)}", "the model must fit there", "pass --device cpu"
        ) from error
    hub_model = HubModel(model, tokenizer, name, options)
    if place != name:
        hub_model.notes.insert(0, "hub        can't be reached: this is what its cache holds")
    return hub_model


def _place(name: str, what: str) -> str:
    """A directory, or a name that the hub has; where the hub can't be reached, the directory in its cache.

    The hub is asked once, for ten seconds at most: the loader would try each file six times.
    """
    if Path(name).is_dir():
        return name
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

    try:
        HfApi().model_info(name, timeout=_PATIENCE)
        return name
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise OptionError(
            f"the hub has no {what} {name}, or hides it",
            "a model is a directory, a run or a hub name",
            "check the name",
        ) from error
    except HfHubHTTPError:
        return name  # it answers: what is wrong with it the loader says
    except Exception as error:  # each HTTP library has errors of its own
        try:
            return snapshot_download(name, local_files_only=True)
        except Exception:
            raise OptionError(
                f"{what} {name}: the hub can't be reached ({_first_line(error)}), and its cache does not hold it",
                "it must be a directory, or a name that the hub or its cache has",
                "check the name and the network",
            ) from error


def _source(name: str) -> dict[str, object]:
    """What a model or a tokenizer depends on: the files of a directory, or the commit that the hub's cache holds."""
    path = Path(name)
    if path.is_dir():
        files = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in sorted(path.iterdir())]
        return {"name": name, "files": files}
    from huggingface_hub import try_to_load_from_cache

    for file in ("config.json", "tokenizer_config.json"):
        cached = try_to_load_from_cache(name, file)  # …/snapshots/COMMIT/config.json
        if isinstance(cached, str):
            return {"name": name, "commit": Path(cached).parent.name}
    return {"name": name, "commit": None}


def _check_whole(name: str, loaded: dict[str, Any]) -> None:
    """Raise where transformers would make up weights that the files lack."""
    lacking = sorted({*loaded["missing_keys"], *(str(key[0]) for key in loaded["mismatched_keys"])})
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise DataError(
            f"model {name} lacks {lacking[0]}{more}",
            "weights that are not in its files would be random",
            "pass a model that was saved whole, with its language-model head",
        )


def _transformers(name: str) -> Any:
    try:
        import transformers
    except ImportError as error:
        missing = "" if Path(name).is_dir() else f"{name} is no directory, and "
        raise DependencyError(
            f"{missing}transformers is not installed",
            "it reads models of the hub, by their names or saved in a directory",
            "check the path, or pip install 'xent[transformers]'",
        ) from error
    return transformers


def _check_directory(name: str, options: HubOptions) -> None:
    path = Path(name)
    if not path.is_dir():
        if path.exists() or name.count("/") > 1 or name.startswith((".", "/", "~")):
            lack = "is a file" if path.exists() else "does not exist"
            raise OptionError(f"{name} {lack}", "a model is a directory, a run or a hub name", "check the path")
        return
    if not (path / "config.json").is_file():
        raise OptionError(f"{path} holds no config.json", "it is that of a run or of a model", "check the path")
    if options.tokenizer is None and not any((path / file).is_file() for file in _TOKENIZER_FILES):
        raise OptionError(
            f"{path} holds no tokenizer ({', '.join(_TOKENIZER_FILES[:3])}, …)",
            "texts are read by the model's own",
            "save it there, or pass --tokenizer DIRECTORY",
        )


@contextmanager
def _said(name: str, what: str) -> Iterator[None]:
    """Whatever the loader says, in one line."""
    try:
        yield
    except (ImportError, KeyboardInterrupt):
        raise
    except OSError as error:
        raise OptionError(
            f"{what} {name}: {_first_line(error)}",
            "it must be a directory, or a name that the hub or its cache has",
            "check the name and the network",
        ) from error
    except Exception as error:  # each loader has errors of its own for a damaged file
        raise DataError(
            f"{what} {name} can't be read: {_first_line(error)}", "its files must be whole", "restore them"
        ) from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without its progress bars and remarks: a command says one thing in one place."""
    logging = transformers.utils.logging
    before, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(before)
        if had_bars:
            logging.enable_progress_bar()


def _context(config: Any) -> int | None:
    text = config.get_text_config()
    for name in _CONTEXT_NAMES:
        value = getattr(text, name, None)
        if isinstance(value, int) and 0 < value < 10**9:
            return value
    return None


def _prefix(tokenizer: Any, beginning: str) -> tuple[list[int], str]:
    """The token before every text, and how to say it."""
    there = {"bos": tokenizer.bos_token_id, "eos": tokenizer.eos_token_id, "none": None}
    if beginning == "auto":
        beginning = next((name for name in ("bos", "eos") if there[name] is not None), "none")
    if beginning == "none":
        return [], "nothing stands before a text; its first token is not scored"
    token = there[beginning]
    if token is None:
        raise OptionError(
            f"--bos {beginning}", f"the tokenizer has no {beginning} token", "pass --bos auto or --bos none"
        )
    name = tokenizer.convert_ids_to_tokens(token)
    return [token], f"{name} ({beginning}) stands before every text, whose first token is scored"


def _pieces(text: str, offsets: list[tuple[int, int]]) -> list[str]:
    """The text cut where tokens end; a token inside a character, or of none, has an empty piece."""
    ends = [*(end for _, end in offsets[:-1]), len(text)] if offsets else []
    pieces, begin = [], 0
    for end in ends:
        pieces.append(text[begin:end])
        begin = max(begin, end)
    return pieces
