# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
import subprocess

import pytest

from parsers.tls_names import SUITES, VERSIONS, alert_name, suite_name


def test_names_of_suites_are_those_of_openssl():
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("openssl is not installed")
    command = [program, "ciphers", "-V", "-stdname", "ALL:COMPLEMENTOFALL:@SECLEVEL=0"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    known = {}
    for line in listed.stdout.splitlines():
        code, _, name, *_ = line.split()
        first, second = code.split(",")
        known[int(first, 16) << 8 | int(second, 16)] = name
    ours = {number: name for number, name in SUITES.items() if number in known}
    assert len(ours) > 60
    assert ours == {number: known[number] for number in ours}


def test_what_has_no_name_keeps_its_number():
    assert suite_name(0x1302) == "TLS_AES_256_GCM_SHA384"
    assert suite_name(0x0A0A) == "0x0A0A"
    assert alert_name(48) == "unknown_ca"
    assert alert_name(200) == "alert_200"
    assert VERSIONS[0x0304] == ("tls", "1.3")
