"""dbt's data tests as asset checks."""

from collections.abc import Iterator

import dagster as dg

from lakeward.definitions.automation import hourly_after_a_feed
from lakeward.definitions.specs import model_key, plain
from lakeward.project import Project, open_transform


def dbt_tests(project: Project) -> list[dg.AssetChecksDefinition]:
    """One op for all: the tests that are due are one `dbt test`."""
    manifest = project.manifest
    keys = {model.unique_id: model_key(model.name) for model in manifest.models}
    tests = {
        (keys[test.models[0]], plain(test.name)): test
        for test in manifest.tests
        if test.models and set(test.models) <= set(keys)
    }
    if not tests:
        return []
    condition = hourly_after_a_feed()

    @dg.multi_asset_check(
        name="dbt_test",
        specs=[
            dg.AssetCheckSpec(
                name,
                asset=key,
                additional_deps=[keys[other] for other in test.models[1:]],
                automation_condition=condition,
            )
            for (key, name), test in tests.items()
        ],
        can_subset=True,
        pool="dbt_test",
    )
    def run_tests(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        chosen = {key: tests[key.asset_key, key.name] for key in context.selected_asset_check_keys}
        with open_transform(project.settings) as transform:
            found = {
                result.test: result for result in transform.test([test.name for test in chosen.values()])
            }
        for key, test in chosen.items():
            result = found[test.name]
            yield dg.AssetCheckResult(
                asset_key=key.asset_key,
                check_name=key.name,
                passed=result.error is None,
                severity=dg.AssetCheckSeverity.WARN if result.is_warning else dg.AssetCheckSeverity.ERROR,
                description=result.error,
            )

    return [run_tests]
