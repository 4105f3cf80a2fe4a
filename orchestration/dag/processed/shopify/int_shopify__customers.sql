{{ config(
    tags=['processed', 'shopify__customers'],
    materialized='incremental',
    unique_key='customer_id',
    incremental_strategy='delete+insert'
) }}

select
    -- ids
    filename as _source_file,
    id as customer_id,
    last_order_id,
    last_order_name,

    -- attributes
    lower(email) as email,
    first_name,
    last_name,
    phone,
    state,
    verified_email as is_email_verified,
    tax_exempt as is_tax_exempt,
    tags,
    note,
    email_marketing_consent::JSON->>'$.state' as email_marketing_state,
    email_marketing_consent::JSON->>'$.opt_in_level' as email_marketing_opt_in_level,
    sms_marketing_consent::JSON->>'$.state' as sms_marketing_state,
    default_address::JSON->>'$.city' as city,
    default_address::JSON->>'$.province_code' as province_code,
    default_address::JSON->>'$.country_code' as country_code,
    default_address::JSON->>'$.zip' as zip,
    currency,

    -- measures
    orders_count,
    cast(total_spent as decimal(18, 2)) as total_spent,

    -- timestamps
    created_at,
    updated_at,
    cast(email_marketing_consent::JSON->>'$.consent_updated_at' as timestamptz) as email_consent_updated_at,

    -- metadata
    _airbyte_extracted_at,
    year,
    month,
    day

from read_parquet({{ var("files") }}, filename=true, hive_partitioning=true)

qualify row_number() over (partition by id order by _airbyte_extracted_at desc, filename desc) = 1
