# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import platform
from uuid import UUID

import pytest

from exporters.agent import agent_resource
from tracer import __version__


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def machine_id(tmp_path):
    path = tmp_path / "machine-id"
    path.write_text("0123456789abcdef0123456789abcdef\n")
    return path


def test_the_agent_says_who_it_is(machine_id):
    resource = agent_resource(machine_id)
    assert resource["service.name"] == "wirespan"
    assert resource["service.version"] == __version__
    assert resource["host.name"] == platform.node()
    assert resource["host.id"] == "0123456789abcdef0123456789abcdef"
    assert resource["telemetry.sdk.name"] == "wirespan"
    assert resource["telemetry.sdk.language"] == "python"
    assert resource["telemetry.sdk.version"] == __version__


def test_its_instance_is_the_same_after_a_restart_and_another_on_another_machine(
    machine_id, tmp_path
):
    first = agent_resource(machine_id)["service.instance.id"]
    assert UUID(first).version == 5
    assert agent_resource(machine_id)["service.instance.id"] == first
    nowhere = agent_resource(tmp_path / "none")
    assert nowhere["service.instance.id"] != first
    assert "host.id" not in nowhere


def test_the_environment_knows_better(machine_id, monkeypatch):
    monkeypatch.setenv(
        "OTEL_RESOURCE_ATTRIBUTES",
        "service.name=ignored,deployment.environment.name=prod,service.instance.id=a%2Cb,"
        "telemetry.sdk.name=opentelemetry",
    )
    monkeypatch.setenv("OTEL_SERVICE_NAME", "tracer-7")
    resource = agent_resource(machine_id)
    assert resource["service.name"] == "tracer-7"
    assert resource["deployment.environment.name"] == "prod"
    assert resource["service.instance.id"] == "a,b"
    assert resource["telemetry.sdk.name"] == "wirespan"
