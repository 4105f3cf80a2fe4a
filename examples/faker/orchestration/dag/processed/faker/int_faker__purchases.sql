{{ config(
    tags=['processed', 'faker__purchases'],
    materialized='incremental',
    unique_key='purchase_id',
    incremental_strategy='delete+insert'
) }}

select
    -- ids
    filename as _source_file,
    id as purchase_id,
    user_id,
    product_id,

    -- attributes
    purchased_at is not null as is_purchased,
    returned_at is not null as is_returned,

    -- timestamps
    created_at,
    updated_at,
    added_to_cart_at,
    purchased_at,
    returned_at,

    -- metadata
    _airbyte_extracted_at,
    year,
    month,
    day

from read_parquet({{ var("files") }}, filename=true, hive_partitioning=true)

qualify row_number() over (partition by id order by _airbyte_extracted_at desc, filename desc) = 1
