{{ config(
    tags=['processed', 'klaviyo__flows'],
    materialized='incremental',
    unique_key='flow_id',
    incremental_strategy='delete+insert'
) }}

select
    -- source file tracking
    filename as _source_file,

    -- identifiers (Airbyte turns the hyphen of a struct's key into an underscore; JSON text keeps it)
    id as flow_id,
    list_concat(
        relationships::JSON->>'$.flow_actions.data[*].id',
        relationships::JSON->>'$."flow-actions".data[*].id'
    ) as action_ids,
    relationships::JSON->>'$.tags.data[*].id' as tag_ids,

    -- attributes
    attributes::JSON->>'$.name' as flow_name,
    attributes::JSON->>'$.status' as status,
    attributes::JSON->>'$.trigger_type' as trigger_type,
    cast(attributes::JSON->>'$.archived' as boolean) as is_archived,

    -- timestamps
    cast(attributes::JSON->>'$.created' as timestamptz) as created_at,
    cast(updated as timestamptz) as updated_at,

    -- metadata
    _airbyte_extracted_at, year, month, day

from read_parquet({{ var("files") }}, filename=true, hive_partitioning=true)

qualify row_number() over (partition by id order by _airbyte_extracted_at desc, filename desc) = 1
