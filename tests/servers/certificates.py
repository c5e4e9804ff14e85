"""Certificates of an authority of our own, for servers behind TLS."""

from pathlib import Path
from typing import NamedTuple

import trustme


class Certificates(NamedTuple):
    """The files that a server needs, and who has signed them."""

    chain: Path
    key: Path
    authority: Path


def write_certificates(directory: Path, *names: str) -> Certificates:
    """A certificate for these names, signed by an authority that nobody else knows."""
    authority = trustme.CA()
    certificate = authority.issue_cert(*names)
    written = Certificates(*(directory / f"{name}.pem" for name in Certificates._fields))
    for number, blob in enumerate(certificate.cert_chain_pems):
        blob.write_to_path(str(written.chain), append=number > 0)
    certificate.private_key_pem.write_to_path(str(written.key))
    authority.cert_pem.write_to_path(str(written.authority))
    return written
