"""An Airbyte connector as a program: installed in an environment of its own, and spoken to (protocol.py)."""

from __future__ import annotations

import collections
import fcntl
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from lakeward.errors import ConfigError, ConnectorError
from lakeward.masking import Mask
from lakeward.protocol import Decoder, Message, complaint

# What a program needs to reach the network and to write text; nothing of what else we were given.
_PASSED_ON = re.compile(
    r"PATH|HOME|LANG|LC_.*|TZ|TMPDIR|(?:HTTPS?|NO|ALL)_PROXY|(?:https?|no|all)_proxy"
    r"|SSL_CERT_(?:FILE|DIR)|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE"
)
_INSTALLER = re.compile(r"(?:UV|PIP|XDG)_.*")  # uv's own settings, the address of a registry among them
_STOP_SECONDS = 10.0
_LINGER_SECONDS = 5.0  # that what a connector left behind may keep its output open
_LOOK_SECONDS = 0.5
_CHUNK = 1 << 20
_TAIL, _QUOTED = 20, 3  # lines of standard error that are kept, and that an error quotes


class Connector:
    """One connector with one configuration. Starts a process per call, 2 to 5 s for most.

    folder: where what it is handed lies while it runs, secrets in it; its owner empties it after a kill.
    mask: hides what nothing this process says may hold. say: what the connector itself says.
    silence_seconds: how long it may send nothing before it counts as hung.
    """

    def __init__(
        self,
        program: Path,
        config: Mapping[str, object],
        *,
        folder: Path,
        environment: Mapping[str, str],
        mask: Mask | None = None,
        silence_seconds: float = 3600,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._program = program
        self._config = config
        self._folder = folder
        self._environment = {k: v for k, v in environment.items() if _PASSED_ON.fullmatch(k)}
        self._mask = mask or Mask()
        self._silence_seconds = silence_seconds
        self._say = say

    def spec(self) -> Message:
        """`connectionSpecification`: the JSON schema of the configuration."""
        return dict(self._answer("spec", "SPEC")["spec"]["connectionSpecification"])

    def discover(self) -> list[Message]:
        """The streams that this configuration can read, as the protocol's catalog has them."""
        return list(self._answer("discover", "CATALOG", config=self._config)["catalog"]["streams"])

    def read(self, catalog: Message, states: Sequence[Message]) -> Generator[tuple[bytes, Message, bool]]:
        """Every RECORD, STATE and TRACE as (its line, message, is the line JSON that others read too).

        Secrets are masked in what a TRACE complains of. Raises ConnectorError for a message that is broken,
        and after the last one if the connector failed, said so, or left with another exit code than 0.
        """
        inputs: dict[str, object] = {"config": self._config, "catalog": catalog}
        if states:
            inputs["state"] = list(states)
        for line, message, clean in self._run("read", inputs):
            if message["type"] in ("RECORD", "STATE", "TRACE"):
                yield line, message, clean

    def _answer(self, command: str, kind: str, **inputs: object) -> Message:
        found = [message for _, message, _ in self._run(command, inputs) if message["type"] == kind]
        if len(found) != 1:
            raise self._error(f"{command} answered {len(found)} {kind} messages; it must be one", None)
        return found[0]

    def _run(self, command: str, inputs: Mapping[str, object]) -> Generator[tuple[bytes, Message, bool]]:
        words: str | None = None
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:  # of mode 0700
            arguments = [str(self._program), command]
            for name, value in inputs.items():
                path = Path(folder, f"{name}.json")
                path.write_text(json.dumps(value))
                arguments += [f"--{name}", str(path)]
            with self._process(arguments, folder) as running:
                decode = Decoder()
                for line in running.lines():
                    message = self._heard(line, decode, command)
                    if message is None:
                        continue
                    if message["type"] != "RECORD" and (found := complaint(message)):
                        words = found[1]
                    yield line, message, decode.is_clean and line.endswith(b"\n")
                code = running.end()
        if code is None:
            raise self._error(f"{command}: it said nothing for {self._silence_seconds:g} s", words)
        if code or words:
            words = words or " | ".join(running.last_words()) or "it gave no reason"
            raise self._error(f"{command} ended with exit code {code}", words)

    def _heard(self, line: bytes, decode: Decoder, command: str) -> Message | None:
        try:
            message = decode(line)
        except ValueError as error:
            # Without the error: what it says holds what was refused, secrets and all.
            raise self._error(f"{command}: {error}", line.decode(errors="replace")) from None
        if message is None:
            self._say(self._mask(line.decode(errors="replace").rstrip()))
        elif message["type"] == "RECORD":
            pass
        elif message["type"] == "LOG":
            log = message["log"]
            self._say(self._mask(f"{log.get('level', 'INFO')} {log.get('message', '')}"))
        elif message["type"] == "CONTROL":
            self._say("WARN the connector asks for its configuration to be changed, which is not done")
        elif found := complaint(message):
            told = message["trace"]["error"]
            message["trace"]["error"] = told | {
                key: self._mask(told[key]) for key in ("message", "internal_message") if told.get(key)
            }
            self._say(f"ERROR {self._mask(found[1])}")
        return message

    def _error(self, what: str, words: str | None) -> ConnectorError:
        said = f": {self._mask(words)[:500]}" if words else ""
        return ConnectorError(f"{self._program.name} {self._mask(what)}{said}")

    @contextmanager
    def _process(self, arguments: list[str], folder: str) -> Iterator[_Running]:
        try:
            process = subprocess.Popen(
                arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
                cwd=folder, env=self._environment, start_new_session=True, bufsize=0,
            )  # fmt: skip
        except OSError as error:
            raise ConfigError(
                f"{self._program}: cannot be run: {error.strerror}", hint="name a program that runs here"
            ) from error
        running = _Running(process, self._silence_seconds, lambda line: self._say(self._mask(line)))
        try:
            yield running
        finally:
            running.stop()


class _Running:
    """A started process: its lines, its last words, and its end, which comes in any case."""

    def __init__(
        self, process: subprocess.Popen[bytes], silence_seconds: float, say: Callable[[str], None]
    ) -> None:
        self._process = process
        self._silence_seconds = silence_seconds
        self._is_silent = False
        self._say = say
        self._tail: collections.deque[str] = collections.deque(maxlen=_TAIL)
        self._errors = threading.Thread(target=self._drain, daemon=True)
        self._errors.start()

    def lines(self) -> Iterator[bytes]:
        """Until its output ends, it falls silent, or it is over and only what it started still listens."""
        out: IO[bytes] = self._process.stdout  # type: ignore[assignment]
        ready = select.poll()
        ready.register(out, select.POLLIN | select.POLLHUP)
        pieces: list[bytes] = []  # of a line that has not ended
        heard, over = time.monotonic(), None
        while True:
            now = time.monotonic()
            if over is None and self._process.poll() is not None:
                over = now
            if over is not None and now - over > _LINGER_SECONDS:
                break
            if ready.poll(_LOOK_SECONDS * 1000):
                chunk = os.read(out.fileno(), _CHUNK)
                if not chunk:
                    break
                first, *others = chunk.split(b"\n")
                pieces.append(first)
                for other in others:
                    yield b"".join(pieces) + b"\n"
                    pieces = [other]
                heard = time.monotonic()
            elif over is None and now - heard > self._silence_seconds:
                self._is_silent = True
                break
        if rest := b"".join(pieces):
            yield rest

    def end(self) -> int | None:
        """Its exit code; None when it fell silent, or would not end."""
        if self._is_silent:
            return None
        with suppress(subprocess.TimeoutExpired):
            code = self._process.wait(self._silence_seconds)
            self._errors.join(_LOOK_SECONDS)
            return code
        return None

    def last_words(self) -> list[str]:
        return [line for line in self._tail if line.strip()][-_QUOTED:]

    def stop(self) -> None:
        """Ask, then kill, with everything it started, whatever interrupts that."""
        try:
            self._signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_SECONDS)
        finally:
            self._signal(signal.SIGKILL)
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.join(_LOOK_SECONDS)
        if self._process.stderr is not None and not self._errors.is_alive():
            self._process.stderr.close()

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _drain(self) -> None:
        err: IO[bytes] = self._process.stderr  # type: ignore[assignment]
        for line in err:
            text = line.decode(errors="replace").rstrip()
            self._tail.append(text)
            self._say(text)


def install(requirement: str, python: str | None, home: Path, environment: Mapping[str, str]) -> Path:
    """The connector's program, installed by uv into an environment of its own below `home`, once.

    requirement: `airbyte-source-faker==7.2.1`. python: as uv names one; default: the one that runs lakeward.
    Its pins and those of others exclude one another. Costs 5 to 40 s the first time.
    """
    name, _, version = requirement.partition("==")
    program = name.removeprefix("airbyte-")
    chosen = re.sub(r"[^A-Za-z0-9.]+", "-", python or "")  # a version, or a path, which is no path of ours
    folder = home / f"{program}-{version}{f'-py{chosen}' if python else ''}"
    path = folder / "bin" / program
    complete = folder / "complete"
    folder.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (complete.exists() and path.exists()):
            _install(requirement, python, folder, environment)
            complete.touch()
    if not path.exists():
        found = ", ".join(sorted(each.name for each in path.parent.glob("source-*"))) or "none"
        raise ConfigError(f"{requirement} has no program {program}", hint=f"programs it has: {found}")
    return path


def _install(requirement: str, python: str | None, folder: Path, environment: Mapping[str, str]) -> None:
    from uv import find_uv_bin

    allowed = {"UV_PYTHON_DOWNLOADS": "never"} | {
        k: v for k, v in environment.items() if _PASSED_ON.fullmatch(k) or _INSTALLER.fullmatch(k)
    }
    chosen = python or f"{sys.version_info.major}.{sys.version_info.minor}"
    venv = ["venv", "--clear", "--quiet", "--python", chosen, str(folder)]
    packages = ["pip", "install", "--quiet", "--python", str(folder), "--compile-bytecode", requirement]
    for arguments in (venv, packages):
        done = subprocess.run(
            [find_uv_bin(), *arguments], check=False, capture_output=True, text=True, env=allowed
        )
        if done.returncode:
            raise ConnectorError(
                f"{requirement}: uv {arguments[0]} failed: {done.stderr.strip()}",
                hint='if it needs another Python, say so in the source file: python: "3.11"',
            )
