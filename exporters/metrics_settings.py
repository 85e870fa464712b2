# SPDX-License-Identifier: Apache-2.0
"""What the exporter of metrics can be told: options over environment over defaults.

OTel: https://opentelemetry.io/docs/specs/otel/metrics/sdk_exporters/otlp/ 1.60.0
      https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from exporters.environment import Reader, SettingsError, boolean, exporters_from_environment
from exporters.prometheus_address import default_address
from exporters.settings import OtlpSettings
from exporters.temporality import Temporality

OTLP_OPTIONS: Final = ("endpoint", "protocol", "headers", "compression")
OPTIONS: Final = frozenset({*OTLP_OPTIONS, "otlp", "prometheus"})

EXPLICIT: Final = "explicit_bucket_histogram"
EXPONENTIAL: Final = "base2_exponential_bucket_histogram"


@dataclass(slots=True, frozen=True, kw_only=True)
class MetricsSettings:
    """Where metrics go, and how they are made."""

    otlp: OtlpSettings | None = None
    """None: not by OTLP."""
    prometheus: str = ""
    """`HOST:PORT` to be scraped at; empty: not at all."""
    temporality: Temporality = Temporality.CUMULATIVE
    """Of what goes by OTLP; what is scraped is cumulative."""
    exponential: bool = False
    """Histograms have exponential buckets."""

    @classmethod
    def from_options(
        cls, options: Mapping[str, str], environ: Mapping[str, str]
    ) -> MetricsSettings:
        """Settings from `options` and `environ`.

        Where neither the option `otlp` nor OTEL_METRICS_EXPORTER says whether metrics go by
        OTLP, they do.

        Raises:
            SettingsError: an option is bad, or unknown.
        """
        if strange := options.keys() - OPTIONS:
            raise SettingsError(f"no setting of metrics is called {', '.join(sorted(strange))}")
        reader = Reader(environ, options)
        by_otlp = reader.override("otlp", boolean)
        prometheus = options.get("prometheus")
        if by_otlp is None or prometheus is None:
            chosen = exporters_from_environment(environ, "metrics")
            if by_otlp is None:
                by_otlp = chosen is None or "otlp" in chosen
            if prometheus is None and chosen is not None and "prometheus" in chosen:
                prometheus = default_address(environ)
        otlp = None
        if by_otlp:
            given = {name: options[name] for name in OTLP_OPTIONS if name in options}
            otlp = OtlpSettings.from_environment(environ, "metrics", **given)
        prefix = "OTEL_EXPORTER_OTLP_METRICS_"
        temporality = reader.variable(prefix + "TEMPORALITY_PREFERENCE", _temporality)
        exponential = reader.variable(prefix + "DEFAULT_HISTOGRAM_AGGREGATION", _exponential)
        return cls(
            otlp=otlp,
            prometheus=prometheus or "",
            temporality=temporality or Temporality.CUMULATIVE,
            exponential=exponential or False,
        )


def _temporality(value: str) -> Temporality:
    try:
        return Temporality(value.lower())
    except ValueError:
        raise ValueError(f"{value!r} is not cumulative, delta or lowmemory") from None


def _exponential(value: str) -> bool:
    if value.lower() not in {EXPLICIT, EXPONENTIAL}:
        raise ValueError(f"{value!r} is neither {EXPLICIT} nor {EXPONENTIAL}")
    return value.lower() == EXPONENTIAL
