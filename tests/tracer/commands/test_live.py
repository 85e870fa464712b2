# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest

from tests.tracer.conversations import batches_of
from tests.tracer.fakes import START_NS, Conversation, FakeSource, request, response
from tracer import cli
from tracer.arguments import parse
from tracer.cgroups import NoCgroupError
from tracer.commands import live
from tracer.commands.live import capture_settings
from tracer.errors import LoadError
from tracer.source import Batch


class Live(FakeSource):
    """Stands for the kernel: plays its batches, then nothing happens any more."""

    made = None

    def __init__(self, settings, processes):
        super().__init__(Live.planned)
        Live.made = self
        self.settings = settings
        self.processes_table = processes
        self.degraded = list(Live.degraded_by)
        self.on_poll = Live.on_poll
        self.prepared = []

    def prepare(self, program):
        self.prepared.append(program)

    def poll(self, timeout_s):
        if self.on_poll is not None:
            self.on_poll(self)
        return super().poll(timeout_s) or Batch(b"", START_NS, 0)


@pytest.fixture
def kernel(monkeypatch):
    """Make live commands run on these batches: `kernel(batches)`."""
    monkeypatch.setattr(live, "KernelSource", Live)
    monkeypatch.setattr(Live, "degraded_by", [], raising=False)
    monkeypatch.setattr(Live, "on_poll", None, raising=False)

    def plan(batches=(), *, degraded=(), on_poll=None):
        monkeypatch.setattr(Live, "planned", list(batches), raising=False)
        monkeypatch.setattr(Live, "degraded_by", degraded)
        monkeypatch.setattr(Live, "on_poll", on_poll and staticmethod(on_poll))

    plan()
    return plan


def traffic(count):
    conversation = Conversation().open()
    for number in range(count):
        conversation.recv(request(f"/{number}", "PUT" if number % 2 else "GET"))
        conversation.send(response(number, 500 if number % 3 == 0 else 200))
    return batches_of(conversation.events, per_batch=7)


def interrupt_when_idle(source):
    if not source.batches:
        source.on_poll = None  # a second one would end us at once
        os.kill(os.getpid(), signal.SIGINT)


def said(capsys):
    out, error = capsys.readouterr()
    return [json.loads(line) for line in out.splitlines()], error


def test_watch_prints_until_it_is_interrupted_and_sums_up(kernel, capsys):
    kernel(traffic(10), on_poll=interrupt_when_idle)
    assert cli.main(["watch", "-o", "json"]) == 0
    spans, error = said(capsys)
    assert [span["attributes"]["url.path"] for span in spans] == [f"/{n}" for n in range(10)]
    assert error.startswith("Watching. Ctrl+C ends it with a summary.\n")
    assert "10 exchanges in" in error
    assert Live.made.closed


@pytest.mark.parametrize("count", [1, 4, 9])
def test_count_stops_exactly_there(kernel, capsys, count):
    kernel(traffic(10))
    assert cli.main(["watch", "-o", "json", "-c", str(count)]) == 0
    spans, error = said(capsys)
    assert len(spans) == count
    assert f"{count} exchange" in error


def test_count_is_of_what_passes_the_filter(kernel, capsys):
    kernel(traffic(20))
    assert cli.main(["watch", "-o", "json", "-c", "3", "--method", "PUT", "--status", "5xx"]) == 0
    spans, _ = said(capsys)
    assert [span["attributes"]["url.path"] for span in spans] == ["/3", "/9", "/15"]


def test_time_is_up_when_it_was_asked_to_be(kernel, capsys):
    assert cli.main(["watch", "--for", "1ms"]) == 0
    assert "0 exchanges in 0.0 s" in capsys.readouterr().err


def test_what_came_before_the_end_is_still_read(kernel, capsys):
    # Interrupted at the first poll, while there are batches that nobody has read.
    def at_once(source):
        source.on_poll = None
        os.kill(os.getpid(), signal.SIGINT)

    kernel(traffic(10), on_poll=at_once)
    assert cli.main(["watch", "-o", "json"]) == 0
    assert len(said(capsys)[0]) == 10


def test_traced_command_gives_its_exit_code_and_is_filtered_by(kernel, capsys):
    kernel(traffic(2))
    code = cli.main(["watch", "-o", "json", "--", sys.executable, "-c", "raise SystemExit(7)"])
    assert code == 7
    spans, error = said(capsys)
    assert len(spans) == 2
    assert "Watching" not in error
    assert len(Live.made.settings.pids) == 1
    assert Live.made.prepared == [sys.executable]


def test_traced_command_that_is_not_there_is_127(kernel, capfd):
    assert cli.main(["watch", "--", "no-such-command-anywhere"]) == 127
    assert "cannot run no-such-command-anywhere" in capfd.readouterr().err


def test_traced_command_does_not_begin_where_nothing_can_be_captured(
    kernel, monkeypatch, capsys, tmp_path
):
    def refuse(settings, processes):
        raise LoadError("eBPF is not permitted here", "run with sudo")

    monkeypatch.setattr(live, "KernelSource", refuse)
    mark = tmp_path / "mark"
    assert cli.main(["watch", "--", "touch", str(mark)]) == 1
    assert capsys.readouterr().err == "wirespan: eBPF is not permitted here: run with sudo\n"
    assert not mark.exists()


def test_what_does_not_work_here_is_said_at_the_start(kernel, capsys):
    kernel(degraded=["no hook for senders: peers of datagrams are not known"])
    assert cli.main(["watch", "--for", "1ms"]) == 0
    assert "wirespan: no hook for senders" in capsys.readouterr().err


def test_unknown_exporter_is_a_sentence_before_anything_is_captured(kernel, capsys):
    Live.made = None
    assert cli.main(["watch", "--export", "nonsense"]) == 1
    assert "wirespan: no exporter is called nonsense: installed are" in capsys.readouterr().err
    assert Live.made is None


def test_unknown_protocol_is_a_sentence_before_anything_is_captured(kernel, capsys):
    Live.made = None
    assert cli.main(["watch", "--proto", "gopher"]) == 1
    assert "wirespan: no protocol is called gopher" in capsys.readouterr().err
    assert Live.made is None


def test_record_writes_what_replay_reads(kernel, capsys, tmp_path):
    path = tmp_path / "run.wspan"
    kernel(traffic(10), on_poll=interrupt_when_idle)
    assert cli.main(["record", "-w", str(path)]) == 0
    out, error = capsys.readouterr()
    assert out == ""
    assert "10 exchanges in" in error
    assert f"{path}: " in error.splitlines()[-1]
    assert cli.main(["replay", str(path), "-o", "json"]) == 0
    assert len(said(capsys)[0]) == 10


def test_watch_records_what_it_shows(kernel, capsys, tmp_path):
    path = tmp_path / "run.wspan"
    kernel(traffic(10), on_poll=interrupt_when_idle)
    assert cli.main(["watch", "-o", "json", "-w", str(path)]) == 0
    live_spans, _ = said(capsys)
    assert cli.main(["replay", str(path), "-o", "json"]) == 0
    assert said(capsys)[0] == live_spans


def test_file_that_is_there_is_not_overwritten_unasked(kernel, capsys, tmp_path):
    path = tmp_path / "run.wspan"
    path.write_text("precious")
    assert cli.main(["record", "-w", str(path), "--for", "1ms"]) == 1
    assert "exists" in capsys.readouterr().err
    assert path.read_text() == "precious"
    assert cli.main(["record", "-w", str(path), "--for", "1ms", "--force"]) == 0
    assert path.read_bytes() != b"precious"


def test_recording_that_ends_early_is_status_1(kernel, capsys):
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    kernel(traffic(10), on_poll=interrupt_when_idle)
    assert cli.main(["record", "-w", "/dev/full", "--force"]) == 1
    assert "No space left on device" in capsys.readouterr().err


def test_settings_are_what_the_flags_say(tmp_path, monkeypatch):
    monkeypatch.setattr(live, "resolve_cgroup", lambda path: tmp_path / path)
    monkeypatch.setattr(live, "resolve_container", lambda each: ([tmp_path / each], [5, 6]))
    line = "watch -p 1 --comm nginx --port 80 --cgroup a.slice --container 12345678"
    line += " --snaplen 1k --buffer 1M --source syscall"
    settings = capture_settings(parse(line.split()), None)
    assert settings.first_bytes == 0
    assert settings.pids == (1, 5, 6)
    assert settings.comms == ("nginx",)
    assert settings.ports == (80,)
    assert settings.cgroups == (tmp_path / "a.slice", tmp_path / "12345678")
    assert settings.snaplen == 1024
    assert settings.ring_bytes == 1 << 20
    assert settings.payload_source == "syscall"


def test_group_that_is_not_there_is_no_empty_filter():
    with pytest.raises(NoCgroupError):
        capture_settings(parse(["watch", "--cgroup", "/no/such/group"]), None)


def test_agent_tells_where_it_sends(kernel, capsys):
    kernel(on_poll=interrupt_when_idle)
    assert cli.main(["agent", "--endpoint", "http://127.0.0.1:9"]) == 0
    assert capsys.readouterr().err.startswith("Capturing, to otlp.\n")


def test_exporters_are_closed_whatever_happens(kernel, monkeypatch):
    closed = []
    monkeypatch.setattr(live.Gate, "close", lambda self: closed.append(True))

    def break_(source):
        raise ZeroDivisionError

    kernel(on_poll=break_)
    with pytest.raises(ZeroDivisionError):
        cli.main(["watch"])
    assert closed
    assert Live.made.closed
