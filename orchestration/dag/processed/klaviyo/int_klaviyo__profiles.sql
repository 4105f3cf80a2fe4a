{{ config(
    tags=['processed', 'klaviyo__profiles'],
    materialized='incremental',
    unique_key='profile_id',
    incremental_strategy='delete+insert'
) }}

select
    -- source file tracking
    filename as _source_file,

    -- identifiers
    id as profile_id,
    attributes::JSON->>'$.external_id' as external_id,
    attributes::JSON->>'$.anonymous_id' as anonymous_id,

    -- attributes: person
    attributes::JSON->>'$.email' as email,
    attributes::JSON->>'$.phone_number' as phone_number,
    attributes::JSON->>'$.first_name' as first_name,
    attributes::JSON->>'$.last_name' as last_name,
    attributes::JSON->>'$.organization' as organization,
    attributes::JSON->>'$.title' as title,
    attributes::JSON->>'$.locale' as locale,
    (attributes::JSON->>'$.properties')::JSON as custom_properties,

    -- attributes: place
    attributes::JSON->>'$.location.city' as city,
    attributes::JSON->>'$.location.region' as region,
    attributes::JSON->>'$.location.country' as country,
    attributes::JSON->>'$.location.zip' as zip,
    attributes::JSON->>'$.location.timezone' as timezone,
    -- a number or a text at the source, so Airbyte may land a struct with one member per type;
    -- try_cast: what somebody typed here must not hold up the stream
    try_cast(coalesce(
        attributes::JSON->>'$.location.latitude.number',
        attributes::JSON->>'$.location.latitude.string',
        attributes::JSON->>'$.location.latitude'
    ) as double) as latitude,
    try_cast(coalesce(
        attributes::JSON->>'$.location.longitude.number',
        attributes::JSON->>'$.location.longitude.string',
        attributes::JSON->>'$.location.longitude'
    ) as double) as longitude,

    -- attributes: consent (Klaviyo's own words; a flag is NULL where Klaviyo reports no channel)
    attributes::JSON->>'$.subscriptions.email.marketing.consent' as email_consent,
    cast(attributes::JSON->>'$.subscriptions.email.marketing.can_receive_email_marketing' as boolean) as can_receive_email,
    attributes::JSON->>'$.subscriptions.sms.marketing.consent' as sms_consent,
    cast(attributes::JSON->>'$.subscriptions.sms.marketing.can_receive_sms_marketing' as boolean) as can_receive_sms,

    -- measures (Klaviyo's predictions, not ours)
    cast(attributes::JSON->>'$.predictive_analytics.historic_clv' as decimal(18, 2)) as historic_clv,
    cast(attributes::JSON->>'$.predictive_analytics.predicted_clv' as decimal(18, 2)) as predicted_clv,
    cast(attributes::JSON->>'$.predictive_analytics.total_clv' as decimal(18, 2)) as total_clv,
    cast(attributes::JSON->>'$.predictive_analytics.average_order_value' as decimal(18, 2)) as average_order_value,
    cast(attributes::JSON->>'$.predictive_analytics.historic_number_of_orders' as integer) as historic_number_of_orders,
    cast(attributes::JSON->>'$.predictive_analytics.predicted_number_of_orders' as double) as predicted_number_of_orders,
    cast(attributes::JSON->>'$.predictive_analytics.average_days_between_orders' as double) as average_days_between_orders,
    cast(attributes::JSON->>'$.predictive_analytics.churn_probability' as double) as churn_probability,

    -- timestamps
    cast(attributes::JSON->>'$.created' as timestamptz) as created_at,
    cast(updated as timestamptz) as updated_at,
    cast(attributes::JSON->>'$.last_event_date' as timestamptz) as last_event_at,
    cast(attributes::JSON->>'$.subscriptions.email.marketing.consent_timestamp' as timestamptz) as email_consent_at,
    cast(attributes::JSON->>'$.subscriptions.sms.marketing.consent_timestamp' as timestamptz) as sms_consent_at,
    -- only the day: a plain text at the source, with or without a time zone
    try_cast(left(attributes::JSON->>'$.predictive_analytics.expected_date_of_next_order', 10) as date) as expected_next_order_on,

    -- metadata
    _airbyte_extracted_at, year, month, day

from read_parquet({{ var("files") }}, filename=true, hive_partitioning=true)

qualify row_number() over (partition by id order by _airbyte_extracted_at desc, filename desc) = 1
