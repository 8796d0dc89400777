"""Keeping credentials out of everything that is written: parameters, tags, artifacts, checkpoints, log lines.

``redact`` is a pure function over plain data. It goes by three things: the name of a key (``api_key``, ``hf_token``),
the shape of a value (``hf_...``, ``Bearer ...``, a private key block) and the places of a URL that carry credentials.
"""

from __future__ import annotations

import logging
import os
import re
import traceback
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import PurePath
from typing import Any, NamedTuple

__all__ = [
    "MARK", "RedactingFilter", "environment_secrets", "install_redaction", "is_secret_key", "known_secrets", "redact",
    "redact_checkpoint", "secrets_in",
]  # fmt: skip

MARK = "[redacted]"

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
# fmt: off
_SECRET_WORDS = frozenset({
    "password", "passwd", "passcode", "passphrase", "pwd", "secret", "secrets", "credential", "credentials", "cookie",
    "authorization", "apikey", "accesskey", "secretkey", "privatekey", "accountkey", "sharedaccesskey", "apitoken",
    "authtoken", "accesstoken",
})
_KEY_OWNERS = frozenset({
    "access", "account", "api", "encryption", "master", "private", "secret", "shared", "signing", "ssh",
})
# `pad_token`, `cls_token`, `text_token` and their like name parts of a vocabulary or of a sequence, not credentials
_VOCABULARY = frozenset({
    "additional", "audio", "begin", "bos", "class", "cls", "dec", "decoder", "dist", "distill", "enc", "encoder", "end",
    "eos", "eot", "first", "image", "last", "mask", "max", "min", "next", "num", "pad", "pool", "prefix", "prev", "reg",
    "register", "sep", "sot", "special", "start", "stop", "suffix", "text", "unk", "unknown", "video", "vision",
})
# fmt: on
_SPECIAL_TOKEN = re.compile(r"<.*>|\[.*\]", re.DOTALL)
_SHORTEST_KNOWN = 6

# In each, what follows ``head`` is the credential.
_URL_USER = re.compile(r"(?P<head>\bhttps?://)(?P<secret>[^\s/'\"?#@]+(?:@[^\s/'\"?#@]+)*)(?=@)", re.IGNORECASE)
_URL_PASSWORD = re.compile(
    r"(?P<head>\b[a-z][a-z0-9+.-]*://)(?P<secret>[^\s/'\"?#:@]*:[^\s/'\"?#]+)(?=@)", re.IGNORECASE
)
_URL_QUERY = re.compile(
    r"(?P<head>[?&;](?:x-(?:amz|goog)-(?:signature|credential|security-token)|signature|awsaccesskeyid|googleaccessid|sig|"
    r"key|auth|(?:[\w-]*[_-])?(?:token|secret|password|passwd|pwd|api[_-]?key))=)(?P<secret>[^&\s#'\"<>]+)",
    re.IGNORECASE,
)
_AUTHORIZATION = re.compile(
    r"(?P<head>authorization['\"]?\s*[:=]\s*['\"]?(?:(?:basic|bearer|token|digest)\s+)?)(?!\d+\b)(?P<secret>[^\s'\",}]+)",
    re.IGNORECASE,
)
_BEARER = re.compile(r"(?P<head>\bbearer\s+)(?P<secret>[\w.~+/=-]{8,})", re.IGNORECASE)
_OPTION = re.compile(
    r"(?P<head>--[\w.-]*?(?:password|passwd|secret|token|api[_-]?key)[= ]+)(?P<secret>(?![-\s])[^\s'\",]+)",
    re.IGNORECASE,
)
_PLACES = (_URL_USER, _URL_PASSWORD, _URL_QUERY, _AUTHORIZATION, _BEARER, _OPTION)
_NAMED = re.compile(
    r"(?P<key>[A-Za-z_][\w.-]*)(?P<sep>['\"]?\s*[=:]\s*)(?P<value>\"[^\"\n]*\"|'[^'\n]*'|[^\s,;&'\"(){}\[\]]+)"
)
_TOKEN = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|\bhf_(?:(?=[a-z]*[A-Z0-9])[A-Za-z0-9]{8,}|[a-z]{20,})"
    r"|\bgh[pousr]_[A-Za-z0-9]{16,}|\bgithub_pat_\w{20,}|\bglpat-[\w-]{16,}"
    r"|\bxox[abeoprs]-[\w-]{10,}|hooks\.slack\.com/services/[\w/]+"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{12,}|\bAIza[\w-]{30,}|\bya29\.[\w-]{10,}"
    r"|\bsk-(?=[\w-]*\d)[\w-]{20,}|\b(?:npm_|pypi-|dop_v1_)[\w-]{20,}|\bdapi[0-9a-f]{28,}"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*",
    re.DOTALL,
)


def is_secret_key(key: str) -> bool:
    """Whether a key's name says that its value is a credential: ``db_password``, ``apiKey``, ``hf_token``.

    Only the last part of a dotted key counts. ``tokenizer``, ``tokens``, ``max_tokens`` and ``pad_token`` are ordinary.
    """
    words = [word.lower() for word in _WORD.findall(re.split(r"[./]", key)[-1])]
    if _SECRET_WORDS.intersection(words):
        return True
    if any(first in _KEY_OWNERS and second == "key" for first, second in pairwise(words)):
        return True
    return _ends_in_token(words)


def redact(value: Any, known: Iterable[str] = ()) -> Any:
    """Plain data with its credentials replaced by ``[redacted]``; what holds none is returned as it was.

    Args:
        value: Dicts, lists, tuples, strings and paths, nested; other objects pass through.
        known: Credentials to replace literally wherever they stand, for those with no shape of their own.

    Returns:
        A redacted copy, or ``value`` itself. Redacting twice changes nothing more.
    """
    return _redact(value, _Rules(_longest_first(known)))


def redact_checkpoint(checkpoint: dict[str, Any], known: Iterable[str] = ()) -> None:
    """Redact in place what a checkpoint holds besides weights and training state.

    Numbers and long texts stay: a vocabulary may well hold the word "password", and must come back as it was.

    Args:
        checkpoint: As Lightning writes it.
        known: Credentials to replace literally.
    """
    rules = _Rules(_longest_first(known), numbers=False, longest=10_000)
    for key in checkpoint.keys() - {"state_dict", "optimizer_states", "lr_schedulers", "loops"}:
        checkpoint[key] = _redact(checkpoint[key], rules)


def secrets_in(value: Any) -> set[str]:
    """The credentials that nested plain data names or has in URLs, to be given to ``redact`` as ``known``."""
    return {text for text in _secrets_in(value, secret=False) if len(text) >= _SHORTEST_KNOWN and text != MARK}


def environment_secrets() -> set[str]:
    """The values of this process's environment variables that have secret names (``HF_TOKEN`` and the like)."""
    named = (value for name, value in os.environ.items() if name != "PWD" and is_secret_key(name))
    return {value for value in named if len(value) >= 8 and not value.startswith(("/", "~"))}


class RedactingFilter(logging.Filter):
    """A logging filter that rewrites a record's message and traceback without credentials, and drops nothing.

    Args:
        known: Credentials to replace literally; the set may grow after construction.
    """

    def __init__(self, known: Iterable[str] = ()) -> None:
        super().__init__()
        self.known = set(known)

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact in place; always true."""
        try:
            message = record.getMessage()
        except (TypeError, ValueError):  # arguments that do not fit the format: logging reports it better
            return True
        clean = redact(message, self.known)
        if clean != message:  # otherwise the arguments stay, for formatters that read them
            record.msg, record.args = clean, ()
        if record.exc_info and record.exc_info[1] is not None and not record.exc_text:
            text = "".join(traceback.format_exception(record.exc_info[1])).rstrip("\n")
            clean = redact(text, self.known)
            record.exc_text = clean if clean != text else None
        return True


_FILTER = RedactingFilter()


def known_secrets() -> frozenset[str]:
    """The credentials that this process has been told of by ``install_redaction``."""
    return frozenset(_FILTER.known)


def install_redaction(known: Iterable[str] = ()) -> None:
    """Redact every log record of this process, whatever its logger and handler; may be called again with more.

    Args:
        known: Credentials to replace literally, see ``secrets_in`` and ``environment_secrets``.
    """
    _FILTER.known.update(known)
    make = logging.getLogRecordFactory()
    if getattr(make, "redacts", False):
        return

    def make_redacted(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        _FILTER.filter(record)
        return record

    make_redacted.redacts = True  # type: ignore[attr-defined]  # a mark of our own
    logging.setLogRecordFactory(make_redacted)


class _Rules(NamedTuple):
    known: tuple[str, ...]
    numbers: bool = True  # whether a number under a secret key is hidden
    longest: int | None = None  # characters from which on a text is left alone


def _longest_first(known: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({text for text in known if len(text) >= _SHORTEST_KNOWN}, key=len, reverse=True))


def _ends_in_token(words: list[str]) -> bool:
    return words[-1:] == ["token"] and not _VOCABULARY.intersection(words[-2:-1])


def _redact(value: Any, rules: _Rules) -> Any:
    """The same object where nothing in it changes, so that its type survives."""
    if isinstance(value, str):
        clean: Any = _redact_text(value, rules)
        return value if clean == value else clean
    if isinstance(value, Mapping):
        clean = {_redact(key, rules): _redact_item(key, item, rules) for key, item in value.items()}
        same = all(a is b for a, b in zip(clean, value, strict=False)) and all(
            clean.get(k) is v for k, v in value.items()
        )
        return value if same else clean
    if isinstance(value, list | tuple):
        items = [_redact(item, rules) for item in value]
        if all(a is b for a, b in zip(items, value, strict=True)):
            return value
        if isinstance(value, list):
            return items
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, PurePath):
        text = _redact_text(str(value), rules)
        return value if text == str(value) else type(value)(text)
    return value


def _redact_item(key: Any, value: Any, rules: _Rules) -> Any:
    if not isinstance(key, str) or not is_secret_key(key):
        return _redact(value, rules)
    if isinstance(value, Mapping) and key.lower().endswith("token"):  # a component that is called token
        return _redact(value, rules)
    return _blank(value, key, rules)


def _blank(value: Any, key: str, rules: _Rules) -> Any:
    """Hide every leaf under a secret key; truth values, None and (under ``token``) numbers say nothing secret."""
    if isinstance(value, Mapping):
        return {name: _blank(item, key, rules) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_blank(item, key, rules) for item in value]
    if isinstance(value, int | float) and not rules.numbers:
        return value
    return MARK if _is_secret_value(key, value) else value


def _is_secret_value(key: str, value: Any) -> bool:
    if value is None or isinstance(value, bool) or value == "":
        return False
    if not key.lower().endswith("token"):
        return isinstance(value, str | bytes | int | float)
    return isinstance(value, str) and not value.isdigit() and not _SPECIAL_TOKEN.fullmatch(value)


def _redact_text(text: str, rules: _Rules) -> str:
    if rules.longest is not None and len(text) > rules.longest:
        return text
    for secret in rules.known:
        text = text.replace(secret, MARK)
    text = _TOKEN.sub(MARK, text)
    for pattern in _PLACES:
        text = pattern.sub(rf"\g<head>{MARK}", text)
    return _NAMED.sub(_redact_named, text)


def _redact_named(found: re.Match[str]) -> str:
    """``password = hunter2`` in running text, in YAML, in JSON or in a printed dict."""
    key, separator, value = found["key"], found["sep"], found["value"]
    bare = value.strip("'\"")
    if not is_secret_key(key) or bare.startswith(MARK) or bare.lower() in {"", "none", "null", "true", "false"}:
        return found[0]
    if value.isdigit():  # a bare number: a line of a vocabulary ("password": 10248) far sooner than a credential
        return found[0]
    if key.lower().endswith("token") and len(bare) < 6:  # prose: "unexpected token: else"
        return found[0]
    if not _is_secret_value(key, bare):
        return found[0]
    quote = value[0] if value[0] in "'\"" else ""
    return f"{key}{separator}{quote}{MARK}{quote}"


def _secrets_in(value: Any, secret: bool) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _secrets_in(item, secret or (isinstance(key, str) and _holds_secret(key, item)))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _secrets_in(item, secret)
    elif isinstance(value, str):
        if secret:
            yield value
        for pattern in _PLACES:
            yield from (found["secret"].partition(":")[2] or found["secret"] for found in pattern.finditer(value))


def _holds_secret(key: str, value: Any) -> bool:
    if not is_secret_key(key):
        return False
    return not isinstance(value, Mapping) if key.lower().endswith("token") else True
