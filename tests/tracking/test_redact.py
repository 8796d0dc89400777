from __future__ import annotations

import logging
from pathlib import Path

import pytest

from clipkit.tracking.redact import (
    MARK,
    RedactingFilter,
    environment_secrets,
    install_redaction,
    is_secret_key,
    redact,
    redact_checkpoint,
    secrets_in,
)

PLANTED = {
    "url password": ("postgresql://me:pa55word@db.example/x", "pa55word"),
    "url token": ("https://ghp_0123456789abcdefABCD@github.com/me/x.git", "ghp_0123456789abcdefABCD"),
    "presigned": ("https://b.example/k?X-Amz-Expires=60&X-Amz-Signature=5f1ce93a", "5f1ce93a"),
    "query token": ("https://h.example/data?split=train&token=q9x8w7", "q9x8w7"),
    "hub": ("hf_aBcDeFgHiJkLmNoPqRsTuVwXyZ012345", "hf_aBcDeFgHiJkLmNoPqRsTuVwXyZ012345"),
    "aws": ("id AKIAIOSFODNN7EXAMPLE", "AKIAIOSFODNN7EXAMPLE"),
    "bearer": ("Authorization: Bearer abc.def-ghi", "abc.def-ghi"),
    "basic": ("{'Authorization': 'Basic dXNlcjpwYXNz'}", "dXNlcjpwYXNz"),
    "assignment": ("AccountKey=Zm9vYmFyYmF6; x", "Zm9vYmFyYmF6"),
    "option": ("clipkit fit --data.api_key k3yk3yk3y -c emoji", "k3yk3yk3y"),
    "yaml": ("user: me\npassword: 'tr0ub4dor'\n", "tr0ub4dor"),
    "private key": ("-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----", "MIIEow"),
    "jwt": ("eyJhbGciOiJI.eyJzdWIiOiIx.SflKxwRJSM", "SflKxwRJSM"),
    "slack": ("https://hooks.slack.com/services/T0/B0/XyZ", "XyZ"),
}

ORDINARY = (
    "emoji", "tokenizer: emoji", "max_tokens=77", "hf_transfer", "hf_hub_download", "pad_token: <pad>", "key: value",
    "http://127.0.0.1:5000/#/experiments/1/runs/abc", "http://host:5000/a@b", "ssh://git@github.com/me/x.git",
    "git@github.com:me/x.git", "s3://bucket/key", "sqlite:///mlflow.db", "unexpected token: else", "tokens: 12",
    "class_token: true", "a secret garden", 'vocab: {"password": 10248, "authorization": 4711, "secret": 12}',
    "12:30:05 INFO lightning: GPU available: False", "keyword: lock with key", "signature: (x, y)",
)  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_credentials_go_and_the_rest_stays(name):
    text, secret = PLANTED[name]
    clean = redact(text)
    assert secret not in clean and MARK in clean
    assert redact(clean) == clean


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_text_survives(text):
    assert redact(text) is text


@pytest.mark.parametrize(
    "key",
    ["password", "db_password", "apiKey", "API_KEY", "wandb_api_key", "hf_token", "token", "data.train.token",
     "clientSecret", "aws_secret_access_key", "private_key", "credentials", "Authorization", "accessToken",
     "github-token"],
)  # fmt: skip
def test_secret_keys(key):
    assert is_secret_key(key)
    assert redact({key: "value of it"}) == {key: MARK}


@pytest.mark.parametrize(
    "key",
    ["tokenizer", "tokens", "max_tokens", "token_length", "pad_token", "eos_token", "class_token", "reg_tokens",
     "text_token", "key", "keywords", "monkey", "secretary", "patience", "author", "pass", "passes", "global_pool",
     "num_token"],
)  # fmt: skip
def test_ordinary_keys(key):
    assert not is_secret_key(key)
    assert redact({key: "value of it"}) == {key: "value of it"}


def test_structure_and_types_survive():
    path = Path("a/b")
    config = {
        "model": {"text": {"tokenizer": "emoji", "pad_token": "<pad>"}},
        "data": {
            "train": ["a", "https://u:p@h/x"],
            "token": True,
            "secrets": {"one": "1a", "none": None},
            "n": (1, 2.5),
        },
        "password": 123456,
        "path": path,
    }
    clean = redact(config)
    assert clean["model"] is config["model"] and clean["path"] is path and clean["data"]["n"] == (1, 2.5)
    assert clean["data"]["train"] == ["a", f"https://{MARK}@h/x"]
    assert clean["data"]["secrets"] == {"one": MARK, "none": None} and clean["data"]["token"] is True
    assert clean["password"] == MARK
    assert config["data"]["train"][1] == "https://u:p@h/x"


def test_known_secrets_are_replaced_anywhere():
    config = {"data": {"password": "correct horse", "name": "x"}, "token": "short"}
    assert secrets_in(config) == {"correct horse"}
    assert redact({"note": "try correct horse, then x"}, secrets_in(config)) == {"note": f"try {MARK}, then x"}


def test_environment_secrets(monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "from-the-environment")
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "falsefalsefalse")
    assert "from-the-environment" in environment_secrets()
    assert not {"falsefalsefalse", str(Path.cwd())} & environment_secrets()


def test_checkpoint_keeps_weights_and_vocabulary():
    vocabulary = '{"password": 10, "secret": "x"}' + " " * 20_000
    checkpoint = {
        "state_dict": {"password": 1}, "inputs": {"tokenizer": vocabulary, "vocab": {"password": 10}},
        "hyper_parameters": {"token": "abcdefgh", "lr": 0.1},
    }  # fmt: skip
    redact_checkpoint(checkpoint)
    assert checkpoint["state_dict"] == {"password": 1}
    assert checkpoint["inputs"] == {"tokenizer": vocabulary, "vocab": {"password": 10}}
    assert checkpoint["hyper_parameters"] == {"token": MARK, "lr": 0.1}


def test_filter_cleans_message_arguments_and_traceback():
    try:
        raise ValueError("no access to https://u:p4ssw0rd@h/x")
    except ValueError as error:
        record = logging.LogRecord(
            "a", logging.ERROR, "f", 1, "at %s", ("s3://k:s3cr3t@b",), (type(error), error, None)
        )
    assert RedactingFilter().filter(record)
    text = logging.Formatter().format(record)
    assert "s3cr3t" not in text and "p4ssw0rd" not in text and MARK in text


def test_filter_leaves_clean_records_alone():
    record = logging.LogRecord("a", logging.INFO, "f", 1, "at %s", ("x",), None)
    RedactingFilter().filter(record)
    assert record.msg == "at %s" and record.args == ("x",)


def test_every_log_line_is_cleaned_once_installed(caplog, monkeypatch):
    monkeypatch.setattr("clipkit.tracking.redact._FILTER", RedactingFilter())
    install_redaction(["a known one"])
    install_redaction(["another known one"])
    with caplog.at_level(logging.INFO):
        logging.getLogger("anyone").info("%s, %s, hf_aBcDeFgHiJ0123456789", "a known one", "another known one")
    assert caplog.messages == [f"{MARK}, {MARK}, {MARK}"]
