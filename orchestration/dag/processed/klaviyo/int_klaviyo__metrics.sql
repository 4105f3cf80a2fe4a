{{ config(
    tags=['processed', 'klaviyo__metrics'],
    materialized='incremental',
    unique_key='metric_id',
    incremental_strategy='delete+insert'
) }}

select
    -- source file tracking
    filename as _source_file,

    -- identifiers
    id as metric_id,

    -- attributes
    attributes::JSON->>'$.name' as metric_name,

    -- attributes: who reports it; in a struct it is JSON text, hence out as text and back
    (attributes::JSON->>'$.integration')::JSON as integration,
    integration->>'$.id' as integration_id,
    integration->>'$.name' as integration_name,
    -- a plain text, or an object around one
    coalesce(integration->>'$.category.category', integration->>'$.category') as integration_category,

    -- timestamps
    cast(attributes::JSON->>'$.created' as timestamptz) as created_at,
    cast(updated as timestamptz) as updated_at,

    -- metadata
    _airbyte_extracted_at, year, month, day

from read_parquet({{ var("files") }}, filename=true, hive_partitioning=true)

qualify row_number() over (partition by id order by _airbyte_extracted_at desc, filename desc) = 1
