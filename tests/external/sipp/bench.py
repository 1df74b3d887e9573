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
import time

HERE = os.path.dirname(os.path.abspath(__file__))
AUTHORITY = "example"
AT_ONCE = 64
PHONE_PORT = 25060
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

    def __init__(self, folder, accounts, children):
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
        command = ["kamailio", "-f", path, "-DD", "-E", "-Y", folder, "-m", "128", "-M", "16"]
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
    """Runs a scenario so many times; how many failed, seconds that passed, the server's processor time."""
    command = ["sipp", f"127.0.0.1:{server.port}", "-sf", os.path.join(HERE, scenario), "-inf", phones, "-t", "ui", "-ip_field", "3", "-p", str(PHONE_PORT), "-auth_uri", uri]
    command += ["-i", "127.0.0.1", "-r", "100000", "-l", str(AT_ONCE), "-m", str(count), "-nostdin", "-timeout", str(PATIENCE_SECS), "-max_socket", "5000", *more]
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


def memory(folder, edge, phones):
    """Memory of each phone: before and after all accounts' phones have registered."""
    path = os.path.join(folder, "memory.csv")
    write_phones(path, edge.accounts, phones)
    before = resident_bytes(edge.process.pid)
    count = len(edge.accounts) * phones
    sipp(folder, "register.xml", edge, path, count)
    return {"phones": count, "bytes_per_phone": (resident_bytes(edge.process.pid) - before) // count}


def main():
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("program", help="the halloo program")
    options.add_argument("--accounts", type=int, default=16)
    options.add_argument("--phones", type=int, default=10, help="of each account")
    options.add_argument("--registrations", type=int, default=20_000, help="in each round")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--kamailio-children", type=int, default=1, help="Kamailio's processes for datagrams")
    options.add_argument("--json", help="write the figures to this file")
    options = options.parse_args()
    figures = {}
    with tempfile.TemporaryDirectory(prefix="halloo-sip-") as folder:
        with contextlib.ExitStack() as running:
            edge = Edge(options.program, folder)
            running.callback(edge.stop)
            kamailio = Kamailio(folder, options.accounts, options.kamailio_children)
            running.callback(kamailio.stop)
            idle = resident_bytes(edge.process.pid)
            for _ in range(options.accounts):
                edge.add_account()
            edge.settle()
            figures["bytes_per_account"] = (resident_bytes(edge.process.pid) - idle) // options.accounts
            figures["memory"] = memory(folder, edge, options.phones)
            figures["registrations"] = registrations(folder, [kamailio, edge], options.phones, options.registrations, options.rounds)
    rates = figures["registrations"]
    figures["share_of_kamailio"] = round(rates["halloo"]["per_second_of_a_core"] / rates["kamailio"]["per_second_of_a_core"], 2)
    print(json.dumps(figures, indent=2))
    if options.json:
        with open(options.json, "w") as file:
            json.dump(figures, file, indent=2)


if __name__ == "__main__":
    main()
