"""The webhook against a real HTTP server on loopback: well, badly, slowly and not at all."""

import json
import logging
import signal
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import dagster as dg
import pytest

from assets.upkeep import failures_told
from resources.hooks import Hook
from rkd_pipeline.definitions import build_defs
from rkd_pipeline.errors import RkdError
from rkd_pipeline.settings import Settings

SECRET = "s3cret-token"


class Server(ThreadingHTTPServer):
    """Answers with ``answers`` in turn, the last one for ever; keeps what it was sent."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[int] = [200]
        self.received: list[dict[str, object]] = []
        self.delay = 0.0

    @property
    def address(self) -> str:
        return f"http://robot:{SECRET}@127.0.0.1:{self.server_address[1]}/{SECRET}?key={SECRET}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        time.sleep(self.server.delay)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append(json.loads(body) | {"path": self.path})
        answers = self.server.answers
        self.send_response(answers.pop(0) if len(answers) > 1 else answers[0])
        self.send_header("Location", "http://127.0.0.1:9/elsewhere")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("RKD_HOOK_URL", server.address)
        yield server
        server.shutdown()


def tell(hook: Hook | None = None) -> bool:
    return (hook or quick()).tell("regression", "head_ct got worse", {"round": 3, "moves": [{"move": -0.1}]})


def quick() -> Hook:
    """As the environment of now configures it, but for its patience."""
    hook = Hook.of(Settings.from_environment()).process_config_and_initialize()
    return hook.model_copy(update={"timeout_seconds": 0.5, "pause_seconds": 0.01})


def test_it_gets_the_facts_as_json(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    assert tell()
    [sent] = server.received
    assert (sent["event"], sent["text"], sent["round"]) == ("regression", "head_ct got worse", 3)
    assert sent["path"] == f"/{SECRET}?key={SECRET}"
    assert "regression: head_ct got worse" in caplog.text


def test_it_is_tried_again_when_the_server_stumbles(server: Server) -> None:
    server.answers = [500, 503, 204]
    assert tell()
    assert len(server.received) == 3


@pytest.mark.parametrize("answer", [302, 404, 500])
def test_a_refusal_is_logged_without_the_address(server: Server, caplog: pytest.LogCaptureFixture, answer: int) -> None:
    server.answers = [answer]
    with caplog.at_level(logging.DEBUG, "rkd_pipeline"):
        assert not tell()
    assert f"it answered {answer}" in caplog.text
    assert f"http://127.0.0.1:{server.server_address[1]}/..." in caplog.text
    assert SECRET not in caplog.text


def test_a_server_that_hangs_or_is_gone_holds_nobody_up(
    server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.delay = 3
    hook = quick()
    started = time.monotonic()
    assert not tell(hook)
    assert time.monotonic() - started < 2.5
    assert "ReadTimeout" in caplog.text
    monkeypatch.setenv("RKD_HOOK_URL", f"http://robot:{SECRET}@127.0.0.1:9/")
    assert not tell()
    assert "ConnectionError" in caplog.text
    assert SECRET not in caplog.text


def test_without_an_address_there_is_the_log(caplog: pytest.LogCaptureFixture) -> None:
    assert tell()
    assert "regression: head_ct got worse" in caplog.text


def test_the_graph_s_configuration_holds_the_variable_s_name_and_not_the_address(server: Server) -> None:
    settings = Settings.from_environment()
    graph = build_defs(settings)
    shown = repr(graph.resources["hook"]) + repr(graph.get_repository_def().get_top_level_resources()["hook"])
    assert "RKD_HOOK_URL" in shown
    assert SECRET not in shown


def test_a_wrong_address_is_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RKD_HOOK_URL", f"ftp://{SECRET}")
    with pytest.raises(RkdError, match=r"RKD_HOOK_URL=\(not shown\)") as raised:
        Settings.from_environment()
    assert SECRET not in str(raised.value)


@dg.op
def fails() -> None:
    raise ValueError("broken")


@dg.op
def is_interrupted() -> None:
    """As by Ctrl-C at a terminal, in the middle of the work."""
    signal.raise_signal(signal.SIGINT)
    time.sleep(30)


@pytest.mark.parametrize(("op", "told"), [(fails, 1), (is_interrupted, 0)])
def test_a_failure_is_told_and_a_person_s_own_ctrl_c_is_not(server: Server, op: dg.OpDefinition, told: int) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        job = dg.JobDefinition(name="work", graph_def=dg.GraphDefinition("work", node_defs=[op]))
        done = job.execute_in_process(instance=instance, raise_on_error=False)
        run = instance.get_run_by_id(done.run_id)
        assert run is not None
        assert run.status == dg.DagsterRunStatus.FAILURE
        [failure] = instance.get_records_for_run(run.run_id, of_type=dg.DagsterEventType.RUN_FAILURE).records
        event = failure.event_log_entry.dagster_event
        assert event is not None
        context = dg.build_run_status_sensor_context("failures_told", event, instance, run).for_run_failure()
        failures_told(context, hook=Hook(address=server.address, attempts=1))
    assert len(server.received) == told
