{{ config(
    tags=['processed', 'faker__products'],
    materialized='incremental',
    unique_key='product_id',
    incremental_strategy='delete+insert'
) }}

select
    -- ids
    filename as _source_file,
    id as product_id,

    -- attributes
    -- the car's own year cannot be selected: the partition's `year`, below, takes its place
    make,
    model,

    -- measures
    cast(price as decimal(18, 2)) as price,

    -- timestamps
    created_at,
    updated_at,

    -- metadata
    _airbyte_extracted_at,
    year,
    month,
    day

from read_parquet({{ var("files") }}, filename=true, hive_partitioning=true)

qualify row_number() over (partition by id order by _airbyte_extracted_at desc, filename desc) = 1
