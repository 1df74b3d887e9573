"""Phones that take messages, all in one process: `python3 taker.py PORT AUTHORITY < accounts`, a JSON array of [name, password].

Each has a port of its own. They register to the server at PORT one after the other, answer each MESSAGE with 200, and say on standard output: `{"registered": ..}`,
then `{"taken": ..}` whenever another hundredth has come, and what came twice. A line on standard input makes them leave the server.
"""

import json
import selectors
import sys
import time

from phone import Phone

ADDRESS = "127.0.8.1"


class Takers:
    def __init__(self, port, authority, accounts):
        self.phones = [Taker(port, authority, account, ADDRESS) for account in accounts]
        self.taken = 0

    def register(self):
        for phone in self.phones:
            phone.register()
        self.tell(registered=len(self.phones))

    def run(self):
        ready = selectors.DefaultSelector()
        for phone in self.phones:
            phone.socket.setblocking(False)
            ready.register(phone.socket, selectors.EVENT_READ, phone)
        ready.register(sys.stdin, selectors.EVENT_READ)
        told, at = -1, 0.0
        while True:
            for key, _ in ready.select(0.05):
                if key.data is None:
                    return
                key.data.drain()
            taken = sum(phone.taken for phone in self.phones)
            if taken != told and time.monotonic() > at:
                told, at = taken, time.monotonic() + 0.02
                self.tell(taken=taken, again=sum(phone.again for phone in self.phones))

    def leave(self):
        for phone in self.phones:
            phone.socket.settimeout(0.2)
            phone.register(0)

    @staticmethod
    def tell(**what):
        print(json.dumps(what), flush=True)


class Taker(Phone):
    """One phone. `answer` is as short as it can be: the phones mustn't be what is measured."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.seen, self.taken, self.again = set(), 0, 0

    def drain(self):
        while True:
            try:
                message, server = self.socket.recvfrom(65_535)
            except BlockingIOError:
                return
            if message.startswith(b"MESSAGE "):
                self.take(message)

    def take(self, message):
        head, body = message.split(b"\r\n\r\n", 1)
        kept = [b"SIP/2.0 200 OK"]
        for line in head.split(b"\r\n"):
            name = line[:5].lower()
            if name == b"to: <":
                kept.append(line + b";tag=phone")
            elif name in (b"via: ", b"from:", b"call-", b"cseq:"):
                kept.append(line)
        kept.append(b"Content-Length: 0\r\n\r\n")
        self.socket.sendto(b"\r\n".join(kept), self.server)
        if body in self.seen:
            self.again += 1
        else:
            self.seen.add(body)
            self.taken += 1

    def answer(self, request, status, **_):
        """While it registers, messages come already."""
        if request.startswith("MESSAGE "):
            self.take(request.encode())
        else:
            super().answer(request, status)


def main():
    takers = Takers(int(sys.argv[1]), sys.argv[2], json.loads(sys.stdin.readline()))
    takers.register()
    takers.run()
    takers.leave()


if __name__ == "__main__":
    main()
