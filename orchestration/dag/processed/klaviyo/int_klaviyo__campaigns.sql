{{ config(
    tags=['processed', 'klaviyo__campaigns'],
    materialized='incremental',
    unique_key='campaign_id',
    incremental_strategy='delete+insert'
) }}

select
    -- source file tracking
    filename as _source_file,

    -- identifiers (Airbyte turns the hyphen of a struct's key into an underscore; JSON text keeps it)
    id as campaign_id,
    list_concat(
        relationships::JSON->>'$.campaign_messages.data[*].id',
        relationships::JSON->>'$."campaign-messages".data[*].id'
    ) as message_ids,
    relationships::JSON->>'$.tags.data[*].id' as tag_ids,

    -- attributes
    attributes::JSON->>'$.name' as campaign_name,
    attributes::JSON->>'$.status' as status,
    attributes::JSON->>'$.channel' as channel,
    cast(attributes::JSON->>'$.archived' as boolean) as is_archived,

    -- attributes: who gets it (ids of lists and segments)
    attributes::JSON->>'$.audiences.included[*]' as included_audience_ids,
    attributes::JSON->>'$.audiences.excluded[*]' as excluded_audience_ids,
    cast(attributes::JSON->>'$.send_options.use_smart_sending' as boolean) as uses_smart_sending,
    cast(attributes::JSON->>'$.send_options.ignore_unsubscribes' as boolean) as ignores_unsubscribes,

    -- attributes: how it is sent and tracked
    attributes::JSON->>'$.send_strategy.method' as send_method,
    cast(attributes::JSON->>'$.tracking_options.is_tracking_opens' as boolean) as is_tracking_opens,
    cast(attributes::JSON->>'$.tracking_options.is_tracking_clicks' as boolean) as is_tracking_clicks,
    (attributes::JSON->>'$.tracking_options.utm_params')::JSON as utm_params,

    -- timestamps
    cast(attributes::JSON->>'$.created_at' as timestamptz) as created_at,
    cast(updated_at as timestamptz) as updated_at,
    cast(attributes::JSON->>'$.scheduled_at' as timestamptz) as scheduled_at,
    cast(attributes::JSON->>'$.send_time' as timestamptz) as send_time,

    -- metadata
    _airbyte_extracted_at, year, month, day

from read_parquet({{ var("files") }}, filename=true, hive_partitioning=true)

qualify row_number() over (partition by id order by _airbyte_extracted_at desc, filename desc) = 1
