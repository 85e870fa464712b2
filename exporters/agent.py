# SPDX-License-Identifier: Apache-2.0
"""The agent's own resource: whose metrics the service graph and the agent's health are.

`OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` of the agent's environment speak of the agent
alone. What the same variables of a traced program say counts for that program (tracer/service.py).

OTel: https://opentelemetry.io/docs/specs/semconv/resource/#service 1.44.0
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Final
from uuid import UUID, uuid5

from exporters.semconv import SCOPE_NAME, SCOPE_VERSION
from parsers.model import AttributeValue

NAMESPACE: Final = UUID("4d63009a-8d0f-11ee-aad7-4c796ed8e320")
"""What the conventions give for instance ids that are made of something stable."""
MACHINE_ID: Final = Path("/etc/machine-id")


def agent_resource(machine_id: Path = MACHINE_ID) -> dict[str, AttributeValue]:
    """Attributes of the agent, by the environment and the machine."""
    # Costs tens of milliseconds that whoever exports no metrics need not pay.
    from opentelemetry.sdk.resources import OTELResourceDetector  # noqa: PLC0415

    host = platform.node() or "localhost"
    try:
        host_id = machine_id.read_text(errors="replace").strip()
    except OSError:
        host_id = ""
    resource: dict[str, AttributeValue] = {
        "service.name": SCOPE_NAME,
        "service.version": SCOPE_VERSION,
        "service.instance.id": str(uuid5(NAMESPACE, host_id or host)),
        "host.name": host,
    }
    if host_id:
        resource["host.id"] = host_id
    said = OTELResourceDetector().detect().attributes
    resource.update((key, str(value)) for key, value in said.items())
    resource["telemetry.sdk.name"] = SCOPE_NAME
    resource["telemetry.sdk.language"] = "python"
    resource["telemetry.sdk.version"] = SCOPE_VERSION
    return resource
