"""Samples are told apart by where they were taken."""

from __future__ import annotations

import pytest
from bench.layers import LAYERS, layer, shares

RECORDED = """
# Overhead  Shared Object  Symbol
    40.00%  [kernel.kallsyms]   [k] finish_task_switch.isra.0
    30.00%  _native.abi3.so     [.] h2::proto::streams::store::Store::find_mut
    10.00%  _native.abi3.so     [.] <polder_tls::wire::Wire as tokio::io::async_read::AsyncRead>::poll_read
    10.00%  libc.so.6           [.] malloc
    10.00%  haproxy             [.] h2_recv
"""


def test_shares_are_of_user_space_only() -> None:
    found = shares(RECORDED)
    assert list(found) == list(LAYERS)
    assert found["HTTP/2"] == pytest.approx(0.5)
    assert {name for name, share in found.items() if share == pytest.approx(1 / 6)} == {
        "TLS",
        "allocation and C library",
        "other",
    }
    assert sum(found.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("library", "symbol", "expected"),
    [
        ("libcrypto.so.3", "0x0000000000012345", "cryptography"),
        ("_native.abi3.so", "aws_lc_0_47_0_aes_gcm_encrypt_avx512", "cryptography"),
        ("libssl.so.3", "SSL_read", "TLS"),
        ("_native.abi3.so", "<rustls::crypto::aws_lc_rs::tls13::GcmMessageEncrypter as rustls::…>::encrypt", "TLS"),
        ("_native.abi3.so", "<h2::codec::Codec<T,B> as futures_core::stream::Stream>::poll_next", "HTTP/2"),
        ("_native.abi3.so", "tokio::runtime::task::raw::poll", "runtime"),
        ("_native.abi3.so", "polder_http::pump::carry::{{closure}}", "Polder"),
        ("[vdso]", "__vdso_clock_gettime", "allocation and C library"),
        ("nginx", "ngx_http_proxy_handler", "other"),
    ],
)
def test_layers(library: str, symbol: str, expected: str) -> None:
    assert layer(library, symbol) == expected
