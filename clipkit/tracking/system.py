"""What the machine is doing, under the names of MLflow's "System metrics" tab, sampled in a daemon thread."""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["Sampler", "system_metrics"]

log = logging.getLogger(__name__)

_COUNTED = ("system/network_receive_megabytes", "system/network_transmit_megabytes")  # since the machine started
_FIRST, _INTERVAL = 1.0, 10.0  # s; 10 s is MLflow's own


def system_metrics() -> dict[str, float]:
    """One sample of CPU, memory, disk, network (since boot) and GPUs, by MLflow's names under ``system/``.

    CPU use is that since the last call in this process, 0 at the first. Needs psutil; GPUs need nvidia-ml-py, or a CUDA
    context of this process.
    """
    import psutil  # type: ignore[import-untyped,unused-ignore]  # no stubs

    memory, disk, network = psutil.virtual_memory(), psutil.disk_usage(os.sep), psutil.net_io_counters()
    values = {
        "cpu_utilization_percentage": psutil.cpu_percent(),
        "system_memory_usage_megabytes": memory.used / 1e6,
        "system_memory_usage_percentage": 100 * memory.used / memory.total,
        "disk_usage_percentage": disk.percent,
        "disk_usage_megabytes": disk.used / 1e6,
        "disk_available_megabytes": disk.free / 1e6,
    }
    if network is not None:  # None in a network namespace without interfaces
        values["network_receive_megabytes"] = network.bytes_recv / 1e6
        values["network_transmit_megabytes"] = network.bytes_sent / 1e6
    return {f"system/{name}": round(value, 1) for name, value in (values | _gpus()).items()}


class Sampler:
    """A daemon thread that samples the machine every 10 s; network counts start at 0.

    Args:
        record: Called with each sample and its number, from the thread.
        first: Number of the first sample.
        interval: Seconds between samples.
    """

    def __init__(
        self, record: Callable[[dict[str, float], int], None], first: int = 0, interval: float = _INTERVAL
    ) -> None:
        self._record, self._step, self._interval = record, first, interval
        self._stop = threading.Event()
        self._at_start: dict[str, float] = {}
        self._thread = threading.Thread(target=self._run, name="clipkit-system-metrics", daemon=True)
        if importlib.util.find_spec("psutil") is None:
            log.info("no system metrics: psutil is not installed")
        else:
            self._thread.start()

    @property
    def step(self) -> int:
        """Number of the next sample."""
        return self._step

    def stop(self) -> None:
        """Take a last sample and stop."""
        if self._thread.is_alive():
            self._stop.set()
            self._thread.join(timeout=2.0)

    def _run(self) -> None:
        try:
            now = system_metrics()
            self._at_start = {name: now.get(name, 0.0) for name in _COUNTED}
            self._stop.wait(min(_FIRST, self._interval))
            while not self._stop.is_set():
                self._sample()
                self._stop.wait(self._interval)
            self._sample()
        except Exception as error:  # a machine that cannot be measured is no reason to disturb a run
            log.info("no system metrics: %s", error)

    def _sample(self) -> None:
        values = system_metrics()
        self._record(
            {name: round(value - self._at_start.get(name, 0.0), 1) for name, value in values.items()}, self._step
        )
        self._step += 1


def _gpus() -> dict[str, float]:
    if importlib.util.find_spec("pynvml") is not None:
        found = _from_nvml()
        if found:
            return found
    return _from_torch()


def _from_nvml() -> dict[str, float]:
    import pynvml  # type: ignore[import-not-found,import-untyped,unused-ignore]  # optional

    values: dict[str, float] = {}
    try:
        pynvml.nvmlInit()
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory: Any = pynvml.nvmlDeviceGetMemoryInfo(handle)
            values |= _memory(index, memory.used, memory.total)
            values[f"gpu_{index}_utilization_percentage"] = float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
            power = pynvml.nvmlDeviceGetPowerUsage(handle)
            values[f"gpu_{index}_power_usage_watts"] = power / 1000
            values[f"gpu_{index}_power_usage_percentage"] = 100 * power / pynvml.nvmlDeviceGetEnforcedPowerLimit(handle)
    except pynvml.NVMLError:  # no driver, or a virtual GPU that does not tell
        pass
    return values


def _from_torch() -> dict[str, float]:
    torch = sys.modules.get("torch")
    # Without a context of its own the process must not make one here: it could no longer fork loaders
    if torch is None or not torch.cuda.is_initialized():
        return {}
    values: dict[str, float] = {}
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        values |= _memory(index, total - free, total)
    return values


def _memory(index: int, used: float, total: float) -> dict[str, float]:
    return {
        f"gpu_{index}_memory_usage_megabytes": used / 1e6,
        f"gpu_{index}_memory_usage_percentage": 100 * used / total,
    }
