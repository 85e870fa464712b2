# SPDX-License-Identifier: Apache-2.0
"""The files under examples/compose fit each other, and the programs that read them accept them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from exporters import red, service_graph
from exporters.exposition import _names
from exporters.instruments import Instrument
from tests.end_to_end import backend_servers
from tracer.readings import MEASURES

HERE = Path(__file__).parents[2] / "examples" / "compose"
PROVISIONED = HERE / "grafana" / "provisioning"
PLAIN_FILES = sorted(path for path in HERE.rglob("*") if path.suffix in {".yaml", ".yml"})
DASHBOARDS = sorted(HERE.rglob("*.json"))
LANGUAGE = {
    *("sum", "by", "rate", "topk", "histogram_quantile", "label_values", "m", "s"),
    *("job", "le", "client", "server", "connection_type", "exporter", "outcome", "cause", "loss"),
    *("error_type", "db_system_name", "db_query_summary", "db_operation_name", "__name__"),
    *("true", "wirespan", "__rate_interval", "__tags"),
}
"""Of PromQL and of labels; every other word of a query has to be a metric."""


def read(path):
    return yaml.safe_load((HERE / path).read_text())


def services():
    return read("compose.yaml")["services"]


def data_sources():
    return read(PROVISIONED / "datasources" / "datasources.yaml")["datasources"]


def reached(text):
    """Hosts and ports that a file of the configuration names."""
    hosts = "|".join(services())
    return {
        (host, int(port)) for host, port in re.findall(rf"\b({hosts}):(\d+)\b", text, re.MULTILINE)
    }


def names_below(value, key):
    """All values of `key` in a tree."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name == key:
                yield inner
            yield from names_below(inner, key)
    elif isinstance(value, list):
        for inner in value:
            yield from names_below(inner, key)


def series_names():
    """What Prometheus calls all that an agent gives."""
    instruments = [
        each.instrument for each in vars(red).values() if isinstance(each, red.Measure)
    ] + [each for each in vars(service_graph).values() if isinstance(each, Instrument)]
    found = set()
    for name, unit, kind in [
        *((each.name, each.unit, each.kind) for each in instruments),
        *((name, each.unit, each.kind) for name, each in MEASURES.items()),
    ]:
        family, _ = _names(name, unit, kind)
        ends = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}
        found |= {family + end for end in ends[kind]}
    return found


def queries(dashboard):
    yield from names_below(dashboard, "expr")
    for variable in dashboard["templating"]["list"]:
        yield variable["query"]["query"]


@pytest.mark.parametrize("path", PLAIN_FILES, ids=lambda path: path.name)
def test_file_is_yaml_and_not_empty(path):
    assert path.read_text().startswith("# SPDX-License-Identifier: Apache-2.0\n")
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def test_every_image_has_a_version():
    for name, service in services().items():
        tag = service["image"].partition(":")[2]
        assert re.fullmatch(r"v?\d+\.\d+\.\d+", tag), name


def test_every_file_that_is_mounted_is_there():
    for service in services().values():
        for volume in service.get("volumes", ()):
            source, target, mode = volume.split(":")
            assert (HERE / source).exists(), volume
            assert target.startswith("/")
            assert mode == "ro"


def test_every_file_is_mounted_or_explained():
    mounted = [
        volume.split(":")[0] for each in services().values() for volume in each.get("volumes", ())
    ]
    for path in [*PLAIN_FILES, *DASHBOARDS]:
        relative = f"./{path.relative_to(HERE)}"
        assert relative == "./compose.yaml" or any(relative.startswith(each) for each in mounted)


def test_a_configuration_is_read_from_where_it_is_mounted():
    for name, service in services().items():
        targets = [volume.split(":")[1] for volume in service.get("volumes", ())]
        for word in service.get("command", ()):
            if "config" in word:
                assert word.partition("=")[2] in targets, name


def test_ports_are_published_on_loopback_and_once():
    ports = [port for service in services().values() for port in service.get("ports", ())]
    assert all(re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port) for port in ports)
    assert len(ports) == len(set(ports))


def test_what_is_spoken_to_listens_there():
    text = "\n".join(path.read_text() for path in PLAIN_FILES if path.name != "compose.yaml")
    listens = {
        ("jaeger", 4317),
        ("jaeger", 16686),
        ("tempo", 4317),
        ("tempo", read("tempo.yaml")["server"]["http_listen_port"]),
        ("prometheus", 9090),
        ("otel-collector", 8889),
    }
    assert reached(text) == listens
    assert read("otel-collector.yaml")["exporters"]["prometheus"]["endpoint"].endswith(":8889")
    for protocol in read("tempo.yaml")["distributor"]["receivers"]["otlp"]["protocols"].values():
        # The default is the container's own loopback interface.
        assert protocol["endpoint"].startswith("0.0.0.0:")


def test_service_graph_is_made_by_nobody_else():
    collector = read("otel-collector.yaml")
    assert not collector.get("connectors")
    assert not {"metrics_generator", "overrides"} & read("tempo.yaml").keys()
    prometheus = " ".join(services()["prometheus"]["command"])
    assert "remote-write-receiver" not in prometheus
    assert "otlp-receiver" not in prometheus


def test_metrics_come_one_way_only():
    """Prometheus has both targets, so who is scraped must not send as well."""
    for name in ("README.md", "prometheus.yml"):
        words = (HERE / name).read_text().replace("\\\n#", "")
        (command,) = re.findall(r"^.*wirespan agent.*--prometheus.*$", words, re.MULTILINE)
        assert "--no-metrics" in command


def test_data_sources_name_each_other():
    found = data_sources()
    known = {each["uid"] for each in found}
    assert known == {"prometheus", "tempo", "jaeger"}
    assert set(names_below(found, "datasourceUid")) == {"prometheus", "tempo"}
    tempo = next(each for each in found if each["uid"] == "tempo")["jsonData"]
    assert tempo["serviceMap"] == {"datasourceUid": "prometheus"}
    assert tempo["nodeGraph"] == {"enabled": True}
    prometheus = next(each for each in found if each["uid"] == "prometheus")["jsonData"]
    assert prometheus["exemplarTraceIdDestinations"] == [
        {"name": "trace_id", "datasourceUid": "tempo"}
    ]
    assert "exemplar-storage" in " ".join(services()["prometheus"]["command"])


def test_series_keep_the_services_that_they_are_of():
    for job in read("prometheus.yml")["scrape_configs"]:
        assert job["honor_labels"] is True


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_dashboard_asks_for_what_there_is(path):
    dashboard = json.loads(path.read_text())
    known = {each["uid"] for each in data_sources()}
    assert {each["uid"] for each in names_below(dashboard, "datasource")} <= known
    panels = dashboard["panels"]
    assert len({each["id"] for each in panels}) == len(panels)
    metrics = series_names()
    for query in queries(dashboard):
        words = set(re.findall(r"[a-zA-Z_][a-zA-Z0-9_]*", re.sub(r'=~"[^"]*"', "", query)))
        assert words - LANGUAGE <= metrics, query
    alternatives = re.search(r'=~"\((.*)\)_duration', next(iter(names_of(dashboard)))).group(1)
    for name in alternatives.split("|"):
        assert f"{name}_duration_seconds_count" in metrics


def names_of(dashboard):
    """Queries for the values of the dashboard's variables."""
    return [each["query"]["query"] for each in dashboard["templating"]["list"]]


def test_links_from_spans_ask_for_what_there_is():
    metrics = series_names()
    for query in names_below(data_sources(), "query"):
        words = set(re.findall(r"[a-zA-Z_][a-zA-Z0-9_]*", query))
        assert words - LANGUAGE <= metrics, query


def test_readme_names_every_file_and_port():
    text = (HERE / "README.md").read_text()
    for path in (*HERE.glob("*.y*ml"), *DASHBOARDS):
        assert str(path.relative_to(HERE)) in text
    published = {
        int(port.split(":")[1]) for each in services().values() for port in each.get("ports", ())
    }
    named = set(map(int, re.findall(r"localhost:(\d+)", text)))
    assert named == published - {4317}


def test_prometheus_accepts_its_configuration():
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    command = ["promtool", "check", "config", str(HERE / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_understands_the_queries_of_the_dashboard(tmp_path):
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    dashboard = json.loads((HERE / "grafana" / "dashboards" / "wirespan.json").read_text())
    asked = [
        *names_below(dashboard, "expr"),
        *(each.replace("$$__tags", 'job="shop"') for each in names_below(data_sources(), "query")),
    ]
    rules = [
        {"record": "asked", "expr": each.replace("$__rate_interval", "5m").replace("$job", ".*")}
        for each in asked
    ]
    path = tmp_path / "rules.yaml"
    # Their labels tell rules apart that make the same series.
    for number, rule in enumerate(rules):
        rule["labels"] = {"number": str(number)}
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    command = ["promtool", "check", "rules", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_collector_accepts_its_configuration():
    command = [backend_servers.binary("collector"), "validate"]
    command += ["--config", str(HERE / "otel-collector.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_tempo_accepts_its_configuration():
    """An older Tempo than the one of compose.yaml, but a strict reader of what both know."""
    configuration = yaml.safe_load((HERE / "tempo.yaml").read_text())
    trace = configuration["storage"]["trace"]
    for name in ("wal", "local"):
        trace[name]["path"] = trace[name]["path"].replace("/var/tempo", "{home}")
    http, grpc, otlp = (
        backend_servers.free_port(),
        backend_servers.free_port(),
        (backend_servers.free_port(), backend_servers.free_port()),
    )
    configuration["server"] = {
        "http_listen_address": "127.0.0.1",
        "http_listen_port": http,
        "grpc_listen_address": "127.0.0.1",
        "grpc_listen_port": grpc,
    }
    protocols = configuration["distributor"]["receivers"]["otlp"]["protocols"]
    for protocol, port in zip(protocols.values(), otlp, strict=True):
        protocol["endpoint"] = f"127.0.0.1:{port}"
    command = [backend_servers.binary("tempo"), "-target=all", "-config.file={home}/config.yaml"]
    with backend_servers.started("tempo", command, configuration, (http, *otlp)) as home:
        assert (home / "wal").is_dir()
