"""Schedules, as cron has them and as Quartz does."""

from __future__ import annotations

import pytest

from lakeward.cron import as_quartz, is_cron


@pytest.mark.parametrize(
    ("cron", "quartz"),
    [
        ("15 * * * *", "0 15 * * * ?"),
        ("0 6 * * *", "0 0 6 * * ?"),
        ("0 */2 1,15 * *", "0 0 */2 1,15 * ?"),
        ("0 6 * * 0", "0 0 6 ? * 1"),
        ("0 6 * * 7", "0 0 6 ? * 1"),
        ("0 6 * * 1-5", "0 0 6 ? * 2,3,4,5,6"),
        ("0 6 * * 0-7", "0 0 6 ? * 1,2,3,4,5,6,7"),
        ("0 6 * * 5-7", "0 0 6 ? * 1,6,7"),
        ("0 6 * * */2", "0 0 6 ? * 1,3,5,7"),
        ("0 6 * * 1/3", "0 0 6 ? * 2,5"),
    ],
)
def test_a_schedule_means_the_same_to_both(cron: str, quartz: str) -> None:
    assert is_cron(cron)
    assert as_quartz(cron) == quartz


@pytest.mark.parametrize("cron", ["*/20 * * * *", "0,30 * * * *", "* * * * *", "0 6 1 * 1"])
def test_what_airbyte_has_no_schedule_for_is_refused(cron: str) -> None:
    assert is_cron(cron)
    with pytest.raises(ValueError, match="Airbyte"):
        as_quartz(cron)


@pytest.mark.parametrize(
    "text", ["", "15 * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "5-1 * * * *", "*/0 * * * *", "@daily"]
)
def test_what_is_no_schedule_is_told(text: str) -> None:
    assert not is_cron(text)
