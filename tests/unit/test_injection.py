"""Names and values that would like to be SQL, a path or a pattern: they stay what they are.

Whatever is refused is refused by an error of ours, which names it. `make test-all` tries far more of them.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import duckdb
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from obstore.store import S3Store

from lakeward import connector
from lakeward.attaching import extension_path as extension
from lakeward.attaching import postgres_uri
from lakeward.connector import install
from lakeward.errors import ConfigError, ConnectorError, LakewardError
from lakeward.extract import Extraction, Reader
from lakeward.intake import Plan, _shape, inspect, render
from lakeward.lake import Lake
from lakeward.landing import Landing, open_landing
from lakeward.protocol import Decoder
from lakeward.schemas import merged
from lakeward.settings import load_settings
from lakeward.shapes import column_names, shape
from lakeward.sources import load_source
from lakeward.spool import Spool
from lakeward.sql import quote_identifier, quote_list, quote_literal
from lakeward.stores import Folder
from lakeward.streams import Stream, StreamConfig, find_stream, load_stream, stream_of_tag

ITEMS = Stream("shop", "items", Path("items.json"), StreamConfig())
DAY = "raw/shop/items/year=2026/month=11/day=01"
PIECES = (
    "'", '"', "''", '""', "\\", "`", ";", "--", "/*", "*/", "$$", "(", ")", "[", "]", "{", "}", "*", "**",
    "?", ",", "%", "%s", "%2e%2e", "%2f", "..", ".", "~", "$HOME", "${HOME}", "{{ 1/0 }}", "{%", "{#", "\n",
    "\r", "\t", "\x1b[2J", "\x7f", " ", "#", "&", "=", ":", "@", "|", "-", "year=1",
    "select", "') or error('x') --",
    '") select 1; --', "ü", "ß", "İ", "😀", "\u202e", "\u2028", "a", "b", "0",
)  # fmt: skip
NASTY = st.lists(
    st.sampled_from(PIECES) | st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
    min_size=1,
    max_size=8,
).map("".join)
SEGMENT = NASTY.map(lambda text: text.replace("/", "_")).filter(lambda text: text not in (".", ".."))
many = settings(deadline=None)


@pytest.fixture(scope="module")
def duck() -> Iterator[Lake]:
    with duckdb.connect() as con:
        con.execute("set threads = 1")
        yield Lake(con)


@many
@given(value=NASTY, name=NASTY, more=st.lists(NASTY, max_size=3))
def test_duckdb_reads_back_what_was_quoted(duck: Lake, value: str, name: str, more: list[str]) -> None:
    con = duck.con.execute(
        f"select {quote_literal(value)} as {quote_identifier(name)}, {quote_list(more)}::varchar[] as more"
    )
    assert con.description[0][0] == name
    assert con.fetchall() == [(value, more)]


@many
@example(root="r", name="*", other="a")
@example(root="r", name="[ab]", other="a")
@example(root="[ab]", name="?", other="a")
@example(root="\\", name="[", other="'")
@given(root=SEGMENT, name=SEGMENT, other=SEGMENT)
def test_a_file_is_read_alone_whatever_it_is_called(duck: Lake, root: str, name: str, other: str) -> None:
    """Beside it, above it and in the landing root lie files that a pattern or a path would reach."""
    assume(max(len(text.encode()) for text in (root, name, other)) < 200)
    with tempfile.TemporaryDirectory() as folder:
        zone = Path(folder, root)
        (zone / DAY).mkdir(parents=True)
        wanted = zone / DAY / f"x{name}.parquet"
        for number, path in enumerate(
            (wanted, zone / DAY / f"x{other}.parquet", zone / "x.parquet", Path(folder, "x.parquet"))
        ):
            if number and path == wanted:
                continue
            plain = Path(folder, "made")
            duck.query(f"copy (select {number} as id) to {quote_literal(str(plain))} (format parquet)")
            plain.rename(path)
        landing = Landing(Folder(zone), str(zone))
        listed = [file for file in landing.list(ITEMS) if file.path == f"{DAY}/{wanted.name}"]
        assert len(listed) == 1
        found = inspect(duck, landing, listed)
        if found.unreadable:
            ((_, reason),) = found.unreadable
            assert "rename it" in reason
            return
        plan = Plan(ITEMS, "m", 1, True, 0, found.readable, "b")
        rows = duck.query(f"select id, filename from read_parquet({render(plan, landing)}, filename=true)")
        assert rows == [(0, str(wanted))]
        assert landing.relative(rows[0][1]) == listed[0].path


def _distinct(names: Sequence[str]) -> list[str]:
    """As DuckDB tells them apart."""
    return list({name.casefold(): name for name in names}.values())


MOMENTS = st.sampled_from(
    ["timestamptz '2026-11-01'", "timestamptz 'infinity'", "timestamptz '290000-01-01'",
     "timestamp '0001-01-01 (BC)'", "9223372036854775807::bigint", "-1::bigint", "'x'", "null", "1e300"]
)  # fmt: skip
METAS = st.sampled_from(
    ["'x'", "1", "null", "{'changes': 1}", "{'changes': [{'change': 'x', 'field': '''; drop'}]}",
     "{'changes': [{'change': {'change': 1}}]}", "[{'changes': 'a'}]"]
)  # fmt: skip


@many
@given(
    names=st.lists(NASTY, min_size=1, max_size=4).map(_distinct),
    fields=st.lists(NASTY, min_size=1, max_size=3).map(_distinct),
    moment=MOMENTS,
    meta=METAS,
    generation=MOMENTS,
)
def test_columns_keep_their_names_and_add_nothing(
    duck: Lake, names: list[str], fields: list[str], moment: str, meta: str, generation: str
) -> None:
    assume(not {name.lower() for name in names} & {"year", "month", "day"})
    struct = ", ".join(f"{quote_identifier(field)} := 1" for field in fields)
    columns = [f"struct_pack({struct}) as {quote_identifier(name)}" for name in names]
    columns += [f"{moment} as _airbyte_extracted_at", f"{meta} as _airbyte_meta"]
    columns += [f"{generation} as _airbyte_generation_id"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, DAY, "a.parquet")
        path.parent.mkdir(parents=True)
        duck.query(f"copy (select {', '.join(columns)}) to '{path}' (format parquet)")
        landing = Landing(Folder(Path(folder)), folder)
        found = inspect(duck, landing, list(landing.list(ITEMS)))
        if not found.readable:
            ((_, reason),) = found.unreadable
            assert "Error: " in reason
            return
        (item,) = found.readable
        assert [name for name, _ in item.columns][: len(names)] == names
        for _, kind in item.columns:
            assert duck.query(f"select typeof(null::{merged(kind, kind)})") == [(kind,)]
        made = duck.query(f"describe from read_parquet({quote_literal(_shape(duck, item.columns, ''))})")
        assert [(name, kind) for name, kind, *_ in made if name not in ("year", "month", "day")] == list(
            item.columns
        )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with stream files where none belong."""
    root = tmp_path_factory.mktemp("lake")
    folder = root / "orchestration"
    for path in ("dag/streams/shop/items.json", "dag/evil/items.json", "evil/items.json", "evil.json"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text("{}")
    (root / "evil").mkdir()
    (root / "evil" / "items.json").write_text("{}")
    (folder / "sources").mkdir()
    return folder


WAYS = st.lists(
    st.sampled_from(["..", ".", "/", "__", "_", "shop", "items", "evil", "evil/items", "\0", "\n"]) | NASTY,
    max_size=8,
).map("".join)


@many
@given(name=WAYS)
def test_no_name_leads_to_a_stream_file_elsewhere(project: Path, name: str) -> None:
    looks: list[Callable[[], Stream]] = [
        lambda: stream_of_tag(project, name),
        lambda: find_stream(project, [], name),
    ]
    for look in looks:
        with suppress(ConfigError):
            found = look()
            assert found.path.resolve() == project / "dag/streams/shop/items.json"
            assert (found.source, found.name) == ("shop", "items")


@pytest.mark.parametrize("tag", ["../evil__items", "../../evil__items", "../../../evil__items"])
def test_a_tag_with_a_way_up_names_no_stream(project: Path, tag: str) -> None:
    with pytest.raises(ConfigError, match="names no stream"):
        stream_of_tag(project, tag)


@many
@given(name=SEGMENT)
def test_a_stream_has_a_plain_name_or_none(name: str) -> None:
    assume(len(name.encode()) < 200)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "shop", f"{name}.json")
        path.parent.mkdir()
        path.write_text("{}")
        try:
            stream = load_stream(path)
        except ConfigError as error:
            assert str(path) in str(error)
        else:
            assert set(stream.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_")
            assert stream.root == f"raw/shop/{name}/"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | NASTY
    | st.sampled_from(["string", "integer", "5d"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*StreamConfig.model_fields, "type", "properties", "items", "oneOf", "format"])
            | NASTY,
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@many
@given(values=JSON)
def test_a_stream_file_is_taken_or_refused_by_name(duck: Lake, values: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "shop", "items.json")
        path.parent.mkdir()
        path.write_text(json.dumps(values))
        try:
            columns = load_stream(path).columns
        except ConfigError as error:
            assert str(path) in str(error)
        else:
            for name, kind in (columns or {}).items():
                made = duck.query(f"describe select null::{kind} as {quote_identifier(name)}")
                assert [column for column, *_ in made] == [name]


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"lookback_days": ' + "9" * 5000 + "}", '{"target_lag": "99999999999d"}',
     '{"fields": {"a": {}}}', '{"fields": {"": "string"}}', '{"fields": {"a\\u0000": "string"}}',
     '{"fields": {"a": ' + '{"b": ' * 300 + "1" + "}" * 302, '{"lookback_days": 99999999999}'],
    ids=range(8),
)  # fmt: skip
def test_a_stream_file_that_python_chokes_on_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "shop" / "items.json"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"items\.json"):
        load_stream(path)


URL = st.tuples(
    st.sampled_from(
        ["s3://b/", "s3://b", "s3://c/", "S3://b/", "s3a://b/", "file://", "", "/", "//", "s3://k:s@b/"]
    ),
    st.lists(
        st.sampled_from(
            ["data", "landing", "d%61ta", "..", ".", "/", "//", "%2e%2e", "%2f", "?x=1", "#x", "\\"]
        )
        | NASTY,
        max_size=6,
    ).map("".join),
).map("".join)


def _place(url: str) -> tuple[str, ...]:
    """Where the store really looks."""
    if "://" not in url:
        return ("", *Path(url).resolve().parts)
    store = S3Store.from_url(url, region="x", skip_signature=True)
    return (store.config["bucket"], *str(store.prefix or "").strip("/").split("/"))


@many
@example(landing="s3://b/\x7f", data="s3://b/data")
@given(landing=URL, data=URL)
def test_no_spelling_hides_that_landing_zone_and_data_path_contain_one_another(
    tmp_path_factory: pytest.TempPathFactory, landing: str, data: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / "project"
    env = {"LAKEWARD_LANDING_URL": landing, "LAKEWARD_DATA_URL": data}
    try:
        found = load_settings(folder, env)
    except ConfigError as error:
        assert "landing_url" in str(error) or "data_url" in str(error)
        return
    one, other = _place(found.landing_url), _place(found.data_url)
    one, other = (tuple(part for part in place if part) for place in (one, other))
    assert one[: len(other)] != other
    assert other[: len(one)] != one


@pytest.mark.parametrize(
    "landing",
    [
        "s3://b/x/../data",
        "s3://b/%64ata",
        "S3://b/data",
        "s3a://b/data",
        "s3://b/data?x",
        "s3://b/data#x",
        "s3://b/./data",
        "az://acme.blob.core.windows.net/zone/landing",
        "az://zone/a%2e",
        "azure://zone/landing",
        "abfss://zone/landing",
    ],
)
def test_a_landing_zone_is_written_plainly(tmp_path: Path, landing: str) -> None:
    env = {"LAKEWARD_LANDING_URL": landing, "LAKEWARD_DATA_URL": "s3://b/data"}
    with pytest.raises(ConfigError, match="landing_url"):
        load_settings(tmp_path, env)


def test_one_bucket_by_two_protocols_is_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="contain one another"):
        load_settings(tmp_path, {"LAKEWARD_LANDING_URL": "gs://b/data/x", "LAKEWARD_DATA_URL": "s3://b/data"})


def test_a_root_contains_everything(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="contain one another"):
        load_settings(tmp_path, {"LAKEWARD_LANDING_URL": "/"})


@many
@given(
    text=st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()) | NASTY.map(str.encode)
)
def test_a_settings_file_is_taken_or_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, text: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp() / "toml"
    folder.mkdir(exist_ok=True)
    (folder / "lakeward.toml").write_bytes(text)
    with suppress(ConfigError):
        load_settings(folder, {})


@pytest.mark.parametrize(
    "text",
    ["workers = " + "9" * 5000, "a = " + "[" * 5000, 'landing_url = "a\\u0000b"',
     "lookback_days = 0x" + "F" * 9000],
    ids=range(4),
)  # fmt: skip
def test_a_settings_file_that_python_chokes_on_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "lakeward.toml").write_text(text)
    with pytest.raises(ConfigError):
        load_settings(tmp_path, {})


@many
@given(user=NASTY, password=NASTY, database=NASTY)
def test_a_password_may_have_any_character(user: str, password: str, database: str) -> None:
    url = f"postgresql://{quote(user, safe='')}:{quote(password, safe='')}@h:1/{quote(database, safe='')}"
    assert postgres_uri(url) == url  # for libpq to decode: tests/functional/test_secrets.py has one that does


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:hush/d",
        "postgres:://u:hush/d",
        "POSTGRES://u:hush@h/d",
        "postgresql://u:hush@hush@h/d",
        "postgresql://u:hush%zz@h/d",
        "postgresql://h:1,u:hush/d",
        "postgresql://u:hu sh@h/d",
    ],
)
def test_a_url_of_which_libpq_would_show_the_password_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="is not a Postgres URL"):
        postgres_uri(url)


@many
@given(
    password=st.sampled_from(
        ["", "/", "[", ":", "?", "#", "%zz", "%00", "%", "@", "&", "=", "1/", "//", ",", "]"]
    ).flatmap(
        lambda piece: st.sampled_from([f"hush{piece}hush", f"{piece}hush", f"hush{piece}", f"1{piece}hush"])
    )
    | NASTY.map("hush{}hush".format)
)
def test_no_part_of_a_password_is_in_the_error_of_a_url_that_is_none(password: str) -> None:
    with duckdb.connect() as con:
        con.execute(f"load {quote_literal(extension('postgres_scanner'))}")
        url = f"postgresql://u:{password}@127.0.0.1:1/d?connect_timeout=1"
        try:
            con.execute(f"create secret s (type postgres, uri {quote_literal(postgres_uri(url))})")
            con.execute("attach '' as x (type postgres, secret s)")
        except ConfigError as error:
            assert error.message == "catalog_url is not a Postgres URL"
            assert error.__cause__ is None
        except duckdb.Error as error:
            assert "hush" not in str(error)


@many
@given(
    text=st.binary(max_size=80) | NASTY.map(str.encode) | JSON.map(lambda value: json.dumps(value).encode())
)
def test_a_source_file_is_taken_or_refused_by_name(text: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "shop.yml")
        path.write_bytes(text)
        try:
            load_source(path)
        except ConfigError as error:
            assert str(path) in str(error)


@pytest.mark.parametrize(
    "value",
    ["!!int hunter2", "!!float hunter2", "!!bool hunter2", "!!timestamp hunter2", "*hunter2", "!hunter2",
     "hunter2: x: y", '"hunter2', "{password: hunter2", "[hunter2, x: {}}", "!!binary hunter2",
     "!!set {hunter2}", "[hunter2]", "hunter2", "@hunter2", "%hunter2", "{hunter2: {1: 2}}",
     "&hunter2 &hunter2 x"],
)  # fmt: skip
def test_nothing_of_a_source_files_configuration_is_shown(tmp_path: Path, value: str) -> None:
    path = tmp_path / "shop.yml"
    path.write_text(f"connector: a==1\nconfig: {value}\n")
    with pytest.raises(ConfigError) as caught:
        load_source(path)
    assert "hunter2" not in str(caught.value)
    assert "shop.yml" in str(caught.value)


def test_nothing_of_a_secret_setting_is_shown(tmp_path: Path) -> None:
    (tmp_path / "lakeward.toml").write_text('catalog_url = ["postgresql://u:hunter2@h/d"]')
    with pytest.raises(ConfigError, match="catalog_url") as caught:
        load_settings(tmp_path, {})
    assert "hunter2" not in str(caught.value)
    (tmp_path / "lakeward.toml").unlink()
    with pytest.raises(ConfigError, match="landing_url") as caught:
        load_settings(tmp_path, {"LAKEWARD_LANDING_URL": "s3://key:hunter2@b/x", "LAKEWARD_CATALOG_URL": "x"})
    assert "hunter2" not in str(caught.value)


@many
@given(python=WAYS)
def test_a_connector_is_installed_below_its_home_alone(python: str) -> None:
    asked: list[Path] = []
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        home = Path(folder, "home")
        patch.setattr(connector, "_install", lambda _, __, place, ___: asked.append(place))
        with suppress(ConfigError, OSError):
            install("airbyte-source-faker==7.2.1", python, home, {})
        assert {path.name for path in Path(folder).iterdir()} <= {"home"}
        assert all(path.resolve().parent == home.resolve() for path in asked)


LINES = st.fixed_dictionaries(
    {"type": st.sampled_from(["RECORD", "STATE", "TRACE", "LOG", "CATALOG", "SPEC", "CONTROL", "x"])},
    optional={
        "record": st.fixed_dictionaries(
            {
                "stream": st.sampled_from(["items", "x"]) | NASTY,
                "data": JSON,
                "emitted_at": st.integers() | st.floats(),
            }
        ),
        "state": JSON
        | st.fixed_dictionaries(
            {"type": st.sampled_from(["STREAM", "GLOBAL", "LEGACY"])},
            optional={
                "stream": st.fixed_dictionaries(
                    {"stream_descriptor": st.fixed_dictionaries({"name": NASTY})}
                ),
                "sourceStats": st.fixed_dictionaries({"recordCount": st.integers() | st.floats() | JSON}),
                "global": JSON,
            },
        ),
        "trace": JSON
        | st.fixed_dictionaries(
            {"type": st.sampled_from(["ERROR", "STREAM_STATUS", "ESTIMATE"])},
            optional={"error": JSON, "stream_status": JSON, "estimate": JSON},
        ),
        "log": JSON,
        "catalog": JSON,
        "spec": JSON,
    },
)


class _Nowhere:
    """In place of the writer: keeps nothing."""

    def stage(self, one: Extraction) -> None:
        one.spool.clear()

    def checkpoint(self, *_: object) -> None: ...


@many
@given(messages=st.lists(LINES, max_size=6), properties=st.dictionaries(NASTY, JSON, max_size=3))
def test_whatever_a_connector_says_is_taken_or_refused(
    duck: Lake, messages: list[dict[str, Any]], properties: dict[str, Any]
) -> None:
    decode = Decoder()
    try:
        made = shape({"properties": properties})
    except ConnectorError:
        return
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder, "items.ndjson"), made)
        one = Extraction(ITEMS, "incremental", None, spool, 0, None)
        reader = Reader({"items": one}, _Nowhere(), lambda _: None, was_global=False)  # type: ignore[arg-type]
        for message in messages:
            line = json.dumps(message).encode() + b"\n"
            try:
                heard = decode(line)
                if heard is not None and heard["type"] in ("RECORD", "STATE", "TRACE"):
                    reader._hear(line, heard, is_clean=decode.is_clean)
            except (ValueError, LakewardError):
                continue
        if spool.rows:
            rows = spool.rows
            path = Path(folder, "items.parquet")
            assert spool.write(duck, path, sync_id=1, generation=0) == rows
            described = duck.query(f"describe from read_parquet('{path}')")
            assert [name for name, *_ in described][4:] == list(column_names(properties))
            assert {child.name for child in Path(folder).iterdir()} == {"items.ndjson", "items.parquet"}
        spool.close()


def test_a_folder_of_a_landing_zone_is_opened_as_it_is_called(tmp_path: Path) -> None:
    odd = tmp_path / "it's [1]*"
    odd.mkdir()
    found = load_settings(tmp_path, {"LAKEWARD_LANDING_URL": str(odd)})
    assert open_landing(found).url("a") == f"{odd}/a"
