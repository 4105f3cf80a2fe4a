from __future__ import annotations

from pathlib import Path

import pytest

from lakeward.errors import ConfigError
from lakeward.settings import find_project, load_settings


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "orchestration"
    (folder / "dag").mkdir(parents=True)
    (folder / "dbt_project.yml").touch()
    return folder


def test_everything_has_a_default_below_the_lakes_root(project: Path) -> None:
    settings = load_settings(project, {})
    assert settings.landing_url == str(project.parent / ".lake" / "landing")
    assert settings.data_url == str(project.parent / ".lake" / "data")
    assert settings.catalog_url is None


def test_the_environment_overrides_the_file(project: Path) -> None:
    (project / "lakeward.toml").write_text('landing_url = "here"\nlookback_days = 7\n')
    settings = load_settings(project, {"LAKEWARD_LANDING_URL": "s3://bucket/zone/"})
    assert settings.landing_url == "s3://bucket/zone"
    assert settings.lookback_days == 7


def test_an_unknown_key_names_the_nearest_and_lists_the_known(project: Path) -> None:
    (project / "lakeward.toml").write_text("lookback_day = 7\n")
    with pytest.raises(ConfigError, match='did you mean "lookback_days"') as caught:
        load_settings(project, {})
    assert "batch_max_bytes" in str(caught.value)
    assert "lakeward.toml" in str(caught.value)


def test_an_unknown_variable_says_that_it_is_one(project: Path) -> None:
    with pytest.raises(ConfigError, match="LAKEWARD_LOOKBACK_DAY"):
        load_settings(project, {"LAKEWARD_LOOKBACK_DAY": "7"})


def test_a_wrong_type_names_the_key(project: Path) -> None:
    with pytest.raises(ConfigError, match="lookback_days"):
        load_settings(project, {"LAKEWARD_LOOKBACK_DAYS": "soon"})


@pytest.mark.parametrize(
    ("landing", "data"),
    [
        ("s3://b/raw", "s3://b/raw"),
        ("s3://b/raw", "s3://b/raw/lake"),
        ("s3://b/lake/raw/", "s3://b/lake"),
        (".lake/data/landing", ".lake/data"),
        ("a", "b/../a/x"),
    ],
)
def test_landing_zone_and_data_path_may_not_contain_one_another(
    project: Path, landing: str, data: str
) -> None:
    with pytest.raises(ConfigError, match="contain one another"):
        load_settings(project, {"LAKEWARD_LANDING_URL": landing, "LAKEWARD_DATA_URL": data})


@pytest.mark.parametrize("url", ["file:///a%20b/landing", "file://localhost/a b/landing", "/a b/landing"])
def test_a_folder_may_be_a_file_url(project: Path, url: str) -> None:
    assert load_settings(project, {"LAKEWARD_LANDING_URL": url}).landing_url == "/a b/landing"


def test_a_folder_of_another_machine_is_refused(project: Path) -> None:
    with pytest.raises(ConfigError, match="landing_url names a folder of another") as caught:
        load_settings(project, {"LAKEWARD_LANDING_URL": "file://me:hush@nas/landing"})
    assert "hush" not in str(caught.value)


def test_a_secret_is_set_once(project: Path, tmp_path: Path) -> None:
    (tmp_path / "url").write_text("postgresql://from@file/lake")
    once = {"LAKEWARD_CATALOG_URL_FILE": str(tmp_path / "url"), "LAKEWARD_CATALOG_URL": ""}
    assert load_settings(project, once).catalog_url is not None
    with pytest.raises(ConfigError, match="LAKEWARD_CATALOG_URL and LAKEWARD_CATALOG_URL_FILE are both set"):
        load_settings(project, once | {"LAKEWARD_CATALOG_URL": "postgresql://from@variable/lake"})


def test_a_password_in_a_servers_address_is_refused_without_it(project: Path) -> None:
    with pytest.raises(ConfigError, match="airbyte_password") as caught:
        load_settings(project, {"LAKEWARD_AIRBYTE_URL": "https://me:hush@airbyte.acme.example"})
    assert "hush" not in str(caught.value)


def test_prefixes_that_only_look_alike_are_fine(project: Path) -> None:
    load_settings(project, {"LAKEWARD_LANDING_URL": "s3://b/raw", "LAKEWARD_DATA_URL": "s3://b/raw2"})


def test_secrets_do_not_show(project: Path) -> None:
    settings = load_settings(
        project,
        {"AWS_SECRET_ACCESS_KEY": "hush", "LAKEWARD_CATALOG_URL": "postgresql://u:hush@h/d"},
    )
    assert "hush" not in repr(settings)


AZURE = {"LAKEWARD_LANDING_URL": "az://zone/landing/", "LAKEWARD_DATA_URL": "az://zone/data"}


def test_an_account_on_azure_is_said_apart_or_in_a_connection_string(project: Path) -> None:
    apart = {"AZURE_STORAGE_ACCOUNT_NAME": "acme", "AZURE_STORAGE_ACCOUNT_KEY": "a2V5=="}
    settings = load_settings(project, AZURE | apart)
    assert settings.landing_url == "az://zone/landing"
    assert settings.azure.endpoint_url == "https://acme.blob.core.windows.net"
    one = "DefaultEndpointsProtocol=https;AccountName=acme;AccountKey=a2V5==;EndpointSuffix=core.windows.net"
    assert load_settings(project, AZURE | {"AZURE_STORAGE_CONNECTION_STRING": one}).azure == settings.azure

    portal = "BlobEndpoint=https://acme.blob.core.windows.net/;SharedAccessSignature=sv=1&sig=a%2Bb="
    environ = {"AZURE_STORAGE_CONNECTION_STRING": portal, "AZURE_STORAGE_ACCOUNT_NAME": "acme"}
    azure = load_settings(project, AZURE | environ).azure
    assert azure.sas_token is not None
    assert azure.sas_token.get_secret_value() == "sv=1&sig=a%2Bb="
    assert (azure.endpoint_url, azure.account_key) == (settings.azure.endpoint_url, None)
    left_over = environ | {"AZURE_STORAGE_ACCOUNT_KEY": "a2V5=="}
    assert load_settings(project, AZURE | left_over).azure == azure


@pytest.mark.parametrize(
    ("told", "remedy"),
    [
        ("", "AZURE_STORAGE_ACCOUNT_NAME"),
        ("UseDevelopmentStorage=true", "AZURE_STORAGE_ACCOUNT_NAME"),
        ("AccountName=a/b;AccountKey=aHVzaA==", "AZURE_STORAGE_ACCOUNT_NAME"),
        ("AccountName=acme;BlobEndpoint=https://acme.example/?sv=1&sig=hush", "BlobEndpoint"),
        ("AccountName=acme;BlobEndpoint=https://acme:hush@acme.example", "BlobEndpoint"),
        ("AccountName=acme;EndpointSuffix=example/hush?", "BlobEndpoint"),
        ("AccountName=acme;AccountKey=aHVzaA==;BlobEndpoint=http://acme.example:65536", "BlobEndpoint"),
        ("AccountName=acme;BlobEndpoint=https://10.0.0.5", "BlobEndpoint"),
    ],
)
def test_an_account_that_cannot_be_one_is_refused_where_azure_is_used(
    project: Path, told: str, remedy: str
) -> None:
    environ = {"AZURE_STORAGE_CONNECTION_STRING": told}
    load_settings(project, environ)
    with pytest.raises(ConfigError, match=remedy) as caught:
        load_settings(project, AZURE | environ)
    assert "hush" not in str(caught.value)
    assert "aHVzaA" not in str(caught.value)


def test_azures_secrets_do_not_show(project: Path) -> None:
    one = "AccountName=acme;AccountKey=aHVzaA==;SharedAccessSignature=sv=1&sig=hush"
    settings = load_settings(project, AZURE | {"AZURE_STORAGE_CONNECTION_STRING": one})
    for text in (repr(settings), settings.model_dump_json()):
        assert not [secret for secret in ("aHVzaA", "hush") if secret in text]


def test_the_project_is_found_from_the_root_and_from_inside(project: Path) -> None:
    for start in (project.parent, project, project / "dag"):
        assert find_project(start) == project


def test_no_project_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no lake found"):
        find_project(tmp_path)
