# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dns.rcode
import dns.rdataclass
import dns.rdatatype
import pytest

from parsers.dns_numbers import CLASSES, CODES, TYPES, code_name, error_of


def test_types_are_named_as_another_library_names_them():
    for number, name in TYPES.items():
        # It knows no name of some that were never in use.
        assert dns.rdatatype.to_text(number) in {name, f"TYPE{number}"}


def test_classes_are_named_as_another_library_names_them():
    assert {number: dns.rdataclass.to_text(number) for number in CLASSES} == CLASSES


def test_codes_are_named_as_another_library_names_them():
    for number in (*range(11), 16, 23):
        assert code_name(number) == dns.rcode.to_text(number, tsig=False)
    assert code_name(len(CODES)) == "RCODE24"
    assert code_name(4095) == "RCODE4095"


@pytest.mark.parametrize(
    ("code", "client", "server"),
    [
        (0, None, None),
        (1, "formerr", None),
        (2, "try_again", "try_again"),
        (3, None, None),
        (5, "refused", None),
        (16, "badvers", None),
        (4000, "rcode4000", None),
    ],
)
def test_errors_by_side(code, client, server):
    assert error_of(code, serves=False) == client
    assert error_of(code, serves=True) == server
