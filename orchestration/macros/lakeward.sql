{#-
    What makes the seed's SQL safe without changing it. Part of lakeward, copied into every lake;
    `lakeward check` tells when the copy is not the installed package's.

    One plan per model run: `var("files")` renders it, `lakeward_begin` compares its fence,
    `lakeward_applied` records exactly it, in the model's own transaction.
-#}

{#- `var("files")` in a model that carries one stream tag is the files of this run, as SQL.
    Every other variable, and every other node, goes to dbt's own `var`. -#}
{% macro var(name) -%}
  {%- if name == 'files' and lakeward_stream_tag() -%}
    {%- if not execute -%}
      {{ return("['parsed without files']") }}
    {%- endif -%}
    {{ return(lakeward_plan().files) }}
  {%- endif -%}
  {{ return(builtins.var(name, *varargs, **kwargs)) }}
{%- endmacro %}


{#- `shopify__orders`, or nothing in nodes that are not a model of one stream. -#}
{% macro lakeward_stream_tag() -%}
  {%- if model is defined and model and model.resource_type == 'model' -%}
    {%- set found = [] -%}
    {%- for tag in model.tags if '__' in tag -%}
      {%- if tag not in found -%}{%- do found.append(tag) -%}{%- endif -%}
    {%- endfor -%}
    {%- if found | length == 1 -%}{{ return(found[0]) }}{%- endif -%}
  {%- endif -%}
  {{ return(none) }}
{%- endmacro %}


{#- The plan of this model in this invocation; the same however often it is asked for. -#}
{% macro lakeward_plan() -%}
  {%- set answer = {} -%}
  {%- do adapter.store_relation('lakeward', this, [], '', '', {
      'answer': answer,
      'tag': lakeward_stream_tag(),
      'model': this.identifier,
      'invocation_id': invocation_id,
      'runs': flags.WHICH in ('run', 'build', 'retry'),
      'full_refresh': should_full_refresh(),
      'given': builtins.var('files', none),
  }) -%}
  {{ return(answer) }}
{%- endmacro %}


{#- Pre-hook of processed models, inside the transaction: refuse if another writer was faster, then
    bump the fence and sign the snapshot. Every write path runs it, plain dbt and full refresh too. -#}
{% macro lakeward_begin() -%}
  {%- if execute -%}
    {%- if not lakeward_stream_tag() -%}
      {%- do exceptions.raise_compiler_error(
          this.identifier ~ " carries " ~ (model.tags | select('in', model.tags) | list)
          ~ ": a processed model has exactly one stream tag, as in tags=['processed', 'shopify__orders']"
      ) -%}
    {%- endif -%}
    {%- if this.schema != 'main' -%}
      {%- do exceptions.raise_compiler_error(
          this.identifier ~ " goes to the schema " ~ this.schema ~ ": processed tables lie in lakehouse.main;"
          ~ " remove its schema config"
      ) -%}
    {%- endif -%}
    {%- set plan = lakeward_plan() -%}
    {%- set fence = 'lakehouse.fences."' ~ this.identifier ~ '"' -%}
    {%- set stamp = {
        'stream': plan.source ~ '/' ~ plan.stream, 'model': this.identifier, 'build': plan.build,
        'batch_id': plan.batch_id, 'files': plan.paths, 'code': model.checksum.checksum,
    } -%}
    call lakehouse.set_commit_message(
      'lakeward', '{{ "feed " ~ plan.source ~ "/" ~ plan.stream ~ " into " ~ this.identifier }}',
      extra_info => '{{ tojson(stamp) | replace("'", "''") }}'
    );
    select case
      when (select n from {{ fence }}) is distinct from {{ plan.fence }}
      then error('lakeward: fence moved: another writer of {{ this.identifier }} was faster')
    end;
    update {{ fence }} set n = n + 1;
  {%- endif -%}
{%- endmacro %}


{#- Post-hook of processed models, inside the transaction: the files that were rendered, no others. -#}
{% macro lakeward_applied() -%}
  {%- if execute -%}
    {%- set plan = lakeward_plan() -%}
    insert into lakehouse.meta.feeder_log
    {%- if plan.is_new_build %}
    select
      '{{ plan.source }}', '{{ plan.stream }}', '{{ this.identifier }}', {{ plan.build }}, 'built',
      null, null, null, null, null, null, null, '{{ plan.batch_id }}', '{{ model.checksum.checksum }}',
      null, now()
    union all
    {%- endif %}
    select
      '{{ plan.source }}', '{{ plan.stream }}', '{{ this.identifier }}', {{ plan.build }}, 'applied',
      path, etag, size, partition_date, generation, rows, extracted_at, '{{ plan.batch_id }}',
      '{{ model.checksum.checksum }}', null, now()
    from memory.main.lakeward_planned
    where invocation = '{{ invocation_id }}' and model = '{{ this.identifier }}'
  {%- endif -%}
{%- endmacro %}


{#- Pre-hook of enriched models: plain dbt may be the first to touch a lake. -#}
{% macro lakeward_begin_build() -%}
  {%- if execute -%}
    {%- do adapter.store_relation('lakeward', this, [], '', '', {'bootstrap': true}) -%}
    call lakehouse.set_commit_message(
      'lakeward', 'build {{ this.identifier }}',
      extra_info => '{{ tojson({"model": this.identifier, "code": model.checksum.checksum}) }}'
    )
  {%- endif -%}
{%- endmacro %}


{#- Post-hook of enriched models: which snapshot of its upstreams the mart was computed from. -#}
{% macro lakeward_built() -%}
  {%- if execute -%}
    insert into lakehouse.meta.build_log
    select
      '{{ this.identifier }}', 'built', (select id from lakehouse.current_snapshot()),
      '{{ model.checksum.checksum }}', null, now()
  {%- endif -%}
{%- endmacro %}


{#- A batch is not copied into a temporary table first: delete and insert below each read the files, the
    delete nothing but keys, timestamps and file names. A third of the memory and of the time of a batch. -#}
{% macro duckdb__create_table_as(temporary, relation, compiled_code, language='sql', partitioned_by=none, sorted_by=none) -%}
  {%- if temporary and language == 'sql' and lakeward_stream_tag() and not config.get('contract').enforced -%}
    {{ config.get('sql_header', '') }}
    create or replace temporary view {{ relation.include(database=false, schema=false) }} as (
      {{ compiled_code }}
    );
  {%- else -%}
    {{ return(dbt.duckdb__create_table_as(temporary, relation, compiled_code, language, partitioned_by, sorted_by)) }}
  {%- endif -%}
{%- endmacro %}


{#- delete+insert, newest wins: an incoming row replaces the table's rows of its key unless one of them
    is newer by `_airbyte_extracted_at`. A null timestamp is oldest, ties go to the greater
    `_source_file`. Keys compare with `is not distinct from`, so null keys do not pile up; a key may be
    any SQL expression over the model's columns. -#}
{% macro duckdb__get_delete_insert_merge_sql(target, source, unique_key, dest_columns, incremental_predicates) -%}
  {%- set incoming = {} -%}
  {%- for column in adapter.get_columns_in_relation(source) -%}
    {%- do incoming.update({column.name | lower: column.dtype | upper}) -%}
  {%- endfor -%}
  {%- set names = [] -%}
  {%- set values = [] -%}
  {%- set absent = [] -%}
  {%- for column in dest_columns -%}
    {%- do names.append(adapter.quote(column.name)) -%}
    {%- do values.append(lakeward_converted(column, incoming.get(column.name | lower))) -%}
    {%- if (column.name | lower) not in incoming -%}{%- do absent.append(column.name) -%}{%- endif -%}
  {%- endfor -%}
  {%- if absent -%}
    {%- do exceptions.raise_compiler_error(
        "the table has columns that the model no longer selects: " ~ absent | join(', ')
        ~ "\n  rebuild it: dbt run --full-refresh -s " ~ target.identifier
    ) -%}
  {%- endif -%}
  {%- set columns = names | join(', ') -%}

  {%- if unique_key -%}
    {%- set keys = [unique_key] if unique_key is string else unique_key -%}
    {%- set has = dest_columns | map(attribute='name') | map('lower') | list -%}
    {%- set guarded = '_airbyte_extracted_at' in has -%}
    {%- set ties = guarded and '_source_file' in has -%}
    delete from {{ target }}
    using (
      select distinct
        {% for key in keys %}{{ key }} as lakeward_key_{{ loop.index }}, {% endfor %}
        {{ '_airbyte_extracted_at' if guarded else 'null' }} as lakeward_at,
        {{ '_source_file' if ties else "''" }} as lakeward_file
      from (select {% for value in values %}{{ value }}{{ ', ' if not loop.last }}{% endfor %} from {{ source }})
    ) as lakeward_new
    where {% for key in keys %}({{ key }}) is not distinct from lakeward_key_{{ loop.index }} and {% endfor %} (
      {%- if guarded %}
      lakeward_at > _airbyte_extracted_at
      or (_airbyte_extracted_at is null and lakeward_at is not null)
      or (
        lakeward_at is not distinct from _airbyte_extracted_at
        {{- ' and lakeward_file >= coalesce(_source_file, \'\')' if ties }}
      )
      {%- else %} true {%- endif %}
    )
    {%- for predicate in incremental_predicates or [] %} and {{ predicate }}{% endfor %};

    insert into {{ target }} ({{ columns }})
    select {{ columns }}
    from (select {% for value in values %}{{ value }}{{ ', ' if not loop.last }}{% endfor %} from {{ source }}) as lakeward_new
    {%- if guarded %}
    where not exists (
      from (
        select {% for key in keys %}{{ key }} as lakeward_key_{{ loop.index }}{{ ', ' if not loop.last }}{% endfor %}
        from {{ target }}
      ) as lakeward_kept
      where {% for key in keys %}lakeward_key_{{ loop.index }} is not distinct from ({{ key }}){{ ' and ' if not loop.last }}{% endfor %}
    )
    {%- endif -%}
  {%- else -%}
    insert into {{ target }} ({{ columns }})
    select {{ columns }}
    from (select {% for value in values %}{{ value }}{{ ', ' if not loop.last }}{% endfor %} from {{ source }})
  {%- endif -%}
{%- endmacro %}


{#- Airbyte mixes INT64 milliseconds and TIMESTAMP for `_airbyte_extracted_at` in one stream
    (airbytehq/airbyte#52559): converted to whatever the table has. Other columns pass unchanged. -#}
{% macro lakeward_converted(column, incoming_type) -%}
  {%- set name = adapter.quote(column.name) -%}
  {%- set wanted = column.dtype | upper -%}
  {%- if column.name == '_airbyte_extracted_at' and incoming_type and incoming_type != wanted -%}
    {%- if incoming_type == 'BIGINT' -%}
      {{ return('make_timestamptz(' ~ name ~ ' * 1000)::' ~ wanted ~ ' as ' ~ name) }}
    {%- elif wanted == 'BIGINT' -%}
      {{ return('epoch_ms(' ~ name ~ ') as ' ~ name) }}
    {%- endif -%}
  {%- endif -%}
  {{ return(name) }}
{%- endmacro %}
