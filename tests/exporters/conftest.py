# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import ssl
from types import SimpleNamespace

import pytest
import trustme

from exporters import attempts
from exporters.otlp import OtlpExporter
from exporters.settings import OtlpSettings
from exporters.spool import Spool
from tests.exporters.backends import http_backend


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="session")
def pki(tmp_path_factory):
    """An authority, a server at localhost, a client, and a server context."""
    directory = tmp_path_factory.mktemp("pki")
    authority, server, client = trustme.CA(), None, None
    server = authority.issue_cert("localhost")
    client = authority.issue_cert("agent@example.org")
    files = SimpleNamespace(
        authority=directory / "ca.pem",
        client=directory / "client.pem",
        client_key=directory / "client.key",
        server_chain=server.cert_chain_pems[0].bytes(),
        server_key=server.private_key_pem.bytes(),
    )
    authority.cert_pem.write_to_path(files.authority)
    client.cert_chain_pems[0].write_to_path(files.client)
    client.private_key_pem.write_to_path(files.client_key)

    def context(*, mutual=False):
        made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server.configure_cert(made)
        if mutual:
            authority.configure_trust(made)
            made.verify_mode = ssl.CERT_REQUIRED
        return made

    files.context = context
    return files


@pytest.fixture
def short_pauses(monkeypatch):
    """A hundredth of what they are."""
    monkeypatch.setattr(attempts, "FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr(attempts, "MAX_BACKOFF_S", 0.1)


@pytest.fixture
def spool(tmp_path):
    made = Spool(tmp_path / "spool")
    yield made
    made.close()


@pytest.fixture
def backend():
    with http_backend() as made:
        yield made


@pytest.fixture
def exporter(request):
    """Makes exporters whose lingering is longer than any test, and closes them.

    They have one sender, so that requests come in order.
    """

    def make(endpoint, *, spool=None, senders=1, **overrides):
        values = {"schedule_delay_s": 100, **overrides}
        settings = OtlpSettings.from_environment({}, endpoint=endpoint, **values)
        made = OtlpExporter(settings, spool=spool, senders=senders)
        request.addfinalizer(made.close)
        return made

    return make
