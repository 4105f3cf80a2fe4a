{{ config(
    tags=['processed', 'klaviyo__lists'],
    materialized='incremental',
    unique_key='list_id',
    incremental_strategy='delete+insert'
) }}

select
    -- source file tracking
    filename as _source_file,

    -- identifiers (Airbyte turns the hyphen of a struct's key into an underscore; JSON text keeps it)
    id as list_id,
    list_concat(
        relationships::JSON->>'$.flow_triggers.data[*].id',
        relationships::JSON->>'$."flow-triggers".data[*].id'
    ) as triggered_flow_ids,
    relationships::JSON->>'$.tags.data[*].id' as tag_ids,

    -- attributes
    attributes::JSON->>'$.name' as list_name,
    attributes::JSON->>'$.opt_in_process' as opt_in_process,

    -- timestamps
    cast(attributes::JSON->>'$.created' as timestamptz) as created_at,
    cast(updated as timestamptz) as updated_at,

    -- metadata
    _airbyte_extracted_at, year, month, day

from read_parquet({{ var("files") }}, filename=true, hive_partitioning=true)

qualify row_number() over (partition by id order by _airbyte_extracted_at desc, filename desc) = 1
