"""kopf as a frame, on a real API server."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tandem_operator.kube.client import KubeClient
from tandem_operator.kube.credentials import connect
from tandem_operator.kube.manifest import Manifest
from tandem_operator.program.frame import Frame, without_managers
from tests.ground.api_server import ApiServer
from tests.tandem_operator.program.jobs import manifest
from tests.wire import Wire, wire_to

pytestmark = pytest.mark.api_server

SECONDS = 30.0


@dataclass(slots=True)
class Ear:
    """A sink that remembers everything."""

    told: list[tuple[str, Manifest | None]] = field(default_factory=list)

    def sink(self, namespace: str, name: str, body: Manifest | None) -> None:
        self.told.append((f"{namespace}/{name}", body))

    def newest(self, namespace: str, name: str) -> Manifest | None:
        """Return what was told last of a job; LookupError where nothing was."""
        found = [body for key, body in self.told if key == f"{namespace}/{name}"]
        return found[-1]

    def knows(self, namespace: str, name: str) -> bool:
        return any(key == f"{namespace}/{name}" for key, _ in self.told)

    def saw_end(self, namespace: str, name: str) -> bool:
        return self.knows(namespace, name) and self.newest(namespace, name) is None


async def until(condition: Callable[[], object]) -> None:
    """Wait until the condition holds."""
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110 - the frame tells a plain function, not an event
            await asyncio.sleep(0.02)


@asynccontextmanager
async def framed(
    server: ApiServer, ear: Ear, *namespaces: str, kubeconfig: Path | None = None, **options: Any
) -> AsyncIterator[Frame]:
    """Run a frame while the context is open, from its first list on."""
    connection = await connect(kubeconfig or server.kubeconfig)
    stop = asyncio.Event()
    frame = Frame(connection, KubeClient(connection), ear.sink, namespaces=namespaces, **options)
    task = asyncio.create_task(frame.run(stop))
    try:
        async with asyncio.timeout(SECONDS):
            await frame.synced.wait()
        yield frame
    finally:
        stop.set()
        async with asyncio.timeout(SECONDS):
            await task
        await connection.close()


def by_wire(server: ApiServer, wire: Wire, folder: Path) -> Path:
    """Write a kubeconfig that goes by the wire, which the server's certificate does not name; return its path."""
    content = json.loads(server.kubeconfig.read_text(encoding="utf-8"))
    content["clusters"][0]["cluster"] |= {
        "server": f"https://{wire.endpoint}",
        "tls-server-name": httpx.URL(server.url).host,
    }
    path = folder / "kubeconfig-by-wire"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


async def test_jobs_come_with_list_change_and_end(api_server: ApiServer, api_namespace: str) -> None:
    ear = Ear()
    await asyncio.to_thread(api_server.apply, manifest("old", api_namespace))
    async with framed(api_server, ear):
        await until(lambda: ear.knows(api_namespace, "old"))

        await asyncio.to_thread(api_server.apply, manifest("new", api_namespace))
        await until(lambda: ear.knows(api_namespace, "new"))
        await asyncio.to_thread(api_server.apply, manifest("new", api_namespace, suspend=True))
        await until(lambda: (ear.newest(api_namespace, "new") or {})["spec"]["suspend"] is True)  # type: ignore[index,call-overload]
        await asyncio.to_thread(api_server.kubectl, "delete", "rljob", "new", "-n", api_namespace)
        await until(lambda: ear.saw_end(api_namespace, "new"))


async def test_it_writes_nothing_to_the_jobs_that_it_watches(api_server: ApiServer, api_namespace: str) -> None:
    ear = Ear()
    await asyncio.to_thread(api_server.apply, manifest("quiet", api_namespace))
    before = json.loads(await asyncio.to_thread(_job, api_server, "quiet", api_namespace))
    async with framed(api_server, ear):
        await until(lambda: ear.knows(api_namespace, "quiet"))
        await asyncio.sleep(1)
    after = json.loads(await asyncio.to_thread(_job, api_server, "quiet", api_namespace))

    assert after == before
    assert ear.newest(api_namespace, "quiet") == without_managers(before)


async def test_it_serves_the_namespaces_that_it_is_given_and_no_other(
    api_server: ApiServer, api_namespace: str
) -> None:
    ear = Ear()
    other = manifest("elsewhere", "default")
    async with framed(api_server, ear, api_namespace):
        await asyncio.to_thread(api_server.apply, other, manifest("here", api_namespace))
        await until(lambda: ear.knows(api_namespace, "here"))
        await asyncio.sleep(0.5)
    await asyncio.to_thread(api_server.kubectl, "delete", "rljob", "elsewhere")

    assert {key for key, _ in ear.told} == {f"{api_namespace}/here"}


async def test_a_job_that_goes_between_two_runs_of_kopf_is_told_as_gone(
    api_server: ApiServer, api_namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ear = Ear()
    await asyncio.to_thread(api_server.apply, manifest("brief", api_namespace))
    async with framed(api_server, ear) as frame:
        await until(lambda: ear.knows(api_namespace, "brief"))
        monkeypatch.setattr("tandem_operator.program.frame.FIRST_PAUSE_SECONDS", 3.0)

        _kill_kopf("multidimensional multitasker")
        await asyncio.to_thread(api_server.kubectl, "delete", "rljob", "brief", "-n", api_namespace)
        await until(lambda: ear.saw_end(api_namespace, "brief"))

        assert frame.age_seconds() < SECONDS


async def test_what_happens_while_the_api_server_is_out_of_reach_is_told_afterwards(
    api_server: ApiServer, api_namespace: str, tmp_path: Path
) -> None:
    ear = Ear()
    await asyncio.to_thread(api_server.apply, manifest("goes", api_namespace))
    async with (
        wire_to(httpx.URL(api_server.url).netloc.decode()) as wire,
        framed(api_server, ear, kubeconfig=by_wire(api_server, wire, tmp_path)),
    ):
        await until(lambda: ear.knows(api_namespace, "goes"))

        await wire.cut()
        await asyncio.to_thread(api_server.kubectl, "delete", "rljob", "goes", "-n", api_namespace)
        await asyncio.to_thread(api_server.apply, manifest("comes", api_namespace))
        await wire.join()

        await until(lambda: ear.knows(api_namespace, "comes"))
        await until(lambda: ear.saw_end(api_namespace, "goes"))


async def test_the_age_is_the_time_since_the_last_word(api_server: ApiServer, api_namespace: str) -> None:
    ear = Ear()
    async with framed(api_server, ear) as frame:
        await until(lambda: frame.age_seconds() >= 1.0)

        await asyncio.to_thread(api_server.apply, manifest("word", api_namespace))

        await until(lambda: ear.knows(api_namespace, "word"))
        await until(lambda: frame.age_seconds() < 1.0)


async def test_signals_are_its_hosts_again_once_kopf_runs(api_server: ApiServer) -> None:
    received = asyncio.Event()
    loop = asyncio.get_running_loop()

    def own_signals() -> None:
        loop.add_signal_handler(signal.SIGTERM, received.set)

    try:
        async with framed(api_server, Ear(), own_signals=own_signals):
            signal.raise_signal(signal.SIGTERM)
            async with asyncio.timeout(SECONDS):
                await received.wait()
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        loop.remove_signal_handler(signal.SIGINT)


async def test_its_end_leaves_the_tasks_of_its_host_alone(api_server: ApiServer) -> None:
    async with framed(api_server, Ear()):
        bystander = asyncio.create_task(asyncio.sleep(SECONDS), name="younger than kopf")

    assert not bystander.done()
    bystander.cancel()
    left = {task.get_name() for task in asyncio.all_tasks()} - {bystander.get_name()}
    assert not [name for name in left if "kopf" in name or "watch" in name or "worker" in name]


def _job(server: ApiServer, name: str, namespace: str) -> str:
    return server.kubectl("get", "rljob", name, "-n", namespace, "-o", "json", "--show-managed-fields")


def _kill_kopf(task_name: str) -> None:
    """End one of kopf's tasks, as an error that it does not know would."""
    [task] = [task for task in asyncio.all_tasks() if task.get_name() == task_name]
    task.cancel()
