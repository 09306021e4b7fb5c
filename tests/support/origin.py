"""A real origin: pages, an upload sink, long downloads, a WebSocket echo; on a thread of its own."""

from __future__ import annotations

import asyncio
import ssl
import struct
import tempfile
import threading
import zlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

from aiohttp import WSMsgType, web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PIECE = bytes(range(256)) * 256
"""64 KiB that a broken relay would not reproduce by chance."""

NAMES = ("wiki.test", "blog.test", "shop.test")
"""Host names that it has a certificate for."""

IMAGES = 12
"""Images of the gallery."""

_GALLERY = """<!doctype html><html lang="en"><meta charset="utf-8"><title>loading</title>
<style>body{font:16px sans-serif;margin:2em}img{width:96px;height:96px;margin:4px}</style>
<h1>The gallery is up</h1><div id="pictures"></div><p id="echo">no echo yet</p><script>
const pictures = Array.from({length: %(images)d}, (_, n) => new Promise((done, failed) => {
  const image = new Image(); image.onload = () => done(image.naturalWidth); image.onerror = () => failed(new Error("image " + n));
  image.src = "/image/" + n; document.getElementById("pictures").append(image);
}));
const echo = new Promise((done, failed) => {
  const socket = new WebSocket((location.protocol === "https:" ? "wss://" : "ws://") + location.host + "/echo");
  socket.onopen = () => socket.send("from the browser"); socket.onerror = () => failed(new Error("socket"));
  socket.onmessage = message => {
    document.getElementById("echo").textContent = message.data; socket.close(); done(message.data);
  };
});
window.result = null;
Promise.all([Promise.all(pictures), echo]).then(
  ([widths, text]) => { window.result = {widths, text}; document.title = "done"; },
  error => { window.result = {error: String(error)}; document.title = "failed"; });
</script></html>"""


def picture(number: int) -> bytes:
    """A PNG of 96 × 96 pixels, each number of another colour and pattern."""
    side, row = 96, bytearray()
    for y in range(side):
        row += b"\0"
        for x in range(side):
            row += bytes(((number * 37 + x) % 256, (number * 71 + y * 2) % 256, (x * y + number * 13) % 256))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(row))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def _server_identity(names: tuple[str, ...]) -> tuple[ssl.SSLContext, bytes]:
    """TLS as a server with these names, and the certificate to trust: self-signed, for a day."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "origin of the tests")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with tempfile.NamedTemporaryFile() as file:
        file.write(pem + secret)
        file.flush()
        context.load_cert_chain(file.name)
    return context, pem


class Origin:
    """``address`` is ``ip:port``, ``secure_address`` the same with TLS, under the root ``certificate`` (PEM), for ``*.test``;
    ``requests`` holds (method, path, headers) of what arrived."""

    def __init__(self, root: Path | None = None) -> None:
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.address = self.secure_address = ""
        self.certificate = b""
        self._root = root
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def start(self) -> Origin:
        """Listen on a free port of loopback."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result(20)
        return self

    def stop(self) -> None:
        """End."""
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)

    async def _serve(self) -> None:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_get("/", self._page)
        app.router.add_get("/gallery", self._gallery)
        app.router.add_get("/image/{number}", self._image)
        app.router.add_get("/bytes/{count}", self._bytes)
        app.router.add_post("/upload", self._upload)
        app.router.add_get("/echo", self._echo)
        if self._root is not None:
            app.router.add_static("/files/", self._root)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        context, self.certificate = _server_identity(NAMES)
        secure = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=context)
        await secure.start()
        self.address, self.secure_address = (f"{host}:{port}" for host, port, *_ in self._runner.addresses)

    def _note(self, request: web.Request) -> None:
        self.requests.append((request.method, request.path, {key.lower(): value for key, value in request.headers.items()}))

    async def _page(self, request: web.Request) -> web.Response:
        self._note(request)
        return web.Response(text="<!doctype html><title>Wiki</title><h1>The wiki is up</h1>", content_type="text/html")

    async def _gallery(self, request: web.Request) -> web.Response:
        self._note(request)
        return web.Response(text=_GALLERY % {"images": IMAGES}, content_type="text/html")

    async def _image(self, request: web.Request) -> web.Response:
        self._note(request)
        return web.Response(body=picture(int(request.match_info["number"])), content_type="image/png")

    async def _bytes(self, request: web.Request) -> web.StreamResponse:
        self._note(request)
        left = int(request.match_info["count"])
        response = web.StreamResponse(headers={"Content-Length": str(left)})
        await response.prepare(request)
        while left:
            piece = PIECE[:left]
            await response.write(piece)
            left -= len(piece)
        return response

    async def _upload(self, request: web.Request) -> web.Response:
        self._note(request)
        body = await request.read()
        return web.json_response({"length": len(body), "sum": sum(body) % 65521})

    async def _echo(self, request: web.Request) -> web.WebSocketResponse:
        self._note(request)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await socket.send_str(f"echo {message.data}")
        return socket
