"""Following docs/adding-a-flow.md by hand, for a stream the project has never heard of, on the first try."""

from __future__ import annotations

import re

from tests.scratch import REPOSITORY, ScratchLake

FILLED = {"source": "warehouse", "stream": "stock_levels", "id_column": "stock_level_id", "metric": "stock",
          "domain": "supply"}  # fmt: skip


def code_blocks(language: str) -> list[str]:
    text = (REPOSITORY / "docs" / "adding-a-flow.md").read_text()
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def fill(text: str) -> str:
    """Every `{placeholder}`; Jinja's double braces stay, and nothing else is edited."""
    return re.sub(r"(?<!\{)\{(\w+)\}(?!\})", lambda found: FILLED[found[1]], text)


def test_the_documents_blocks_make_a_flow_for_an_unknown_stream(shopify: ScratchLake) -> None:
    lake = shopify
    (stream_json, *_) = code_blocks("json")
    processed, enriched, *_ = code_blocks("sql")
    lake.write(fill("dag/streams/{source}/{stream}.json"), fill(stream_json))
    lake.write(fill("dag/processed/{source}/int_{source}__{stream}.sql"), fill(processed))
    lake.write(fill("dag/enriched/{domain}/fct_{metric}.sql"), fill(enriched))
    for day, offset in ((1, 0), (2, 50)):
        lake.land_sql(
            "warehouse/stock_levels", day, "part_0.parquet",
            f"select 'r' || i as _airbyte_raw_id, timestamptz '2026-11-{day:02} 12:00:00+00' "
            "as _airbyte_extracted_at, 1::bigint as _airbyte_generation_id, i::bigint as id, "
            f"""'{{"field": "day {day}", "numeric_field": ' || i || '.5}}' as attributes """
            f"from range({offset}, {offset} + 100) as t(i)",
        )  # fmt: skip

    lake.dbt("parse")
    lake.cli("check")
    lake.cli("run")
    lake.cli("run")

    rows = lake.query(
        "select field_name, count(*), sum(numeric_field) from int_warehouse__stock_levels "
        "group by 1 order by 1"
    )
    first, second = range(50), range(50, 150)
    assert rows == [
        ("day 1", 50, sum(i + 0.5 for i in first)),
        ("day 2", 100, sum(i + 0.5 for i in second)),
    ]
    snippet = lake.query(
        "select count(*), sum(net_sales) from fct_stock"
    )  # the document's own enriched model
    plain = lake.query(
        "select count(*), sum(o.gross_sales - o.discounts - coalesce(r.returns, 0)) "
        "from int_shopify__orders o left join int_shopify__order_refunds r on o.order_id = r.order_id"
    )
    assert snippet == plain
