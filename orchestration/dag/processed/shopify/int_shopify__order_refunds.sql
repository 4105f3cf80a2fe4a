{{ config(
    tags=['processed', 'shopify__order_refunds'],
    materialized='incremental',
    unique_key='refund_id',
    incremental_strategy='delete+insert'
) }}

select
    -- ids
    filename as _source_file,
    id as refund_id,
    order_id,
    user_id,

    -- attributes
    cast(created_at at time zone 'UTC' as date) as refund_date,
    restock as is_restocked,
    nullif(note, '') as note,
    refund_line_items::JSON->>'$[0].restock_type' as restock_type,
    transactions::JSON->>'$[0].gateway' as gateway,
    transactions::JSON->>'$[0].status' as transaction_status,
    coalesce(
        transactions::JSON->>'$[0].currency', refund_line_items::JSON->>'$[0].subtotal_set.shop_money.currency_code'
    ) as currency,

    -- measures: what came back, its tax, the money paid out, and what was paid for no goods (shipping, goodwill)
    cast(
        coalesce(list_sum((refund_line_items::JSON->>'$[*].subtotal')::decimal(18, 2)[]), 0) as decimal(18, 2)
    ) as returns,
    cast(
        coalesce(list_sum((refund_line_items::JSON->>'$[*].total_tax')::decimal(18, 2)[]), 0) as decimal(18, 2)
    ) as returned_tax,
    cast(coalesce(list_sum((refund_line_items::JSON->>'$[*].quantity')::bigint[]), 0) as bigint) as returned_quantity,
    cast(
        coalesce(list_sum([
            cast(t->>'$.amount' as decimal(18, 2)) for t in cast(transactions::JSON as JSON[]) if t->>'$.status' = 'success'
        ]), 0) as decimal(18, 2)
    ) as refunded_amount,
    cast(
        coalesce(list_sum((order_adjustments::JSON->>'$[*].amount')::decimal(18, 2)[]), 0) as decimal(18, 2)
    ) as adjustments,

    -- timestamps
    created_at,
    processed_at,

    -- metadata
    _airbyte_extracted_at,
    year,
    month,
    day

from read_parquet({{ var("files") }}, filename=true, hive_partitioning=true)

qualify row_number() over (partition by id order by _airbyte_extracted_at desc, filename desc) = 1
