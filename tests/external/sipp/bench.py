#!/usr/bin/env python3
"""The SIP edge under load, beside Kamailio doing the same job: `scripts/bench sip` runs this.

Phones are SIPp, each with an address of its own on the loopback network (127.0.x.y), as phones have: the edge counts requests without credentials by
source. The server under test has the second core for itself, SIPp the first. A server is kept busy by 64 phones that each wait for their answer; what is told is
registrations in each second of that core's time, which other work on the machine doesn't change, and in each second that passed, which it does.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import latency
from phone import Phone, befriend

HERE = os.path.dirname(os.path.abspath(__file__))
AUTHORITY = "example"
AT_ONCE = 64
PHONE_PORT = 25060
TAKER = ("127.0.8.1", 26060)
PATIENCE_SECS = 120
KAMAILIO_MODULES = "/usr/lib/x86_64-linux-gnu/kamailio/modules/"


def cpu_seconds(pids):
    """Processor time of these processes so far."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat") as stat:
            fields = stat.read().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid):
    """Memory of a process that is its own: pages of its program and libraries aren't counted."""
    with open(f"/proc/{pid}/status") as status:
        lines = dict(line.split(":", 1) for line in status)
    return int(lines["RssAnon"].split()[0]) * 1024


def on_core(core, command):
    return ["taskset", "-c", str(core), *command]


class Edge:
    """A node with the SIP edge, and its accounts."""

    name = "halloo"
    accepted = 202

    def __init__(self, program, folder, config=""):
        self.program, self.home = program, os.path.join(folder, "edge")
        self.cli("init", "--device-name", "edge")
        with open(os.path.join(self.home, "config.toml"), "w") as file:
            file.write(f'lab = true\n[authority]\nname = "{AUTHORITY}"\n{config}')
        roles = [argument for role in ("authority", "directory") for argument in ("--role", role)]
        listen = ["--listen", "/ip4/127.0.0.1/udp/0/quic-v1", "--listen", "/ip4/127.0.0.1/tcp/0"]
        command = [program, "--home", self.home, "--json", "run", "--lab", "--sip", "127.0.0.1:0", *roles, *listen]
        self.log = open(os.path.join(folder, "edge.log"), "w")
        self.process = subprocess.Popen(on_core(1, command), stdout=subprocess.PIPE, stderr=self.log, text=True)
        for line in self.process.stdout:
            if json.loads(line).get("event") == "ready":
                break
        self.accounts = []

    def cli(self, *arguments):
        output = subprocess.run([self.program, "--home", self.home, "--json", *arguments], stdout=subprocess.PIPE, check=True, text=True)
        return json.loads(output.stdout) if output.stdout.strip() else {}

    def add_account(self):
        invite = self.cli("authority", "invite")["code"]
        made = self.cli("sip", "account", "add", f"user{len(self.accounts):02}@{AUTHORITY}", "--invite", invite)
        self.accounts.append((made["username"], made["password"]))
        server = next(server for server in made["servers"] if server.endswith("udp"))
        self.port = int(server.split(";")[0].rsplit(":", 1)[1])

    def settle(self):
        """Waits until accounts have joined the network; what they go on doing is counted."""
        for _ in range(15):
            before = cpu_seconds(self.pids())
            time.sleep(2)
            if cpu_seconds(self.pids()) - before < 0.2:
                return

    def pids(self):
        return [self.process.pid]

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.log.close()


class Kamailio:
    """Kamailio with as many processes for datagrams."""

    name = "kamailio"
    accepted = 200

    def __init__(self, folder, accounts, children, allocator):
        self.port = 15060
        self.accounts = [(f"user{index:02}", "secret") for index in range(accounts)]
        with open(os.path.join(HERE, "kamailio.cfg")) as file:
            config = file.read()
        for name, value in [("PORT", self.port), ("CHILDREN", children), ("MODULES", KAMAILIO_MODULES)]:
            config = config.replace(f"@{name}@", str(value))
        path = os.path.join(folder, "kamailio.cfg")
        with open(path, "w") as file:
            file.write(config)
        self.log = open(os.path.join(folder, "kamailio.log"), "w")
        command = ["kamailio", "-f", path, "-DD", "-E", "-Y", folder, "-m", "512", "-M", "32"]
        if allocator:
            command += ["-x", allocator, "-X", allocator]
        self.process = subprocess.Popen(on_core(1, command), stdout=self.log, stderr=self.log)
        time.sleep(2)
        if self.process.poll() is not None:
            sys.exit("bench: Kamailio didn't start: " + open(self.log.name).read())

    def pids(self):
        children = subprocess.run(["pgrep", "-P", str(self.process.pid)], stdout=subprocess.PIPE, text=True)
        return [self.process.pid, *map(int, children.stdout.split())]

    def stop(self):
        self.process.terminate()
        self.process.wait()
        self.log.close()


def write_phones(path, accounts, phones):
    """An injection file of so many phones of each account, each with an address of its own."""
    with open(path, "w") as file:
        file.write("SEQUENTIAL\n")
        for index in range(len(accounts) * phones):
            name, password = accounts[index % len(accounts)]
            address = f"127.0.{1 + index // 250}.{1 + index % 250}"
            file.write(f"{name};{AUTHORITY};[authentication username={name} password={password}];{address};{PHONE_PORT}\n")


def sipp(folder, scenario, server, phones, count, uri=AUTHORITY, more=()):
    """Runs a scenario so many times; seconds that passed, the server's processor time."""
    command = ["sipp", f"127.0.0.1:{server.port}", "-sf", os.path.join(HERE, scenario), "-inf", phones, "-t", "ui", "-ip_field", "3", "-p", str(PHONE_PORT), "-auth_uri", uri]
    command += ["-i", "127.0.0.1", "-r", "100000", "-l", str(AT_ONCE), "-m", str(count), "-nostdin", "-timeout", str(PATIENCE_SECS), "-max_socket", "5000", "-trace_err", *more]
    before, started = cpu_seconds(server.pids()), time.monotonic()
    with open(os.path.join(folder, "sipp.log"), "w") as log:
        ended = subprocess.run(on_core(0, command), cwd=folder, stdout=log, stderr=log)
    elapsed, used = time.monotonic() - started, cpu_seconds(server.pids()) - before
    if ended.returncode != 0:
        with open(os.path.join(folder, "sipp.log")) as log:
            raise SystemExit(f"bench: SIPp gave {ended.returncode} with {server.name}\n{log.read()}")
    return elapsed, used


def registrations(folder, servers, phones, count, rounds):
    """Registrations per second, servers taking turns."""
    figures = {server.name: [] for server in servers}
    for server in servers:
        server.phones = os.path.join(folder, f"{server.name}.csv")
        write_phones(server.phones, server.accounts, phones)
        sipp(folder, "register.xml", server, server.phones, len(server.accounts) * phones)
    for _ in range(rounds):
        for server in servers:
            elapsed, used = sipp(folder, "register.xml", server, server.phones, count)
            figures[server.name].append((count / elapsed, count / used))
    return {name: told(runs) for name, runs in figures.items()}


def told(runs):
    passed, used = zip(*runs)
    return {"per_second_passed": round(statistics.median(passed)), "per_second_of_a_core": round(statistics.median(used)), "rounds": [[round(value) for value in run] for run in runs]}


def start_sipp(folder, scenario, log, *arguments):
    """A SIPp that takes what comes."""
    command = ["sipp", "-sf", scenario, "-t", "u1", "-nostdin", "-timeout", str(PATIENCE_SECS), "-trace_err", *arguments]
    with open(os.path.join(folder, log), "w") as output:
        return subprocess.Popen(on_core(0, command), cwd=folder, stdout=output, stderr=output)


def errors(folder):
    """What SIPp has noted as wrong, the beginning of it."""
    files = [os.path.join(folder, name) for name in os.listdir(folder) if name.endswith("_errors.log")]
    return "\n".join(open(file).read(2_000) for file in files)


def write_message_scenario(folder, server):
    scenario = os.path.join(folder, f"{server.name}-message.xml")
    with open(os.path.join(HERE, "message.xml")) as source, open(scenario, "w") as file:
        file.write(source.read().replace("@ACCEPTED@", str(server.accepted)))
    return scenario


def write_phone(path, account, address, port, more=""):
    name, password = account
    with open(path, "w") as file:
        file.write(f"SEQUENTIAL\n{name};{AUTHORITY};[authentication username={name} password={password}];{address};{port}{more}\n")


def pairs(server):
    """Who writes, and to whom."""
    half = len(server.accounts) // 2
    return list(zip(server.accounts[:half], server.accounts[half:]))


def write_all(folder, server, scenario, each):
    """Each writer writes so many messages to its taker, until the last has been accepted."""
    writing = []
    for index, (writer, taker) in enumerate(pairs(server)):
        phone, path = f"127.0.7.{1 + index}", os.path.join(folder, f"{server.name}-writer-{index}.csv")
        write_phone(path, writer, phone, PHONE_PORT, f";{taker[0]}")
        to = ["-auth_uri", f"{taker[0]}@{AUTHORITY}", "-r", "100000", "-l", str(max(1, AT_ONCE // len(pairs(server)))), "-m", str(each)]
        arguments = [f"127.0.0.1:{server.port}", "-inf", path, "-i", phone, "-p", str(PHONE_PORT), *to]
        writing.append(start_sipp(folder, scenario, f"write-{index}.log", *arguments))
    if any([one.wait() != 0 for one in writing]):
        raise SystemExit(f"bench: a message was refused by {server.name}\n" + errors(folder))


class Takers:
    """The phones that are written to, registered: a process on the phones' core."""

    def __init__(self, folder, server):
        command = [sys.executable, os.path.join(HERE, "taker.py"), str(server.port), AUTHORITY]
        self.log = open(os.path.join(folder, "taker.log"), "a")
        self.process = subprocess.Popen(on_core(0, command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True)
        self.again = 0
        self.say(json.dumps([taker for _, taker in pairs(server)]))

    def say(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def wait(self, is_enough):
        """Until they tell what is waited for."""
        for line in self.process.stdout:
            told = json.loads(line)
            self.again = told.get("again", self.again)
            if is_enough(told):
                return
        raise SystemExit("bench: phones ended: " + open(self.log.name).read())

    def wait_taken(self, count):
        patience = threading.Timer(PATIENCE_SECS, self.process.kill)
        patience.start()
        self.wait(lambda told: told.get("taken", 0) >= count)
        patience.cancel()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(BrokenPipeError):
            self.say("")
        self.process.wait()
        self.log.close()


def messages(folder, server, count):
    """The whole way of a message, phone to phone in pairs, until the last has been taken: a second that passed, a second of the core."""
    scenario, each = write_message_scenario(folder, server), count // len(pairs(server))
    with Takers(folder, server) as takers:
        takers.wait(lambda told: "registered" in told)
        before, started = cpu_seconds(server.pids()), time.monotonic()
        write_all(folder, server, scenario, each)
        takers.wait_taken(each * len(pairs(server)))
        return per_second(server, each * len(pairs(server)), started, before)


def delivery(folder, server, count):
    """Server to phone only. The edge has the messages by then; its phones were off. Kamailio is sent them meanwhile, as it keeps none."""
    each = count // len(pairs(server))
    total = each * len(pairs(server))
    if server.name == "halloo":
        write_all(folder, server, write_message_scenario(folder, server), each)
        server.settle()
        before, started = cpu_seconds(server.pids()), time.monotonic()
        with Takers(folder, server) as takers:
            takers.wait_taken(total)
            return per_second(server, total, started, before)
    with Takers(folder, server) as takers:
        takers.wait(lambda told: "registered" in told)
        before, started = cpu_seconds(server.pids()), time.monotonic()
        write_all(folder, server, os.path.join(HERE, "relay.xml"), each)
        takers.wait_taken(total)
        return per_second(server, total, started, before)


def per_second(server, count, started, before):
    """Of a second that passed, and of a second of the core: with what the server does in the second after, as marks and receipts."""
    elapsed = time.monotonic() - started
    time.sleep(1)
    return count / elapsed, count / max(cpu_seconds(server.pids()) - before, 0.01)


def befriend_pairs(edge):
    """Who writes to whom, and calls whom, are contacts."""
    for pair in pairs(edge):
        phones = [Phone(edge.port, AUTHORITY, account) for account in pair]
        befriend(*phones)
        for phone in phones:
            phone.close()


def calls(folder, edge, count):
    """Calls from phone to phone, answered and hung up, one after the other: a second that passed, a second of the core."""
    _, callee = pairs(edge)[0]
    path = os.path.join(folder, "callee.csv")
    write_phone(path, callee, *TAKER)
    register = ["sipp", f"127.0.0.1:{edge.port}", "-sf", os.path.join(HERE, "register.xml"), "-inf", path, "-t", "u1", "-i", TAKER[0], "-p", str(TAKER[1])]
    subprocess.run([*register, "-auth_uri", AUTHORITY, "-m", "1", "-nostdin"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    phones = os.path.join(folder, "callers.csv")
    write_phone(phones, edge.accounts[0], "127.0.7.1", PHONE_PORT)
    keys = ["-key", "name", callee[0], "-key", "address", TAKER[0], "-key", "port", str(TAKER[1])]
    answering = start_sipp(folder, os.path.join(HERE, "answer.xml"), "answer.log", "-i", TAKER[0], "-p", str(TAKER[1]), *keys)
    try:
        to = f"{callee[0]}@{AUTHORITY}"
        elapsed, used = sipp(folder, "call.xml", edge, phones, count, uri=to, more=["-s", to, "-d", "0", "-l", "1"])
    finally:
        answering.terminate()
        answering.wait()
    return {"per_second_passed": round(count / elapsed, 1), "per_second_of_a_core": round(count / used, 1), "calls": count}


def memory(folder, edge, phones):
    """Memory of each phone: before and after all accounts' phones have registered."""
    path = os.path.join(folder, "memory.csv")
    write_phones(path, edge.accounts, phones)
    before = resident_bytes(edge.process.pid)
    count = len(edge.accounts) * phones
    sipp(folder, "register.xml", edge, path, count)
    return {"phones": count, "bytes_per_phone": (resident_bytes(edge.process.pid) - before) // count}


class Servers:
    """An edge and a Kamailio with so many accounts each; ended with the block."""

    def __init__(self, options, folder):
        self.options, self.folder = options, folder
        os.makedirs(folder)

    def __enter__(self):
        with contextlib.ExitStack() as running:
            self.edge = Edge(self.options.program, self.folder)
            running.callback(self.edge.stop)
            self.kamailio = Kamailio(self.folder, self.options.accounts, self.options.kamailio_children, self.options.kamailio_allocator)
            running.callback(self.kamailio.stop)
            idle = resident_bytes(self.edge.process.pid)
            for _ in range(self.options.accounts):
                self.edge.add_account()
            self.edge.settle()
            self.bytes_per_account = (resident_bytes(self.edge.process.pid) - idle) // self.options.accounts
            self.running = running.pop_all()
        return self

    def __exit__(self, *_):
        self.running.close()


def measure_registrations(options, servers):
    figures = {"bytes_per_account": servers.bytes_per_account, "memory": memory(servers.folder, servers.edge, options.phones)}
    rates = registrations(servers.folder, [servers.kamailio, servers.edge], options.phones, options.registrations, options.rounds)
    return {**figures, "registrations": rates, "registrations_share": share(rates)}


def measure_messages(options, servers):
    befriend_pairs(servers.edge)
    figures = {}
    for name, measure, count in (("delivery", delivery, options.delivered), ("messages_whole_way", messages, options.messages)):
        runs = {"kamailio": [], "halloo": []}
        for _ in range(options.rounds):
            for server in (servers.kamailio, servers.edge):
                runs[server.name].append(measure(servers.folder, server, count))
        rates = {name: told(of_one) for name, of_one in runs.items()}
        figures |= {name: rates, f"{name}_share": share(rates)}
    return figures


def measure_calls(options, servers):
    half = len(servers.edge.accounts) // 2
    figures = {"calls": calls(servers.folder, servers.edge, options.calls)}
    caller, callee = (Phone(servers.edge.port, AUTHORITY, servers.edge.accounts[index]) for index in (1, half + 1))
    callee.register()
    return {**figures, "bridged_call": latency.measure(caller, callee)}


def share(rates):
    return round(rates["halloo"]["per_second_of_a_core"] / rates["kamailio"]["per_second_of_a_core"], 3)


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("program", help="the halloo program")
    options.add_argument("--only", choices=["registrations", "messages"], help="registrations and memory, or messages and calls")
    options.add_argument("--accounts", type=int, default=16)
    options.add_argument("--phones", type=int, default=10, help="of each account")
    options.add_argument("--registrations", type=int, default=20_000, help="in each round")
    options.add_argument("--delivered", type=int, default=4_000, help="messages that wait for their phones, in each round")
    options.add_argument("--messages", type=int, default=400, help="the whole way, in each round")
    options.add_argument("--calls", type=int, default=100)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--kamailio-children", type=int, default=1, help="Kamailio's processes for datagrams")
    options.add_argument("--kamailio-allocator", choices=["qm", "fm", "tlsf"], help="another allocator of Kamailio's than the one it comes with")
    options.add_argument("--json", help="write the figures to this file")
    options = options.parse_args()
    figures = {}
    with tempfile.TemporaryDirectory(prefix="halloo-sip-") as folder:
        for name, measures in (("registrations", [measure_registrations]), ("messages", [measure_messages, measure_calls])):
            if options.only in (None, name):
                with Servers(options, os.path.join(folder, name)) as servers:
                    for measure in measures:
                        figures.update(measure(options, servers))
    print(json.dumps(figures, indent=2))
    if options.json:
        with open(options.json, "w") as file:
            json.dump(figures, file, indent=2)


if __name__ == "__main__":
    main()
