# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from exporters import agent_socket, small_http
from exporters.agent_socket import AgentSocket, AgentSocketError, NoAgentError, ask
from tracer.argument_groups import SOCKET


def echo(query):
    return "text/plain", repr(sorted(query.items())).encode()


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "run" / "agent.sock")


def refuse(query):
    raise ValueError("since: 'x' is no number")


def fail(query):
    raise RuntimeError("inside")


@pytest.fixture
def agent(path):
    made = AgentSocket(path, {"/echo": echo, "/bad": refuse, "/fail": fail})
    yield made
    made.close()


def settled(made, name, value):
    """Counters are written by the threads that answer."""
    end_s = time.monotonic() + 5
    while made.counters()[name] != value and time.monotonic() < end_s:
        time.sleep(0.005)
    return made.counters()[name] == value


def test_a_question_is_answered_by_its_path(agent, path):
    assert ask(path, "/echo") == b"[]"
    assert ask(path, "/echo?b=2&a=%20x") == b"[('a', ' x'), ('b', '2')]"
    assert settled(agent, "requests_answered", 2)


def test_curl_can_ask(agent, path):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    done = subprocess.run(
        ["curl", "-sS", "-i", "--unix-socket", path, "http://agent/echo?a=1"],
        capture_output=True,
        check=True,
    )
    head, _, body = done.stdout.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b"Content-Type: text/plain" in head
    assert body == b"[('a', '1')]"


def test_what_is_not_there_names_what_is(agent, path):
    with pytest.raises(AgentSocketError, match="404: there are only: /bad, /echo, /fail"):
        ask(path, "/nothing")
    assert settled(agent, "requests_failed", 1)


def test_a_bad_question_gets_the_handlers_words(agent, path):
    with pytest.raises(AgentSocketError, match="400: since: 'x' is no number"):
        ask(path, "/bad")


def test_a_handler_that_fails_is_logged_and_the_next_is_answered(agent, path, caplog):
    with pytest.raises(
        AgentSocketError, match="500: it could not be answered: the agent's log says why"
    ):
        ask(path, "/fail")
    assert "could not be answered" in caplog.text
    assert ask(path, "/echo") == b"[]"


def test_who_is_told_to_come_again_is_refused(path, monkeypatch):
    monkeypatch.setattr(small_http, "MAX_ANSWERED", 0)
    made = AgentSocket(path, {"/echo": echo})
    with pytest.raises(AgentSocketError, match="503: 0 others are being answered: ask again"):
        ask(path, "/echo")
    assert settled(made, "requests_refused", 1)
    made.close()


def test_any_name_of_the_agent_will_do(agent, path):
    """There are none on a Unix socket, and curl wants one."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(path)
        client.sendall(b"GET /echo HTTP/1.1\r\nHost: whatever.example\r\n\r\n")
        assert b" 200 " in client.recv(4096)


def test_the_default_path_is_that_of_the_command_line():
    assert agent_socket.DEFAULT_PATH == SOCKET


def test_too_many_parameters_are_refused(agent, path):
    with pytest.raises(AgentSocketError, match="400"):
        ask(path, "/echo?" + "&".join(f"k{n}=1" for n in range(100)))


def test_only_the_owner_may_open_it(agent, path):
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(path).parent.stat().st_mode) == 0o700


def test_the_socket_goes_with_the_agent(agent, path):
    agent.close()
    agent.close()
    assert not Path(path).exists()
    with pytest.raises(NoAgentError, match=f"no agent listens at {path}"):
        ask(path, "/echo")


def test_the_socket_of_a_dead_agent_is_replaced(path):
    Path(path).parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    with pytest.raises(NoAgentError):
        ask(path, "/echo")
    made = AgentSocket(path, {"/echo": echo})
    assert ask(path, "/echo") == b"[]"
    made.close()


def test_the_socket_of_a_living_agent_is_left_alone(agent, path):
    with pytest.raises(AgentSocketError, match="another agent listens at"):
        AgentSocket(path, {})
    assert ask(path, "/echo") == b"[]"


def test_a_file_that_is_no_socket_is_left_alone(path):
    Path(path).parent.mkdir()
    Path(path).write_text("precious")
    with pytest.raises(AgentSocketError, match="is there and no socket"):
        AgentSocket(path, {})
    assert Path(path).read_text() == "precious"


def test_the_socket_of_a_successor_is_left_alone(path):
    first = AgentSocket(path, {})
    Path(path).unlink()
    second = AgentSocket(path, {"/echo": echo})
    first.close()
    assert ask(path, "/echo") == b"[]"
    second.close()


def test_of_agents_that_start_at_once_one_listens(path):
    Path(path).parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    made, refused = [], []

    def start():
        try:
            made.append(AgentSocket(path, {"/echo": echo}))
        except AgentSocketError as error:
            refused.append(error)

    threads = [threading.Thread(target=start) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert len(refused) == 5
    assert ask(path, "/echo") == b"[]"
    made[0].close()


@pytest.mark.parametrize("operation", [ask, AgentSocket])
def test_a_path_that_is_too_long_is_refused_in_words(operation):
    with pytest.raises(AgentSocketError, match="at most 107 bytes"):
        operation("/tmp/" + "x" * 200, {})


def test_a_directory_that_cannot_be_made_is_an_error_in_words(tmp_path):
    with pytest.raises(AgentSocketError, match="no socket can be made: No such file"):
        AgentSocket(str(tmp_path / "a" / "b" / "c.sock"), {})


def test_a_locked_directory_is_an_error_in_words(path, monkeypatch):
    monkeypatch.setattr(agent_socket, "LOCK_S", 0.05)
    directory = Path(path).parent
    directory.mkdir()
    with (
        agent_socket._locked(directory),
        pytest.raises(AgentSocketError, match="is locked by another program"),
    ):
        AgentSocket(path, {})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_others_may_not_ask_even_if_they_can_open_it(agent, path, tmp_path):
    for each in (tmp_path, *tmp_path.parents):
        if each != each.parent and each.stat().st_uid == 0 and "pytest" in str(each):
            each.chmod(0o755)
    Path(path).parent.chmod(0o755)
    Path(path).chmod(0o666)
    script = (
        "import os, socket, sys\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])\n"
        "s.sendall(b'GET /echo HTTP/1.1\\r\\n\\r\\n')\n"
        "print(s.makefile().read())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, path], capture_output=True, text=True, check=False
    )
    assert "403" in done.stdout, done.stderr
    assert "only root and the agent's own user" in done.stdout
    assert settled(agent, "requests_refused", 1)


def test_who_may_not_open_it_is_told(agent, path, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(agent_socket._Connection, "connect", refuse)
    with pytest.raises(AgentSocketError, match="be root, or the user that the agent runs as"):
        ask(path, "/echo")


def test_an_agent_that_does_not_answer_is_an_error_in_words(path):
    Path(path).parent.mkdir()
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(path)
        silent.listen()
        with pytest.raises(AgentSocketError, match="has not answered in 0.05 s"):
            ask(path, "/echo", timeout_s=0.05)


def test_an_agent_that_speaks_no_http_is_an_error_in_words(path):
    Path(path).parent.mkdir()
    with socket.socket(socket.AF_UNIX) as strange:
        strange.bind(path)
        strange.listen()

        def talk():
            client, _ = strange.accept()
            client.recv(1000)
            client.sendall(b"+PONG\r\n")
            client.close()

        thread = threading.Thread(target=talk)
        thread.start()
        with pytest.raises(AgentSocketError, match="broke off"):
            ask(path, "/echo")
        thread.join()
