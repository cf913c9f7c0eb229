"""The little of Ray that the executor needs: a cluster, actors, and their results."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gradalign.config import ScoreConfig
from gradalign.errors import EngineError, MissingDependencyError, UsageError
from gradalign.progress import Reporter

_SAME_AS_HERE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "TORCHDYNAMO_DISABLE")
"""Variables that workers get if the driver has them. No secrets: Ray writes these to its logs."""

_QUIET: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}

START_ATTEMPTS = 3
"""On a busy machine Ray gives its own processes too little time, now and then."""


class Cluster:
    """A connection to Ray, and the resources of one worker.

    Args:
        ray: the module.
        num_cpus, num_gpus: what each worker asks for.
        environment: variables of the workers.

    Attributes:
        last_death: how the last worker died, in Ray's words.
    """

    def __init__(
        self, ray: Any, num_cpus: float, num_gpus: float, environment: dict[str, str]
    ) -> None:
        self._ray = ray
        self._num_cpus, self._num_gpus = num_cpus, num_gpus
        self._environment = environment
        self.last_death = ""

    def start_worker(self, kind: type, *arguments: Any) -> Any:
        """Start an actor with the resources of a worker."""
        actor = self._ray.remote(kind).options(
            num_cpus=self._num_cpus,
            num_gpus=self._num_gpus,
            max_restarts=0,  # a fresh one is started by us, which opens its stage anew
            runtime_env={"env_vars": self._environment},
        )
        return actor.remote(*arguments)

    def start_helper(self, kind: type) -> Any:
        """Start an actor that asks for nothing."""
        return self._ray.remote(kind).options(num_cpus=0).remote()

    def wait(self, tasks: list[Any], seconds: float) -> list[Any]:
        """Return the tasks that are finished after at most so long."""
        ready, _ = self._ray.wait(tasks, num_returns=len(tasks), timeout=0)
        if not ready and seconds > 0:
            ready, _ = self._ray.wait(tasks, num_returns=1, timeout=seconds)
        return list(ready)

    def result(self, task: Any, timeout: float | None = None) -> Any:
        """Return a task's result, None if its actor died or did not answer in time.

        Raises:
            EngineError: Ray cannot start or reach the actor at all.
        """
        failures = self._ray.exceptions
        try:
            return self._ray.get(task, timeout=timeout)
        except failures.GetTimeoutError as error:
            self.last_death = str(error)
            return None
        except failures.RayTaskError:
            raise  # an exception in our own code: Ray shows the worker's traceback
        except (failures.ActorUnschedulableError, failures.RuntimeEnvSetupError) as error:
            raise EngineError(
                f"Ray cannot start a worker: {error}", "Check the cluster with `ray status`."
            ) from error
        except (
            failures.RayActorError,
            failures.WorkerCrashedError,
            failures.NodeDiedError,
            failures.OutOfMemoryError,
        ) as error:
            self.last_death = " ".join(str(error).split())
            return None

    def kill(self, actor: Any) -> None:
        """End an actor at once; one that is dead already is none the worse."""
        if actor is not None:
            with contextlib.suppress(Exception):
                self._ray.kill(actor, no_restart=True)


@contextmanager
def open_cluster(config: ScoreConfig, reporter: Reporter) -> Iterator[Cluster]:
    """Use the Ray that this process or RAY_ADDRESS has, one on this machine, or start one.

    What was started here is shut down at the end; what was there is left as it was.

    Raises:
        MissingDependencyError: Ray is not installed.
        UsageError: a local cluster has too few GPUs; a numbered --device.
        EngineError: the cluster of RAY_ADDRESS cannot be reached.
    """
    ray = _import_ray()
    if config.device.partition(":")[2]:
        raise UsageError(
            f"--device {config.device} cannot be used with --executor ray, which gives each "
            "worker GPUs of its own.",
            "Use --device cuda and --gpus-per-worker.",
        )
    was_there = bool(ray.is_initialized())
    started = False
    if not was_there:
        started = _connect(ray, config, reporter)
    try:
        resources = ray.cluster_resources()
        num_gpus = _gpus_per_worker(config, resources)
        _check_gpus(config, resources, num_gpus, reporter, local=started)
        num_cpus = _cpus_per_worker(config, resources) if started else 1
        yield Cluster(ray, num_cpus, num_gpus, _environment(num_cpus))
    finally:
        if not was_there:
            ray.shutdown()


def _import_ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise MissingDependencyError(
            "--executor ray needs Ray, which is not installed.",
            'Install it with `pip install "gradalign[ray]"`, or use --executor local.',
        ) from error
    return ray


def _connect(ray: Any, config: ScoreConfig, reporter: Reporter) -> bool:
    """Connect to a cluster; return whether one was started for it."""
    try:
        with _own_sigterm():
            ray.init(address="auto", **_QUIET)
    except Exception as error:  # Ray raises ConnectionError, RuntimeError, ValueError
        if os.environ.get("RAY_ADDRESS") or not isinstance(error, ConnectionError):
            raise EngineError(
                f"cannot connect to the Ray cluster at {os.environ.get('RAY_ADDRESS', 'auto')}: "
                f"{error}",
                "Check RAY_ADDRESS and `ray status`, or unset RAY_ADDRESS to use this machine.",
            ) from error
    else:
        reporter.remark("ray: using the cluster that is there")
        return False
    reporter.remark(f"ray: starting a cluster on this machine for {config.num_workers} workers")
    start_here(ray, max(config.num_workers, os.cpu_count() or 1))
    return True


def start_here(ray: Any, num_cpus: int) -> None:
    """Start a cluster of this machine alone.

    Raises:
        EngineError: Ray does not start.
    """
    # Nobody asked for usage reports to be sent.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            with _own_sigterm():
                ray.init(address="local", num_cpus=num_cpus, include_dashboard=False, **_QUIET)
            return
        except Exception as error:  # a bare Exception if its processes take more than 30 s
            ray.shutdown()
            if attempt == START_ATTEMPTS:
                raise EngineError(
                    f"Ray does not start on this machine: {error}",
                    "See the newest folder in /tmp/ray for its logs; a machine that is busy with "
                    "other work may be too slow for it.",
                ) from error


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep what this process does on SIGTERM: Ray would have it end at once, with status 15.

    A process that has no way of its own is left with Ray's, which ends what Ray has started.
    """
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        main = threading.current_thread() is threading.main_thread()
        if main and before not in (None, signal.SIG_DFL):
            signal.signal(signal.SIGTERM, before)


def _gpus_per_worker(config: ScoreConfig, resources: dict[str, float]) -> float:
    if config.gpus_per_worker is not None:
        return config.gpus_per_worker
    if config.device == "cpu" or not resources.get("GPU"):
        return 0.0
    return float(config.engine_args.get("tensor_parallel_size", 1))


def _check_gpus(
    config: ScoreConfig,
    resources: dict[str, float],
    num_gpus: float,
    reporter: Reporter,
    *,
    local: bool,
) -> None:
    wanted, there = num_gpus * config.num_workers, resources.get("GPU", 0.0)
    if wanted <= there:
        return
    text = f"{config.num_workers} workers with {num_gpus:g} GPUs each; there are {there:g} GPUs"
    if local:
        raise UsageError(f"{text}.", "Use a smaller --num-workers or --gpus-per-worker.")
    reporter.remark(f"ray: {text} at the moment, the other workers start when more join")


def _cpus_per_worker(config: ScoreConfig, resources: dict[str, float]) -> int:
    return max(1, int(resources.get("CPU", 1)) // config.num_workers)


def _environment(num_cpus: float) -> dict[str, str]:
    """Return the workers' variables; what the user has set wins."""
    threads = str(max(1, int(num_cpus)))
    defaults = {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
    }
    chosen = {name: os.environ.get(name, value) for name, value in defaults.items()}
    return chosen | {name: os.environ[name] for name in _SAME_AS_HERE if name in os.environ}
