# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from tracer.arguments import parse
from tracer.filters import LatencyRange, StatusRange


def refused(capsys, *words):
    """What is said of a command line that is refused, in one line."""
    with pytest.raises(SystemExit) as caught:
        parse(words)
    assert caught.value.code == 2
    out, error = capsys.readouterr()
    assert out == ""
    sentence, hint, rest = error.split("\n", 2)
    assert rest == ""
    assert hint.startswith("Try 'wirespan")
    return sentence


def test_defaults_watch_everything():
    arguments = parse(["watch"])
    assert arguments.command == "watch"
    assert arguments.output == "compact"
    assert arguments.color == "auto"
    assert arguments.snaplen == 4096
    assert arguments.buffer == 16 << 20
    assert arguments.source == "auto"
    assert arguments.redact is True
    assert arguments.count is None
    assert arguments.duration_ns is None
    assert arguments.traced_command is None
    assert arguments.export_default == ()
    for name in ("pid", "comm", "port", "cgroup", "container", "proto", "status", "header"):
        assert getattr(arguments, name) == []


def test_flags_add_up_and_leave_no_trace_in_the_next_parse():
    arguments = parse(
        ["watch", "-p", "1", "--pid", "2", "--port=80", "--status", "5xx", "--latency", ">1ms"]
    )
    assert arguments.pid == [1, 2]
    assert arguments.port == [80]
    assert arguments.status == [StatusRange(500, 599)]
    assert arguments.latency == [LatencyRange(above=True, bound_ns=1_000_000)]
    assert parse(["watch"]).pid == []


@pytest.mark.parametrize(
    "command",
    [["true"], ["sh", "-c", "exit 3"], ["env", "--", "true"], ["watch", "-c", "1", "--help"]],
)
def test_everything_behind_two_dashes_is_the_command(command):
    arguments = parse(["watch", "-c", "5", "--", *command])
    assert arguments.count == 5
    assert arguments.traced_command == command


def test_agent_exports_to_otlp_unless_told_otherwise():
    assert parse(["agent"]).export_default == ("otlp",)
    assert parse(["agent", "--export", "prom"]).export == ["prom"]


def test_values_are_understood():
    line = "record -w f --for 1.5m --snaplen 16k --buffer 64M --no-redact --force"
    arguments = parse([*line.split(), "--service-name", "nginx=shop=1"])
    assert arguments.write == "f"
    assert arguments.duration_ns == 90_000_000_000
    assert arguments.snaplen == 16384
    assert arguments.buffer == 64 << 20
    assert arguments.service_name == [("nginx", "shop=1")]
    assert arguments.redact is False
    assert arguments.force is True


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["watch", "-c", "0"], "argument -c/--count: '0' is no positive number"),
        (["watch", "-p", "nginx"], "argument -p/--pid: 'nginx' is no positive number"),
        (["watch", "--port", "65536"], "argument --port: '65536' is no port: 1 to 65535"),
        (["watch", "--status", "abc"], "'abc' is no status: write 404, 5xx or 4+"),
        (["watch", "--latency", "fast"], "'fast' is no latency: write '>100ms' or '<1s'"),
        (["watch", "--for", "soon"], "'soon' is no duration: write 250ms, 1.5s or 10m"),
        (["watch", "--for", "0s"], "'0s' is no time at all"),
        (["watch", "--snaplen", "1"], "1 is out of range: 64 to 16384 bytes"),
        (["watch", "--snaplen", "1M"], "1M is out of range: 64 to 16384 bytes"),
        (["watch", "--buffer", "3M"], "3M will not do: a power of two from 64k to 1G"),
        (["watch", "--buffer", "lots"], "'lots' is no size: write 4096, 64k or 16M"),
        (["agent", "--header", "secret"], "'secret' is no KEY=VALUE"),
        (["watch", "-o", "xml"], "invalid choice: 'xml'"),
        (["watch", "--side", "peer"], "invalid choice: 'peer'"),
        (["watch", "--stat", "500"], "no flag is called --stat: is it --status?"),
        (["watch", "--lateny=5"], "no flag is called --lateny: is it --latency?"),
        (["watch", "--zzz"], "wirespan watch: no flag is called --zzz"),
        (["watch", "nginx"], "'nginx' is not expected here; a command to trace follows --"),
        (["watch", "--"], "a command is missing behind --"),
        (["agent", "--", "true"], "agent runs no command: leave `--` out"),
        (["replay", "f", "--", "true"], "replay runs no command: leave `--` out"),
        (["record"], "wirespan record: the following arguments are required: -w/--write"),
        (["replay"], "the following arguments are required: FILE"),
        (["completion", "tcsh"], "invalid choice: 'tcsh'"),
        (["wacth"], "invalid choice: 'wacth'"),
    ],
)
def test_bad_usage_is_one_sentence_and_status_2(capsys, words, sentence):
    assert sentence in refused(capsys, *words)


def test_no_command_at_all_shows_the_help_as_an_error(capsys):
    with pytest.raises(SystemExit) as caught:
        parse([])
    assert caught.value.code == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert "commands:" in error


def test_only_what_can_take_a_filter_has_one(capsys):
    assert "no flag is called --status" in refused(capsys, "record", "-w", "f", "--status", "500")
    assert "no flag is called --pid" in refused(capsys, "replay", "f", "--pid", "1")
