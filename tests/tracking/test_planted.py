"""Ten credentials are planted wherever a run can pick them up; then everything that was written is searched."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils.data import DataLoader

from clipkit.tracking import MLflowLogger, TrackRun

# fmt: off
PLANTED = {
    "url": "tr0ub4dor3", "presigned": "5f1ce93a7b", "query": "q9x8w7v6u5",
    "hub": "hf_aBcDeFgHiJkLmNoPqRsTuVwXyZ012345", "github": "ghp_0123456789abcdefABCDEF0123456789abcd",
    "aws": "AKIAIOSFODNN7EXAMPLE", "password": "correct horse battery", "api_key": "k3y-of-no-known-shape",
    "bearer": "abc.def-ghi_jkl", "environment": "only in the environment",
}
# fmt: on

CONFIG = {
    "model": {
        "lr": 0.1, "text": {"tokenizer": "emoji", "max_tokens": 77, "pad_token": "<pad>"},
        "hub_token": PLANTED["hub"], "note": f"fetched with {PLANTED['github']} by {PLANTED['aws']}",
    },
    "data": {
        "train": f"https://me:{PLANTED['url']}@host.example/rows.parquet",
        "val": f"s3://bucket/key?X-Amz-Expires=9&X-Amz-Signature={PLANTED['presigned']}",
        "extra": [f"https://host.example/x?token={PLANTED['query']}&part=1"],
        "storage": {"password": PLANTED["password"], "api_key": PLANTED["api_key"]},
        "headers": {"Authorization": f"Bearer {PLANTED['bearer']}"},
    },
}  # fmt: skip


class Careless(pl.LightningModule):
    def __init__(self, config, token):
        super().__init__()
        self.save_hyperparameters()
        self.layer = nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        logging.getLogger("careless").warning(
            "with %s, that is %s", self.hparams.config["data"], list(PLANTED.values())
        )
        return self.layer(batch).sum()

    def on_save_checkpoint(self, checkpoint):
        checkpoint["made_from"] = {"api_key": PLANTED["api_key"], "words": ["the", PLANTED["password"]], "size": 3}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def planted(monkeypatch):
    monkeypatch.setenv("DEPLOY_TOKEN", PLANTED["environment"])
    monkeypatch.setattr(sys, "argv", ["/usr/bin/clipkit", "fit", "--data.token", PLANTED["query"], "-c", "emoji"])
    return PLANTED


def found_in(folder, secrets):
    hits = []
    for path in (path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        hits += [
            (path.relative_to(folder).as_posix(), name)
            for name, secret in secrets.items()
            if secret.encode() in content
        ]
    return hits


def fit(logger, fails=False):
    module = Careless(CONFIG, PLANTED["hub"])
    checkpoints = [
        ModelCheckpoint(filename="all"),
        ModelCheckpoint(filename="weights", save_weights_only=True, every_n_train_steps=2),
    ]
    trainer = pl.Trainer(
        max_epochs=1, logger=logger, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False,
        callbacks=[TrackRun(CONFIG), *checkpoints],
    )  # fmt: skip
    if fails:
        module.training_step = lambda *_: (_ for _ in ()).throw(ValueError(f"no luck with {list(PLANTED.values())}"))
    trainer.fit(module, DataLoader(torch.ones(2, 2)))
    return checkpoints


def test_ten_planted_credentials_are_written_nowhere(planted, own_folder, caplog):
    logger = MLflowLogger(
        tags={"made with": f"password={planted['password']}", "token": planted["hub"]}, run_name=planted["github"],
        experiment=f"by {planted['aws']}", system_metrics=False,
    )  # fmt: skip
    checkpoints = fit(logger)
    logger.log_text(f"the headers were {CONFIG['data']['headers']}, {planted['environment']}", "notes.txt")
    (own_folder / "plan.json").write_text(str(list(planted.values())))
    logger.log_artifact("plan.json", f"of {planted['aws']}")
    (own_folder / "plan.json").unlink()
    logger.finalize("success")

    assert logger.unsent == 0 and found_in(own_folder, planted) == []
    assert len(caplog.messages) > 0 and not [name for name, secret in planted.items() if secret in caplog.text]
    written = {path.name for path in own_folder.rglob("*")}
    assert {
        "records.jsonl",
        "mlflow.db",
        "config.yaml",
        "all.ckpt",
        "weights.ckpt",
        "notes.txt",
        "plan.json",
    } <= written

    stored = Path(logger.log_dir, "config.yaml").read_text()
    assert "tokenizer: emoji" in stored and "max_tokens: 77" in stored and "<pad>" in stored
    assert "X-Amz-Expires=9" in stored and "host.example/rows.parquet" in stored
    for checkpoint in checkpoints:
        saved = torch.load(checkpoint.best_model_path, weights_only=True)
        assert saved["made_from"] == {"api_key": "[redacted]", "words": ["the", "[redacted]"], "size": 3}
        assert saved["hyper_parameters"]["config"]["model"]["text"] == CONFIG["model"]["text"]
    assert Careless(CONFIG, "x").hparams.config["data"]["storage"]["password"] == planted["password"]


def test_nor_by_another_logger_or_in_an_error(planted, own_folder, caplog):
    with pytest.raises(ValueError, match="no luck"):
        fit(CSVLogger("runs"), fails=True)
    assert found_in(own_folder, planted) == []
    assert {"config.yaml", "error.txt"} <= {path.name for path in own_folder.rglob("*")}
