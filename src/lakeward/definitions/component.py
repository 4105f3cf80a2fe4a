"""The lake as a component, for a `defs.yaml` of a Dagster project (docs.dagster.io, Components)."""

from dataclasses import dataclass

import dagster as dg

from lakeward.definitions import build_definitions


@dataclass
class LakeComponent(dg.Component, dg.Resolvable):
    """A lakeward lake: feeders, processed and enriched models, checks, sensors, jobs and schedules."""

    lake: str
    """The lake's root or its dbt project, relative to the folder of the defs.yaml."""

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        return build_definitions(context.path / self.lake)
