"""No secret gets into what people send to others."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reskill_jax.scrub import anonymous, hide_secrets

ALPHABET = st.sampled_from("abcXYZ0189-_")
SECRETS = [
    "sk-proj-0123456789abcdef",
    "hf_abcdefghijklmnop",
    "ghp_0123456789abcdefghij",
    "AKIA0123456789ABCDEF",
    "AIzaSyA0123456789abcdefghijklmn",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
    "0123456789abcdef0123456789abcdef0123",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_keys_are_known_by_their_looks(secret):
    for text in (f"refused {secret}: why", f'{{"x": "{secret}"}}', secret):
        assert secret not in hide_secrets(text, {})
        assert "***" in hide_secrets(text, {})


@pytest.mark.parametrize(
    "text",
    [
        "https://me:opensesame@host/v1",
        "https://opensesame@host/v1",
        "https://host/v1?token=opensesame&n=1",
        "Authorization: Bearer opensesame",
        "Authorization: Basic opensesame",
        '{"api_key": "opensesame"}',
        "password = 'opensesame'",
        "-----BEGIN PRIVATE KEY-----\nopensesame\n-----END PRIVATE KEY-----",
        "-----BEGIN RSA PRIVATE KEY-----\nopensesame and no end",
    ],
)
def test_values_are_known_by_where_they_stand(text):
    assert "opensesame" not in hide_secrets(text, {})


@given(st.text(ALPHABET, min_size=8), st.text(max_size=20), st.text(max_size=20))
def test_no_value_of_a_telling_variable_is_left(value, before, after):
    environment = {"MY_SERVICE_TOKEN": value}
    hidden = hide_secrets(before + value + after, environment)
    # The rest may hold it by chance only if it holds it alone.
    assert value not in hidden or value in "$MY_SERVICE_TOKEN"


def test_a_variable_that_the_configuration_names_is_a_secret():
    environment = {"LAB": "open sesame", "WORD": "harmless"}
    text = "open sesame is harmless"
    assert hide_secrets(text, environment) == text
    assert hide_secrets(text, environment, ("LAB",)) == "$LAB is harmless"


def test_what_a_report_needs_stays():
    text = (
        "config.policy.path='random:tiny': jax 0.10.2, jax-cuda13-plugin 0.10.2; "
        "16384 tokens in 3.1 s; /tmp/a/b.py, line 12, in update; 0.03 nats"
    )
    assert hide_secrets(text, {}) == text


def test_a_report_does_not_tell_who_and_where(monkeypatch):
    monkeypatch.setenv("LOGNAME", "marianne")
    monkeypatch.setenv("MY_API_KEY", "open sesame")
    host = os.uname().nodename
    text = f"{Path.home()}/runs of marianne on {host}: open sesame"
    hidden = anonymous(text)
    assert hidden == "~/runs of USER on HOST: $MY_API_KEY" or len(host) < 4
