"""What a bridged call adds to the way of a packet: RTP of one phone to another, over the overlay and straight, from the same sockets."""

import re
import socket
import statistics
import struct
import threading
import time

from phone import PATIENCE_SECS, header

PAYLOAD = bytes([0xFF]) * 160  # 20 ms of G.711
EVERY_SECS = 0.02


def description(media):
    address, port = media.getsockname()
    return f"v=0\r\no=- 1 1 IN IP4 {address}\r\ns=-\r\nc=IN IP4 {address}\r\nt=0 0\r\nm=audio {port} RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n"


def where(sdp):
    return re.search(r"c=IN IP4 (\S+)", sdp).group(1), int(re.search(r"m=audio (\d+)", sdp).group(1))


def media_socket():
    media = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    media.bind(("127.0.0.1", 0))
    return media


def call(caller, callee, ours, theirs):
    """A call between two phones; where each sends its media, and what hangs up."""
    taken = {}

    def take():
        end = time.monotonic() + PATIENCE_SECS
        while time.monotonic() < end:
            message = callee.receive()
            if message and message.startswith("INVITE "):
                taken["media"] = where(message)
                return callee.answer(message, 200, description(theirs))
    answering = threading.Thread(target=take)
    answering.start()
    call_id, tag = "bench-latency", "bench"
    status, answer = caller.request("INVITE", callee.uri, description(ours), "application/sdp", call_id=call_id, tag=tag)
    answering.join()
    assert status == 200, answer
    to, target = header(answer, "to"), re.search(r"<(.*?)>", header(answer, "contact")).group(1)
    ack = [f"ACK {target} SIP/2.0", f"Via: SIP/2.0/UDP {caller.address};branch=z9hG4bKack", "Max-Forwards: 70", f"From: <{caller.uri}>;tag={tag}"]
    caller.send("\r\n".join([*ack, f"To: {to}", f"Call-ID: {call_id}", f"CSeq: {caller.cseq} ACK", "Content-Length: 0"]) + "\r\n\r\n")
    return where(answer), taken["media"], lambda: caller.request("BYE", target, call_id=call_id, to=to, tag=tag)


def packet(number):
    """Its number is in its payload too, which goes through as it is."""
    return struct.pack("!BBHII", 0x80, 0, number & 0xFFFF, number * 160, 7) + struct.pack("!I", number) + PAYLOAD[4:]


def is_received(receiver, number, wait_secs):
    end = time.monotonic() + wait_secs
    while (left := end - time.monotonic()) > 0:
        receiver.settimeout(left)
        try:
            if receiver.recv(2_048)[12:16] == struct.pack("!I", number):
                return True
        except TimeoutError:
            break
    return False


def flow(sender, receiver, to, numbers):
    """Packets sent in their rhythm: microseconds that each took, and how many were still on their way when the next was due."""
    took, behind = [], 0
    begin = time.monotonic()
    for index, number in enumerate(numbers):
        delay = begin + index * EVERY_SECS - time.monotonic()
        if delay > 0:
            time.sleep(delay)
        sent = time.monotonic_ns()
        sender.sendto(packet(number), to)
        if is_received(receiver, number, EVERY_SECS):
            took.append((time.monotonic_ns() - sent) / 1_000)
        else:
            behind += 1
    return took, behind


def measure(caller, callee, packets=500):
    """Microseconds of a packet over the overlay and straight, and packets that are kept back."""
    ours, theirs = media_socket(), media_socket()
    to, _, hang_up = call(caller, callee, ours, theirs)
    first = pass_through(ours, theirs, to)
    numbers = range(first, first + packets)
    bridged, behind = flow(ours, theirs, to, numbers)
    assert hang_up()[0] == 200
    straight, _ = flow(ours, theirs, theirs.getsockname(), numbers)
    figures = {name: round(statistics.median(took)) for name, took in (("bridged_us", bridged), ("straight_us", straight))}
    figures["bridged_99_percent_us"] = round(sorted(bridged)[len(bridged) * 99 // 100])
    return {**figures, "added_us": figures["bridged_us"] - figures["straight_us"], "packets_kept_back": behind, "packets": packets}


def pass_through(sender, receiver, to):
    """Sends until the overlay's ends are connected and packets pass; the number of the next."""
    end = time.monotonic() + PATIENCE_SECS
    number = 1
    while time.monotonic() < end:
        took, _ = flow(sender, receiver, to, range(number, number + 50))
        number += 50
        if len(took) == 50:
            return number
    raise SystemExit("bench: no packet passes")
