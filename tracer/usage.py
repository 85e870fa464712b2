# SPDX-License-Identifier: Apache-2.0
"""How the command line explains itself: examples, help, mistakes."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, Final, NoReturn

EXIT_USAGE: Final = 2
MAX_WIDTH: Final = 100

EXAMPLES: Final = {
    "wirespan": """\
examples:
  sudo wirespan watch                  every exchange on this machine
  sudo wirespan watch --status 5xx     what fails
  sudo wirespan watch -- curl -s URL   run a command and see what it says
  sudo wirespan agent --endpoint http://tempo:4318
  sudo wirespan map                    who calls whom, how often and how well
  sudo wirespan record -w night.wspan  and later, anywhere, without root:
  wirespan replay night.wspan --latency '>100ms'
  wirespan doctor                      what works here, what does not, and why
  sudo wirespan explain 4711           the same for the TLS of a process

`wirespan COMMAND --help` has the flags of each.
Exit status: 0 done, 1 failed (a sentence says why), 2 bad usage; with `-- CMD`
that of CMD.
""",
    "watch": """\
The same flag twice means or, different flags mean and.

examples:
  wirespan watch                       everything, until Ctrl+C
  wirespan watch --comm nginx --side server --status 5xx
  wirespan watch --port 8080 --port 8081 --latency '>100ms' -o wide
  wirespan watch -c 100 -o json | jq -r '.attributes["url.path"]'
  wirespan watch -w test.wspan -- ./run-tests.sh
""",
    "agent": """\
Every OTEL_EXPORTER_OTLP_*, OTEL_BSP_*, OTEL_METRIC_* and OTEL_TRACES_SAMPLER*
variable works; a flag wins over it. OTEL_SERVICE_NAME and
OTEL_RESOURCE_ATTRIBUTES name the agent itself, never what it sees.
SIGTERM sends what is queued and ends within ten seconds.

examples:
  wirespan agent                       OTLP over HTTP to localhost:4318
  wirespan agent --protocol grpc --endpoint http://collector:4317
  wirespan agent --endpoint https://otlp.example.com --header api-key=secret
  wirespan agent --sample 10% --spool /var/lib/wirespan --prometheus 9464
  wirespan agent --export my_package:MySpanExporter
""",
    "map": """\
The map of an agent is of its last hour; of a file, of all that is in it. A map
in JSON can be kept and compared with a later one.

examples:
  sudo wirespan map                    of the running agent, or of the next 10s
  sudo wirespan map --live --for 1m --port 5432
  wirespan map incident.wspan -o mermaid
  sudo wirespan map -o json > before.json
  wirespan map --diff before.json after.json
  sudo wirespan map -o dot | dot -Tsvg > map.svg
""",
    "record": """\
What no parser needs is not written: bodies, cookies, tokens, unknown protocols.
The file replays anywhere, without root.

examples:
  wirespan record -w incident.wspan --for 60s
  wirespan record -w test.wspan -- make integration-test
""",
    "replay": """\
The same flag twice means or, different flags mean and.

examples:
  wirespan replay incident.wspan
  wirespan replay capture.pcapng --status 5xx -o wide
  wirespan replay incident.wspan -o none --endpoint http://localhost:4318
""",
    "explain": """\
Says of each file with TLS inside whether its plaintext is seen. Without root it
can look into your own processes only.
Exit status: 0, or 1 if there is no such process.

examples:
  sudo wirespan explain 4711
  sudo wirespan explain 4711 -o json | jq -r '.findings[] | .sight, .path'
""",
    "doctor": """\
Exit status: 0 if wirespan can capture here, else 1.

examples:
  wirespan doctor
  wirespan doctor -o json | jq '.checks[] | select(.state != "ok")'
""",
    "parsers": """\
examples:
  wirespan parsers
  wirespan parsers -o json | jq -r '.parsers[].name'
""",
    "completion": """\
examples:
  wirespan completion bash > /etc/bash_completion.d/wirespan
  wirespan completion zsh > "${fpath[1]}/_wirespan"
  wirespan completion fish > ~/.config/fish/completions/wirespan.fish
""",
}


class CommandParser(argparse.ArgumentParser):
    """One look for all commands: flags in full, mistakes in a sentence."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", HelpFormatter)
        # An abbreviation would mean something else as soon as there is a longer flag.
        super().__init__(**options, allow_abbrev=False, add_help=False)

    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            message = self._unknown(unknown.split())
        sys.stderr.write(f"{self.prog}: {message}\nTry '{self.prog} --help'.\n")
        raise SystemExit(EXIT_USAGE)

    def _unknown(self, words: Sequence[str]) -> str:
        word = words[0]
        if not word.startswith("-"):
            return f"{word!r} is not expected here; a command to trace follows --"
        flag = word.partition("=")[0]
        near = get_close_matches(flag, self._option_string_actions, 1)
        return f"no flag is called {flag}" + (f": is it {near[0]}?" if near else "")


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Wide enough for a sentence a flag, and no wider than is read with ease."""

    def __init__(self, prog: str) -> None:
        width = min(shutil.get_terminal_size().columns, MAX_WIDTH) - 2
        super().__init__(prog, max_help_position=28, width=width)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        """`-o, --output STYLE`, with what it takes said once."""
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        values = action.metavar if isinstance(action.metavar, tuple) else (action.metavar,)
        return " ".join([", ".join(action.option_strings), *map(str, values)])

    def _format_action(self, action: argparse.Action) -> str:
        """The commands without a line that only says that they are commands."""
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - has no other name
            return self._join_parts(map(self._format_action, action._get_subactions()))  # noqa: SLF001
        return super()._format_action(action)
