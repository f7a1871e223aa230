"""REDIS_URL: how it is taken apart, what is refused, and how it is shown."""

from __future__ import annotations

import ssl
from pathlib import Path
from urllib.parse import quote

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from core.config import load_settings
from core.config.redis_options import OWN
from core.config.redis_url import Login, check_redis_url, parse_redis_url, without_password
from core.errors import SettingsError


def test_a_url_of_a_server_is_taken_apart() -> None:
    address = parse_redis_url("redis://me:p%40ss@host:1/2?health_check_interval=30")
    assert (address.hosts, address.db) == ((("host", 1),), 2)
    assert address.login == Login("me", "p@ss")
    assert address.options == {"health_check_interval": 30}
    assert not address.tls
    assert parse_redis_url("rediss://").hosts == (("localhost", 6379),)
    assert parse_redis_url("REDISS://:x@:7/").hosts == (("localhost", 7),)
    assert parse_redis_url("redis://[::1]:7").hosts == (("::1", 7),)
    assert parse_redis_url("redis://host?db=3&username=me&password=a%26b") == parse_redis_url(
        "redis://me:a&b@host/3"
    )


def test_a_url_of_a_unix_socket_is_taken_apart() -> None:
    address = parse_redis_url("unix://me:secret@/run/re%20dis.sock?db=1")
    assert (address.path, address.db, address.hosts) == ("/run/re dis.sock", 1, ())
    assert address.login == Login("me", "secret")


def test_a_url_of_sentinels_is_taken_apart() -> None:
    address = parse_redis_url("redis+sentinel://a:1,b,[::1]:3/pictures/2")
    assert address.hosts == (("a", 1), ("b", 26379), ("::1", 3))
    assert (address.service, address.db, address.login) == ("pictures", 2, Login())
    assert address.is_sentinel
    address = parse_redis_url(
        "rediss+sentinel://me:p%40ss@a/s?sentinel_username=it&sentinel_password=o%26ther"
    )
    assert (address.tls, address.db) == (True, 0)
    assert (address.login, address.sentinel_login) == (Login("me", "p@ss"), Login("it", "o&ther"))


@pytest.mark.parametrize("rest", ["a:1", "a:1/", "a:port/s", "a:1,,b/s", "a/s/x", "/s"])
def test_a_url_of_sentinels_that_is_not_one_is_refused(rest: str) -> None:
    with pytest.raises(ValueError, match=r"service|host:port"):
        parse_redis_url(f"redis+sentinel://{rest}")


@pytest.mark.parametrize("secret", ["s#3cr", "s/3cr", "s?3cr", "s?3cr=1&x", "s@/3cr", "s?db=3&cr"])
@pytest.mark.parametrize("user", ["", "me"])
@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+sentinel"])
def test_a_password_that_must_be_encoded_is_refused_and_not_printed(
    monkeypatch: pytest.MonkeyPatch, scheme: str, user: str, secret: str
) -> None:
    rest = "host:6379/service" if "sentinel" in scheme else "host:6379/0"
    monkeypatch.setenv("REDIS_URL", f"{scheme}://{user}:{secret}@{rest}")
    with pytest.raises(SettingsError, match=r"^REDIS_URL=.*percent-encode") as caught:
        load_settings()
    shown = str(caught.value).partition(" (REDIS_URL is: ")[0]
    for part in ("3cr", "s#", "s/", "s?", "s@", "me:", "=3"):
        assert part not in shown.replace("redis://", "").replace("rediss://", ""), shown
    url = f"{scheme}://{user}:{quote(secret, safe='')}@{rest}"
    assert parse_redis_url(url).login == Login(user or None, secret)


@pytest.mark.parametrize(
    "url",
    [
        "redis://12?secret=x@host",
        "redis://:12?db=1@host",
        "redis://default:secret",
        "redis://secret/3cr@host",
        "redis://host?password=a&secret=b",
        "redis://host?password=a&secret",
        "redis://host?passwort=secret",
        "redis://host/0?username=secret",
        "http://user:secret@redis",
        "user:secret@redis:6379",
        "unix://me:s/secret@/run/redis.sock",
        "redis://:%FCsecret@host?nothing=1",
        "redis+sentinel://a,b:secret/s/0/x",
        "redis+sentinel://a/s?sentinel_username=secret&nothing=1",
        "rediss://h?ssl_password=se&secret&nothing=1",
    ],
)
def test_no_part_of_a_password_is_printed_with_a_url_that_is_refused(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("REDIS_URL", f"{url}" if "=secret" not in url else f"{url}&nothing=1")
    with pytest.raises(SettingsError, match=r"^REDIS_URL=") as caught:
        load_settings()
    for part in ("secret", "3cr", ":12", "//12"):
        assert part not in str(caught.value)


def test_a_password_is_taken_out_of_any_url() -> None:
    assert without_password("rediss://:secret@host/1") == "rediss://***@host/1"
    assert without_password("redis+sentinel://u:p@a,b/s") == "redis+sentinel://***@a,b/s"
    assert without_password("redis://u:p/a@ss@host:1/0") == "redis://***@host:1/0"
    assert without_password("redis://u:p\n@host:1/0") == "redis://***@host:1/0"
    assert without_password("unix:///s?password=a@b&db=1") == "unix:///s?password=***&db=1"
    assert without_password("redis://host?password=secret&db=1") == "redis://host?password=***&db=1"
    assert without_password("redis://host:1?p%61ssword=secret") == "redis://host:1?***"
    for good in ("redis://host:6379/0", "unix:///a@b.sock", "redis+sentinel://a:1,[::1]:2/s"):
        assert without_password(f"redis at {good}: is it up?") == f"redis at {good}: is it up?"


@pytest.mark.parametrize(
    "name",
    [
        "password", "ssl_password", "SSL_Password", "sentinel_password", "username",
        "sentinel_username", "ssl_keyfile_password", "token",
    ],
)  # fmt: skip
def test_a_secret_of_any_name_is_taken_out_of_the_query(name: str) -> None:
    url = f"rediss://host:1/0?ssl_keyfile=/key.pem&{name}=it's%20s@fe&db=1"
    left = "***" if name in ("ssl_keyfile_password", "token") else f"{name}=***"
    shown = f"rediss://host:1/0?ssl_keyfile=/key.pem&{left}&db=1"
    assert without_password(url.replace("@", "%40")) == shown
    assert "s@" not in without_password(url)
    assert "fe" not in without_password(url).replace("keyfile", "")
    assert without_password(f"redis at {url}, and more").endswith("&db=1, and more")


@pytest.mark.parametrize("name", sorted(OWN))
@pytest.mark.parametrize("host", ["redis://host", "redis+sentinel://host/s"])
def test_options_that_the_worker_sets_itself_have_no_effect(name: str, host: str) -> None:
    address = parse_redis_url(f"{host}?{name}=1&client_name=me")
    assert (address.ignored, address.options) == ((name,), {"client_name": "me"})


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("redis://h?visibility_timeout=9", "the option visibility_timeout is unknown"),
        ("rediss://h?ssl_ca_cert=/x", "ssl_ca_cert is unknown (is ssl_ca_certs meant?)"),
        ("redis://h?ssl=true", "the option ssl is unknown (TLS is in the scheme: rediss://"),
        ("redis://h?host=other", "the host stands before the ?"),
        ("rediss://h?ssl_validate_ocsp=1", "the option ssl_validate_ocsp is unknown"),
        ("rediss://h?ssl_cert_reqs=CERT_NONE", "ssl_cert_reqs must be none, optional or required"),
        ("rediss://h?ssl_check_hostname=maybe", "ssl_check_hostname must be true or false"),
        ("rediss://h?ssl_min_version=SSLv3", "ssl_min_version must be TLSv1_2 or TLSv1_3"),
        ("rediss://h?ssl_include_verify_flags=X", "ssl_include_verify_flags must be some of"),
        ("rediss://h?ssl_ca_certs=/no/file", "ssl_ca_certs cannot be used: No such file"),
        ("rediss://h?ssl_ca_path=/no/folder", "ssl_ca_path cannot be used: No such file"),
        ("rediss://h?ssl_ca_data=none", "ssl_ca_data cannot be used"),
        ("rediss://h?ssl_ciphers=none", "ssl_ciphers cannot be used"),
        ("rediss://h?ssl_certfile=/no/file", "ssl_certfile cannot be used: No such file"),
        ("rediss://h?ssl_keyfile=/no/file", "the option ssl_keyfile needs ssl_certfile too"),
        ("redis://h?ssl_ca_certs=/x", "ssl_ca_certs needs TLS: rediss://"),
        ("redis+sentinel://h/s?ssl_ca_certs=/x", "ssl_ca_certs needs TLS"),
        ("rediss+sentinel://h/s?ssl_ca_certs=/no/file", "ssl_ca_certs cannot be used"),
        ("redis://h?sentinel_password=x", "sentinel_password needs redis+sentinel://"),
        ("redis+sentinel://h/s?sentinel_username=x", "sentinel_username needs sentinel_password"),
        ("redis://h?db=one", "the option db must be a whole number"),
        ("redis://h/1?db=2", "the database and the option db are two different numbers"),
        ("redis://h?db=1&db=2", "the option db is there twice"),
        ("redis://a:b@h?password=c", "user and password are there twice"),
        ("redis://h/pictures", "must be the number of the database"),
        ("redis://h?socket_keepalive=x", "socket_keepalive must be true or false"),
        ("redis://h?client_name=a%20b", "client_name must be ASCII without spaces"),
        ("redis://:%FC@h", "is not UTF-8: percent-encode its UTF-8 bytes"),
        ("redis://h:99999", "a host is not host:port"),
        ("unix://run/redis.sock", "unix:///path/redis.sock"),
    ],
)
def test_an_unknown_or_impossible_option_is_refused_by_name(url: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        check_redis_url(url)
    assert complaint in str(caught.value)


def test_a_key_without_its_password_is_refused_and_never_asked_for(tmp_path: Path) -> None:
    mine = trustme.CA().issue_cert("me")
    key = load_pem_private_key(mine.private_key_pem.bytes(), None)
    locked = key.private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"sec&ret")
    )
    (tmp_path / "key.pem").write_bytes(locked)
    mine.cert_chain_pems[0].write_to_path(str(tmp_path / "me.pem"))
    url = f"rediss://h?ssl_certfile={tmp_path}/me.pem&ssl_keyfile={tmp_path}/key.pem"
    check_redis_url(f"{url}&ssl_password=sec%26ret")
    for end in ("", "&ssl_password=other"):
        with pytest.raises(ValueError, match=r"^ssl_certfile, ssl_keyfile.* cannot be used") as it:
            check_redis_url(f"{url}{end}")
        assert "other" not in str(it.value)


def test_options_of_tls_are_read(tmp_path: Path) -> None:
    authority = trustme.CA()
    mine = authority.issue_cert("me")
    mine.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "me.pem"))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    url = (
        f"rediss://h?ssl_ca_certs={tmp_path}/ca.pem&ssl_ca_path={tmp_path}&ssl_cert_reqs=NONE"
        f"&ssl_certfile={tmp_path}/me.pem&ssl_check_hostname=False&ssl_min_version=TLSv1.3"
        f"&ssl_ciphers=HIGH&ssl_exclude_verify_flags=[VERIFY_X509_STRICT]&ssl_keyfile="
    )
    check_redis_url(url)
    assert parse_redis_url(url).options == {
        "ssl_ca_certs": f"{tmp_path}/ca.pem",
        "ssl_ca_path": str(tmp_path),
        "ssl_cert_reqs": "none",
        "ssl_certfile": f"{tmp_path}/me.pem",
        "ssl_check_hostname": False,
        "ssl_min_version": ssl.TLSVersion.TLSv1_3,
        "ssl_ciphers": "HIGH",
        "ssl_exclude_verify_flags": [ssl.VerifyFlags.VERIFY_X509_STRICT],
    }
    assert parse_redis_url("rediss://h?ssl_min_version=771").options == {
        "ssl_min_version": ssl.TLSVersion.TLSv1_2
    }
