#!/usr/bin/env python3
"""Reads one push message as a device would, with software that shares no code with Halloo.

Standard input: JSON with
  private        the device's P-256 private key, 32 bytes, base64url
  auth           the subscription's authentication secret, 16 bytes, base64url
  body           the message as sent (RFC 8188 aes128gcm), base64url; empty for one without content
  authorization  optional: the Authorization header, `vapid t=TOKEN, k=KEY` (RFC 8292)
  audience       with authorization: the origin that the token must be for

Standard output: JSON with `plaintext` (base64url) and, with authorization, `claims`.
Any failure ends the script with a non-zero status and the reason on standard error.

http_ece decrypts. py_vapid checks the token's signature; a second check by cryptography alone
does not depend on how py_vapid reads the header.
"""

import base64
import json
import sys
import time

import http_ece
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from py_vapid import Vapid02


def unbase64(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decrypt(message):
    scalar = int.from_bytes(unbase64(message["private"]), "big")
    return http_ece.decrypt(
        unbase64(message["body"]),
        private_key=ec.derive_private_key(scalar, ec.SECP256R1()),
        auth_secret=unbase64(message["auth"]),
        version="aes128gcm",
    )


def verify_token(authorization, audience):
    scheme, _, parameters = authorization.partition(" ")
    if scheme != "vapid":
        raise ValueError("the scheme is not vapid")
    fields = dict(part.strip().split("=", 1) for part in parameters.split(","))
    header, claims, signature = fields["t"].split(".")

    raw = unbase64(signature)
    if len(raw) != 64:
        raise ValueError("an ES256 signature has 64 bytes")
    der = utils.encode_dss_signature(
        int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big")
    )
    key = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), unbase64(fields["k"]))
    key.verify(der, f"{header}.{claims}".encode(), ec.ECDSA(hashes.SHA256()))
    # py_vapid only reads parameters with no space after the comma, as it writes them.
    if not Vapid02.verify(authorization.replace(", ", ",")):
        raise ValueError("py_vapid refuses the token")

    if json.loads(unbase64(header)).get("alg") != "ES256":
        raise ValueError("the token's algorithm is not ES256")
    claims = json.loads(unbase64(claims))
    if claims["aud"] != audience:
        raise ValueError("the token is for another origin")
    if not time.time() < claims["exp"] <= time.time() + 24 * 3600:
        raise ValueError("the token's expiry is not within the next 24 hours")
    if not claims["sub"].startswith(("mailto:", "https:")):
        raise ValueError("the token's subject is no contact")
    return claims


def main():
    message = json.load(sys.stdin)
    result = {"plaintext": base64url(decrypt(message) if message["body"] else b"")}
    if "authorization" in message:
        result["claims"] = verify_token(message["authorization"], message["audience"])
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
