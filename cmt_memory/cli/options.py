"""Options that several commands share, and what they stand for: a model, a store."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from cmt_memory.documents import LONGEST_TTL
from cmt_memory.errors import CMTError, InvalidInputError

if TYPE_CHECKING:
    from cmt_memory.model import CMTModel
    from cmt_memory.store import CMTMemoryStore

DEFAULT_MODEL = "cmt-tiny"
_DEBUG = "cmt_memory.debug"
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}

F = TypeVar("F", bound=Callable[..., Any])


def debugging(ctx: click.Context) -> bool:
    """Whether `--debug` was given."""
    return bool(ctx.meta.get(_DEBUG))


def _set_debug(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    ctx.meta[_DEBUG] = value


debug_option = click.option(
    "--debug",
    is_flag=True,
    expose_value=False,
    callback=_set_debug,
    help="Show the traceback of an error, and more of what happens.",
)
S = TypeVar("S")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of text.")


def config_option(of: str) -> Callable[[F], F]:
    """The option `--config`, a YAML file of something; the function gets its `path`."""
    return click.option(
        "--config",
        "path",
        required=True,
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help=f"YAML file of the {of}.",
    )


@contextmanager
def resumable(kept: Callable[[], str]) -> Iterator[None]:
    """End with code 1 on Ctrl-C, and with a sentence on what was `kept` for the same command to go on from."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"Interrupted: {kept()}", err=True)
        raise click.exceptions.Exit(1) from None


def checked_config(read: Callable[[Path], S], path: Path) -> S:
    """What a configuration file says.

    Raises:
        click.UsageError: the file is wrong.
    """
    try:
        return read(path)
    except InvalidInputError as error:
        raise click.UsageError(" ".join(str(error).split())) from error


class Latent(click.ParamType[int | str]):
    """A whole number of at least 1, or `full`."""

    name = "N|full"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | Literal["full"]:
        """Read the option's value."""
        if value == "full":
            return "full"
        try:
            number = int(value)
        except (TypeError, ValueError):
            number = 0
        if number < 1:
            self.fail(f"{value!r} is neither a whole number of at least 1 nor 'full'.", param, ctx)
        return number


class Lifetime(click.ParamType[float]):
    """A number of seconds, or one with a unit: `90s`, `45m`, `12h`, `30d`, `2w`."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read the option's value; returns seconds."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw]?)", str(value).strip().lower(), re.ASCII)
        seconds = float(found[1]) * _SECONDS[found[2]] if found else 0.0
        if not 0 < seconds <= LONGEST_TTL:
            self.fail(
                f"{value!r} is not a time: give seconds, or a number with s, m (minutes), h, d or w, such as 12h or "
                f"30d; at most {LONGEST_TTL // _SECONDS['d']:,}d.",
                param,
                ctx,
            )
        return seconds


def ttl_option(function: F) -> F:
    """`--ttl`: how long documents are kept."""
    return click.option(
        "--ttl",
        type=Lifetime(),
        metavar="TIME",
        help="Keep these documents so long, counted from now: seconds, or 45m, 12h, 30d, 2w.  "
        "[default: until they are deleted]",
    )(function)


def model_option(help: str) -> Callable[[F], F]:
    """`--model`, with what it means for this command."""
    return click.option("--model", metavar="NAME", help=help)


def ratio_option(function: F) -> F:
    """`--ratio`: document tokens per slot."""
    return click.option(
        "--ratio",
        type=click.IntRange(1, 256),
        help="Document tokens per memory slot: 1 keeps every position, 4 a quarter of them.",
    )(function)


def latent_option(function: F) -> F:
    """`--latent`: numbers per slot."""
    return click.option(
        "--latent",
        type=Latent(),
        metavar="N|full",
        help="Numbers per slot: fewer is smaller on disk. 'full' keeps the LM's own keys and values.  "
        "[default: full at ratio 1, else 256]",
    )(function)


def encoder_option(function: F) -> F:
    """`--encoder`: the sentence encoder for search."""
    return click.option(
        "--encoder",
        metavar="NAME",
        help="Sentence encoder for search: a hub id, a folder, 'auto', or 'none' for words (BM25) alone.  "
        "[default: auto]",
    )(function)


def store_option(*, required: bool = True, exists: bool = True, help: str = "The store's folder.") -> Callable[[F], F]:
    """`--store DIR`; with `exists`, a folder without a store in it is wrong use."""

    def check(ctx: click.Context, param: click.Parameter, value: Path | None) -> Path | None:
        if exists and value is not None and not is_store(value):
            raise click.BadParameter(
                f"there is no store at {str(value)!r}; `cmt-memory add PATH --store {value}` makes one."
            )
        return value

    return click.option(
        "--store",
        "path",
        type=click.Path(file_okay=False, path_type=Path),
        required=required,
        metavar="DIR",
        callback=check,
        help=help,
    )


def is_store(path: Path) -> bool:
    """Whether a folder holds a store."""
    return (path / "ledger.sqlite3").is_file()


def open_store(
    path: Path,
    *,
    model: str | None = None,
    ratio: int | None = None,
    latent: int | Literal["full"] | None = None,
    encoder: str | None = None,
    read_only: bool = False,
) -> CMTMemoryStore:
    """Open or make a store; what is not given is as the store was made, or the default.

    Raises:
        CMTError: the model cannot be loaded, or the store cannot be opened with it.
    """
    quiet()
    from cmt_memory.store import CMTMemoryStore

    loaded = load(model or stored_model(path) or DEFAULT_MODEL, ratio, latent)
    return CMTMemoryStore(path, loaded, encoder=None if encoder == "none" else encoder or "auto", read_only=read_only)


def load(name: str, ratio: int | None = None, latent: int | Literal["full"] | None = None) -> CMTModel:
    """A model by name, with settings of the caller's.

    Raises:
        CMTError: it cannot be loaded, or a saved model is asked for another latent than it was made with.
    """
    from cmt_memory.model import CMTModel
    from cmt_memory.model.loading import bundled

    own = bundled(name)
    saved = ((own or Path(name)) / "cmt.safetensors").is_file()
    try:
        if saved and latent is None:
            return CMTModel.from_pretrained(name, ratio=ratio)
        if saved and own is None:
            raise InvalidInputError(f"{name} was saved with its own latent; leave --latent out.")
        return CMTModel.from_llm(name, ratio=ratio, latent=latent)
    except CMTError:
        raise
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise CMTError(f"The model {name!r} cannot be loaded: {reason} Name another with --model.") from error


def model_for_recompress(
    path: Path, model: str | None, ratio: int | None, latent: int | Literal["full"] | None
) -> CMTModel:
    """The model that a store's memories are to be made with: what is not given is as the store has it.

    Raises:
        CMTError: the model cannot be loaded.
    """
    quiet()
    stored = _stored_settings(path)
    if model is None and (stored.get("adapter") or stored.get("encoder")):
        if latent is not None:
            raise InvalidInputError("The trained compressor of these memories has its own latent; leave --latent out.")
        return _trained_model(path, stored, ratio)
    name = model or stored.get("lm") or DEFAULT_MODEL
    if ratio is None:
        ratio, latent = stored.get("ratio"), latent or stored.get("latent")
    if (Path(name) / "cmt.safetensors").is_file() and model is not None:
        latent = None  # a saved model brings its own
    return load(name, ratio, latent)


def _trained_model(path: Path, stored: dict[str, Any], ratio: int | None) -> CMTModel:
    """The store's own trained compressor, at another ratio if one is given."""
    from safetensors.torch import load as tensors_from_bytes

    from cmt_memory.bank.bank import MemoryBank
    from cmt_memory.model.config import CMTConfig

    bank = MemoryBank(path, read_only=True)
    try:
        tensors = tensors_from_bytes(bank.asset("model") or b"")
    finally:
        bank.close()
    if ratio is not None and stored.get("encoder") is not None:
        raise InvalidInputError("The compressor of these memories has its own number of slots; leave --ratio out.")
    config = CMTConfig.model_validate(stored | {"ratio": ratio or stored["ratio"], "fingerprint": {}})
    return load(stored["lm"] or DEFAULT_MODEL, None, None).with_state(config, tensors)


def stored_model(path: Path) -> str | None:
    """The LM that a store was made with, as `from_llm` takes it; None for a new store."""
    return _stored_settings(path).get("lm") or None


def _stored_settings(path: Path) -> dict[str, Any]:
    if not is_store(path):
        return {}
    from cmt_memory.bank.bank import MemoryBank

    bank = MemoryBank(path, read_only=True)
    try:
        return bank.meta("model") or {}
    finally:
        bank.close()


def quiet() -> None:
    """Keep the libraries below us still; with `--debug`, let everyone speak."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if debugging(click.get_current_context()):
        logging.basicConfig(format="%(name)s: %(message)s")
        logging.getLogger("cmt_memory").setLevel(logging.DEBUG)
        return
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for name in ("chromadb", "sentence_transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
