#!/usr/bin/env python3
"""A connector for tests: Airbyte's protocol over streams that count, and the faults that a test asks for.

Configuration: `streams` says up to which id each stream goes; a read goes on from its state. `state_every`:
records between two states (0: none at all). `modes`, `schema`: what discover says. `extra`: added to every
record. `say`: lines printed as they are before the first record. `die_at`: the id before which it fails, by
`die_by`: exit (code 3, no reason), trace (a TRACE ERROR of the stream, code 1) or silence (it hangs).
`scope`: STREAM, GLOBAL or LEGACY states. `leave_behind`: seconds that a child of it
keeps its output open. `ends_untold`: no state after the last record. `deaf`: it heeds no SIGTERM.
`token` is a secret. `noise` goes to standard error.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

Json = dict[str, Any]

SPEC = {
    "type": "object",
    "required": ["streams"],
    "properties": {
        "streams": {"type": "object", "additionalProperties": {"type": "integer"}},
        "token": {"type": "string", "airbyte_secret": True},
    },
}


def say(kind: str, **inside: object) -> None:
    print(json.dumps({"type": kind, **inside}), flush=kind != "RECORD")


def schema(config: Json) -> Json:
    return {"type": "object", "properties": {"id": {"type": "integer"}} | config.get("schema", {})}


def streams(config: Json) -> Iterator[Json]:
    for name in config["streams"]:
        yield {
            "name": name,
            "json_schema": schema(config),
            "supported_sync_modes": config.get("modes", ["full_refresh", "incremental"]),
            "source_defined_cursor": True,
            "default_cursor_field": ["id"],
        }


def start_of(name: str, states: list[Json], *, incremental: bool) -> int:
    for state in states if incremental else ():
        if state["type"] == "STREAM" and state["stream"]["stream_descriptor"]["name"] == name:
            return int(state["stream"]["stream_state"]["next"])
        if state["type"] == "GLOBAL":
            return int(state["global"]["shared_state"].get(name, 0))
    return 0


def read(config: Json, catalog: Json, states: list[Json]) -> None:
    every, scope = config.get("state_every", 10), config.get("scope", "STREAM")
    reached = {
        entry["stream"]["name"]: start_of(
            entry["stream"]["name"], states, incremental=entry["sync_mode"] == "incremental"
        )
        for entry in catalog["streams"]
    }
    for name, first in reached.items():
        status(name, "STARTED")
        unsaid = 0
        for number in range(first, config["streams"][name]):
            if number == config.get("die_at"):
                sys.stdout.flush()
                die(config.get("die_by", "exit"), name, config)
            data = {"id": number} | config.get("extra", {})
            say("RECORD", record={"stream": name, "data": data, "emitted_at": int(time.time() * 1000)})
            reached[name], unsaid = number + 1, unsaid + 1
            if every and unsaid == every:
                tell(name, reached, unsaid, scope)
                unsaid = 0
        if every and not config.get("ends_untold"):
            tell(name, reached, unsaid, scope)
        status(name, "COMPLETE")


def tell(name: str, reached: Json, count: int, scope: str) -> None:
    if scope == "STREAM":
        inner = {"stream_descriptor": {"name": name}, "stream_state": {"next": reached[name]}}
        state: Json = {"type": "STREAM", "stream": inner, "sourceStats": {"recordCount": float(count)}}
    else:
        state = {"type": "GLOBAL", "global": {"shared_state": reached, "stream_states": []}}
    say("STATE", state=state)


def status(name: str, word: str) -> None:
    inner = {"stream_descriptor": {"name": name}, "status": word}
    say("TRACE", trace={"type": "STREAM_STATUS", "emitted_at": 1.5, "stream_status": inner})


def die(how: str, name: str, config: Json) -> NoReturn:
    if config.get("deaf"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if how == "silence":
        print("silent from here on", file=sys.stderr, flush=True)
        time.sleep(600)
    if how == "trace":
        error = {"message": f"no access with {config.get('token')}", "stream_descriptor": {"name": name}}
        say("TRACE", trace={"type": "ERROR", "emitted_at": 1.5, "error": error})
        sys.exit(1)
    sys.exit(3)


def main() -> None:
    command, options = sys.argv[1], dict(zip(sys.argv[2::2], sys.argv[3::2], strict=True))
    given = {name.removeprefix("--"): json.loads(Path(path).read_text()) for name, path in options.items()}
    config = given.get("config", {})
    if config.get("noise"):
        print(config["noise"], file=sys.stderr)
    if config.get("show_environment"):
        print(json.dumps({**os.environ, "argv": sys.argv}), file=sys.stderr)
    if command == "spec":
        say("SPEC", spec={"connectionSpecification": SPEC})
    elif command == "check":
        say("CONNECTION_STATUS", connectionStatus={"status": "SUCCEEDED"})
    elif command == "discover":
        say("CATALOG", catalog={"streams": list(streams(config))})
    else:
        if config.get("leave_behind"):
            subprocess.Popen(["sleep", str(config["leave_behind"])], start_new_session=True)
        for line in config.get("say", ()):
            print(line)
        read(config, given["catalog"], given.get("state", []))


if __name__ == "__main__":
    main()
