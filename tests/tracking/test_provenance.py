from __future__ import annotations

import subprocess
import sys
import threading
import types

import pytest
import torch

from clipkit.tracking import system
from clipkit.tracking.provenance import git_state, machine, package_versions, provenance
from clipkit.tracking.system import Sampler, system_metrics


def git(*arguments):
    subprocess.run(["git", "-c", "user.name=n", "-c", "user.email=e@x", *arguments], check=True, capture_output=True)


def test_git_state(own_folder):
    assert git_state(own_folder) == {}
    git("init", "-b", "main")
    assert git_state(own_folder) == {}  # no commit yet
    (own_folder / "a.py").write_text("1")
    git("add", ".")
    git("commit", "-m", "first")
    clean = git_state(own_folder)
    assert len(clean["git.commit"]) == 40 and clean["mlflow.source.git.commit"] == clean["git.commit"]
    assert (clean["git.branch"], clean["git.dirty"]) == ("main", "false")
    (own_folder / "a.py").write_text("2")
    assert git_state(own_folder) == {**clean, "git.dirty": "true"}


def test_git_may_be_missing(own_folder, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert git_state(own_folder) == {}


def test_provenance(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/usr/bin/clipkit", "fit", "--data.token=abcdefgh", "-c", "a b.yaml"])
    tags = provenance("00ff")
    assert tags["command"] == "clipkit fit --data.token=[redacted] -c 'a b.yaml'"
    assert tags["data.fingerprint"] == "00ff" and torch.__version__.startswith(tags["version.torch"])
    assert tags["python"] == ".".join(map(str, sys.version_info[:3])) and tags["device"].startswith("cpu, ")
    assert all(isinstance(value, str) for value in tags.values())
    assert "data.fingerprint" not in provenance() and package_versions(("no-such-package",)) == {}


def test_the_gpus_are_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: ["H100", "H100", "T4"][index])
    assert machine("cuda:0")["device"] == "2 x H100, 1 x T4"
    assert machine("mps:0")["device"] == "mps:0"


def test_system_metrics_have_the_names_of_mlflow():
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

    expected = set()
    for monitor in (CPUMonitor(), DiskMonitor(), NetworkMonitor()):
        monitor.collect_metrics()
        expected |= {f"system/{name}" for name in monitor.aggregate_metrics()}
    values = system_metrics()
    assert {name for name in values if "gpu_" not in name} == expected
    assert 0 < values["system/system_memory_usage_percentage"] < 100
    assert all(isinstance(value, float) for value in values.values())


def fake_nvml():
    class NVMLError(Exception):
        pass

    return types.SimpleNamespace(
        NVMLError=NVMLError, nvmlInit=lambda: None, nvmlDeviceGetCount=lambda: 1, nvmlDeviceGetHandleByIndex=int,
        nvmlDeviceGetMemoryInfo=lambda handle: types.SimpleNamespace(used=2e9, total=8e9),
        nvmlDeviceGetUtilizationRates=lambda handle: types.SimpleNamespace(gpu=55),
        nvmlDeviceGetPowerUsage=lambda handle: 150_000, nvmlDeviceGetEnforcedPowerLimit=lambda handle: 300_000,
    )  # fmt: skip


def test_gpus_through_nvml(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", fake_nvml())
    assert system._from_nvml() == {
        "gpu_0_memory_usage_megabytes": 2000.0, "gpu_0_memory_usage_percentage": 25.0,
        "gpu_0_utilization_percentage": 55.0, "gpu_0_power_usage_watts": 150.0, "gpu_0_power_usage_percentage": 50.0,
    }  # fmt: skip
    no_driver = fake_nvml()

    def init():
        raise no_driver.NVMLError

    no_driver.nvmlInit = init
    monkeypatch.setitem(sys.modules, "pynvml", no_driver)
    assert system._from_nvml() == {}


def test_gpus_through_torch(monkeypatch):
    assert system._from_torch() == {}  # no context: none is made
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (6e9, 8e9))
    assert system._from_torch() == {"gpu_0_memory_usage_megabytes": 2000.0, "gpu_0_memory_usage_percentage": 25.0}


def test_the_sampler_numbers_its_samples_and_stops(monkeypatch):
    monkeypatch.setattr(system, "_FIRST", 0.01)
    samples, enough = [], threading.Event()

    def record(values, step):
        samples.append((step, values))
        if len(samples) == 3:
            enough.set()

    sampler = Sampler(record, first=5, interval=0.01)
    assert enough.wait(20)
    sampler.stop()
    assert [step for step, _ in samples] == list(range(5, 5 + len(samples))) and sampler.step == 5 + len(samples)
    assert samples[0][1]["system/network_receive_megabytes"] < 1000  # since the run began, not since the machine did
    count = len(samples)
    sampler.stop()
    assert len(samples) == count


@pytest.mark.parametrize("broken", [OSError("no /proc"), PermissionError()])
def test_a_machine_that_cannot_be_measured(monkeypatch, broken):
    def fail():
        raise broken

    monkeypatch.setattr(system, "system_metrics", fail)
    sampler = Sampler(lambda *_: pytest.fail("nothing was measured"))
    sampler._thread.join(5)
    sampler.stop()
