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
    {%- if lakeward_runs() -%}
      {%- set hooks = (model.config['pre-hook'] ~ model.config['post-hook']) | string -%}
      {%- if config.get('materialized') != 'incremental' -%}
        {{ lakeward_refuse("is materialized as " ~ config.get('materialized') ~ ": every batch would replace the"
          ~ " table by its own rows", "materialized='incremental'") }}
      {%- elif 'lakeward_begin()' not in hooks or 'lakeward_applied()' not in hooks -%}
        {{ lakeward_refuse("has a stream's tag, but runs without lakeward's hooks: what it loads would not be"
          ~ " recorded", "move it to dag/processed/, or take the tag away") }}
      {%- endif -%}
    {%- endif -%}
    {{ return(lakeward_plan(rendered=true).files) }}
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


{% macro lakeward_runs() -%}
  {{ return(flags.WHICH in ('run', 'build', 'retry')) }}
{%- endmacro %}


{% macro lakeward_refuse(what, remedy) -%}
  {%- do exceptions.raise_compiler_error(this.identifier ~ " " ~ what ~ "\n  " ~ remedy) -%}
{%- endmacro %}


{#- An identifier, and a text, as SQL: dbt's own quoting lets a quote inside a name end it, and columns have
    the names that landed. -#}
{% macro lakeward_name(name) -%}
  {{ return('"' ~ name | replace('"', '""') ~ '"') }}
{%- endmacro %}


{% macro lakeward_text(text) -%}
  {{ return("'" ~ text | replace("'", "''") ~ "'") }}
{%- endmacro %}


{#- The plan of this model in this invocation; the same however often it is asked for. -#}
{% macro lakeward_plan(rendered=false) -%}
  {%- set answer = {} -%}
  {%- do adapter.store_relation('lakeward', this, [], '', '', {
      'answer': answer,
      'tag': lakeward_stream_tag(),
      'model': this.identifier,
      'invocation_id': invocation_id,
      'runs': lakeward_runs(),
      'rendered': rendered,
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
      {{ lakeward_refuse("carries the tags " ~ model.tags ~ ": a processed model has exactly one stream tag",
        "tags=['processed', 'shopify__orders']") }}
    {%- elif this.schema != 'main' -%}
      {{ lakeward_refuse("goes to the schema " ~ this.schema ~ ": processed tables lie in lakehouse.main",
        "remove its schema config") }}
    {%- endif -%}
    {%- set plan = lakeward_plan() -%}
    {{- lakeward_expect_table(plan) -}}
    {%- set fence = 'lakehouse.fences.' ~ lakeward_name(this.identifier) -%}
    {%- set stamp = {
        'stream': plan.source ~ '/' ~ plan.stream, 'model': this.identifier, 'build': plan.build,
        'batch_id': plan.batch_id, 'files': plan.paths, 'code': model.checksum.checksum,
    } -%}
    call lakehouse.set_commit_message(
      'lakeward', {{ lakeward_text("feed " ~ plan.source ~ "/" ~ plan.stream ~ " into " ~ this.identifier) }},
      extra_info => '{{ tojson(stamp) | replace("'", "''") }}'
    );
    select case
      when (select n from {{ fence }}) is distinct from {{ plan.fence }}
      then error({{ lakeward_text('lakeward: fence moved: another writer of ' ~ this.identifier ~ ' was faster') }})
    end;
    update {{ fence }} set n = n + 1;
  {%- endif -%}
{%- endmacro %}


{#- The plan was made for a table, or for none. What dbt is about to do follows from its own look at the
    lake, at another time: the two must agree, or a batch would replace a table, or be added to another's. -#}
{% macro lakeward_expect_table(plan) -%}
  {%- set table = load_cached_relation(this) -%}
  {%- set replaces = table is none or table.is_view or should_full_refresh() -%}
  {%- if not plan.rendered -%}
    {{ lakeward_refuse('never reads {{ var("files") }}: its files would count as loaded, unread',
      'from read_parquet({{ var("files") }}, filename=true, hive_partitioning=true)') }}
  {%- elif config.get('incremental_strategy') == 'microbatch' -%}
    {{ lakeward_refuse("uses incremental_strategy='microbatch', which is several transactions per batch",
      "incremental_strategy='delete+insert'") }}
  {%- elif replaces and not plan.is_new_build and table is none -%}
    {{ lakeward_refuse("has lost its table since the ledger was read (lakeward: fence moved)",
      "run it again: everything is loaded into a new table") }}
  {%- elif replaces and not plan.is_new_build -%}
    {{ lakeward_refuse("would replace its table by this batch alone",
      "remove full_refresh=true from its config; if the table is a view, drop it") }}
  {%- elif plan.is_new_build and not replaces -%}
    {%- set now = run_query('select n from lakehouse.fences.' ~ lakeward_name(this.identifier)).rows[0][0] -%}
    {%- if now | int != plan.fence | int -%}
      {{ lakeward_refuse("has got a table since the ledger was read (lakeward: fence moved)", "run it again") }}
    {%- endif -%}
    {{ lakeward_refuse("has a table that the ledger does not know: its rows may be any stream's",
      "dbt run --full-refresh -s " ~ model.name) }}
  {%- endif -%}
{%- endmacro %}


{#- Post-hook of processed models, inside the transaction: the files that were rendered, no others, and only
    if they still are what was listed. -#}
{% macro lakeward_applied() -%}
  {%- if execute -%}
    {%- set plan = lakeward_plan() -%}
    {%- do adapter.store_relation('lakeward', this, [], '', '', {
        'verify': true, 'model': this.identifier, 'invocation_id': invocation_id,
    }) -%}
    {%- if plan.control -%}
    select error('{{ plan.control }}');
    {%- endif %}
    insert into lakehouse.meta.feeder_log by name
    {%- if plan.is_new_build %}
    select
      '{{ plan.source }}' as source, '{{ plan.stream }}' as stream, {{ lakeward_text(this.identifier) }} as model,
      {{ plan.build }} as build, 'built' as event, '{{ plan.batch_id }}' as batch_id,
      '{{ model.checksum.checksum }}' as code, now() as logged_at
    union all by name
    {%- endif %}
    select
      '{{ plan.source }}' as source, '{{ plan.stream }}' as stream, {{ lakeward_text(this.identifier) }} as model,
      {{ plan.build }} as build, 'applied' as event, path, etag, size, partition_date, generation, rows,
      extracted_at, nulled, '{{ plan.batch_id }}' as batch_id, '{{ model.checksum.checksum }}' as code,
      now() as logged_at
    from memory.main.lakeward_planned
    where invocation = '{{ invocation_id }}' and model = {{ lakeward_text(this.identifier) }}
  {%- endif -%}
{%- endmacro %}


{#- Pre-hook of enriched models: plain dbt may be the first to touch a lake. -#}
{% macro lakeward_begin_build() -%}
  {%- if execute -%}
    {%- do adapter.store_relation('lakeward', this, [], '', '', {'bootstrap': true}) -%}
    call lakehouse.set_commit_message(
      'lakeward', {{ lakeward_text('build ' ~ this.identifier) }},
      extra_info => {{ lakeward_text(tojson({"model": this.identifier, "code": model.checksum.checksum})) }}
    )
  {%- endif -%}
{%- endmacro %}


{#- Post-hook of enriched models: which snapshot of its upstreams the mart was computed from.
    `dbt run --empty` leaves a table without rows: the mart is to be built again. -#}
{% macro lakeward_built() -%}
  {%- if execute -%}
    insert into lakehouse.meta.build_log
    select
      {{ lakeward_text(this.identifier) }}, '{{ "failed" if flags.EMPTY else "built" }}',
      (select id from lakehouse.current_snapshot()), '{{ model.checksum.checksum }}',
      {{ "'was built with --empty'" if flags.EMPTY else "null" }}, now()
  {%- endif -%}
{%- endmacro %}


{#- A batch is not copied into a temporary table first: delete and insert below each read the files, the
    delete nothing but keys, timestamps and file names. A third of the memory and of the time of a batch.
    A model that reads its own table needs the copy: the delete would change what the insert reads. -#}
{% macro duckdb__create_table_as(temporary, relation, compiled_code, language='sql', partitioned_by=none, sorted_by=none) -%}
  {%- set is_batch = temporary and language == 'sql' and lakeward_stream_tag() -%}
  {%- if is_batch and not config.get('contract').enforced and this.identifier not in compiled_code -%}
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
  {%- if not lakeward_stream_tag() -%}
    {{ return(dbt.duckdb__get_delete_insert_merge_sql(target, source, unique_key, dest_columns, incremental_predicates)) }}
  {%- elif incremental_predicates -%}
    {{ lakeward_refuse("has incremental_predicates: an older row they leave out would keep the newer from coming in",
      "remove them") }}
  {%- endif -%}
  {%- set names = [] -%}
  {%- for column in dest_columns -%}{%- do names.append(lakeward_name(column.name)) -%}{%- endfor -%}
  {%- set columns = names | join(', ') -%}
  {%- set incoming = lakeward_incoming(target, source, dest_columns) -%}
  {%- if unique_key -%}
    {%- set keys = [unique_key] if unique_key is string else unique_key -%}
    {%- set has = dest_columns | map(attribute='name') | map('lower') | list -%}
    {%- set guarded = '_airbyte_extracted_at' in has -%}
    {%- set ties = guarded and '_source_file' in has -%}
    create or replace temporary table lakeward_keys as
    select distinct
      {% for key in keys %}{{ key }} as lakeward_key_{{ loop.index }}, {% endfor %}
      {{ '_airbyte_extracted_at' if guarded else 'null' }} as lakeward_at,
      {{ '_source_file' if ties else "''" }} as lakeward_file
    from {{ incoming }};

    delete from {{ target }} using lakeward_keys
    where {% for key in keys %}({{ key }}) is not distinct from lakeward_key_{{ loop.index }} and {% endfor %} (
      {%- if guarded %}
      lakeward_at > _airbyte_extracted_at
      or (_airbyte_extracted_at is null and lakeward_at is not null)
      or (
        lakeward_at is not distinct from _airbyte_extracted_at
        {{- ' and lakeward_file >= coalesce(_source_file, \'\')' if ties }}
      )
      {%- else %} true {%- endif %}
    );

    insert into {{ target }} ({{ columns }})
    select {{ columns }}
    from {{ incoming }} as lakeward_new
    where case
      when exists (from lakeward_keys where {{ lakeward_same(keys) }}) then true
      else error({{ lakeward_text('lakeward: fence moved: reading ' ~ this.identifier ~ ' twice gave other keys') }}
        || ' (a file changed, or the model picks rows at random)')
    end
    {%- if guarded %}
    and not exists (
      from (
        select {% for key in keys %}{{ key }} as lakeward_key_{{ loop.index }}{{ ', ' if not loop.last }}{% endfor %}
        from {{ target }}
      ) as lakeward_kept
      where {{ lakeward_same(keys) }}
    )
    {%- endif -%}
  {%- else -%}
    insert into {{ target }} ({{ columns }})
    select {{ columns }}
    from {{ incoming }} as lakeward_new
  {%- endif -%}
{%- endmacro %}


{% macro duckdb__get_incremental_append_sql(arg_dict) -%}
  {%- if not lakeward_stream_tag() -%}
    {{ return(default__get_incremental_append_sql(arg_dict)) }}
  {%- endif -%}
  {{ return(duckdb__get_delete_insert_merge_sql(
    arg_dict["target_relation"], arg_dict["temp_relation"], none, arg_dict["dest_columns"], none
  )) }}
{%- endmacro %}


{% macro lakeward_same(keys) -%}
  {%- for key in keys -%}
    lakeward_key_{{ loop.index }} is not distinct from ({{ key }}){{ ' and ' if not loop.last }}
  {%- endfor -%}
{%- endmacro %}


{#- The batch as a subquery whose columns have the table's types. -#}
{% macro lakeward_incoming(target, source, dest_columns) -%}
  {%- set given = {} -%}
  {%- for column in adapter.get_columns_in_relation(source) -%}
    {%- do given.update({column.name | lower: column.dtype}) -%}
  {%- endfor -%}
  {%- set wanted = {} -%}
  {%- for column in adapter.get_columns_in_relation(target) -%}
    {%- do wanted.update({column.name | lower: column.dtype}) -%}
  {%- endfor -%}
  {%- set values = [] -%}
  {%- set absent = [] -%}
  {%- for column in dest_columns -%}
    {%- set name = column.name | lower -%}
    {%- if name in given -%}
      {%- do values.append(lakeward_converted(column.name, given[name], wanted[name])) -%}
    {%- else -%}
      {%- do absent.append(column.name) -%}
    {%- endif -%}
  {%- endfor -%}
  {%- if absent -%}
    {{ lakeward_refuse("no longer selects columns that its table has: " ~ absent | join(', '),
      "rebuild it: dbt run --full-refresh -s " ~ model.name) }}
  {%- endif -%}
  (select {{ values | join(', ') }} from {{ source }})
{%- endmacro %}


{#- Airbyte mixes INT64 milliseconds and TIMESTAMP for `_airbyte_extracted_at` in one stream
    (airbytehq/airbyte#52559): converted to whatever the table has. Any other value must survive the way to
    the table's type and back: DuckDB would round 10.75 into an integer column without a word, in lists and
    structs too. Struct fields that the table has no room for are left out, as columns are. -#}
{% macro lakeward_converted(column, given, wanted) -%}
  {%- set name = lakeward_name(column) -%}
  {%- set ranks = {'TINYINT': 1, 'SMALLINT': 2, 'INTEGER': 3, 'BIGINT': 4, 'HUGEINT': 5} -%}
  {%- if given == wanted or wanted in ('VARCHAR', 'JSON') -%}
    {{ return(name) }}
  {%- elif column | lower == '_airbyte_extracted_at' and given == 'BIGINT' -%}
    {{ return('make_timestamptz(' ~ name ~ ' * 1000)::' ~ wanted ~ ' as ' ~ name) }}
  {%- elif column | lower == '_airbyte_extracted_at' and wanted == 'BIGINT' -%}
    {{ return('epoch_ms(' ~ name ~ ') as ' ~ name) }}
  {%- elif given in ranks and wanted in ranks and ranks[given] < ranks[wanted] -%}
    {{ return(name) }}
  {%- endif -%}
  {%- set answer = {} -%}
  {%- do adapter.store_relation('lakeward', this, [], '', '', {
      'answer': answer, 'convert': {'given': given, 'wanted': wanted},
  }) -%}
  {%- set converted = "try_cast(" ~ name ~ " as " ~ wanted ~ ")" -%}
  {{ return("case when try_cast(" ~ converted ~ " as " ~ answer.narrowed ~ ") is not distinct from try_cast("
    ~ name ~ " as " ~ answer.narrowed ~ ") then " ~ converted ~ " else error('column "
    ~ column | replace("'", "''") ~ ": " ~ given | replace("'", "''") ~ " ' || " ~ name
    ~ "::varchar || ' does not fit the table''s " ~ wanted | replace("'", "''") ~ "') end as " ~ name) }}
{%- endmacro %}
