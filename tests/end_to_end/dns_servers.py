# SPDX-License-Identifier: Apache-2.0
"""Name servers of the end-to-end tests, which ask nobody else, and their clients."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import dns.exception
import dns.message
import dns.query

from tests.end_to_end.servers import needs
from tests.rig import free_port, running, wait_until

ADDRESS: Final = "10.1.2.3"
ADDRESS6: Final = "2001:db8::3"
HOST: Final = "127.0.0.1"
BIG_NUMBER: Final = 45
"""Addresses of big.example: more than 512 bytes of them."""

UNBOUND: Final = """
server:
  directory: "{home}"
  chroot: ""
  username: ""
  pidfile: "{home}/unbound.pid"
  use-syslog: no
  logfile: "{home}/unbound.log"
  interface: {host}@{port}
  access-control: 0.0.0.0/0 allow
  num-threads: 2
  so-reuseport: yes
  minimal-responses: yes
  rrset-roundrobin: no
  extended-statistics: yes
  statistics-cumulative: yes
  module-config: "iterator"
  local-zone: "shop.example." redirect
  local-data: "shop.example. 60 IN A 10.1.2.3"
  local-data: "shop.example. 60 IN AAAA 2001:db8::3"
  local-zone: "big.example." static
  {big}
  local-zone: "none.example." static
  local-zone: "private.example." refuse
  local-zone: "silent.example." deny
  local-zone: "." refuse
remote-control:
  control-enable: yes
  control-interface: "{home}/control"
  control-use-cert: no
"""
STATISTIC: Final = re.compile(r"^([\w.]+)=(\d+)$", re.MULTILINE)


@dataclass
class NameServer:
    """A running name server."""

    port: int
    home: Path
    program: subprocess.Popen[Any]

    def statistics(self) -> dict[str, int]:
        """What unbound counts."""
        command = ["unbound-control", "-c", str(self.home / "unbound.conf"), "stats_noreset"]
        text = subprocess.run(command, capture_output=True, check=True, text=True).stdout
        return {key: int(value) for key, value in STATISTIC.findall(text)}

    def logged(self, what: str) -> int:
        """How many lines of dnsmasq's log say `what`."""
        return (self.home / "log").read_text().count(f" {what}")


@dataclass
class Asked:
    """What a client asked for, and what it got."""

    names: list[tuple[str, str]] = field(default_factory=list)
    """Name and type."""
    sizes: list[int] = field(default_factory=list)
    """Of the answers, where the client tells."""
    transport: str = "udp"


def answers(port: int, host: str = HOST) -> bool:
    """Whether a name server answers there."""
    question = dns.message.make_query("ready.shop.example.", "A")
    with suppress(OSError, dns.exception.DNSException):
        dns.query.udp(question, host, port=port, timeout=0.3)
        return True
    return False


@contextmanager
def unbound(port: int = 0, prefix: tuple[str, ...] = ()) -> Iterator[NameServer]:
    """An authority of its own; with `prefix`, run by another program (`ip netns exec`)."""
    needs("unbound", "unbound-control")
    port = port or free_port()
    with tempfile.TemporaryDirectory(prefix="wirespan-unbound-") as folder:
        home = Path(folder)
        big = "\n".join(
            f'  local-data: "big.example. 60 IN A 10.9.0.{index}"' for index in range(BIG_NUMBER)
        )
        configuration = home / "unbound.conf"
        configuration.write_text(UNBOUND.format(home=home, port=port, host=HOST, big=big))
        command = [*prefix, "unbound", "-d", "-c", str(configuration)]
        with running(command, stderr=subprocess.DEVNULL) as program:
            if prefix:
                wait_until((home / "control").exists, "unbound listens")
            else:
                wait_until(lambda: answers(port), "unbound answers")
            yield NameServer(port, home, program)


@contextmanager
def dnsmasq(upstream: int) -> Iterator[NameServer]:
    """A forwarder without memory."""
    needs("dnsmasq")
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="wirespan-dnsmasq-") as folder:
        home = Path(folder)
        command = [
            "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv",
            "--no-hosts", f"--port={port}", f"--listen-address={HOST}", "--bind-interfaces",
            f"--server={HOST}#{upstream}", "--cache-size=0", "--user=root", "--pid-file=",
            "--log-queries=extra", f"--log-facility={home}/log",
        ]  # fmt: skip
        with running(command) as program:
            wait_until(lambda: answers(port), "dnsmasq answers")
            yield NameServer(port, home, program)


def names_of(client: str, number: int, kind: str = "A") -> list[tuple[str, str]]:
    """Names that nobody else asks for."""
    return [(f"{client}-{index}.shop.example", kind) for index in range(number)]


def dig(port: int, *arguments: str) -> str:
    """Run dig; what it prints."""
    command = ["dig", f"@{HOST}", "-p", str(port), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout


def dig_client(port: int, number: int, *options: str, client: str = "dig") -> Asked:
    """One dig for all, a socket for each, or with +keepopen one connection."""
    transport = "tcp" if "+tcp" in options else "udp"
    asked = Asked(names_of(client, number), transport=transport)
    with tempfile.NamedTemporaryFile("w", suffix=".names") as batch:
        batch.write("".join(f"{name} {kind}\n" for name, kind in asked.names))
        batch.flush()
        said = dig(port, *options, "-f", batch.name)
    assert said.count(f"\tA\t{ADDRESS}") == number, said
    asked.sizes = [int(size) for size in re.findall(r"MSG SIZE  rcvd: (\d+)", said)]
    return asked


def dnspython_client(port: int, number: int, *, tcp: bool = False, client: str = "py") -> Asked:
    """dnspython, one socket for each."""
    asked = Asked(names_of(client, number, "AAAA"), transport="tcp" if tcp else "udp")
    ask = dns.query.tcp if tcp else dns.query.udp
    for name, kind in asked.names:
        answer = ask(dns.message.make_query(name, kind), HOST, port=port, timeout=10)
        assert [item.address for item in answer.answer[0]] == [ADDRESS6]
        asked.sizes.append(len(answer.wire or answer.to_wire()) if answer.wire else 0)
    return asked


NODE: Final = """
const { Resolver } = require('node:dns').promises;
const resolver = new Resolver();
resolver.setServers([process.argv[1]]);
const number = Number(process.argv[2]);
const all = [];
for (let i = 0; i < number; i++) all.push(resolver.resolve4(`node-${i}.shop.example`));
Promise.all(all).then((found) => console.log(found.flat().join(' ')));
"""


def node_client(port: int, number: int) -> Asked:
    """Node's resolver (c-ares): all at once, over one socket."""
    needs("node")
    command = ["node", "-e", NODE, f"{HOST}:{port}", str(number)]
    said = subprocess.run(command, capture_output=True, check=True, text=True, timeout=30).stdout
    assert said.split() == [ADDRESS] * number
    return Asked(names_of("node", number))
