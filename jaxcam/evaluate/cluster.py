"""The units of a run made by a Ray cluster: one actor for each device, one writer, which is this process.

Actors decode the pictures of their units and send back what `work.Worker` makes; no file but the pictures is shared. An
actor that dies, with its node or alone, is started again by Ray wherever there is room; its units go to whichever actor
is free first. What a unit holds depends on the settings alone, whoever makes it.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import os
import platform
import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from jaxcam.data.loader import cores, stream
from jaxcam.data.samples import Item
from jaxcam.errors import JaxcamError
from jaxcam.evaluate.manifest import BATCH, Options
from jaxcam.evaluate.work import Done, Worker
from jaxcam.models.classifier import Classifier
from jaxcam.transforms.memory import room_for

#: How often a unit may lose its actor, or the node that holds it, before it is thought to be the cause.
_TRIES = 20
#: Units that an actor has at a time: it decodes one while it computes another.
_AHEAD = 2
#: What of JAX's settings holds in the actors too: where compiled programs are kept, and how numbers are.
_SETTINGS = (
    "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs", "jax_enable_x64",
    "jax_default_matmul_precision",
)  # fmt: skip


class Task(NamedTuple):
    """A unit to be made: its number, and its pictures with their places in the data set."""

    number: int
    pictures: Sequence[tuple[int, Item]]


class Seen(NamedTuple):
    """What an actor computes on: JAX's platform and kind of device, and pictures in a unit by its memory."""

    platform: str
    device: str
    batch_size: int


def _look(pictures: int) -> Seen:
    return Seen(jax.default_backend(), jax.devices()[0].device_kind, room_for(BATCH, most=pictures))


class _Maker:
    """The actor. A second unit is decoded while the first is computed."""

    def __init__(self, settings: Mapping[str, Any]):
        for name, value in settings.items():
            jax.config.update(name, value)
        self._lock = threading.Lock()
        self._worker: Worker | None = None

    def pid(self) -> int:
        return os.getpid()

    def unit(self, given: Sequence[Any], task: Task) -> Done:
        """`given` is what refers to network and options: a constructor's arguments are not kept for a restart."""
        with self._lock:
            worker = self._worker = self._worker or self._made(given[0])
        places, items = zip(*task.pictures, strict=True)
        masks = worker.options.needs_masks
        decoded = stream(items, worker.network.preprocessing, ahead=len(items), masks=masks)
        loaded = [dataclasses.replace(x, index=place) for x, place in zip(decoded, places, strict=True)]
        with self._lock:
            return worker.unit(task.number, loaded)

    @staticmethod
    def _made(given: Any) -> Worker:
        import ray

        first, network, digest, options, known = ray.get(given)
        if first is not None:
            first()
        if not isinstance(network, Classifier):
            network = network()
        if network.digest() != digest:
            raise JaxcamError(f"{network.name} is another network on {platform.node()} than here")
        here = network.with_params(jax.device_put(network.params, jax.local_devices()[0]))
        return Worker(here, options, known_labels=known, stopping=lambda: False)


class Cluster:
    """Actors on a Ray cluster.

    Args:
      address: of the cluster, as `ray.init` takes it: "auto", `HOST:6379`, `ray://HOST:10001`; "local" for one on this
        machine that ends with this process.
      workers: how many actors; one for each GPU or TPU chip that the cluster has now, or else for each node. Where it
        has room for fewer, and scales, Ray asks for more.
      resources: of each actor by Ray's names; `{"GPU": 1}`, `{"TPU": 1}` or an equal share of the processors unless
        given.
      network: makes the network in the actors, where it cannot be sent to them, as one by `jaxcam.wrap` cannot. It has
        to be the one that is evaluated.
      first: called in the actors before all else, to register the methods and metrics of other packages.

    Attributes:
      workers: how many actors there are for many units.
      pids: the processes that actors began in, as they came.

    Raises:
      JaxcamError: Ray is missing, or there is no such cluster.
    """

    def __init__(
        self, address: str, workers: int | None = None, resources: Mapping[str, float] | None = None,
        network: Callable[[], Classifier] | None = None, first: Callable[[], object] | None = None,
    ):  # fmt: skip
        if workers is not None and workers < 1:
            raise JaxcamError(f"the number of workers must be at least 1, not {workers}")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers of the cluster
        os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # of units that nobody waits for any more
        try:
            import ray
        except ImportError:
            raise JaxcamError("a cluster needs Ray: pip install 'jaxcam-xai[ray]'") from None
        self._ray, self._own = ray, not ray.is_initialized()
        if self._own:
            local = {"include_dashboard": False, "num_cpus": max(workers or 1, cores())}
            more: dict[str, Any] = local if address == "local" else {}
            try:
                ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **more)
            except Exception as e:  # ConnectionError, ValueError, RuntimeError and more
                if "AuthToken" in f"{e} {e.__cause__}":
                    raise JaxcamError(
                        f"{address}: the Ray cluster asks for its token; set RAY_AUTH_MODE=token here as well, and "
                        "RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH where it lies in another place than Ray's own"
                    ) from None
                raise JaxcamError(f"{address}: there is no Ray cluster ({str(e).splitlines()[0]})") from None
        there = ray.cluster_resources()
        kind = next((k for k in ("GPU", "TPU") if there.get(k)), None)
        self._alike = address == "local" and kind is None  # to this process
        nodes = sum(node["Alive"] for node in ray.nodes())
        self.workers = workers or int(there[kind] if kind else nodes)
        if resources is None:
            share = max(1, int(there.get("CPU", 1) // self.workers))
            resources = {kind: 1} if kind else {"CPU": share}
        wanted = dict(resources)
        self._resources: dict[str, Any] = {
            "num_cpus": wanted.pop("CPU", 0), "num_gpus": wanted.pop("GPU", 0), "resources": wanted,
        }  # fmt: skip
        self._network, self._first = network, first
        self._actors: list[Any] = []
        self.pids: list[int] = []

    def look(self, pictures: int) -> Seen:
        """What the actors will compute on."""
        if self._alike:
            return _look(pictures)
        return self._get(self._ray.remote(max_calls=1, **self._resources)(_look).remote(pictures))

    def units(
        self, network: Classifier, options: Options, known: bool, tasks: Sequence[Task]
    ) -> Generator[Done, None, None]:
        """Units as they are finished, each once; two for every actor are on their way.

        Raises:
          JaxcamError: a unit cannot be made, or every actor that tries dies.
        """
        ray, waiting = self._ray, collections.deque(tasks)
        given = self._start(min(self.workers, len(tasks)), network, options, known)
        flying: dict[Any, tuple[Any, Task | None]] = {}  # without a task: whether an actor is there
        tries: collections.Counter[int | None] = collections.Counter()

        def ask(actor: Any) -> None:
            if all(other is not actor or task for other, task in flying.values()):
                flying[actor.pid.options(max_task_retries=-1).remote()] = actor, None

        for actor in self._actors:
            ask(actor)
        left = len(tasks)
        try:
            while left:
                [ref], _ = ray.wait(list(flying), num_returns=1)
                actor, task = flying.pop(ref)
                try:
                    made = self._get(ref)
                except ray.exceptions.RayError as e:  # its actor, or the node that held it
                    number = task.number if task else None
                    tries[number] += 1
                    if tries[number] > _TRIES:
                        what = f"made batch {number}" if task else "began"
                        raise JaxcamError(f"{_TRIES} processes that {what} died ({str(e).splitlines()[0]})") from None
                    if task:
                        waiting.appendleft(task)
                    ask(actor)
                    continue
                if task is None:
                    self.pids.append(made)
                for _ in range(_AHEAD if task is None else 1):
                    if waiting:
                        following = waiting.popleft()
                        flying[actor.unit.remote([given], following)] = actor, following
                if task is not None:
                    left -= 1
                    yield made
        finally:
            self._end()

    def _start(self, count: int, network: Classifier, options: Options, known: bool) -> Any:
        """Asks for so many actors; what refers to network and options."""
        ray = self._ray
        sent = self._network or network.with_params(jax.device_get(network.params))
        try:
            given = ray.put((self._first, sent, network.digest(), options, known))
        except TypeError:  # with pages of what Ray tried
            raise JaxcamError(
                f"{network.name} cannot be sent to the workers; tell them how to make it, as in Cluster(..., "
                "network=function)"
            ) from None
        settings = {name: jax.config.values[name] for name in _SETTINGS if name in jax.config.values}
        maker = ray.remote(_Maker).options(**self._resources, max_concurrency=_AHEAD, max_restarts=-1)
        self._actors = [maker.remote(settings) for _ in range(count)]
        return given

    def _get(self, ref: Any) -> Any:
        """A result; an error of ours as itself."""
        try:
            return self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as e:
            if isinstance(e.cause, JaxcamError):
                raise e.cause from None
            raise RuntimeError(str(e)) from None  # a mistake in our own code, with the trace of the actor

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the cluster, where it is this process's own."""
        self._end()
        if self._own:
            self._ray.shutdown()

    def _end(self) -> None:
        for actor in self._actors:
            self._ray.kill(actor)
        self._actors = []
