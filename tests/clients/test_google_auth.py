"""POST /client/google-auth/, with an RSA key of our own behind GOOGLE_CERTS_URL."""

import base64
import json
import threading
import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID
from django.db import connections
from google.auth import crypt, jwt
from rest_framework.test import APIClient

from clients import google, keys
from clients.models import Client
from tests.clients.conftest import ODD_VALUES, PASSWORD

PATH = "/client/google-auth/"
OUR_ID = "our-app.apps.googleusercontent.com"


class Signer:
    """A key pair: the certificate for the marketplace, the private key for what claims to be Google."""

    def __init__(self, key_id: str) -> None:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .sign(key, hashes.SHA256())
        )
        self.certificate = certificate.public_bytes(serialization.Encoding.PEM).decode()
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
        self._signer = crypt.RSASigner.from_string(pem, key_id)

    def token(self, **changes):
        claims = {
            "iss": "https://accounts.google.com",
            "aud": OUR_ID,
            "sub": "1234567890",
            "email": "dora@example.com",
            "email_verified": True,
            "picture": "https://lh3.googleusercontent.com/a/dora",
            "iat": int(time.time()) - 5,
            "exp": int(time.time()) + 3600,
        } | changes
        claims = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(self._signer, claims).decode()


@pytest.fixture(scope="session")
def real():
    return Signer("key-1")


@pytest.fixture(scope="session")
def forged():
    return Signer("key-1")


@pytest.fixture
def certificates(real, settings):
    """A server of certificates, as Google's; `served` can be changed, `reads` counts."""
    state = SimpleNamespace(served={"key-1": real.certificate}, reads=0, status=200)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            state.reads += 1
            self.send_response(state.status)
            self.send_header("Cache-Control", "public, max-age=3600")
            self.end_headers()
            self.wfile.write(json.dumps(state.served).encode())

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    settings.GOOGLE_CERTS_URL = f"http://127.0.0.1:{server.server_port}/certs"
    settings.GOOGLE_CLIENT_IDS = ["other-app", OUR_ID]
    google.certificates.cache_clear()
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def sign_in(certificates, api, db):
    return lambda token: api().post(PATH, {"token": token})


def test_the_first_time_opens_an_account(sign_in, real, holder):
    reply = sign_in(real.token())
    assert reply.status_code == 201
    dora = Client.objects.get()
    body = reply.json()
    assert set(body) == {"token", "device_token", "username", "user_id", "profile_image_url"}
    assert (body["username"], body["user_id"]) == ("dora", dora.pk)
    assert body["profile_image_url"] == "https://lh3.googleusercontent.com/a/dora"
    assert (dora.email, dora.google_subject) == ("dora@example.com", "1234567890")
    assert dora.email_confirmed_at is not None
    assert not dora.has_usable_password()
    assert holder(f"Token {body['token']}").get("/client/list/").status_code == 200


def test_the_next_time_is_the_same_account_also_with_a_new_address(sign_in, real):
    first = sign_in(real.token()).json()
    second = sign_in(real.token(email="dora@new.example.com")).json()
    assert first["user_id"] == second["user_id"]


def test_a_username_in_use_is_not_in_the_way(sign_in, real, alice):
    reply = sign_in(real.token(email="alice@gmail.example.com"))
    assert reply.status_code == 201
    assert reply.json()["user_id"] != alice.pk
    assert reply.json()["username"].startswith("alice-")


def test_the_same_confirmed_address_is_the_same_person_who_loses_nothing(sign_in, real, alice, login, holder):
    Client.objects.update(email_confirmed_at=datetime.now(UTC))
    key, device = keys.create(alice, name="k").key, login(alice)["token"]
    assert sign_in(real.token(email="Alice@example.com")).json()["user_id"] == alice.pk
    assert holder(f"Bearer {key}").get("/client/list/").status_code == 200
    assert holder(f"Token {device}").get("/client/list/").status_code == 200
    login(alice)


def test_whoever_opened_an_account_with_somebody_elses_address_is_thrown_out(
    sign_in, real, alice, login, holder
):
    key, device = keys.create(alice, name="k").key, login(alice)["token"]
    body = sign_in(real.token(email="alice@example.com")).json()
    assert body["user_id"] == alice.pk
    for header in (f"Bearer {key}", f"Token {device}"):
        assert holder(header).get("/client/list/").status_code == 401
    assert APIClient().post("/client/login/", {"email": alice.email, "password": PASSWORD}).status_code == 401
    assert holder(f"Token {body['token']}").get("/client/list/").status_code == 200


def test_an_address_that_moved_to_another_google_account_does_not_open_the_old_one(sign_in, real):
    sign_in(real.token())
    reply = sign_in(real.token(sub="another"))
    assert reply.status_code == 401
    assert Client.objects.count() == 1


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"aud": "somebody-elses-app"}, "bad_google_token"),
        ({"aud": [OUR_ID]}, "bad_google_token"),
        ({"iss": "https://evil.example.com"}, "bad_google_token"),
        ({"iss": None}, "bad_google_token"),
        ({"exp": int(time.time()) - 60}, "bad_google_token"),
        ({"iat": int(time.time()) + 600}, "bad_google_token"),
        ({"sub": None}, "bad_google_token"),
        ({"email": None}, "bad_google_token"),
        ({"email_verified": False}, "email_not_verified"),
        ({"email_verified": None}, "email_not_verified"),
    ],
)
def test_what_google_did_not_say_to_us_is_refused(sign_in, real, changes, code):
    reply = sign_in(real.token(**changes))
    assert reply.status_code == 401
    assert reply.json()["code"] == code
    assert not Client.objects.exists()


def test_what_google_did_not_sign_is_refused(sign_in, forged):
    assert sign_in(forged.token()).status_code == 401


@pytest.mark.parametrize("algorithm", ["none", "HS256", "ES256", None, []])
def test_other_ways_to_sign_are_refused(sign_in, real, algorithm):
    _, payload, signature = real.token().split(".")
    header = (
        base64.urlsafe_b64encode(json.dumps({"alg": algorithm, "kid": "key-1"}).encode()).decode().rstrip("=")
    )
    assert sign_in(f"{header}.{payload}.{signature}").status_code == 401
    assert sign_in(f"{header}.{payload}.").status_code == 401


@pytest.mark.parametrize("value", [*ODD_VALUES, "a.b.c", "..", "e30.e30.e30", "é.é.é"])
def test_odd_values_are_the_callers_mistake(sign_in, value):
    assert sign_in(value).status_code in (400, 401)


def test_certificates_are_read_once_and_again_for_a_new_key(sign_in, real, certificates, monkeypatch):
    for _ in range(3):
        assert sign_in(real.token()).status_code == 201
    assert certificates.reads == 1
    new = Signer("key-2")
    certificates.served["key-2"] = new.certificate
    assert sign_in(new.token()).status_code == 401
    assert certificates.reads == 1
    monkeypatch.setattr(google, "REFETCH_AFTER_S", 0)
    assert sign_in(new.token()).status_code == 201


@pytest.mark.parametrize("broken", [{"status": 500}, {"served": "no certificates"}, {"served": []}])
def test_google_away_is_said_so_and_not_asked_at_once_again(sign_in, real, certificates, broken):
    vars(certificates).update(broken)
    for _ in range(2):
        reply = sign_in(real.token())
        assert reply.status_code == 503
        assert int(reply["Retry-After"]) >= 1
    assert certificates.reads == 1


def test_where_it_is_not_set_up_nothing_is_accepted(sign_in, real, settings):
    settings.GOOGLE_CLIENT_IDS = []
    reply = sign_in(real.token())
    assert reply.status_code == 400
    assert reply.json()["code"] == "google_not_set_up"


def test_a_blocked_account_stays_blocked(sign_in, real):
    sign_in(real.token())
    Client.objects.update(is_active=False)
    assert sign_in(real.token()).status_code == 401


@pytest.mark.django_db(transaction=True)
def test_two_first_times_at_the_same_moment_are_one_account(certificates, real):
    answers, together = [], threading.Barrier(2)

    def sign_in():
        together.wait()
        answers.append(APIClient().post(PATH, {"token": real.token()}))
        connections.close_all()

    threads = [threading.Thread(target=sign_in) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [201, 201]
    assert Client.objects.count() == 1
