-- What Klaviyo knows of the same people: profiles by email, events by profile and time. Needs story.sql.

create macro short_id(kind, x) as upper(substr(md5(concat_ws('/', kind, x, seed())), 1, 6));
create macro profile_id(p) as concat('01J', upper(substr(md5(concat_ws('/', 'profile', p, seed())), 1, 23)));
create macro link(kind, id) as concat('https://a.klaviyo.com/api/', kind, '/', id, '/');
create macro to_one(kind, id) as {
    'data': {'type': kind, 'id': id}, 'links': {'self': null::varchar, 'related': link(kind || 's', id)}
};
create macro to_many(kind, ids) as {
    'data': list_transform(ids, lambda x: {'type': kind, 'id': x}),
    'links': {'self': null::varchar, 'related': null::varchar}
};

create table people as
    select customer_no as person, min(k) as k, min(created_at) as created_at from orders group by customer_no
    union all
    select 10000000 + k * 100000 + i, k, at_day(k, u(k * 100000 + i, 'newsletter'))
    from days, range(greatest(1, per_day() // 10)) as r(i);

create macro profile_rows(d) as table
    select updated_at as _at, 'profile' as type, profile_id(person) as id, utc(updated_at) as updated,
        {'email': email(person), 'phone_number': null::varchar, 'external_id': external_id,
            'first_name': first_name(person), 'last_name': last_name(person), 'organization': null::varchar,
            'locale': 'en', 'title': null::varchar, 'image': null::varchar, 'created': utc(created_at),
            'updated': utc(updated_at), 'last_event_date': utc(updated_at),
            'location': {'address1': null::varchar, 'city': place(person).city, 'country': place(person).country,
                'region': place(person).province, 'zip': place(person).zip, 'timezone': 'UTC', 'ip': null::varchar},
            'properties': to_json({'Accepts Marketing': subscribed(person), 'Shopify Tags': []::varchar[]})::varchar,
            'subscriptions': {
                'email': {'marketing': {'can_receive_email_marketing': subscribed(person),
                    'consent': if(subscribed(person), 'SUBSCRIBED', 'NEVER_SUBSCRIBED'),
                    'consent_timestamp': utc(if(subscribed(person), created_at, null)),
                    'last_updated': utc(created_at), 'method': 'FORM'}},
                'sms': {'marketing': {'can_receive_sms_marketing': false, 'consent': 'NEVER_SUBSCRIBED',
                    'consent_timestamp': null::timestamptz}}},
            'predictive_analytics': {'historic_clv': money(spent_c), 'predicted_clv': round(spent_c * 0.4) / 100.0,
                'total_clv': round(spent_c * 1.4) / 100.0, 'historic_number_of_orders': orders_count,
                'churn_probability': round(u(person, 'churn'), 2)}} as attributes,
        {'self': link('profiles', profile_id(person))} as links,
        {'lists': {'links': {'self': null::varchar, 'related': link('profiles', profile_id(person)) || 'lists/'}},
            'segments': {'links': {'self': null::varchar, 'related': link('profiles', profile_id(person)) || 'segments/'}}}
            as relationships,
        null::varchar as segments
    from (
        select customer_no as person, customer_id(customer_no)::varchar as external_id, created_at, updated_at,
            orders_count, spent_c
        from changed_customers(d)
        union all
        select person, null, created_at, created_at, 0, 0 from people where k = d and person >= 10000000
    );

-- One campaign a week, sent on day `k` and written two days before.
create table campaigns as
    select k, short_id('campaign', k) as id, concat('Lake letter, week ', 1 + k // 7) as name, at_day(k, 0.4) as sent_at
    from (select range as k from range(days_known() + 2)) where k % 7 = 2;

create macro campaign_rows(d) as table
    select updated_at as _at, 'campaign' as type, id, utc(updated_at) as updated_at,
        {'name': name, 'status': status, 'archived': false, 'channel': 'email',
            'audiences': {'included': [short_id('list', 1)], 'excluded': []::varchar[]},
            'send_options': {'ignore_unsubscribes': null::boolean, 'use_smart_sending': true},
            'message': short_id('message', k),
            'tracking_options': {'is_tracking_opens': true, 'is_tracking_clicks': true, 'is_add_utm': false},
            'send_strategy': {'method': 'static', 'options_static': {'datetime': utc(sent_at), 'is_local': false}},
            'created_at': utc(at_day(k - 2, 0.3)), 'scheduled_at': utc(if(status = 'Draft', null, at_day(k - 1, 0.5))),
            'updated_at': utc(updated_at), 'send_time': utc(if(status = 'Draft', null, sent_at))} as attributes,
        {'self': link('campaigns', id)} as links,
        {'campaign_messages': to_many('campaign-message', [short_id('message', k)]),
            'tags': to_many('tag', []::varchar[])} as relationships
    from (
        select *, case k - d when 2 then 'Draft' when 1 then 'Scheduled' else 'Sent' end as status,
            case k - d when 2 then at_day(k - 2, 0.3) when 1 then at_day(k - 1, 0.5)
                else sent_at + interval 20 minutes end as updated_at
        from campaigns where k - d between 0 and 2
    );

-- The few things a marketer sets up by hand: (what, number, name, detail, day it changes).
create table setup as
    from (values
        ('metric', 1, 'Placed Order', 'Shopify', 0), ('metric', 2, 'Fulfilled Order', 'Shopify', 0),
        ('metric', 3, 'Cancelled Order', 'Shopify', 0), ('metric', 4, 'Refunded Order', 'Shopify', 0),
        ('metric', 5, 'Received Email', 'Klaviyo', 0), ('metric', 6, 'Opened Email', 'Klaviyo', 0),
        ('metric', 7, 'Clicked Email', 'Klaviyo', 0), ('metric', 8, 'Active on Site', 'API', 0),
        ('list', 1, 'Newsletter', 'double_opt_in', 0), ('list', 2, 'SMS', 'double_opt_in', 0),
        ('list', 3, 'VIP', 'single_opt_in', 10),
        ('flow', 1, 'Welcome series', 'live', 0), ('flow', 2, 'Abandoned cart', 'live', 0),
        ('flow', 3, 'Winback', 'draft', 0), ('flow', 3, 'Winback', 'live', 5)
    ) as v(what, number, name, detail, k);

create macro setup_rows(kind, d) as table
    select at_day(k, 0.3 + number / 100) as _at, what as type, short_id(what, number) as id, name, detail, number,
        utc(at_day(if(number = 3 and what = 'list', k, 0), 0.1)) as created, utc(at_day(k, 0.3 + number / 100)) as updated,
        {'self': link(what || 's', short_id(what, number))} as links
    from setup where what = kind and k = d;
create macro metric_rows(d) as table
    select _at, type, id, updated, {'name': name, 'created': created, 'updated': updated,
            'integration': to_json({'object': 'integration', 'id': short_id('integration', detail), 'name': detail,
                'category': if(detail = 'Shopify', 'eCommerce', 'Internal')})::varchar} as attributes,
        links, {'flow_triggers': to_one('flow', null::varchar)} as relationships
    from setup_rows('metric', d);
create macro list_rows(d) as table
    select _at, type, id, updated,
        {'name': name, 'created': created, 'updated': updated, 'opt_in_process': detail} as attributes, links,
        {'profiles': {'links': {'self': null::varchar, 'related': link('lists', id) || 'profiles/'}},
            'tags': to_many('tag', []::varchar[])} as relationships
    from setup_rows('list', d);
create macro flow_rows(d) as table
    select _at, type, id, updated, {'name': name, 'status': detail, 'archived': false, 'created': created,
            'updated': updated, 'trigger_type': if(number = 1, 'Added to List', 'Metric')} as attributes, links,
        {'flow_actions': to_many('flow-action', [short_id('action', number)]), 'tags': to_many('tag', []::varchar[])}
            as relationships
    from setup_rows('flow', d);

create macro order_event(no, id, cents) as to_json({'$event_id': id::varchar, '$value': money(cents),
    '$currency_code': 'USD', 'OrderId': id::varchar, 'OrderName': concat('#', 1001 + no)})::varchar;
create macro email_event(message, name, flow) as to_json({'$message': message, '$flow': flow, 'Subject': name,
    'Campaign Name': name, 'Email Domain': 'example.com'})::varchar;

-- (k, moment, person, metric, key, properties). `k` is the day that causes an event; one after 23:40 lands a day later.
create table events as
    with mails as (
        select campaigns.k, sent_at + seconds(u(person * 512 + campaigns.k, 'send') * 600) as moment, person, name,
            short_id('message', campaigns.k) as message, null::varchar as flow
        from campaigns join people on people.k < campaigns.k and subscribed(person)
        where campaigns.k < days_known()
        union all
        select k, created_at + interval 5 minutes, person, 'Welcome to the lake', short_id('message', 'welcome'),
            short_id('flow', 1)
        from people where subscribed(person)
    ), opened as (
        select * replace (moment + seconds(60 + power(u(person * 512 + k, 'open at'), 3) * 28800) as moment) from mails
        where u(person * 512 + k, 'open') < 0.42
    ), clicked as (
        select * replace (moment + seconds(5 + u(person * 512 + k, 'click at') * 300) as moment) from opened
        where u(person * 512 + k, 'click') < 0.16
    ), caused as (
        select k, created_at as moment, customer_no as person, 1 as metric, no as key, order_event(no, id, total_c) as properties
        from orders where not is_test(no)
        union all
        select fulfilled_k, fulfilled_at, customer_no, 2, no, order_event(no, id, total_c)
        from orders where fulfilled_k is not null and not is_test(no)
        union all
        select cancelled_k, cancelled_at, customer_no, 3, no, order_event(no, id, total_c)
        from orders where cancelled_k is not null and not is_test(no)
        union all
        select k, moment, customer_no, 4, no * 4 + r, order_event(no, order_id, amount_c) from refunds where not is_test(no)
        union all
        select k, moment, person, 5, person * 512 + k, email_event(message, name, flow) from mails
        union all
        select k, moment, person, 6, person * 512 + k, email_event(message, name, flow) from opened
        union all
        select k, moment, person, 7, person * 512 + k, email_event(message, name, flow) from clicked
        union all
        select k, created_at - seconds(30 + u(no * 4 + i, 'visit') * 3000), customer_no, 8, no * 4 + i,
            to_json({'page': '/products/' || lines[1].p, 'browser': 'Firefox'})::varchar
        from orders, range(1, 4) as r(i) where u(no * 4 + i, 'visits') < 0.6
        union all
        select days.k, at_day(days.k, u(person * 512 + days.k, 'browse at')), person, 8, -(person * 512 + days.k),
            to_json({'page': '/collections/new', 'browser': 'Safari'})::varchar
        from people join days on days.k > people.k where u(person * 512 + days.k, 'browse') < 0.06
    )
    select *, greatest(k, date_diff('day', start_day()::timestamp, moment + interval 20 minutes)) as landing_k from caused;

create macro event_rows(d) as table
    select moment as _at, 'event' as type, id, utc(moment) as datetime,
        {'timestamp': epoch(moment)::bigint, 'event_properties': properties, 'datetime': utc(moment),
            'uuid': md5(id)::uuid::varchar} as attributes,
        {'self': link('events', id)} as links,
        {'profile': to_one('profile', profile_id(person)), 'metric': to_one('metric', short_id('metric', metric)),
            'attributions': to_many('attribution', []::varchar[])} as relationships
    from (
        select *, lower(substr(md5(concat_ws('/', 'event', metric, key, seed())), 1, 16)) as id
        from events where landing_k = d
    );
