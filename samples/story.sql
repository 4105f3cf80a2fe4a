-- What happens in the shop, day by day (k = 0, 1, ...). Needs shop.sql.
-- A day's rows depend on that day and the ones before it only, so knowing more days never rewrites a landed one.

create macro at_day(k, x) as start_day()::timestamp + to_days(k::int) + seconds(x * 84000);
-- A day's last moment is 23:32, for its sync starts at 23:40.
create macro event_at(no, k, created_at, salt) as
    greatest(at_day(k, u(no, salt)), created_at + seconds(60 + u(no, salt) * 600));

create table days as
    select *, (sum(orders) over (order by k) - orders)::bigint as before
    from (
        select k, round(per_day() * (0.8 + 0.4 * u(k, 'day'))
            * if(isodow(start_day() + k::int) >= 6, 1.25, 1))::bigint as orders
        from (select range as k from range(days_known()))
    );

-- 45 % of orders bring a new customer; the others come from known ones, the earliest the most loyal.
create table slots as
    select no, k, created_at,
        if(is_new, seen - 1, floor(power(u(no, 'who'), 1.6) * seen))::bigint as customer_no
    from (
        select *, count(*) filter (is_new) over (order by no) as seen
        from (
            select before + i as no, k, at_day(k, (i + u(before + i, 'when')) / orders) as created_at,
                before + i = 0 or u(before + i, 'new') < 0.45 as is_new
            from days, range(orders) as r(i)
        )
    );

-- Each order's whole life: on which day what happens to it, and when that day.
create table orders as
    with planned as (
        select *,
            (k + case when u(no, 'pay') < 0.72 then 0 when u(no, 'pay') < 0.9 then 1 else 2 end)::bigint as pay_k,
            case when u(no, 'cancel') < 0.05 then k + floor(u(no, 'cancel day') * 4)::bigint end as cancelled_k
        from baskets('slots')
    ), shipped as (
        select * exclude (pay_k),
            case when pay_k <= coalesce(cancelled_k, pay_k) then pay_k end as paid_k,
            case when cancelled_k is null and u(no, 'ship') < 0.96
                then pay_k + 1 + floor(u(no, 'ship day') * 3)::bigint end as fulfilled_k
        from planned
    ), returned as (
        select *,
            case when cancelled_k is not null then cancelled_k
                when u(no, 'refund') < 0.14 then fulfilled_k + 2 + floor(u(no, 'refund day') * 6)::bigint
            end as refund1_k,
            case when cancelled_k is not null then 'cancel'
                when u(no, 'refund kind') < 0.1 then 'goodwill'
                when u(no, 'refund kind') < 0.45 or (len(lines) = 1 and lines[1].qty = 1) then 'full'
                else 'line' end as refund_kind
        from shipped
    ), twice as (
        select * replace (case when cancelled_k is null or paid_k is not null then refund1_k end as refund1_k),
            case when refund_kind = 'line' and len(lines) > 1 and u(no, 'again') < 0.5
                then refund1_k + 1 + floor(u(no, 'again day') * 4)::bigint end as refund2_k
        from returned
    )
    select *,
        event_at(no, paid_k, created_at, 'pay') as paid_at,
        event_at(no, fulfilled_k, created_at, 'ship') as fulfilled_at,
        event_at(no, cancelled_k, created_at, 'cancel day') as cancelled_at,
        event_at(no, refund1_k, created_at, if(refund_kind = 'cancel', 'cancel day', 'refund day')) as refund1_at,
        event_at(no, refund2_k, created_at, 'again day') as refund2_at
    from twice;

create table refunds as
    select *, sub_of(taken) as sub_c, tax_of(taken) as tax_c,
        sub_of(taken) + tax_of(taken)
            + case when kind in ('cancel', 'full') then shipping_c
                when kind = 'goodwill' then least(500, subtotal_c // 2) else 0 end as amount_c
    from (
        select no, id as order_id, customer_no, r, 960000000000 + no * 4 + r as id, refund_kind as kind, shipping_c,
            subtotal_c, refund_lines(lines, refund_kind, r) as taken,
            if(r = 1, refund1_k, refund2_k) as k, if(r = 1, refund1_at, refund2_at) as moment
        from orders, range(1, 3) as s(r)
    )
    where k is not null;

-- Every order known on a day, as it looks at the end of that day.
create macro orders_as_of(d) as table
    select no, customer_no, created_at, o.id, lines, gross_c, off_c, o.subtotal_c, o.tax_c, o.shipping_c, total_c, o.k,
        d in (o.k, paid_k, fulfilled_k, cancelled_k, refund1_k, refund2_k) as changed,
        greatest(created_at, if(paid_k <= d, paid_at, null), if(fulfilled_k <= d, fulfilled_at, null),
            if(cancelled_k <= d, cancelled_at, null), if(refund1_k <= d, refund1_at, null),
            if(refund2_k <= d, refund2_at, null)) as updated_at,
        case when cancelled_k <= d and paid_k is null then 'voided'
            when refund1_k <= d and refund_kind in ('cancel', 'full') then 'refunded'
            when refund1_k <= d then 'partially_refunded'
            when paid_k <= d then 'paid' else 'pending' end as financial_status,
        if(fulfilled_k <= d, 'fulfilled', null) as fulfillment_status,
        if(fulfilled_k <= d, o.fulfilled_at, null) as fulfilled_at,
        if(cancelled_k <= d, o.cancelled_at, null) as cancelled_at,
        if(cancelled_k <= d, pick(['customer', 'fraud', 'inventory', 'declined', 'other'], u(no, 'reason')), null)
            as cancel_reason,
        coalesce(back.sub_c, 0) as returned_c, coalesce(back.tax_c, 0) as returned_tax_c,
        if(back.is_whole, o.shipping_c, 0) as returned_shipping_c, coalesce(back.amount_c, 0) as refunded_c
    from (select * from orders where k <= d) as o
    left join (
        select no, sum(sub_c)::bigint as sub_c, sum(tax_c)::bigint as tax_c, sum(amount_c)::bigint as amount_c,
            bool_or(kind in ('cancel', 'full')) as is_whole
        from refunds where k <= d group by no
    ) as back using (no);

-- Day 2's attempt that reached the store late alone holds some of that day's orders.
create macro held_back(no, k) as k = 2 and u(no, 'held back') < 0.15;
create macro changed_orders(d) as table
    from orders_as_of(d) where changed and not (d = 2 and held_back(no, k));
create macro late_orders(d) as table
    from orders_as_of(d) where k >= d - 1;

create macro changed_customers(d) as table
    select customer_no, min(created_at) - seconds(60 + u(customer_no, 'signup') * 1200) as created_at,
        max(updated_at) as updated_at, count(*) as orders_count,
        sum(if(financial_status in ('pending', 'voided'), 0, total_c - refunded_c))::bigint as spent_c,
        max_by(id, no) as last_order_id, max(no) as last_no
    from orders_as_of(d) group by customer_no having bool_or(changed);

create macro customer_rows(d) as table
    select updated_at as _at, customer_id(customer_no) as id,
        gid('Customer', customer_id(customer_no)) as admin_graphql_api_id,
        subscribed(customer_no) as accepts_marketing, utc(created_at) as created_at, 'USD' as currency,
        email(customer_no) as email, first_name(customer_no) as first_name, last_name(customer_no) as last_name,
        last_order_id, concat('#', 1001 + last_no) as last_order_name, null::varchar as note, orders_count,
        null::varchar as phone, 'lakeward-sample' as shop_url, 'enabled' as state,
        if(orders_count > 3, 'loyal', '') as tags, false as tax_exempt, money(spent_c) as total_spent,
        utc(updated_at) as updated_at, true as verified_email,
        address(customer_no) as default_address,
        [address(customer_no)] as addresses,
        {'state': if(subscribed(customer_no), 'subscribed', 'not_subscribed'), 'opt_in_level': 'single_opt_in',
            'consent_updated_at': utc(created_at)} as email_marketing_consent,
        {'state': 'not_subscribed', 'opt_in_level': 'single_opt_in', 'consent_updated_at': null::timestamptz,
            'consent_collected_from': 'SHOPIFY'} as sms_marketing_consent
    from changed_customers(d);

create macro refund_rows(d) as table
    select moment as _at, id, gid('Refund', id) as admin_graphql_api_id, utc(moment) as created_at, order_id,
        if(kind = 'goodwill', 'Sorry for the delay', '') as note, utc(moment) as processed_at, kind <> 'goodwill' as restock,
        'lakeward-sample' as shop_url, 1::bigint as user_id,
        list_transform(taken, lambda x: {
            'id': id * 8 + x.l.j, 'line_item_id': order_id * 8 + x.l.j, 'location_id': 61000000000, 'quantity': x.qty,
            'restock_type': if(kind = 'cancel', 'cancel', 'return'), 'subtotal': money(x.sub_c),
            'subtotal_set': money_set(x.sub_c, currency_of(customer_no), rate_of(customer_no)),
            'total_tax': money(x.tax_c),
            'line_item': {'id': order_id * 8 + x.l.j, 'product_id': 8100000000000 + x.l.p, 'sku': printf('LK-%04d', x.l.p),
                'title': product_name(x.l.p), 'quantity': x.l.qty, 'price': money(x.l.price_c)}
        }) as refund_line_items,
        [{'id': id + 500000000000, 'order_id': order_id, 'kind': 'refund', 'status': 'success',
            'gateway': 'shopify_payments', 'amount': printf('%.2f', money(amount_c)), 'currency': 'USD',
            'created_at': utc(moment), 'processed_at': utc(moment), 'test': is_test(no)}] as transactions,
        [{'id': id + 700000000000, 'order_id': order_id, 'refund_id': id,
            'kind': if(kind = 'goodwill', 'refund_discrepancy', 'shipping_refund'),
            'amount': printf('%.2f', -money(amount_c - sub_c - tax_c)), 'tax_amount': '0.00',
            'reason': if(kind = 'goodwill', 'Refund discrepancy', 'Shipping refund')}][: if(amount_c > sub_c + tax_c, 1, 0)]
            as order_adjustments
    from refunds where k = d;
