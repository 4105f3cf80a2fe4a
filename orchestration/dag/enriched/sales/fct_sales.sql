{{ config(tags=['enriched'], materialized='table') }}

-- An order may be refunded several times: joined as they are, refunds would repeat its sales.
with returned as (

    select order_id, sum(returns) as returns
    from {{ ref('int_shopify__order_refunds') }}
    group by order_id

)

select
    -- ids
    o.order_id,
    o.customer_id,

    -- attributes
    o.order_date,
    o.currency,
    o.financial_status,
    o.is_test,
    o.cancelled_at is not null as is_cancelled,

    -- measures
    o.gross_sales,
    o.discounts,
    cast(coalesce(r.returns, 0) as decimal(18, 2)) as returns,
    cast(o.gross_sales - o.discounts - coalesce(r.returns, 0) as decimal(18, 2)) as net_sales

from {{ ref('int_shopify__orders') }} as o
left join returned as r on o.order_id = r.order_id

order by order_date
