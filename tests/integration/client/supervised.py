"""A supervisor with two stand-ins, as a program of its own: the tests send it signals and look at what is left."""

import argparse
import asyncio
import sys
from pathlib import Path

from loopai_client.local.nats_server import free_port
from loopai_client.local.probes import http_ready
from loopai_client.local.supervisor import Event, ProcessSpec, Supervisor, run_until_stopped

STAND_IN = Path(__file__).with_name("stand_in.py")


def stand_in(name: str, *options: str) -> ProcessSpec:
    """A process that runs the stand-in with these options."""
    port = free_port()
    command = (sys.executable, str(STAND_IN), "--port", str(port), *options)
    return ProcessSpec(name, command, http_ready("127.0.0.1", port))


def main() -> None:
    """Prints ``ready NAME``, then ``up PID PID``, and runs until it is stopped."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--logs", type=Path, required=True)
    parser.add_argument("--deaf", action="store_true")
    options = parser.parse_args()
    stages = [[stand_in("first")], [stand_in("second", *(["--deaf"] if options.deaf else []))]]

    def report(event: Event) -> None:
        print(event.kind, event.process, flush=True)

    supervisor = Supervisor(stages, options.logs, report, grace_seconds=600)

    def on_up() -> None:
        print("up", *(process.pid for process in supervisor.processes.values()), flush=True)

    asyncio.run(run_until_stopped(supervisor, on_up))


if __name__ == "__main__":
    main()
