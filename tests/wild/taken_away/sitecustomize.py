"""Takes away from a Python what other systems don't have, before anything else is imported (``PYTHONPATH``).

``TEST_TAKEN_AWAY`` names modules (``termios``) and functions (``os.pidfd_open``). ``TEST_SYSTEM`` is what
``platform.system()`` says from then on: Celery decides by it whether a worker has an event loop.
"""

import importlib
import os
import platform
import sys

#: What Python's documentation gives as "Unix" only, by what Celery and its extensions may call.
WINDOWS = """
    fcntl grp pty pwd readline resource syslog termios tty
    os.fork os.forkpty os.register_at_fork os.pidfd_open os.waitid os.wait os.killpg os.setsid os.getpgid
    os.set_blocking os.chroot os.uname os.mkfifo os.posix_spawn
    select.poll select.epoll time.clock_gettime time.CLOCK_MONOTONIC time.CLOCK_BOOTTIME time.tzset
    signal.SIGALRM signal.SIGCHLD signal.SIGHUP signal.SIGKILL signal.SIGPIPE signal.SIGQUIT signal.SIGTSTP
    signal.SIGUSR1 signal.SIGUSR2 signal.SIGWINCH signal.setitimer signal.alarm signal.pthread_sigmask
    socket.AF_UNIX
"""

#: macOS before Python 3.13.
MACOS = "os.pidfd_open os.waitid select.epoll time.CLOCK_BOOTTIME"


def take_away(names):
    for name in names:
        module, _, attribute = name.partition(".")
        if not attribute:
            sys.modules[module] = None
        elif hasattr(importlib.import_module(module), attribute):
            delattr(importlib.import_module(module), attribute)


def socketpair(family=None, type=None, proto=0):
    """As Windows has it: over a connection of the loopback interface."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        return one, server.accept()[0]


system = os.environ.get("TEST_SYSTEM", "")
if system == "Windows":
    import socket

    socket.socketpair = socketpair
    names = WINDOWS
elif system == "macOS":
    names = MACOS
else:
    names = os.environ.get("TEST_TAKEN_AWAY", "")
# The standard library and billiard are for the system that they run on: what they have imported of this stays.
import asyncio, logging, multiprocessing.connection, random, selectors, ssl, subprocess, tempfile, threading  # noqa: E401, E402, F401, I001

if system:
    import billiard.compat
    import billiard.pool  # noqa: F401

take_away(names.split())
if system == "Windows":
    platform.system = lambda: "Windows"
