#!/usr/bin/env python3
"""What signing costs a relay, beside Postfix with OpenDKIM in the same interleaved run.

  benches/sign.py [--messages 2000] [--size 10240] [--sessions 20] [--runs 5]

Five systems take turns: Posthaste unsigned, with RSA-2048, with Ed25519, with both, and Postfix with OpenDKIM as a milter (RSA-2048,
relaxed/relaxed; as root, with the Debian packages postfix and opendkim). Measured from the first connection until the last message was
taken by the sink; CPU of all processes of the system. The last lines say what holds of issue 6.

Builds nothing: `cargo build --release` and `cargo bench --no-run --bench load` first. Only ratios of one run count.
"""
import argparse
import contextlib
import os
import pathlib
import shutil
import statistics
import subprocess
import tempfile
import time

import relay

# The domain of From in what `load source` sends.
DOMAIN = "source.test"
OPENDKIM = """\
Mode s
Syslog no
Domain {domain}
Selector ph1
KeyFile {key}
Canonicalization relaxed/relaxed
Socket inet:{port}@127.0.0.1
PidFile {dir}/pid
InternalHosts 127.0.0.0/8
RequireSafeKeys no
"""


def key(directory, algorithm):
    path = directory / f"{algorithm}.pem"
    options = ["-pkeyopt", "rsa_keygen_bits:2048"] if algorithm == "rsa" else []
    subprocess.run(["openssl", "genpkey", "-algorithm", algorithm, *options, "-out", path], check=True, stderr=subprocess.DEVNULL)
    path.chmod(0o600)
    return path


def posthaste(next_hop, keys):
    case = relay.Case(next_hop)
    files = ", ".join(f'{{ selector = "ph{number}", key_file = "{path}" }}' for number, path in enumerate(keys, 1))
    # Nobody answers there: records are not found and not missed.
    case.extra = f'[dns]\nservers = ["127.0.0.1:{relay.free_port()}"]\n[[domain]]\nname = "{DOMAIN}"\ndkim = [{files}]\n'
    return relay.posthaste(case)


@contextlib.contextmanager
def postfix(next_hop, path):
    """Port, and the process groups of Postfix and of the milter."""
    directory = pathlib.Path(tempfile.mkdtemp(prefix="opendkim-bench-", dir=os.environ.get("BENCH_DIR")))
    port = relay.free_port()
    (directory / "opendkim.conf").write_text(OPENDKIM.format(domain=DOMAIN, key=path, port=port, dir=directory))
    milter = subprocess.Popen(["opendkim", "-f", "-x", directory / "opendkim.conf"], start_new_session=True)
    try:
        relay.wait_for(port)
        settings = {"smtpd_milters": f"inet:127.0.0.1:{port}", "milter_default_action": "tempfail", "milter_protocol": "6"}
        with relay.postfix(relay.Case(next_hop), **settings) as (smtp, leader):
            yield smtp, (leader, milter.pid)
    finally:
        milter.kill()
        milter.wait()
        shutil.rmtree(directory)


def cpu(leaders):
    return sum(relay.cpu_seconds(leader) for leader in (leaders if isinstance(leaders, tuple) else (leaders,)))


def measure(o, stack, keys):
    rsa, short = keys
    systems = {"unsigned": lambda hop: posthaste(hop, []), "RSA": lambda hop: posthaste(hop, [rsa]), "Ed25519": lambda hop: posthaste(hop, [short]),
               "both": lambda hop: posthaste(hop, [rsa, short])}
    if os.getuid() == 0 and shutil.which("opendkim"):
        systems["OpenDKIM"] = lambda hop: postfix(hop, rsa)
    sinks, targets = {}, {}
    for name, start in systems.items():
        sinks[name] = relay.Sink("--data")
        stack.callback(sinks[name].process.kill)
        targets[name] = stack.enter_context(start(sinks[name].port))
    rates, costs = {n: [] for n in systems}, {n: [] for n in systems}
    for run in range(-1, o.runs):
        for name, (port, leaders) in targets.items():
            messages = o.messages if run >= 0 else 200
            before, spent, start = sinks[name].answered(), cpu(leaders), time.monotonic()
            relay.load(port, messages, o.size, o.sessions)
            sinks[name].wait(before + messages)
            if run >= 0:
                rates[name].append(messages / (time.monotonic() - start))
                costs[name].append((cpu(leaders) - spent) / messages * 1000)
    return rates, costs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=2000)
    parser.add_argument("--size", type=int, default=10240)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--runs", type=int, default=5)
    o = parser.parse_args()
    raw, _ = (float(ms) for ms in subprocess.run([relay.tool(), "sign"], check=True, capture_output=True, text=True).stdout.split())
    with contextlib.ExitStack() as stack:
        directory = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        directory.chmod(0o755)
        rates, costs = measure(o, stack, (key(directory, "rsa"), key(directory, "ed25519")))
    rate = {name: statistics.median(values) for name, values in rates.items()}
    cost = {name: statistics.median(values) for name, values in costs.items()}
    for name, values in rates.items():
        print(f"{name:10} {rate[name]:8.0f} messages/s [{min(values):.0f}-{max(values):.0f}]   {cost[name]:.2f} CPU s per 1,000")
    print(f"one raw RSA-2048 signature: {raw:.3f} ms")
    print(f"CPU with RSA: {cost['RSA'] / (cost['unsigned'] + raw):.2f} x (unsigned + one raw signature), wanted: at most 1.1")
    print(f"rate with Ed25519: {rate['Ed25519'] / rate['unsigned']:.0%} of unsigned, wanted: at least 85 %")
    if "OpenDKIM" in rate:
        print(f"rate with RSA: {rate['RSA'] / rate['OpenDKIM']:.1f} x Postfix with OpenDKIM, wanted: at least 7; 1/{cost['OpenDKIM'] / cost['RSA']:.0f} of the CPU per message")


if __name__ == "__main__":
    main()
