"""What the Python programs share: what they are told, when they begin, what they report."""

import json
import os
import sys
import time

HOST, PORT, DATABASE, ATTACH, SSLMODE = sys.argv[1:6]
USER = "postgres"
# The program that speaks Postgres, where that is not this one.
PROGRAM = os.environ.get("DRIVER_PROGRAM")
TIMED = [f"select timed_{number}()" for number in range(7)]
# 64 KiB, of which the agent looks at the first 4.
LONG = "select long_length('" + "x" * 65536 + "')"
LARGE = "select large_row() from generate_series(1, 1000)"
NAMED = "select name from items where id = "

errors = {}
timed_ns = []


def wait(attach):
    """Waits for the word to go on, if this is where the agent is attached."""
    if attach == ATTACH:
        print("ready", flush=True)
        sys.stdin.readline()


def failed(sqlstate):
    """The server refused, with this SQLSTATE."""
    errors[sqlstate] = errors.get(sqlstate, 0) + 1


def since(begun_ns):
    """The end of a timed statement."""
    timed_ns.append(time.monotonic_ns() - begun_ns)


def report():
    """What this program knows of its own run."""
    print(json.dumps({"errors": errors, "timed_ns": timed_ns}), flush=True)
