# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from exporters.none import NoneExporter
from tests.exporters import samples


def test_it_takes_everything_and_sends_nothing():
    exporter = NoneExporter.from_options({})
    exporter.export([samples.span(), samples.span()])
    assert exporter.flush(0)
    exporter.close()
    assert exporter.counters() == {"spans_discarded": 2}


def test_it_has_no_options():
    with pytest.raises(ValueError, match="speed"):
        NoneExporter.from_options({"speed": "1"})
