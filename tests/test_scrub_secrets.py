"""Secrets are replaced wherever they stand, and little else is."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reskill_jax.scrub import MARK, environment_secrets, scrub, scrub_all

SECRETS = [
    "sk-proj-abcdefgh12345678",
    "hf_abcdefghijklmnop",
    "ghp_abcdefghijklmnop1234",
    "github_pat_abcdefghijklmnop1234",
    "xoxb-1234567890-abc",
    "AKIAABCDEFGHIJKLMNOP",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3.c2lnbmF0dXJl",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIabc\n-----END RSA PRIVATE KEY-----",
]


@pytest.mark.parametrize("secret", SECRETS)
def test_what_looks_like_a_secret_is_replaced(secret):
    assert scrub(f"before {secret} after") == f"before {MARK} after"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("https://me:hunter2@host/x", f"https://me:{MARK}@host/x"),
        ("https://opensesame@host/x", f"https://{MARK}@host/x"),
        ("Authorization: Basic abcdef123", f"Authorization: Basic {MARK}"),
        ("Authorization: Bearer abcdef.123", f"Authorization: Bearer {MARK}"),
        ('{"api_key": "0123456789"}', f'{{"api_key": "{MARK}"}}'),
        ("?token=0123456789&x=1", f"?token={MARK}&x=1"),
        ("MY_PASSWORD=correct-horse", f"MY_PASSWORD={MARK}"),
    ],
)
def test_what_stands_after_a_telling_word_is_replaced(text, wanted):
    assert scrub(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "go to desk 1",
        "Basic knowledge of an api_key_variable",
        "max_tokens: 512, prompt_tokens=1234567",
        "SELECT key FROM songs WHERE name = 'A major'",
        "https://host:8000/path@2x",
        "a task-12345678 of risk-averse people",
        "api_key_variable: OPENAI_API_KEY",
    ],
)
def test_ordinary_text_stays(text):
    assert scrub(text) == text


def test_values_of_the_environment_are_found_by_name_and_replaced():
    environ = {
        "MY_API_KEY": "correct horse/battery",
        "MY_TOKEN": "correct horse/battery staple",
        "DB_PASSWORD": "abc",  # too short to be one
        "TOKENIZERS_PARALLELISM": "falsehood",
        "HOME": "/home/somebody",
    }
    secrets = environment_secrets(environ)
    assert secrets == ("correct horse/battery staple", "correct horse/battery")
    assert scrub("correct horse/battery staple", secrets) == MARK
    assert scrub("x=correct%20horse%2Fbattery", secrets) == f"x={MARK}"
    assert scrub("/home/somebody", secrets) == "/home/somebody"


@given(
    st.text(min_size=1).filter(lambda text: text not in MARK),
    st.text(),
    st.text(),
)
def test_a_given_secret_never_stays(secret, before, after):
    """Also where longer secrets hold shorter ones."""
    assert secret not in scrub(before + secret + after, [secret]).replace(MARK, "")
    longer = secret + "0"
    assert scrub(longer, [secret, longer]) == MARK


def test_documents_stay_documents():
    document = {"a": ["Bearer 0123456", 1, None, {"token": "x", "n": 2.5}], "b": True}
    found = scrub_all(document, ["True"])
    assert found == {"a": [f"Bearer {MARK}", 1, None, {"token": MARK, "n": 2.5}]} | {
        "b": True
    }
    assert json.loads(json.dumps(found)) == found
