from pathlib import Path

from lakeward.definitions import build_definitions

defs = build_definitions(Path(__file__).parent)
