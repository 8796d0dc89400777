"""The logger's own ways, with no server anywhere; what arrives is in test_server.py."""

from __future__ import annotations

import json
import logging
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from lightning.pytorch.utilities import rank_zero_only

from clipkit.tracking import MLflowLogger, run_of_checkpoint
from clipkit.tracking.spool import RunCard, Spool


@pytest.fixture
def nobody(monkeypatch):
    """A server's address where nobody answers, and no patience with it."""
    monkeypatch.setattr("clipkit.tracking.journal._PATIENCE", 0.0)
    monkeypatch.setattr("clipkit.tracking.ship.Shipper._round", lambda self: 1 / 0)
    return "http://me:s3cr3tpw@127.0.0.1:9"


def records(logger):
    return [json.loads(line) for line in (Path(logger.spool_dir) / "records.jsonl").read_text().splitlines()]


def test_a_run_has_its_place_before_there_is_a_server(nobody, own_folder):
    logger = MLflowLogger(nobody, experiment="a/b: c", run_name="try #1")
    assert list(own_folder.iterdir()) == []  # nothing is made before the first record
    assert (logger.save_dir, logger.name, logger.root_dir) == ("runs", "a_b_c", "runs/a_b_c")
    assert logger.version.startswith("try_1-") and logger.log_dir == f"runs/a_b_c/{logger.version}"
    assert logger.version != MLflowLogger(nobody, run_name="try #1").version
    assert (logger.run_id, logger.experiment_id, logger.run_url, logger.unsent) == (None, None, None, 0)
    assert logger.closing_lines() == []
    logger.finalize("success")
    assert list(own_folder.iterdir()) == []


def test_what_waits_is_said_with_the_line_that_sends_it(nobody):
    logger = MLflowLogger(nobody, system_metrics=False)
    logger.log_metrics({"a": 1}, 0)
    logger.finalize("success")
    assert logger.closing_lines() == [
        "2 records have not reached http://[redacted]@127.0.0.1:9; to send them:",
        f"clipkit replay {logger.spool_dir}",
    ]
    assert logger.ui_command is None
    assert Spool(Path(logger.spool_dir)).card().uri == "http://[redacted]@127.0.0.1:9"


def test_records_after_the_end_are_taken_too(nobody):
    logger = MLflowLogger(nobody, system_metrics=False)
    logger.log_metrics({"a": 1}, 0)
    logger.finalize("success")
    logger.log_metrics({"b": 2}, 1)
    logger.finalize("failed")
    assert [record.get("status") for record in records(logger)] == [None, "FINISHED", None, "FAILED"]
    assert Spool(Path(logger.spool_dir)).card().resumed == 0


def test_only_rank_zero_writes(nobody, own_folder, monkeypatch):
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    logger = MLflowLogger(nobody)
    logger.log_hyperparams({"a": 1})
    logger.log_metrics({"a": 1.0})
    logger.log_tags({"a": "b"})
    logger.log_text("a", "a.txt")
    logger.finalize("success")
    assert list(own_folder.iterdir()) == []


def test_it_can_be_pickled_while_it_writes(nobody):
    logger = MLflowLogger(nobody, system_metrics=False)
    logger.log_metrics({"a": 1}, 0)
    assert pickle.loads(pickle.dumps(logger)).version == logger.version
    logger.finalize("success")


def test_a_full_disk_costs_no_run(nobody, monkeypatch, caplog):
    logger = MLflowLogger(nobody, system_metrics=False)
    logger.log_metrics({"a": 1}, 0)

    def full(self, record):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Spool, "append", full)
    with caplog.at_level(logging.ERROR):
        for step in range(5):
            logger.log_metrics({"a": 1}, step)
        logger.log_hyperparams({"a": 1})
        logger.finalize("success")
    assert sum("records are lost" in message for message in caplog.messages) == 1


def test_finding_the_run_to_continue(nobody):
    first = MLflowLogger(nobody, experiment="one", system_metrics=False)
    first.log_metrics({"a": 1}, 0)
    first.finalize("success")
    spool = Spool(Path(first.spool_dir))
    card = spool.card()
    card.run_id = "0123456789abcdef"
    spool.save_card(card)
    checkpoint = Path(first.log_dir) / "checkpoints" / "last.ckpt"
    assert run_of_checkpoint(checkpoint) == first.version and run_of_checkpoint("elsewhere/last.ckpt") is None
    for run_id in (first.version, "0123456789abcdef"):
        again = MLflowLogger(nobody, experiment="two", run_id=run_id)
        assert (again.version, again.name) == (first.version, "one")
    assert MLflowLogger(nobody, experiment="two", run_id="fedcba").log_dir == "runs/two/fedcba"


def test_a_changed_parameter_is_compared_with_its_last_value(nobody):
    logger = MLflowLogger(nobody, system_metrics=False)
    for value in (1, 1, 2, 2):
        logger.log_hyperparams({"a": value})
    logger.finalize("success")
    assert [record["values"] for record in records(logger) if record["kind"] == "params"] == [
        {"a": "1"}, {"a.resumed_1": "2"},
    ]  # fmt: skip


SCRIPT = """
from clipkit.tracking import MLflowLogger
from clipkit.tracking import journal, ship
journal._PATIENCE, ship.Shipper._round = 0.0, lambda self: 1 / 0
MLflowLogger("http://127.0.0.1:9", run_id="script", system_metrics=False).log_metrics({"a": 1.0}, 0)
raise ValueError
"""


def test_a_script_that_breaks_has_a_failed_run():
    subprocess.run([sys.executable, "-c", SCRIPT], check=False, capture_output=True, timeout=200)
    card = Spool(Path("runs/clipkit/script/spool")).card()
    assert card == RunCard(card.uri, "clipkit", "script", "script", card.started, run_id="script", ended="FAILED")


def test_a_script_that_ends_without_a_word_has_a_finished_run(nobody):
    logger = MLflowLogger(nobody, system_metrics=False)
    logger.log_metrics({"a": 1}, 0)
    logger._at_exit()
    assert records(logger)[-1]["status"] == "FINISHED"
