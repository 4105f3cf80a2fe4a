"""An Airbyte connector as a program: installed in an environment of its own, spoken to in Airbyte's protocol.

docs.airbyte.com/platform/understanding-airbyte/airbyte-protocol: `spec`, `check`, `discover` and `read`
answer with a JSON message per line of standard output.
"""

from __future__ import annotations

import collections
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from lakeward.errors import ConfigError, ConnectorError

Message = dict[str, Any]

# What a program needs to reach the network and to write text; nothing of what else we were given.
_PASSED_ON = re.compile(
    r"PATH|HOME|LANG|LC_.*|TZ|TMPDIR|(?:HTTPS?|NO|ALL)_PROXY|(?:https?|no|all)_proxy"
    r"|SSL_CERT_(?:FILE|DIR)|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE"
)
_STOP_SECONDS = 10
_TAIL = 20  # lines of standard error that an error may quote


class Connector:
    """One connector with one configuration. Starts a process per call, 2 to 5 s for most.

    secrets: words that nothing this process says may hold. say: what the connector itself says.
    silence_seconds: how long it may say nothing before it counts as hung.
    """

    def __init__(
        self,
        program: Path,
        config: Mapping[str, Any],
        *,
        environment: Mapping[str, str],
        secrets: Sequence[str] = (),
        silence_seconds: float = 3600,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._program = program
        self._config = config
        self._environment = {k: v for k, v in environment.items() if _PASSED_ON.fullmatch(k)}
        self._secrets = sorted((word for word in secrets if word), key=len, reverse=True)
        self._silence_seconds = silence_seconds
        self._say = say

    def spec(self) -> Message:
        """`connectionSpecification`: the JSON schema of the configuration."""
        (found,) = self._answers("spec", "SPEC")
        return found["spec"]["connectionSpecification"]  # type: ignore[no-any-return]

    def discover(self) -> list[Message]:
        """The streams that this configuration can read, as the protocol's catalog has them."""
        (found,) = self._answers("discover", "CATALOG", config=self._config)
        return found["catalog"]["streams"]  # type: ignore[no-any-return]

    def read(self, catalog: Message, states: Sequence[Message]) -> Generator[tuple[bytes, Message, bool]]:
        """Every RECORD, STATE and TRACE as (its line, message, is the line JSON that others read too).

        Raises ConnectorError after the last of them if the connector said so or left with another exit code
        than 0.
        """
        inputs: dict[str, object] = {"config": self._config, "catalog": catalog}
        if states:
            inputs["state"] = list(states)
        for line, message, clean in self._run("read", inputs):
            if message["type"] in ("RECORD", "STATE", "TRACE"):
                yield line, message, clean

    def masked(self, text: str) -> str:
        for word in self._secrets:
            text = text.replace(word, "****")
        return text

    def _answers(self, command: str, kind: str, **inputs: object) -> list[Message]:
        found = [message for _, message, _ in self._run(command, inputs) if message["type"] == kind]
        if len(found) != 1:
            raise self._error(f"{command} answered {len(found)} {kind} messages; it must be one", None)
        return found

    def _run(self, command: str, inputs: Mapping[str, object]) -> Generator[tuple[bytes, Message, bool]]:
        complaint: str | None = None
        with tempfile.TemporaryDirectory(prefix="lakeward-") as folder:  # of mode 0700
            arguments = [str(self._program), command]
            for name, value in inputs.items():
                path = Path(folder, f"{name}.json")
                path.write_text(json.dumps(value))
                arguments += [f"--{name}", str(path)]
            with self._process(arguments, folder) as running:
                decode = Decoder()
                for line in running.lines():
                    message = self._message(line, decode, command)
                    if message is None:
                        continue
                    if message["type"] == "TRACE":
                        complaint = _complaint(message) or complaint
                    yield line, message, decode.is_clean(line)
                code = running.end()
        if running.hung:
            raise self._error(f"{command}: it said nothing for {self._silence_seconds:g} s", complaint)
        if code or complaint:
            complaint = complaint or " | ".join(running.complaints()) or "it gave no reason"
            raise self._error(f"{command} ended with exit code {code}", complaint)

    def _message(self, line: bytes, decode: Decoder, command: str) -> Message | None:
        """None for what is no message: some connectors and their libraries print as they like."""
        try:
            message = decode(line)
        except ValueError as error:
            if b'"RECORD"' in line or b'"STATE"' in line:
                words = line[:200].decode(errors="replace")
                raise self._error(f"{command}: a message that is not JSON: {error}", words) from error
            message = None
        if not isinstance(message, dict) or not isinstance(message.get("type"), str):
            self._say(self.masked(line.decode(errors="replace").rstrip()))
            return None
        if message["type"] == "LOG":
            log = message.get("log") or {}
            self._say(self.masked(f"{log.get('level', 'INFO')} {log.get('message', '')}"))
            return None
        if message["type"] == "TRACE" and (said := _complaint(message)):
            self._say(self.masked(f"ERROR {said}"))
        return message

    def _error(self, what: str, words: str | None) -> ConnectorError:
        said = f": {self.masked(words)}" if words else ""
        return ConnectorError(f"{self._program.name} {what}{said}")

    @contextmanager
    def _process(self, arguments: list[str], folder: str) -> Iterator[_Running]:
        try:
            process = subprocess.Popen(
                arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
                cwd=folder, env=self._environment, start_new_session=True, bufsize=1 << 20,
            )  # fmt: skip
        except OSError as error:
            raise ConfigError(
                f"{self._program}: cannot be run: {error.strerror}", hint="name a program that runs here"
            ) from error
        running = _Running(process, self._silence_seconds, lambda line: self._say(self.masked(line)))
        try:
            yield running
        finally:
            running.stop()


class Decoder:
    """JSON as Python's own writer may have made it: NaN and Infinity are no JSON, so they become text."""

    def __init__(self) -> None:
        self._strange = 0
        self._decode = json.JSONDecoder(parse_constant=self._constant).decode

    def __call__(self, line: bytes) -> Any:
        self._strange = 0
        return self._decode(line.decode())

    def is_clean(self, line: bytes) -> bool:
        """May the line just decoded be read by others as it is? Halves of surrogate pairs may not."""
        return not self._strange and b"\\ud" not in line and b"\\uD" not in line and line.endswith(b"\n")

    def _constant(self, name: str) -> str:
        self._strange += 1
        return name


class _Running:
    """A started process: its lines, what it complained about, and its end, which comes in any case."""

    def __init__(
        self, process: subprocess.Popen[bytes], silence_seconds: float, say: Callable[[str], None]
    ) -> None:
        self.hung = False
        self._process = process
        self._silence_seconds = silence_seconds
        self._say = say
        self._heard = time.monotonic()
        self._listens = True  # while a line is being dealt with nobody does: that is no silence
        self._tail: collections.deque[str] = collections.deque(maxlen=_TAIL)
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._drain, daemon=True),
            threading.Thread(target=self._watch, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def lines(self) -> Iterator[bytes]:
        out: IO[bytes] = self._process.stdout  # type: ignore[assignment]
        for line in out:
            self._listens = False
            yield line
            self._heard, self._listens = time.monotonic(), True

    def end(self) -> int:
        """Wait until it is over by itself; its exit code."""
        code = self._process.wait()
        self._threads[0].join()
        return code

    def complaints(self) -> list[str]:
        return [line for line in self._tail if line.strip()][-3:]

    def stop(self) -> None:
        """Ask, then kill, with everything it started."""
        self._over.set()
        for number, patience in ((signal.SIGTERM, _STOP_SECONDS), (signal.SIGKILL, None)):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def _drain(self) -> None:
        err: IO[bytes] = self._process.stderr  # type: ignore[assignment]
        with suppress(ValueError):  # closed under us
            for line in err:
                self._heard = time.monotonic()
                text = line.decode(errors="replace").rstrip()
                self._tail.append(text)
                self._say(text)

    def _watch(self) -> None:
        while not self._over.wait(min(1.0, self._silence_seconds / 4)):
            if self._listens and time.monotonic() - self._heard > self._silence_seconds:
                self.hung = True
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                return


def _complaint(trace: Message) -> str | None:
    """What went wrong, in the connector's words, if the message says so."""
    inner = trace.get("trace") or {}
    if inner.get("type") != "ERROR":
        return None
    error = inner.get("error") or {}
    words = [error.get("message"), error.get("internal_message")]
    return ": ".join(str(word) for word in dict.fromkeys(words) if word) or "an error without a message"


def install(requirement: str, python: str | None, home: Path, environment: Mapping[str, str]) -> Path:
    """The connector's program, installed by uv into an environment of its own below `home`, once.

    requirement: `airbyte-source-faker==7.2.1`. python: as uv names one; default: the one that runs lakeward.
    Its pins and those of others exclude one another. Costs 5 to 40 s the first time.
    """
    name, _, version = requirement.partition("==")
    program = name.removeprefix("airbyte-")
    folder = home / f"{program}-{version}{f'-py{python}' if python else ''}"
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

    chosen = python or f"{sys.version_info.major}.{sys.version_info.minor}"
    venv = ["venv", "--clear", "--quiet", "--python", chosen, str(folder)]
    packages = ["pip", "install", "--quiet", "--python", str(folder), "--compile-bytecode", requirement]
    for arguments in (venv, packages):
        done = subprocess.run(
            [find_uv_bin(), *arguments], check=False, capture_output=True, text=True, env=dict(environment)
        )
        if done.returncode:
            raise ConnectorError(
                f"{requirement}: uv {arguments[0]} failed: {done.stderr.strip()}",
                hint='if it needs another Python, say so in the source file: python: "3.11"',
            )
