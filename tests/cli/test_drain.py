"""A server that is told to stop finishes what runs, by every protocol, and loses nothing that it has acknowledged."""

from __future__ import annotations

import json
import re
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx2
import openai
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from glm_crush.client import Client
from glm_crush.errors import InvalidParameterError
from glm_crush.serving.grpc import glm_crush_pb2 as pb
from tests.cli.test_serve import serving

pytestmark = pytest.mark.requirement("S9")

LONG: dict[str, Any] = {"max_tokens": 40, "n": 128, "ignore_eos": True, "temperature": 0}


def stream_over_http(url: str, begun: threading.Barrier) -> list[str]:
    """Why each choice of a stream ended."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as api:
        more = {"ignore_eos": True}
        stream = api.completions.create(
            model="tiny", prompt=[1, 2], max_tokens=40, n=128, temperature=0, stream=True, extra_body=more
        )
        next(stream)
        begun.wait(60)
        return [chunk.choices[0].finish_reason for chunk in stream if chunk.choices[0].finish_reason]


def generate_over_websocket(url: str, begun: threading.Barrier) -> tuple[str, int]:
    """How a generation ended, and then the connection."""
    with connect(url.replace("http", "ws") + "/v1/ws", open_timeout=20) as socket:
        request = {"messages": [{"role": "user", "content": "a"}], **LONG}
        socket.send(json.dumps({"type": "chat", "id": "a", "request": request}))
        kinds = [json.loads(socket.recv(60))["type"]]
        begun.wait(60)
        try:
            while True:
                kinds.append(json.loads(socket.recv(60))["type"])
        except ConnectionClosed as closed:
            return kinds[-1], 0 if closed.rcvd is None else closed.rcvd.code


def generate_over_grpc(port: int, begun: threading.Barrier) -> int:
    """Tokens of a streamed call."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_stream(
            "/glm_crush.v1.Generation/StreamComplete",
            request_serializer=pb.CompleteRequest.SerializeToString,
            response_deserializer=pb.CompleteDelta.FromString,
        )
        events = call(pb.CompleteRequest(prompt="a", sampling=pb.Sampling(max_tokens=40, ignore_eos=True)))
        next(events)
        begun.wait(60)
        return len(list(events))


def upload_until_refused(url: str, begun: threading.Barrier) -> list[str]:
    """Ids of files that the server said it has."""
    acknowledged: list[str] = []
    begun.wait(60)
    with httpx2.Client(base_url=url, timeout=60) as client:
        while True:
            try:
                files = {"file": ("a.jsonl", b"{}"), "purpose": (None, "batch")}
                reply = client.post("/v1/files", files=files)
            except httpx2.TransportError:
                return acknowledged
            assert reply.status_code == 200, reply.text
            acknowledged.append(reply.json()["id"])


def respond_until_refused(url: str, begun: threading.Barrier) -> list[str]:
    """Ids of stored responses."""
    acknowledged: list[str] = []
    begun.wait(60)
    with httpx2.Client(base_url=url, timeout=60) as client:
        while True:
            try:
                reply = client.post("/v1/responses", json={"model": "tiny", "input": "a", "max_output_tokens": 16})
            except httpx2.TransportError:
                return acknowledged
            assert reply.status_code == 200, reply.text
            acknowledged.append(reply.json()["id"])


def test_what_runs_ends_and_what_was_acknowledged_is_there_after_the_next_start(tiny_llama: Path) -> None:
    options = (str(tiny_llama), "--name", "tiny", "--threads", "1")
    with serving(*options, "--grpc-port", "0") as (process, url, printed), ThreadPoolExecutor(6) as pool:
        port = int(re.findall(r"gRPC\s+127\.0\.0\.1:(\d+)", "".join(printed))[0])
        begun = threading.Barrier(6)
        http = pool.submit(stream_over_http, url, begun)
        socket = pool.submit(generate_over_websocket, url, begun)
        grpc_tokens = pool.submit(generate_over_grpc, port, begun)
        files = pool.submit(upload_until_refused, url, begun)
        responses = pool.submit(respond_until_refused, url, begun)
        begun.wait(60)
        process.send_signal(signal.SIGTERM)
        assert http.result(60) == ["length"] * 128
        assert socket.result(60) == ("done", 1001)
        assert grpc_tokens.result(60) > 0
        acknowledged = [f"/v1/files/{name}" for name in files.result(60)]
        acknowledged += [f"/v1/responses/{name}" for name in responses.result(60)]
        assert process.wait(60) == 0
    with serving(*options) as (_, url, _), httpx2.Client(base_url=url) as client:
        assert [path for path in acknowledged if client.get(path).status_code != 200] == []


def test_a_connection_that_carries_nothing_does_not_hold_the_server_up(tiny_llama: Path) -> None:
    with (
        serving(str(tiny_llama), "--threads", "1") as (process, url, _),
        connect(url.replace("http", "ws") + "/v1/ws", open_timeout=20) as socket,
        httpx2.Client() as idle,
    ):
        idle.get(f"{url}/health")
        process.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(20)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
        assert process.wait(20) == 0


def test_an_administrator_stops_the_server_and_what_runs_ends(tiny_llama: Path, glm: Any, glm_home: Path) -> None:
    options = (str(tiny_llama), "--name", "tiny", "--threads", "1")
    with serving(*options) as (process, url, _), ThreadPoolExecutor(1) as pool:
        begun = threading.Barrier(2)
        http = pool.submit(stream_over_http, url, begun)
        begun.wait(60)
        assert f"{url} stops now; what runs then may go on for 30 s" in glm("stop", "--server", "--url", url).stderr
        assert http.result(60) == ["length"] * 128
        assert process.wait(60) == 0


def test_before_a_delayed_stop_requests_are_answered_but_load_balancers_are_told(tiny_llama: Path) -> None:
    options = (str(tiny_llama), "--name", "tiny", "--threads", "1", "--engine", "in-process", "--api-key", "boot")
    with serving(*options) as (process, url, _), Client(url, "boot") as client:
        assert client.ready().is_ready
        assert client.stop_server(delay_seconds=600).delay_seconds == pytest.approx(600, abs=60)
        assert client.stop_server(delay_seconds=1200).delay_seconds <= 600
        assert client.ready().status == "stopping"
        assert client.health()
        assert client.chat("Hi", max_tokens=2).usage is not None
        with pytest.raises(InvalidParameterError, match=r"delay_seconds is -1.0; give a number in \[0, 3600\]"):
            client.stop_server(delay_seconds=-1)
        assert client.stop_server().shutdown_timeout_seconds == 30
        assert process.wait(60) == 0


def test_only_administrators_stop_the_server(tiny_llama: Path) -> None:
    options = (str(tiny_llama), "--name", "tiny", "--threads", "1", "--engine", "in-process")
    with serving(*options) as (process, url, _):
        assert httpx2.post(f"{url}/admin/v1/stop").status_code == 403
        assert httpx2.get(f"{url}/ready").status_code == 200
        assert process.poll() is None
