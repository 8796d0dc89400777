from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time

import pytest

from clipkit.tracking import destination
from clipkit.tracking.destination import absolute_uri, is_local, usable_uri


def test_absolute_uri(own_folder):
    assert absolute_uri("sqlite:///mlflow.db") == f"sqlite:///{own_folder}/mlflow.db"
    assert absolute_uri("sqlite:////data/mlflow.db") == "sqlite:////data/mlflow.db"
    assert absolute_uri("http://host:5000/") == "http://host:5000/"
    assert is_local("sqlite:///x") and not is_local("https://host")


def test_usable_uri(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    stored = "http://[redacted]@host"
    assert usable_uri("http://host", None) == "http://host"
    assert usable_uri("http://host", "http://other") is None
    assert usable_uri(stored, None) is None
    assert usable_uri(stored, "http://me:pw@host") == "http://me:pw@host"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:pw@host")
    assert usable_uri(stored, None) == "http://me:pw@host"


def test_artifacts_of_sqlite_lie_beside_it(own_folder):
    assert (
        destination._artifact_root("sqlite:///a/mlflow.db", "my runs/x")
        == (own_folder / "a" / "mlartifacts" / "my_runs_x").as_uri()
    )
    assert destination._artifact_root("http://host", "x") is None


def test_the_users_patience_with_mlflow_stays(monkeypatch):
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT", raising=False)
    destination._set_timeout(7)
    destination._set_timeout(9)
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "9"
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1234")
    destination._set_timeout(11)
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "1234"


def _import_lock_is_free(results):
    results.put(destination._importing.acquire(timeout=5))


@pytest.mark.skipif(sys.platform == "win32", reason="no forks there")
def test_a_fork_waits_until_the_import_is_through():
    held, through = threading.Event(), []

    def importing():
        with destination._importing:
            held.set()
            time.sleep(0.3)
            through.append(True)

    threading.Thread(target=importing).start()
    assert held.wait(10)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    process = context.Process(target=_import_lock_is_free, args=(results,))
    process.start()
    assert through == [True]
    assert results.get(timeout=30) is True
    process.join()
