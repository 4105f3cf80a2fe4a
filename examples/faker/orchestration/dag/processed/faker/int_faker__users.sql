{{ config(
    tags=['processed', 'faker__users'],
    materialized='incremental',
    unique_key='user_id',
    incremental_strategy='delete+insert'
) }}

select
    -- ids
    filename as _source_file,
    id as user_id,

    -- attributes
    name,
    title,
    lower(email) as email,
    telephone,
    gender,
    language,
    academic_degree,
    nationality,
    occupation,
    -- the source writes AB− with a minus sign (U+2212) where people type a hyphen
    replace(blood_type, '−', '-') as blood_type,
    address::JSON->>'$.street_number' as street_number,
    address::JSON->>'$.street_name' as street_name,
    address::JSON->>'$.city' as city,
    address::JSON->>'$.state' as state,
    address::JSON->>'$.postal_code' as postal_code,
    address::JSON->>'$.country_code' as country_code,

    -- measures
    age,
    cast(height as decimal(3, 2)) as height_m,
    weight as weight_kg,

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
