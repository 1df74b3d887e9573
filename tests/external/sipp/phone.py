"""One ordinary phone over UDP, as far as a benchmark needs it: digest, requests, calls, and RTP sockets of its own."""

import hashlib
import json
import re
import secrets
import socket
import time

PATIENCE_SECS = 30


class Phone:
    """A phone of an account; `answers` is what it says to an INVITE's description, if it takes calls."""

    def __init__(self, server, authority, account, address="127.0.0.1"):
        self.server, self.authority = ("127.0.0.1", server), authority
        self.name, self.password = account
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((address, 0))
        self.socket.settimeout(0.2)
        self.address = "%s:%d" % self.socket.getsockname()
        self.uri = f"sip:{self.name}@{authority}"
        self.cseq = 0
        self.notices = []

    def request(self, method, uri, body="", content_type="", call_id=None, to=None, more=(), tag=None):
        """Sends a request, with credentials once they are asked for; the final answer, as (status, text)."""
        call_id, tag = call_id or secrets.token_hex(8), tag or secrets.token_hex(4)
        credentials = []
        for _ in range(2):
            self.cseq += 1
            branch = "z9hG4bK" + secrets.token_hex(8)
            lines = [f"{method} {uri} SIP/2.0", f"Via: SIP/2.0/UDP {self.address};branch={branch};rport", "Max-Forwards: 70", f"From: <{self.uri}>;tag={tag}"]
            lines += [f"To: {to or '<' + (self.uri if method == 'REGISTER' else uri) + '>'}", f"Call-ID: {call_id}", f"CSeq: {self.cseq} {method}"]
            lines += [f"Contact: <sip:{self.name}@{self.address}>", *more, *credentials]
            lines += ([f"Content-Type: {content_type}"] if body else []) + [f"Content-Length: {len(body)}"]
            text = "\r\n".join(lines) + "\r\n\r\n" + body
            answer = self.exchange(text, branch, method)
            status = int(answer.split(" ", 2)[1])
            if method == "INVITE" and status >= 300:
                self.send("\r\n".join([f"ACK {uri} SIP/2.0", lines[1], "Max-Forwards: 70", lines[3], header(answer, "to", True), lines[5], f"CSeq: {self.cseq} ACK", "Content-Length: 0"]) + "\r\n\r\n")
            if status not in (401, 407) or credentials:
                return status, answer
            credentials = [self.credentials(answer, method, uri)]
        raise AssertionError("not reached")

    def send(self, text):
        self.socket.sendto(text.encode(), self.server)

    def exchange(self, text, branch, method):
        """Repeats a request until its final answer comes."""
        end, again, wait = time.monotonic() + PATIENCE_SECS, 0.0, 0.5
        while time.monotonic() < end:
            if time.monotonic() >= again:
                self.send(text)
                again, wait = time.monotonic() + wait, wait * 2
            message = self.receive()
            if message is None or not message.startswith("SIP/2.0 "):
                continue
            if branch in message and message.split(" ", 2)[1].startswith("1"):
                again = end
            elif branch in message and f" {method}\r" in message:
                return message
        raise SystemExit(f"bench: nobody answered {method}")

    def receive(self):
        """The next message; requests of the server are answered, except INVITE, which `take_call` answers."""
        try:
            message = self.socket.recv(65_535).decode()
        except TimeoutError:
            return None
        method = message.split(" ", 1)[0]
        if method in ("INFO", "BYE", "NOTIFY", "MESSAGE", "CANCEL"):
            self.answer(message, 200)
            if method == "INFO":
                self.notices.append(json.loads(message.split("\r\n\r\n", 1)[1]))
        return message

    def answer(self, request, status, body="", tag="phone"):
        to = header(request, "to", True)
        kept = [line for line in request.split("\r\n\r\n", 1)[0].split("\r\n")[1:] if line.lower().startswith(("via:", "from:", "call-id:", "cseq:"))]
        kept += [to if "tag=" in to else f"{to};tag={tag}", f"Contact: <sip:{self.name}@{self.address}>"]
        kept += (["Content-Type: application/sdp"] if body else []) + [f"Content-Length: {len(body)}"]
        self.send("\r\n".join([f"SIP/2.0 {status} -", *kept]) + "\r\n\r\n" + body)

    def credentials(self, answer, method, uri):
        """Digest (RFC 8760): SHA-256 where it is offered."""
        offers = re.findall(r"(?im)^(www|proxy)-authenticate: *digest +(.*)$", answer)
        offers = [(kind, dict((name.lower(), value.strip('"')) for name, value in re.findall(r'(\w+)=("[^"]*"|[^,\s]+)', text))) for kind, text in offers]
        kind, offer = offers[0]
        algorithm = offer.get("algorithm", "MD5")
        digest = lambda text: hashlib.new("sha256" if algorithm == "SHA-256" else "md5", text.encode()).hexdigest()
        cnonce = secrets.token_hex(4)
        first, second = digest(f"{self.name}:{offer['realm']}:{self.password}"), digest(f"{method}:{uri}")
        response = digest(f"{first}:{offer['nonce']}:00000001:{cnonce}:auth:{second}")
        name = "Authorization" if kind.lower() == "www" else "Proxy-Authorization"
        opaque = f', opaque="{offer["opaque"]}"' if "opaque" in offer else ""
        return (
            f'{name}: Digest username="{self.name}", realm="{offer["realm"]}", nonce="{offer["nonce"]}", uri="{uri}", '
            f'algorithm={algorithm}, qop=auth, nc=00000001, cnonce="{cnonce}", response="{response}"{opaque}'
        )

    def register(self, expires=600):
        status, answer = self.request("REGISTER", f"sip:{self.authority}", more=[f"Expires: {expires}"])
        assert status == 200, answer

    def ask(self, number, what, **fields):
        """A request of the profile over INFO, and the notice that answers it."""
        body = json.dumps({"id": number, "request": what, **fields})
        status, answer = self.request("INFO", self.uri, body, "application/halloo-info+json")
        assert status == 200, answer
        return self.notice(lambda notice: notice.get("re") == number)

    def notice(self, is_wanted):
        end = time.monotonic() + PATIENCE_SECS
        while time.monotonic() < end:
            for notice in self.notices:
                if is_wanted(notice):
                    return notice
            self.receive()
        raise SystemExit(f"bench: {self.name} was told nothing of it: {self.notices}")

    def close(self):
        self.socket.close()


def header(message, name, is_whole=False):
    line = re.search(rf"(?im)^{name}: *(.*?)\r$", message)
    return line.group(0).rstrip("\r") if is_whole else line.group(1)


def befriend(one, other):
    """Makes the users of two accounts contacts of each other: both ask, over the INFO profile."""
    for phone in (one, other):
        phone.register()
        phone.ask(1, "login", version=1)
    for asks, asked in ((one, other), (other, one)):
        notice = asks.ask(2, "add-buddy", buddy=asked.uri)
        assert notice["notice"] == "done", notice
    for asks, asked in ((one, other), (other, one)):
        asks.notice(lambda notice: notice["notice"] == "buddy-status" and notice["buddy"].get("status") == "online")
    for phone in (one, other):
        phone.ask(3, "go-offline")
        phone.register(0)
