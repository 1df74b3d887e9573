#!/usr/bin/env python3
"""Reads a file that `halloo history export` wrote, from nothing but docs/history.md.

    read.py FILE PASSPHRASE

Prints its lines. Needs PyPI's `cryptography`, 44 or newer, which has Argon2id and ChaCha20-Poly1305 by OpenSSL.
"""

import struct
import sys

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

HEADER, CHUNK, TAG = 44, 65_536, 16


def read(file: bytes, passphrase: str) -> bytes:
    header = file[:HEADER]
    assert header[:15] == b"halloo history\0" and header[15] == 1, "not such a file"
    memory, passes, lanes = struct.unpack(">III", header[16:28])
    kdf = Argon2id(salt=header[28:44], length=32, iterations=passes, lanes=lanes, memory_cost=memory)
    cipher = ChaCha20Poly1305(kdf.derive(passphrase.encode()))
    plain = b""
    sealed = [file[at:at + CHUNK + TAG] for at in range(HEADER, len(file), CHUNK + TAG)]
    for number, chunk in enumerate(sealed):
        is_last = number == len(sealed) - 1
        nonce = bytes(7) + struct.pack(">IB", number, is_last)
        plain += cipher.decrypt(nonce, chunk, header)
    return plain


if __name__ == "__main__":
    with open(sys.argv[1], "rb") as archive:
        sys.stdout.buffer.write(read(archive.read(), sys.argv[2]))
