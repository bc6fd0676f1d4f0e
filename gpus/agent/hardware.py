"""What the machine is made of, in the words of `/gpu/list/`, and how busy it is."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import cpuinfo
import psutil
import pynvml

logger = logging.getLogger(__name__)

GIB = 1024**3
MIB = 1024**2


def describe() -> dict[str, str | int]:
    """The hardware fields of a registration. Memory in whole GB, frequency in MHz."""
    memory = round(psutil.virtual_memory().total / GIB)
    return {
        "gpu_info": "; ".join(_gpus()) or "none",
        "cpu_name": _cpu_name(),
        "cpu_core": psutil.cpu_count(logical=False) or psutil.cpu_count() or 1,
        "cpu_frequency": _cpu_mhz(),
        "total_memory": memory,
        "total_swap": round(_swap_bytes() / GIB),
        "ram": memory,
        "os_name": platform.system() or "unknown",
        "os_version": _os_version(),
    }


def load() -> dict[str, int | float]:
    """What a heartbeat tells of the machine's load; the GPU's part only where there is one."""
    memory = psutil.virtual_memory()
    found: dict[str, int | float] = {"cpu_percent": psutil.cpu_percent(), "ram_used_mb": memory.used // MIB}
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return found
    try:
        found |= _gpu_load()
    except pynvml.NVMLError as error:
        logger.debug("NVML: %s", error)
    finally:
        pynvml.nvmlShutdown()
    return found


def compute(device: str) -> tuple[str, int, int]:
    """Where a training would compute: "cuda" or "cpu", how many GPUs (1 for the processor), memory of all in MiB.

    `device` is what the owner wants: cpu, cuda, cuda:1; empty for the best.
    """
    here = ("cpu", 1, psutil.virtual_memory().total // MIB)
    if device == "cpu" or not _torch_sees_gpus():
        return here
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return here
    try:
        found = [int(pynvml.nvmlDeviceGetMemoryInfo(each).total) // MIB for each in _handles()]
    except pynvml.NVMLError as error:
        logger.warning("NVML does not tell what GPUs there are: %s", error)
        return here
    finally:
        pynvml.nvmlShutdown()
    _, _, number = device.partition(":")
    found = found[int(number) : int(number) + 1] if number.isdecimal() else found
    return ("cuda", len(found), sum(found)) if found else here


def _torch_sees_gpus() -> bool:
    """Whether the torch that is installed was built for GPUs. Importing it to ask would take seconds, and memory."""
    try:
        return "+cpu" not in version("torch")
    except PackageNotFoundError:
        return False


def _gpus() -> Iterator[str]:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return
    try:
        for handle in _handles():
            gb = round(pynvml.nvmlDeviceGetMemoryInfo(handle).total / GIB)
            yield f"{_text(pynvml.nvmlDeviceGetName(handle))} ({gb} GB VRAM)"
    except pynvml.NVMLError as error:
        logger.warning("NVML does not tell what GPUs there are: %s", error)
    finally:
        pynvml.nvmlShutdown()


def _handles() -> list[Any]:
    return [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]


def _gpu_load() -> dict[str, int | float]:
    """The busiest, fullest, hottest of the GPUs."""
    handles = _handles()
    if not handles:
        return {}
    hottest = max(pynvml.nvmlDeviceGetTemperature(each, pynvml.NVML_TEMPERATURE_GPU) for each in handles)
    return {
        "gpu_utilization": max(pynvml.nvmlDeviceGetUtilizationRates(each).gpu for each in handles),
        "vram_used_mb": sum(pynvml.nvmlDeviceGetMemoryInfo(each).used for each in handles) // MIB,
        "temperature_c": hottest,
    }


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


@cache
def _cpu_name() -> str:
    """Takes a second the first time: py-cpuinfo asks the processor itself, in a process of its own."""
    name = cpuinfo.get_cpu_info().get("brand_raw", "")
    return str(name or platform.processor() or platform.machine() or "unknown")


def _cpu_mhz() -> int:
    """The highest frequency that is known; 0 where the system keeps it to itself."""
    try:
        frequency = psutil.cpu_freq()
    except (OSError, NotImplementedError):
        return 0
    return round(frequency.max or frequency.current) if frequency else 0


def _swap_bytes() -> int:
    try:
        return int(psutil.swap_memory().total)
    except (OSError, RuntimeError):
        return 0


def _os_version() -> str:
    try:
        return str(platform.freedesktop_os_release().get("PRETTY_NAME") or platform.release())
    except OSError:
        return platform.release() or "unknown"
