"""Spends its CPU time in known functions, and says at the end how much of it went where. Waits for a line first."""

import hashlib
import os
import re
import sys
import threading
import time

spent = {}
DATA = bytes(8000)


def spend(name, seconds):
    """Works until its thread has used that much CPU time."""
    begun = time.thread_time_ns()
    until = begun + int(seconds * 1e9)
    while time.thread_time_ns() < until:
        for number in range(300):
            number * number
    spent[name] = spent.get(name, 0) + time.thread_time_ns() - begun


def left(seconds):
    left_inner(seconds)


def left_inner(seconds):
    spend("left_inner", seconds)


class Service:
    def handle(self, seconds):
        for share in self.parts(seconds):
            share

    def parts(self, seconds):
        for _ in range(10):
            spend("parts", seconds / 10)
            yield seconds


def key(item):
    spend("key", item)
    return item


def sorts(seconds):
    sorted([seconds / 4] * 4, key=key)


def replaces(seconds):
    re.sub("x", lambda match: replacement(seconds), "x")


def replacement(seconds):
    spend("replacement", seconds)
    return "y"


def hashes(seconds):
    begun = time.thread_time_ns()
    until = begun + int(seconds * 1e9)
    while time.thread_time_ns() < until:
        hashlib.sha256(DATA * 20)
    spent["hashes"] = time.thread_time_ns() - begun


def deep(depth, seconds):
    return deep(depth - 1, seconds) if depth else spend("deep", seconds)


def sleeper():
    begun = time.monotonic_ns()
    for _ in range(100):
        nap()
    spent["naps"] = time.monotonic_ns() - begun


def nap():
    time.sleep(0.02)


def waits_for_ever(pipe):
    os.read(pipe, 1)


def work():
    for _ in range(4):
        left(0.15)
        Service().handle(0.15)
        sorts(0.1)
        replaces(0.1)
        deep(50, 0.1)
    hashes(0.4)


def main():
    reading, _writing = os.pipe()
    threading.Thread(target=waits_for_ever, args=(reading,), daemon=True).start()
    print("ready", flush=True)
    sys.stdin.readline()
    begun = time.process_time_ns()
    napping = threading.Thread(target=sleeper)
    napping.start()
    work()
    napping.join()
    spent["all"] = time.process_time_ns() - begun
    for name, ns in spent.items():
        print(f"{name}={ns}", flush=True)
    print("done", flush=True)
    sys.stdin.readline()


main()
