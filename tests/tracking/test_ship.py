"""The sender against a destination that fails as it is told to; the real server is in test_server.py."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from clipkit.tracking import ship
from clipkit.tracking.ship import Shipper, replay, send_all
from clipkit.tracking.spool import RunCard, Spool


class Away(Exception):
    pass


class FakeServer:
    """Stands for every destination; ``answers`` is asked before each delivery."""

    def __init__(self):
        self.received, self.calls = [], 0
        self.answers = lambda call: True
        self.arrived = threading.Event()
        self.refuses_artifact = False

    def __call__(self, uri, spool, card, expect=None):
        self.spool = spool
        return self

    def slower(self):
        pass

    def send(self, records):
        self.calls += 1
        if not self.answers(self.calls):
            raise Away("connection refused by https://me:s3cret@host")
        self.received += records
        self.arrived.set()


@pytest.fixture
def server(monkeypatch):
    fake = FakeServer()
    monkeypatch.setattr(ship, "Destination", fake)
    monkeypatch.setattr(ship, "_INTERVAL", 0.02)
    monkeypatch.setattr(ship, "_BACK_OFF", (0.02, 0.1))
    monkeypatch.setattr(ship, "_LAST_TRIES", 0.02)
    return fake


def make_spool(folder, **changes):
    spool = Spool(folder / "x" / "run" / "spool")
    spool.save_card(
        RunCard(**{"uri": "http://h", "experiment": "x", "name": "n", "version": "v", "started": 1, **changes})
    )
    return spool


def metric(step):
    return {"kind": "metrics", "step": step, "time": step, "values": {"a": step}}


def steps(records):
    return [record["step"] for record in records if record["kind"] == "metrics"]


def test_records_arrive_in_order_while_more_are_written(server, tmp_path):
    spool = make_spool(tmp_path)
    shipper = Shipper(spool, spool.card(), "http://h")
    for step in range(100):
        spool.append(metric(step))
        if step == 50:
            server.arrived.wait(10)
    assert shipper.finish(10.0)
    assert steps(server.received) == list(range(100)) and spool.left() == 0


def test_an_absence_is_said_once_and_overcome(server, tmp_path, caplog):
    server.answers = lambda call: call > 4
    spool = make_spool(tmp_path)
    with caplog.at_level(logging.WARNING):
        shipper = Shipper(spool, spool.card(), "http://h")
        spool.append(metric(0))
        assert server.arrived.wait(10)
        spool.append(metric(1))
        assert shipper.finish(10.0)
    assert steps(server.received) == [0, 1]
    assert (
        len(caplog.messages) == 2 and "does not answer" in caplog.messages[0] and "answers again" in caplog.messages[1]
    )
    assert "s3cret" not in caplog.text


def test_the_end_waits_a_bounded_time_and_keeps_the_records(server, tmp_path, caplog):
    server.answers = lambda call: False
    spool = make_spool(tmp_path)
    shipper = Shipper(spool, spool.card(), "http://h")
    spool.append(metric(0))
    assert not shipper.finish(0.2)
    shipper._thread.join(10)
    assert "answers again" not in caplog.text
    assert shipper.problem is not None and spool.left() == 1
    server.answers = lambda call: True
    assert replay(spool.folder).left == 0 and steps(server.received) == [0]


def test_the_end_waits_longer_while_there_is_progress_unless_in_a_hurry(server, tmp_path, monkeypatch):
    monkeypatch.setattr(Spool, "read", lambda self, most=1, read=Spool.read: read(self, 1))
    server.answers = lambda call: time.sleep(0.05) is None
    spool = make_spool(tmp_path)
    for step in range(40):
        spool.append(metric(step))
    assert Shipper(spool, spool.card(), "http://h").finish(0.5)
    for step in range(40):
        spool.append(metric(step))
    assert not Shipper(spool, spool.card(), "http://h").finish(0.5, hurry=True)


def test_a_stalled_delivery_does_not_hold_up_the_end(server, tmp_path):
    hold = threading.Event()
    server.answers = lambda call: hold.wait(60)
    spool = make_spool(tmp_path)
    spool.append(metric(0))
    try:
        assert not Shipper(spool, spool.card(), "http://h").finish(0.2)
    finally:
        hold.set()


def test_waiting_can_be_interrupted(server, tmp_path, monkeypatch):
    server.answers = lambda call: False
    spool = make_spool(tmp_path)
    spool.append(metric(0))
    shipper = Shipper(spool, spool.card(), "http://h")

    def interrupted(timeout):
        raise KeyboardInterrupt

    monkeypatch.setattr(shipper._thread, "join", interrupted)
    assert not shipper.finish(60.0)


def test_an_artifact_goes_alone_and_its_file_goes_after_it(server, tmp_path):
    spool = make_spool(tmp_path)
    (tmp_path / "a.bin").write_bytes(b"1")
    spool.append(metric(0))
    spool.append({"kind": "artifact", "file": spool.keep(tmp_path / "a.bin", frozenset()), "folder": ""})
    spool.append(metric(1))
    assert send_all(spool, server) == 3 and server.calls == 3
    assert list((spool.folder / "files").iterdir()) == []


def test_a_broken_line_is_passed_over(server, tmp_path):
    spool = make_spool(tmp_path)
    spool.append(metric(0))
    spool.release()
    with open(spool.folder / "records.jsonl", "ab") as file:
        file.write(b"\x00\xff\n")
    spool.append(metric(1))
    assert send_all(spool, server) == 2 and spool.left() == 0


def test_replay_closes_a_run_whose_process_died(server, tmp_path):
    spool = make_spool(tmp_path)
    spool.append(metric(0))
    spool.release()
    done = replay(spool.folder)
    assert done.left == 0 and done.problem is None
    assert [record.get("status") for record in server.received] == [None, None, "FAILED"]
    assert spool.card().ended == "FAILED"
    assert replay(spool.folder).sent == 0 and len(server.received) == 3


def test_replay_leaves_a_run_alone_that_is_still_written_to(server, tmp_path):
    spool = make_spool(tmp_path)
    spool.claim()
    spool.append(metric(0))
    assert "still writing" in replay(spool.folder).problem and server.received == []


def test_replay_needs_the_credentials_that_were_not_stored(server, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    spool = make_spool(tmp_path, uri="http://[redacted]@h", ended="FINISHED")
    spool.append(metric(0))
    spool.release()
    assert "http://[redacted]@h" in replay(spool.folder).problem
    assert "give that URI" in replay(spool.folder, "http://me:pw@elsewhere").problem and server.received == []
    assert replay(spool.folder, "http://me:pw@h").problem is None and steps(server.received) == [0]


def test_replay_says_what_is_wrong_and_how_far_it_came(server, tmp_path, monkeypatch):
    monkeypatch.setattr(Spool, "read", lambda self, most=1, read=Spool.read: read(self, 1 if most == 500 else most))
    server.answers = lambda call: call <= 2
    spool = make_spool(tmp_path, ended="FINISHED")
    for step in range(5):
        spool.append(metric(step))
    spool.release()
    done = replay(spool.folder)
    assert (done.sent, done.left) == (2, 3)
    assert done.problem == "connection refused by https://[redacted]@host"


def test_the_next_run_sends_what_an_earlier_one_left(server, tmp_path):
    old = make_spool(tmp_path / "old", ended="FINISHED")
    elsewhere = make_spool(tmp_path / "other", uri="http://elsewhere", ended="FINISHED")
    for spool in (old, elsewhere):
        spool.append(metric(7))
        spool.release()
    dead = make_spool(tmp_path / "dead")  # everything was sent but how it ended
    new = make_spool(tmp_path / "new")
    new.claim()
    shipper = Shipper(new, new.card(), "http://h", others=tmp_path)
    new.append(metric(8))
    deadline = time.monotonic() + 10
    while (old.left() or dead.card().ended is None) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert shipper.finish(10.0)
    assert sorted(steps(server.received)) == [7, 8] and elsewhere.left() == 1
    assert dead.card().ended == "FAILED"
