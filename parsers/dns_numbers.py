# SPDX-License-Identifier: Apache-2.0
"""Names of the numbers of DNS.

Source: IANA, "Domain Name System (DNS) Parameters". What has no name here is told as `TYPE65280`
(RFC 3597), and never in a span's name: a stranger may send any number.
"""

from __future__ import annotations

from typing import Final

TYPES: Final = {
    1: "A", 2: "NS", 5: "CNAME", 6: "SOA", 10: "NULL", 11: "WKS", 12: "PTR", 13: "HINFO",
    14: "MINFO", 15: "MX", 16: "TXT", 17: "RP", 18: "AFSDB", 20: "ISDN", 24: "SIG", 25: "KEY",
    28: "AAAA", 29: "LOC", 33: "SRV", 35: "NAPTR", 36: "KX", 37: "CERT", 38: "A6", 39: "DNAME",
    41: "OPT", 42: "APL", 43: "DS", 44: "SSHFP", 45: "IPSECKEY", 46: "RRSIG", 47: "NSEC",
    48: "DNSKEY", 49: "DHCID", 50: "NSEC3", 51: "NSEC3PARAM", 52: "TLSA", 53: "SMIMEA",
    55: "HIP", 59: "CDS", 60: "CDNSKEY", 61: "OPENPGPKEY", 62: "CSYNC", 63: "ZONEMD", 64: "SVCB",
    65: "HTTPS", 99: "SPF", 108: "EUI48", 109: "EUI64", 249: "TKEY", 250: "TSIG", 251: "IXFR",
    252: "AXFR", 255: "ANY", 256: "URI", 257: "CAA",
}  # fmt: skip

CLASSES: Final = {1: "IN", 3: "CH", 4: "HS", 254: "NONE", 255: "ANY"}

CODES: Final = (
    "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "YXRRSET",
    "NXRRSET", "NOTAUTH", "NOTZONE", "DSOTYPENI", "RCODE12", "RCODE13", "RCODE14", "RCODE15",
    "BADVERS", "BADKEY", "BADTIME", "BADMODE", "BADNAME", "BADALG", "BADTRUNC", "BADCOOKIE",
)  # fmt: skip
"""Response codes by number."""

NOERROR: Final = 0
SERVFAIL: Final = 2
NXDOMAIN: Final = 3


def code_name(code: int) -> str:
    """The name of a response code."""
    return CODES[code] if code < len(CODES) else f"RCODE{code}"


def error_of(code: int, *, serves: bool) -> str | None:
    """`error.type` of a response code, seen from the side that serves or from the other.

    A name that does not exist is an answer: a search list asks for several of them before each
    one that does. SERVFAIL is what getaddrinfo calls "try again". The others are the client's
    own mistake, so no error of the server's.
    """
    if code in {NOERROR, NXDOMAIN}:
        return None
    if code == SERVFAIL:
        return "try_again"
    return None if serves else code_name(code).lower()
