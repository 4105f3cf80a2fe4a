{{ config(
    tags=['processed', 'shopify__orders'],
    materialized='incremental',
    unique_key='order_id',
    incremental_strategy='delete+insert'
) }}

select
    -- ids
    filename as _source_file,
    id as order_id,
    name as order_name,
    order_number,
    cast(customer::JSON->>'$.id' as bigint) as customer_id,

    -- attributes
    cast(created_at at time zone 'UTC' as date) as order_date,
    financial_status,
    fulfillment_status,
    cancel_reason,
    coalesce(test, false) as is_test,
    lower(email) as email,
    customer_locale,
    buyer_accepts_marketing,
    source_name,
    referring_site,
    landing_site,
    payment_gateway_names::JSON->>'$[0]' as payment_gateway,
    discount_codes::JSON->>'$[0].code' as discount_code,
    tags,
    note,
    shipping_address::JSON->>'$.city' as shipping_city,
    shipping_address::JSON->>'$.province_code' as shipping_province_code,
    shipping_address::JSON->>'$.country_code' as shipping_country_code,
    shipping_address::JSON->>'$.zip' as shipping_zip,
    billing_address::JSON->>'$.country_code' as billing_country_code,
    currency,
    presentment_currency,
    taxes_included,

    -- measures, in the shop's currency unless they say otherwise
    cast(total_line_items_price as decimal(18, 2)) as gross_sales,
    cast(total_discounts as decimal(18, 2)) as discounts,
    cast(subtotal_price as decimal(18, 2)) as subtotal,
    cast(total_shipping_price_set::JSON->>'$.shop_money.amount' as decimal(18, 2)) as shipping,
    cast(total_tax as decimal(18, 2)) as tax,
    cast(total_tip_received as decimal(18, 2)) as tip,
    cast(total_price as decimal(18, 2)) as total_price,
    cast(total_price_set::JSON->>'$.presentment_money.amount' as decimal(18, 2)) as total_price_presentment,
    cast(total_outstanding as decimal(18, 2)) as outstanding,
    cast(current_subtotal_price as decimal(18, 2)) as current_subtotal,
    cast(current_total_price as decimal(18, 2)) as current_total_price,
    cast(json_array_length(line_items::JSON) as bigint) as line_item_count,
    cast(list_sum((line_items::JSON->>'$[*].quantity')::bigint[]) as bigint) as item_quantity,
    total_weight as total_weight_grams,

    -- timestamps
    created_at,
    processed_at,
    updated_at,
    cancelled_at,
    closed_at,
    deleted_at,

    -- metadata
    _airbyte_extracted_at,
    year,
    month,
    day

from read_parquet({{ var("files") }}, filename=true, hive_partitioning=true)

qualify row_number() over (partition by id order by _airbyte_extracted_at desc, filename desc) = 1
