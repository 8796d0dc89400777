from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from clipkit.cli import replay
from clipkit.cli.explain import ConfigError
from clipkit.tracking.spool import RunCard, Spool


def parse(*words):
    parser = argparse.ArgumentParser()
    replay.add_arguments(parser)
    return parser.parse_args(words)


@pytest.fixture
def left_behind():
    """A run whose process died before it could send anything."""
    spool = Spool(Path("runs/emoji/one/spool"))
    uri = f"sqlite:///{Path('mlflow.db').absolute()}"
    spool.save_card(RunCard(uri, "emoji", "one", "one", started=1_700_000_000_000))
    for step in range(3):
        spool.append({"kind": "metrics", "step": step, "time": 1_700_000_000_000 + step, "values": {"a": step}})
    spool.release()
    return spool


def test_everything_is_sent_once(left_behind, capsys):
    from mlflow import MlflowClient

    assert replay.run(parse()) == 0
    run_id = left_behind.card().run_id
    assert capsys.readouterr().out == f"runs/emoji/one: sent 5 records to run {run_id}\n"
    client = MlflowClient(tracking_uri=left_behind.card().uri)
    assert [metric.step for metric in client.get_metric_history(run_id, "a")] == [0, 1, 2]
    assert client.get_run(run_id).info.status == "FAILED"
    assert client.get_run(run_id).info.start_time == 1_700_000_000_000
    assert replay.run(parse("runs/emoji/one/spool")) == 0
    assert capsys.readouterr().out == "nothing waits in runs/emoji/one/spool\n"


def test_what_cannot_be_sent_is_said(left_behind, capsys):
    left_behind.save_card(RunCard("http://[redacted]@host", "emoji", "one", "one", started=1))
    assert replay.run(parse()) == 1
    assert capsys.readouterr().out.startswith(
        "runs/emoji/one: 3 records wait: its records are for http://[redacted]@host"
    )
    assert replay.run(parse("runs", "--tracking-uri", "http://me:pw@127.0.0.1:9")) == 1


def test_a_folder_without_runs():
    with pytest.raises(ConfigError, match="no folder runs"):
        replay.run(parse())
    Path("runs").mkdir()
    with pytest.raises(ConfigError, match="no run that was tracked"):
        replay.run(parse())


def test_help_is_light():
    heavy = ("torch", "mlflow", "lightning", "clipkit.tracking")
    code = f"import sys, clipkit.cli.replay; sys.exit(any(name in sys.modules for name in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
