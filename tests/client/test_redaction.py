"""Secrets in texts: whole or in part, in every form in which a server may repeat them."""

import base64
import html
import json
import re
import time
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_agentforce.redaction import Redactor, forms

SECRET = 'a+b/c "d"&=e<f>'
TOKEN = f"eyJhbGciOiJSUzI1NiJ9.{'Zm9vYmFy-_' * 12}.c2ln"
RUN = 8


def lower(percent_encoded):
    return re.sub("%..", lambda escape: escape[0].lower(), percent_encoded)


def base64_of(text, *, url=False, padded=True):
    encoded = (base64.urlsafe_b64encode if url else base64.b64encode)(text.encode()).decode()
    return encoded if padded else encoded.rstrip("=")


@pytest.mark.parametrize(
    "written",
    [
        SECRET,
        quote(SECRET, safe=""),
        lower(quote(SECRET, safe="")),
        quote_plus(SECRET),
        "".join(f"%{ord(char):02x}" for char in SECRET),
        quote(quote(SECRET, safe=""), safe=""),
        html.escape(SECRET),
        "".join(f"&#{ord(char)};" for char in SECRET),
        "".join(f"&#x{ord(char):X};" for char in SECRET),
        "a&plus;b&sol;c &quot;d&quot;&amp;&equals;e&lt;f&gt;",
        json.dumps(SECRET)[1:-1],
        json.dumps(SECRET)[1:-1].replace("/", "\\/"),
        json.dumps(json.dumps(SECRET)[1:-1])[1:-1],
        SECRET.replace("+", "\\u002b").replace("=", "\\u003D"),
        html.escape(json.dumps(SECRET)[1:-1]),
        base64_of(SECRET),
        base64_of(SECRET, padded=False),
        quote(base64_of(SECRET), safe=""),
        SECRET[2:10],
        f"{SECRET}{SECRET}",
    ],
)
def test_secret_is_masked_in_every_form(written):
    said = Redactor([SECRET]).redact(f"The value <{written}> is wrong")
    assert said == "The value <***> is wrong"


@pytest.mark.parametrize("kept", [140, 9, 8])
def test_beginning_of_a_token_is_masked(kept):
    redactor = Redactor()
    redactor.add(TOKEN)
    assert redactor.redact(f"bad token {TOKEN[:kept]}...") == "bad token ***..."


def test_ids_are_shown_that_share_characters_with_the_org_id_in_an_opaque_token():
    redactor = Redactor()
    redactor.add("00D5e000000HEvZ!AQcAQH0dMHZfz9Tg6UHgbs2")
    said = "agent 0Xx5e000000XyZ1AAK of org 00D5e000000HEvZ; token 00D5e000000HEvZ!AQcAQH0dMHZfz9Tg6UHgbs2"
    assert (
        redactor.redact(said) == "agent 0Xx5e000000XyZ1AAK of org 00D5e000000HEvZ; token 00D5e000000HEvZ!***"
    )
    assert "AQcAQH0d" not in redactor.redact("the part AQcAQH0dMHZf alone")


@pytest.mark.parametrize("key", ["", "k", "ke", "key", "3MVG9.consumer_key"])
@pytest.mark.parametrize("url", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_secret_is_masked_where_it_stands_in_base64(key, url, padded):
    secret = "s3cr3t?s3cr3t>s3cr3t"
    said = Redactor([secret]).redact(base64_of(f"{key}:{secret}", url=url, padded=padded))
    assert said.endswith("***")
    assert len(said) <= len(base64_of(f"{key}:")) + len("***")


@pytest.mark.parametrize(
    ("secret", "text", "said"),
    [
        ("consumer-secret", "the consume is unknown", "the consume is unknown"),
        ("consumer-secret", "the consumer- is unknown", "the *** is unknown"),
        ("s3c", "is s3c or %733c or s3", "is *** or *** or s3"),
        ("s3cr3t", base64_of("id:s3cr3t"), "aWQ6***"),
        ("", "nothing to hide", "nothing to hide"),
        ("s3cr3t-s3cr3t", "", ""),
        ("s3cr3t-s3cr3t", "100 % of &c; \\", "100 % of &c; \\"),
    ],
)
def test_only_a_run_of_eight_or_a_whole_short_secret_is_masked(secret, text, said):
    assert Redactor([secret]).redact(text) == said


def test_lasting_secrets_and_the_last_tokens_are_masked():
    redactor = Redactor(["lasting-secret"])
    for number in range(10):
        redactor.add(f"token-number-{number}")
        redactor.add(f"token-number-{number}")
    assert redactor.redact("lasting-secret token-number-9 other") == "*** *** other"


def test_forms_for_a_log_are_whole():
    assert {
        SECRET,
        "a%2Bb%2Fc%20%22d%22%26%3De%3Cf%3E",
        "a%2bb%2fc%20%22d%22%26%3de%3cf%3e",
        "a%2Bb%2Fc+%22d%22%26%3De%3Cf%3E",
        'a+b/c \\"d\\"&=e<f>',
        "a+b/c &quot;d&quot;&amp;=e&lt;f&gt;",
        base64_of(SECRET),
        base64_of(SECRET, padded=False),
        base64_of(f"key:{SECRET}"),
        base64_of(f"key:{SECRET}", url=True),
    } <= forms("key", SECRET)


WAYS = [
    lambda char: char,
    lambda char: f"%{ord(char):02X}",
    lambda char: f"%{ord(char):02x}",
    lambda char: f"&#{ord(char)};",
    lambda char: f"&#x{ord(char):x};",
    lambda char: f"&#X{ord(char):04X};",
    lambda char: f"\\u{ord(char):04x}",
    lambda char: f"\\x{ord(char):02x}",
    html.escape,
    lambda char: json.dumps(char)[1:-1],
    lambda char: "\\/" if char == "/" else char,
]
# No key or token has a character that begins an escape.
SECRETS = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="%&\\"), min_size=RUN, max_size=60
)
WORDS = st.sampled_from(["", "invalid ", '{"error":"', "?token=", "Basic ", "<b>", " %", " &", " \\"])


@given(st.data(), SECRETS, WORDS, WORDS)
def test_no_run_of_a_secret_is_shown_however_its_characters_are_written(data, secret, before, after):
    begin = data.draw(st.integers(0, len(secret) - 1))
    quoted = secret[begin : data.draw(st.integers(begin + 1, len(secret)))]
    ways = data.draw(st.lists(st.sampled_from(WAYS), min_size=len(quoted), max_size=len(quoted)))
    written = [way(char) for way, char in zip(ways, quoted, strict=True)]
    said = Redactor([secret]).redact(f"{before}{''.join(written)}{after}")
    for start in range(len(written) - RUN + 1):
        assert "".join(written[start : start + RUN]) not in said


@given(SECRETS, st.text("ab:9", max_size=5), st.text("ab:9", max_size=5), st.booleans(), st.booleans())
def test_no_run_of_a_secret_can_be_decoded_from_base64(secret, before, after, url, padded):
    said = Redactor([secret]).redact(base64_of(before + secret + after, url=url, padded=padded))
    runs = {secret[start : start + RUN] for start in range(len(secret) - RUN + 1)}
    for piece in re.findall(r"[A-Za-z0-9+/_-]+", said):
        for offset in range(4):
            usable = piece[offset:].translate(str.maketrans("-_", "+/"))
            decoded = base64.b64decode(usable[: len(usable) // 4 * 4]).decode("latin-1")
            assert not any(run in decoded for run in runs)


@pytest.mark.parametrize("text", ["x" * 100_000, "%41" * 30_000, "&amp;" * 20_000, "%25" * 30_000])
def test_long_texts_take_time_in_proportion(text):
    redactor = Redactor(["s3cr3t" * 300])
    began = time.process_time()
    redactor.redact(text)
    # What takes time that grows with the square takes hours; a slow machine does not.
    assert time.process_time() - began < 30
