"""Serve metrics to Prometheus: an HTTP server beside the event loop, and the metrics of its answers.

    event loop    accepts, starts a thread per connection, makes the snapshot      in short turns
    that thread   reads the request, waits for the snapshot, formats it, sends it  may take long

A snapshot consists of plain values. A task in the event loop makes it, and lets I/O continue after each disk. So the
values of one disk are of one moment, and no other thread reads live objects. Formatting sleeps after every few lines.
Otherwise the thread would hold the interpreter for 5 ms at a time (sys.setswitchinterval), and every request to a disk
would wait for it.

The number of connections, a client's time for each step, and the wait for a snapshot are bounded. After a time-out of
the snapshot, or when the process is ending, the answer is 503. A connection beyond the limit replaces the one that has
been silent the longest. If no connection is silent, the new one is closed at once.

Format and naming: prometheus.io, "Exposition formats" and "Metric and label naming".
Importing this module costs 15 ms and 3 MiB, so it is imported only if metrics are configured.
"""

import io
import logging
import socket
import socketserver
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import suppress
from itertools import accumulate
from typing import Any, Final, TypeVar
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import trio
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, make_wsgi_app
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from meshfs import limits
from meshfs.endpoint import format_endpoint
from meshfs.errors import ConfigError, MeshfsError
from meshfs.telemetry.histogram import COARSE_BOUNDS_MS
from meshfs.telemetry.metrics_place import Snapshot
from meshfs.telemetry.problems import Problem, Rule, count_by_code

logger = logging.getLogger(__name__)

Document = Mapping[str, Any]

Labels = Mapping[str, str]
_Family = TypeVar("_Family", CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily)

_BUCKETS_LE: Final = (*(str(bound / 1000) for bound in COARSE_BOUNDS_MS), "+Inf")


class SnapshotUnavailable(MeshfsError):
    """There is no snapshot, because the event loop is ending or had no time for one."""


# --- the metrics of an answer ---------------------------------------------------------------


class Families:
    """Collects the metrics of one answer. A value of None, which is missing from a document, is left out."""

    def __init__(self) -> None:
        self._families: dict[str, Metric] = {}
        self._rest = _rests()

    def gauge(self, name: str, text: str, labels: Labels, value: float | None) -> None:
        if value is not None:
            self._family(GaugeMetricFamily, name, text, labels).add_metric(_values(labels), float(value))

    def counter(self, name: str, text: str, labels: Labels, value: float | None) -> None:
        """Add a counter; its ``name`` ends in _total."""
        if value is not None:
            self._family(CounterMetricFamily, name, text, labels).add_metric(_values(labels), float(value))

    def latency(self, name: str, text: str, labels: Labels, counts: list[int] | None, sum_s: float | None) -> None:
        """Add a histogram. ``counts`` come from `Histogram.coarse`. Without ``sum_s``, it has only buckets."""
        if counts is None:
            return
        buckets = list(zip(_BUCKETS_LE, map(float, accumulate(counts)), strict=True))
        self._family(HistogramMetricFamily, name, text, labels).add_metric(_values(labels), buckets, sum_s)

    def __iter__(self) -> Iterator[Metric]:
        return iter(self._families.values())

    def _family(self, kind: type[_Family], name: str, text: str, labels: Labels) -> _Family:
        next(self._rest)
        family = self._families.get(name)
        if family is None:
            family = self._families[name] = kind(name, text, labels=list(labels))
            family.samples = _Samples()
        assert isinstance(family, kind), f"{name} is of two kinds"
        return family


class _Samples(list[Sample]):
    """Yields samples with pauses between them, because the library formats them while it iterates."""

    def __iter__(self) -> Iterator[Sample]:
        for sample, _ in zip(super().__iter__(), _rests(), strict=False):
            yield sample


def _rests() -> Iterator[None]:
    """Sleep METRICS_REST_S after every METRICS_STEPS_MAX steps, so that formatting does not delay I/O."""
    while True:
        for _ in range(limits.METRICS_STEPS_MAX):
            yield
        time.sleep(limits.METRICS_REST_S)


def _values(labels: Labels) -> list[str]:
    """Return the label values with undecodable bytes escaped. Paths may contain bytes that cannot be sent as UTF-8."""
    return [value.encode(errors="backslashreplace").decode() for value in labels.values()]


def problem_counts(families: Families, name: str, rules: Iterable[Rule[Any]], problems: Iterable[Problem]) -> None:
    """Add one sample per rule. The value 0 means that the rule was applied and found no problem."""
    for code, count in count_by_code(rules, problems).items():
        families.gauge(name, "The number of problems, by the code of the rule.", {"code": code}, count)


# --- from one thread to the other -----------------------------------------------------------


class _Snapshots(Collector):
    """Gets a snapshot from the event loop, for any other thread."""

    def __init__(self, make: Snapshot, fill: Callable[[Families, Document], None]) -> None:
        self._make = make
        self._fill = fill
        self._token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery | None = None

    def begin(self, nursery: trio.Nursery) -> None:
        """Allow snapshots, whose tasks run in ``nursery``, until ``end``."""
        self._token, self._nursery = trio.lowlevel.current_trio_token(), nursery

    def end(self) -> None:
        self._token = self._nursery = None

    def collect(self) -> Iterable[Metric]:
        """Return the metrics of a snapshot that the event loop makes. Raises SnapshotUnavailable."""
        families = Families()
        self._fill(families, self._take())
        return families

    def _take(self) -> Document:
        token = self._token
        if token is None:
            raise SnapshotUnavailable("not serving")
        taken: Future[Document] = Future()
        try:
            token.run_sync_soon(self._start, taken)
            return taken.result(limits.METRICS_SNAPSHOT_TIMEOUT_S)
        except trio.RunFinishedError as error:
            raise SnapshotUnavailable("the process is ending") from error
        except TimeoutError as error:
            taken.cancel()
            raise SnapshotUnavailable(f"no snapshot within {limits.METRICS_SNAPSHOT_TIMEOUT_S:g} s") from error

    def _start(self, taken: Future[Document]) -> None:
        """Make a snapshot in the event loop, unless the thread that asked for it has given up."""
        if not taken.set_running_or_notify_cancel():
            return
        if self._nursery is None:
            taken.set_exception(SnapshotUnavailable("the process is ending"))
        else:
            self._nursery.start_soon(self._answer, taken)

    async def _answer(self, taken: Future[Document]) -> None:
        try:
            with trio.move_on_after(limits.METRICS_SNAPSHOT_TIMEOUT_S):
                taken.set_result(await self._make())
        except Exception as error:
            # If the error were raised here, it would end the process. The requesting thread raises it instead.
            taken.set_exception(error)
        finally:
            if not taken.done():
                taken.set_exception(SnapshotUnavailable("the snapshot took too long"))


# --- HTTP -----------------------------------------------------------------------------------


class MetricsServer(socketserver.ThreadingMixIn, WSGIServer):
    """Listens from its creation until ``close``, and answers while ``run`` runs.

    It differs from the library's own server in three ways: connections are bounded, it never queries the DNS, and the
    event loop accepts connections, so that no thread has to poll for the end.
    """

    daemon_threads = True
    request_queue_size = limits.METRICS_BACKLOG

    def __init__(self, place: tuple[str, int], snapshots: _Snapshots) -> None:
        """Listen at ``place``. Raises OSError if that is not possible."""
        if ":" in place[0]:
            self.address_family = socket.AF_INET6
        self._snapshots = snapshots
        self._counting = threading.Lock()
        #: The number of connections that are served now.
        self.connections = 0
        #: The connections without a request so far; the one that has been silent the longest comes first.
        self._silent: OrderedDict[socket.socket, None] = OrderedDict()
        super().__init__(place, _Handler)
        self.socket.setblocking(False)
        self.set_app(_application(snapshots))

    async def run(self) -> None:
        """Answer requests until cancelled."""
        logger.info("metrics are served at http://%s/metrics", format_endpoint(self.server_name, self.server_port))
        async with trio.open_nursery() as nursery:
            self._snapshots.begin(nursery)
            try:
                await self._accept()
            finally:
                self._snapshots.end()

    async def _accept(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self.socket.fileno())
            try:
                connection, address = self.socket.accept()
            except OSError as error:
                # The peer has closed already, or no descriptors are left. Wait a moment instead of spinning.
                logger.debug("metrics: a connection cannot be accepted: %s", error)
                await trio.sleep(limits.METRICS_ACCEPT_RETRY_S)
            else:
                self.process_request(connection, address)

    def close(self) -> None:
        self.server_close()

    def server_bind(self) -> None:
        """Bind as HTTPServer does, but without looking up the name of the host."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        if self.connections >= limits.METRICS_CONNECTIONS_MAX and not self._end_silent():
            served = self.connections
            logger.debug("metrics: the connection of %s is refused, because %d are served", client_address, served)
            self.shutdown_request(request)
            return
        self._count(1)
        with self._counting:
            self._silent[request] = None
        try:
            super().process_request(request, client_address)
        except RuntimeError as error:
            # The process can start no more threads. The event loop must continue.
            logger.warning("metrics: %s", error)
            self.asked(request)
            self._count(-1)
            self.shutdown_request(request)

    def _end_silent(self) -> bool:
        """End the connection that has been silent the longest. Return False if no connection is silent."""
        with self._counting:
            if not self._silent:
                return False
            longest, _ = self._silent.popitem(last=False)
            # The connection's thread reads from it, and sees its end.
            with suppress(OSError):
                longest.shutdown(socket.SHUT_RDWR)
        return True

    def asked(self, request: socket.socket) -> None:
        """Note that the request of this connection has arrived, or that the connection is over."""
        with self._counting:
            self._silent.pop(request, None)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.asked(request)
            self._count(-1)

    def _count(self, change: int) -> None:
        with self._counting:
            self.connections += change

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log an error of the connection. Errors of this process are handled in `_application`."""
        logger.debug("metrics: the connection of %s failed", client_address, exc_info=True)


class _Handler(WSGIRequestHandler):
    timeout = limits.METRICS_CLIENT_TIMEOUT_S
    server: MetricsServer

    def parse_request(self) -> bool:
        """Parse the request and its headers. The base class calls this after the request's first line."""
        parsed = super().parse_request()
        self.server.asked(self.request)
        return parsed

    def log_message(self, format: str, *arguments: Any) -> None:
        logger.debug("metrics: %s: %s", self.client_address, format % arguments)

    def get_stderr(self) -> Any:
        """Return a stream that is thrown away: only failures to send an answer are written to it."""
        return io.StringIO()


def _application(snapshots: _Snapshots) -> WSGIApplication:
    """Return the library's application, with responses that give the reason of an error."""
    registry = CollectorRegistry(support_collectors_without_names=True)
    registry.register(snapshots)
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    metrics: WSGIApplication = make_wsgi_app(registry)

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            return metrics(environ, start_response)
        except SnapshotUnavailable as error:
            status, text = "503 Service Unavailable", str(error)
        except Exception:
            logger.exception("metrics: the answer cannot be made")
            status, text = "500 Internal Server Error", "internal error, see the log"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [text.encode() + b"\n"]

    return application


def open_metrics(place: tuple[str, int], make: Snapshot, fill: Callable[[Families, Document], None]) -> MetricsServer:
    """Listen at an IP address and port. Raises ConfigError if that is not possible."""
    try:
        return MetricsServer(place, _Snapshots(make, fill))
    except OSError as error:
        raise ConfigError(f"cannot serve metrics at {format_endpoint(*place)}: {error.strerror}") from error
