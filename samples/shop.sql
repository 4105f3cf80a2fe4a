-- The story of a shop, as relations. shop.py defines seed(), start_day(), days_known() and per_day() first.
-- Chance is a hash of (id, salt, seed), so a row never depends on how many days or threads there are.
-- Money is counted in whole cents (`_c`) until a row is written: sums then agree to the cent.

create macro u(id, salt) as (hash(id::bigint, salt, seed()) % 1000003) / 1000003.0;
create macro pick(xs, x) as xs[1 + floor(x * len(xs))::int];
create macro money(c) as c / 100.0;
create macro utc(t) as t at time zone 'UTC';
create macro seconds(x) as to_seconds(floor(x));
create macro gid(kind, id) as concat('gid://shopify/', kind, '/', id);
create macro money_set(c, currency, rate) as {
    'shop_money': {'amount': money(c), 'currency_code': 'USD'},
    'presentment_money': {'amount': round(c * rate) / 100.0, 'currency_code': currency}
};

-- people: 0, 1, 2, ... are customers; from 10,000,000 on they gave an address and never ordered
create macro first_name(p) as pick(['Ada', 'Ben', 'Clara', 'Dmitri', 'Elif', 'Femi', 'Grace', 'Hugo', 'Ines',
    'Jonas', 'Keiko', 'Liam', 'Mara', 'Nils', 'Olga', 'Priya', 'Quinn', 'Rosa', 'Sven', 'Tariq'], u(p, 'first'));
create macro last_name(p) as pick(['Adler', 'Berg', 'Castro', 'Duval', 'Eriksen', 'Fischer', 'Garcia', 'Haddad',
    'Ito', 'Jansen', 'Kowalski', 'Lindqvist', 'Moreau', 'Novak', 'Okafor', 'Pereira'], u(p, 'last'));
create macro email(p) as concat(lower(first_name(p)), '.', lower(last_name(p)), p, '@example.com');
create macro customer_id(p) as (7200000000000 + p * 4096 + floor(u(p, 'customer') * 4096))::bigint;
create macro place(p) as pick([
    {'city': 'Portland', 'province': 'Oregon', 'code': 'OR', 'country': 'United States', 'iso': 'US', 'zip': '97201'},
    {'city': 'Chicago', 'province': 'Illinois', 'code': 'IL', 'country': 'United States', 'iso': 'US', 'zip': '60601'},
    {'city': 'Austin', 'province': 'Texas', 'code': 'TX', 'country': 'United States', 'iso': 'US', 'zip': '73301'},
    {'city': 'Boston', 'province': 'Massachusetts', 'code': 'MA', 'country': 'United States', 'iso': 'US', 'zip': '02101'},
    {'city': 'Toronto', 'province': 'Ontario', 'code': 'ON', 'country': 'Canada', 'iso': 'CA', 'zip': 'M4B 1B3'},
    {'city': 'Leeds', 'province': 'England', 'code': 'ENG', 'country': 'United Kingdom', 'iso': 'GB', 'zip': 'LS1 1UR'}
], least(u(p, 'place') * 1.1, 0.999));
create macro currency_of(p) as case when u(p, 'abroad') < 0.9 then 'USD' when place(p).iso = 'CA' then 'CAD' else 'EUR' end;
create macro rate_of(p) as case currency_of(p) when 'USD' then 1.0 when 'CAD' then 1.37 else 0.92 end;
create macro subscribed(p) as u(p, 'subscribed') < 0.7;
create macro address(p) as {
    'first_name': first_name(p), 'last_name': last_name(p), 'name': concat(first_name(p), ' ', last_name(p)),
    'company': null::varchar, 'address1': concat(1 + floor(u(p, 'house') * 200)::int, ' Shore Road'),
    'address2': null::varchar, 'city': place(p).city, 'province': place(p).province,
    'province_code': place(p).code, 'country': place(p).country, 'country_code': place(p).iso,
    'zip': place(p).zip, 'phone': null::varchar
};

-- products and baskets
create macro product_name(p) as concat(
    pick(['Cedar', 'Linen', 'Copper', 'Wool', 'Slate', 'Birch', 'Canvas', 'Amber'], u(p, 'adjective')), ' ',
    pick(['Paddle', 'Blanket', 'Kettle', 'Lantern', 'Mug', 'Rucksack', 'Scarf', 'Stool'], u(p, 'noun')));
create macro price_c(p) as (899 + 100 * floor(power(u(p, 'price'), 2) * 150))::bigint;
create macro order_id(no) as (5400000000000 + no * 32768 + floor(u(no, 'order') * 32768))::bigint;
create macro off_percent(no) as case when u(no, 'code') < 0.15 then pick([10, 15, 20], u(no, 'percent')) else 0 end;
create macro basket(no) as list_transform(
    list_transform(
        list_transform(
            range(1, 2 + floor(power(u(no, 'lines'), 2) * 4)::int),
            lambda j: {'j': j, 'p': floor(power(u(no * 8 + j, 'product'), 2) * 60)::bigint,
                'qty': (1 + floor(power(u(no * 8 + j, 'quantity'), 4) * 4))::bigint}),
        lambda l: {'j': l.j, 'p': l.p, 'qty': l.qty, 'price_c': price_c(l.p),
            'off_c': price_c(l.p) * l.qty * off_percent(no) // 100}),
    lambda l: {'j': l.j, 'p': l.p, 'qty': l.qty, 'price_c': l.price_c, 'off_c': l.off_c,
        'tax_c': round((l.price_c * l.qty - l.off_c) * 0.08)::bigint});

-- One row per slot (no, created_at, customer_no) of table `t`, with its basket and sums.
create macro baskets(t) as table
    select *,
        subtotal_c + tax_c + shipping_c as total_c
    from (
        select *,
            list_sum(list_transform(lines, lambda l: l.price_c * l.qty))::bigint as gross_c,
            list_sum(list_transform(lines, lambda l: l.off_c))::bigint as off_c,
            list_sum(list_transform(lines, lambda l: l.price_c * l.qty - l.off_c))::bigint as subtotal_c,
            list_sum(list_transform(lines, lambda l: l.tax_c))::bigint as tax_c,
            if(u(no, 'shipping') < 0.6, 595, 0)::bigint as shipping_c
        from (select *, order_id(no) as id, basket(no) as lines from query_table(t))
    );

-- What of the basket the r-th refund takes back; a goodwill refund takes nothing back.
create macro refund_lines(lines, kind, r) as list_transform(
    case when r = 1 and kind in ('cancel', 'full') then list_transform(lines, lambda l: {'l': l, 'qty': l.qty})
        when r = 1 and kind = 'line' then [{'l': lines[1], 'qty': 1::bigint}]
        when r = 2 then [{'l': lines[2], 'qty': lines[2].qty}]
        else [] end,
    lambda x: {'l': x.l, 'qty': x.qty, 'sub_c': (x.l.price_c * x.l.qty - x.l.off_c) * x.qty // x.l.qty,
        'tax_c': x.l.tax_c * x.qty // x.l.qty});
create macro sub_of(taken) as coalesce(list_sum(list_transform(taken, lambda x: x.sub_c)), 0)::bigint;
create macro tax_of(taken) as coalesce(list_sum(list_transform(taken, lambda x: x.tax_c)), 0)::bigint;

-- One day's sync of orders, or a benchmark's file: rows as Airbyte lands them, from a table of order states.
create macro order_rows(t) as table
    select
        updated_at as _at, id, gid('Order', id) as admin_graphql_api_id, 580111::bigint as app_id,
        subscribed(customer_no) as buyer_accepts_marketing, cancel_reason, utc(cancelled_at) as cancelled_at,
        (id + 9000000000000)::bigint as checkout_id, utc(fulfilled_at) as closed_at, true as confirmed,
        email(customer_no) as contact_email, utc(created_at) as created_at, 'USD' as currency,
        money(subtotal_c - returned_c) as current_subtotal_price, money(off_c) as current_total_discounts,
        money(total_c - returned_c - returned_tax_c - returned_shipping_c) as current_total_price,
        money(tax_c - returned_tax_c) as current_total_tax, 'en' as customer_locale,
        if(off_c > 0, [{'type': 'discount_code', 'title': concat('LAKE', off_percent(no)), 'description': null::varchar,
            'value': off_percent(no)::varchar, 'value_type': 'percentage', 'allocation_method': 'across',
            'target_selection': 'all', 'target_type': 'line_item'}], []) as discount_applications,
        if(off_c > 0, [{'code': concat('LAKE', off_percent(no)), 'amount': printf('%.2f', money(off_c)),
            'type': 'percentage'}], []) as discount_codes,
        email(customer_no) as email, false as estimated_taxes, financial_status, fulfillment_status,
        pick(['/', '/collections/new', '/products/wool-blanket'], u(no, 'landing')) as landing_site,
        concat('#', 1001 + no) as name,
        if(u(no, 'note') < 0.05 and not oversized(id), 'Please leave it with the neighbours.', null) as note,
        [{'name': 'gift', 'value': 'yes'}][: if(u(no, 'gift') < 0.1, 1, 0)] as note_attributes,
        (no + 1)::bigint as number, (no + 1001)::bigint as order_number,
        [case when is_test(no) then 'bogus' when u(no, 'gateway') < 0.75 then 'shopify_payments' else 'paypal' end]
            as payment_gateway_names,
        null::varchar as phone, currency_of(customer_no) as presentment_currency, utc(created_at) as processed_at,
        pick(['', 'https://search.example.com/', 'https://news.example.com/'], u(no, 'referrer')) as referring_site,
        'lakeward-sample' as shop_url, if(u(no, 'pos') < 0.06, 'pos', 'web') as source_name,
        money(subtotal_c) as subtotal_price,
        money_set(subtotal_c, currency_of(customer_no), rate_of(customer_no)) as subtotal_price_set,
        if(u(no, 'tag') < 0.1, 'wholesale', '') as tags, false as tax_exempt,
        [{'title': 'Sales tax', 'rate': 0.08::double, 'price': money(tax_c), 'channel_liable': false}] as tax_lines,
        false as taxes_included, is_test(no) as test,
        money(off_c) as total_discounts,
        money_set(off_c, currency_of(customer_no), rate_of(customer_no)) as total_discounts_set,
        money(gross_c) as total_line_items_price,
        money(if(financial_status = 'pending', total_c, 0)) as total_outstanding, money(total_c) as total_price,
        money_set(total_c, currency_of(customer_no), rate_of(customer_no)) as total_price_set,
        money_set(shipping_c, currency_of(customer_no), rate_of(customer_no)) as total_shipping_price_set,
        money(tax_c) as total_tax,
        money_set(tax_c, currency_of(customer_no), rate_of(customer_no)) as total_tax_set,
        0.0::double as total_tip_received,
        list_sum(list_transform(lines, lambda l: 200 * (1 + l.p % 7) * l.qty))::bigint as total_weight,
        utc(updated_at) as updated_at, null::double as user_id,
        address(customer_no) as billing_address, address(customer_no) as shipping_address,
        {'id': customer_id(customer_no), 'email': email(customer_no), 'first_name': first_name(customer_no),
            'last_name': last_name(customer_no), 'state': 'enabled', 'verified_email': true, 'currency': 'USD',
            'tags': '', 'admin_graphql_api_id': gid('Customer', customer_id(customer_no))} as customer,
        list_transform(lines, lambda l: {
            'id': id * 8 + l.j, 'admin_graphql_api_id': gid('LineItem', id * 8 + l.j),
            'product_id': 8100000000000 + l.p, 'variant_id': 4300000000000 + l.p,
            'sku': printf('LK-%04d', l.p), 'title': product_name(l.p), 'name': product_name(l.p),
            'vendor': 'Lakeward', 'quantity': l.qty, 'fulfillable_quantity': if(fulfillment_status is null, l.qty, 0),
            'fulfillment_status': fulfillment_status, 'grams': 200 * (1 + l.p % 7), 'price': money(l.price_c),
            'total_discount': money(l.off_c), 'gift_card': false, 'taxable': true, 'requires_shipping': true
        }) as line_items,
        [{'id': id + 1, 'title': 'Standard', 'code': 'standard', 'price': money(shipping_c),
            'discounted_price': money(shipping_c)}][: if(shipping_c > 0, 1, 0)] as shipping_lines,
        [{'id': id + 2, 'order_id': id, 'status': 'success', 'created_at': utc(fulfilled_at),
            'tracking_company': 'Lake Post', 'tracking_number': concat('LP', id)}][: if(fulfilled_at is null, 0, 1)]
            as fulfillments,
        null::timestamptz as deleted_at
    from query_table(t);
create macro is_test(no) as u(no, 'test') < 0.01;
-- A field over the destination's size limit arrives as NULL and is listed in _airbyte_meta.changes.
create macro oversized(id) as hash(id, 'oversized', seed()) % 300 = 0;

-- Airbyte's four columns before the stream's own; rows of one sync lie milliseconds apart, in the order of `t`.
-- The order is that of `t` because sorting rows this wide costs more than making them.
create macro landed_rows(t, stream, millis) as table
    select
        md5(concat_ws('/', seed(), stream, id, millis, n))::uuid::varchar as _airbyte_raw_id,
        utc(epoch_ms(millis::bigint) + to_milliseconds(n // 100)) as _airbyte_extracted_at,
        {'sync_id': (millis // 60000)::bigint,
            'changes': [{'field': 'note', 'change': 'NULLED', 'reason': 'DESTINATION_FIELD_SIZE_LIMITATION'}]
                [: if(stream = 'shopify/orders' and oversized(id), 1, 0)]} as _airbyte_meta,
        1::bigint as _airbyte_generation_id,
        * exclude (_at, n)
    from (select *, row_number() over () - 1 as n from query_table(t));

-- Bulk: row r of file f is a new order, or with chance `share` a later version of one from an earlier file.
create macro bulk_slots(f, size, share, span) as table
    select no, (no // 5 * power(u(no, 'who'), 2))::bigint as customer_no, created_at,
        if(is_update, sync_at - seconds(u(r, 'at') * 300), created_at) as updated_at,
        'paid' as financial_status, if(is_update, 'fulfilled', null) as fulfillment_status,
        if(is_update, sync_at - interval 10 minutes, null) as fulfilled_at,
        null::timestamp as cancelled_at, null::varchar as cancel_reason,
        0::bigint as returned_c, 0::bigint as returned_tax_c, 0::bigint as returned_shipping_c
    from (
        select *, start_day()::timestamp + to_microseconds(no * span::bigint) as created_at,
            start_day()::timestamp + to_microseconds((f + 1) * size * span::bigint) + interval 15 minutes as sync_at
        from (
            select r, f > 0 and u(r, 'update') < share as is_update,
                if(f > 0 and u(r, 'update') < share, floor(u(r, 'older') * f * size)::bigint, r) as no
            from (select f * size + range as r from range(size))
        )
    );
