{{ config(
    tags=['processed', 'klaviyo__events'],
    materialized='incremental',
    unique_key='event_id',
    incremental_strategy='delete+insert'
) }}

select
    -- source file tracking
    filename as _source_file,

    -- identifiers
    id as event_id,
    attributes::JSON->>'$.uuid' as event_uuid,
    relationships::JSON->>'$.profile.data.id' as profile_id,
    relationships::JSON->>'$.metric.data.id' as metric_id,
    relationships::JSON->>'$.attributions.data[*].id' as attribution_ids,

    -- attributes: everything the sender attached; in a struct it is JSON text, hence out as text and back
    (attributes::JSON->>'$.event_properties')::JSON as event_properties,

    -- attributes: the properties most questions begin with (`$` marks Klaviyo's own, the others are the sender's)
    event_properties->>'$."$event_id"' as source_event_id,
    coalesce(event_properties->>'$.OrderId', event_properties->>'$.order_id') as order_id,
    event_properties->>'$."$message"' as message_id,
    event_properties->>'$."$flow"' as flow_id,
    event_properties->>'$."Campaign Name"' as campaign_name,
    event_properties->>'$.Subject' as subject,
    event_properties->>'$."$currency_code"' as currency,

    -- attributes: the message Klaviyo credits (it writes '' where it credits none)
    nullif(event_properties->>'$."$attribution"."$attributed_event_id"', '') as attributed_event_id,
    nullif(event_properties->>'$."$attribution"."$message"', '') as attributed_message_id,
    nullif(event_properties->>'$."$attribution"."$flow"', '') as attributed_flow_id,

    -- measures (try_cast: any sender may put any text here, and one must not hold up the stream)
    try_cast(event_properties->>'$."$value"' as decimal(18, 2)) as value,

    -- timestamps
    cast(datetime as timestamptz) as occurred_at,

    -- metadata
    _airbyte_extracted_at, year, month, day

from read_parquet({{ var("files") }}, filename=true, hive_partitioning=true)

qualify row_number() over (partition by id order by _airbyte_extracted_at desc, filename desc) = 1
