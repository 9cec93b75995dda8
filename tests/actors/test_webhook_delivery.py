"""One POST against endpoints that answer, lie, stall, flood and point elsewhere. Real sockets on loopback."""

from __future__ import annotations

import gzip
import socket
import ssl
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path

import pytest
import trustme
from awaiting import await_that
from far_http import Endpoint, Script, answering, dripping, endpoint, flooding, headers_of, read_request, status

from actors.webhooks import resolve
from actors.webhooks.address import parse
from actors.webhooks.delivery import EXCERPT_OCTETS, Answered, Courier, Unreachable
from actors.webhooks.guard import Policy
from actors.webhooks.resolve import Unresolved, system_resolver
from actors.webhooks.wire import Exhausted, Phase

LOOPBACK = Policy(allowed_networks=(ip_network("127.0.0.0/8"),))
DEADLINE = timedelta(seconds=1)
EARLY = timedelta(milliseconds=250)
#: What a busy machine may add; without the deadline these would never end.
LATE = timedelta(seconds=2)


def courier(policy: Policy = LOOPBACK, **options: object) -> Courier:
    return Courier(policy=policy, **{"deadline": DEADLINE, **options})  # type: ignore[arg-type]


def post(far: Endpoint, *, path: str = "/hook", body: bytes = b"{}", **headers: str) -> Answered | Unreachable:
    url = parse(f"http://127.0.0.1:{far.port}{path}", policy=LOOPBACK)
    return courier().post(url, headers=headers, body=body)


def answers(*addresses: str) -> object:
    def resolve(host: str, /, *, within: timedelta) -> Sequence[str]:
        return addresses

    return resolve


class TestAnswers:
    def test_the_body_goes_out_byte_for_byte_with_the_name_as_host(self) -> None:
        seen: list[bytes] = []
        body = b'{"b":1, "a":1.0}\n\xff\x00'
        with endpoint(answering(status(200, body=b"thanks"), seen=seen)) as far:
            result = post(far, path="/a?b=%20c", body=body, **{"webhook-id": "x", "X-Api-Key": "k"})
        assert isinstance(result, Answered)
        assert (result.status, result.excerpt, result.phase) == (200, "thanks", Phase.BODY)
        head, _, sent = seen[0].partition(b"\r\n\r\n")
        assert sent == body
        assert head.startswith(b"POST /a?b=%20c HTTP/1.1\r\n")
        headers = headers_of(seen[0])
        assert headers["host"] == f"127.0.0.1:{far.port}"
        assert headers["accept-encoding"] == "identity"
        assert headers["content-length"] == str(len(body))
        assert (headers["webhook-id"], headers["x-api-key"]) == ("x", "k")

    @pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
    def test_a_redirect_is_an_answer_and_is_not_followed(self, code: int) -> None:
        with (
            endpoint(answering(status(200))) as elsewhere,
            endpoint(answering(status(code, f"Location: http://127.0.0.1:{elsewhere.port}/"))) as far,
        ):
            result = post(far)
        assert isinstance(result, Answered)
        assert result.status == code
        assert elsewhere.connections == 0

    def test_proxy_variables_are_ignored(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with endpoint(answering(status(200))) as proxy, endpoint(answering(status(204))) as far:
            for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
                monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
            result = post(far)
        assert isinstance(result, Answered)
        assert (result.status, proxy.connections) == (204, 0)

    def test_retry_after_is_carried(self) -> None:
        with endpoint(answering(status(429, "Retry-After: 120"))) as far:
            result = post(far)
        assert isinstance(result, Answered)
        assert (result.status, result.retry_after) == (429, "120")

    def test_an_early_answer_to_a_large_body_is_read(self) -> None:
        def refuse(stream: socket.socket) -> None:
            stream.recv(1000)
            stream.sendall(status(413, body=b"too large"))
            stream.shutdown(socket.SHUT_WR)
            while stream.recv(65536):
                pass

        with endpoint(refuse) as far:
            result = post(far, body=b"x" * 4_000_000)
        assert isinstance(result, Answered)
        assert result.status == 413

    def test_informational_answers_are_not_the_answer(self) -> None:
        early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        with endpoint(answering(early + status(500))) as far:
            result = post(far)
        assert isinstance(result, Answered)
        assert result.status == 500

    def test_the_excerpt_is_text_that_postgresql_can_keep(self) -> None:
        with endpoint(answering(status(500, body=b"a\x00b\xed\xa0\x80\xff"))) as far:
            result = post(far)
        assert isinstance(result, Answered)
        assert "\x00" not in result.excerpt
        assert result.excerpt.encode().startswith("a\N{REPLACEMENT CHARACTER}b".encode())

    def test_an_answer_that_breaks_off_in_its_body_still_counts_by_its_status(self) -> None:
        with endpoint(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart")) as far:
            result = post(far)
        assert isinstance(result, Answered)
        assert (result.status, result.excerpt) == (200, "part")


class TestHostileEndpoints:
    @pytest.mark.parametrize(
        ("start", "drop", "phase"),
        [
            (b"", b"", Phase.HEADERS),
            (b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n", Phase.HEADERS),
            (b"", b"HTTP/1.1 102 Processing\r\n\r\n", Phase.HEADERS),
            (b"", b"H", Phase.HEADERS),
        ],
        ids=["silence", "headers", "1xx", "garbage"],
    )
    def test_dripping_headers_cost_the_deadline_and_no_more(self, start: bytes, drop: bytes, phase: Phase) -> None:
        with endpoint(dripping(start, drop)) as far:
            result = timed(far)
        assert isinstance(result, Unreachable)
        assert result.phase is phase
        assert result.reason

    def test_a_dripping_body_costs_the_deadline_and_keeps_the_status(self) -> None:
        with endpoint(dripping(b"HTTP/1.1 200 OK\r\n\r\n", b"z")) as far:
            result = timed(far)
        assert isinstance(result, Answered)
        assert result.status == 200
        assert set(result.excerpt) == {"z"}

    def test_an_endpoint_that_never_reads_costs_the_deadline(self) -> None:
        hold = threading.Event()

        def read_nothing(_stream: socket.socket) -> None:
            hold.wait(5)

        with endpoint(read_nothing) as far:
            result = timed(far, body=b"x" * 30_000_000)
            hold.set()
        assert isinstance(result, Unreachable)
        assert result.phase is Phase.SEND

    @pytest.mark.parametrize("chunk", [b"\x00", b"\x16\x03\x01"], ids=["zeros", "hello"])
    def test_tls_that_never_ends_costs_the_deadline(self, chunk: bytes) -> None:
        with endpoint(dripping(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc", chunk, read=False)) as far:
            url = parse(f"https://127.0.0.1:{far.port}/", policy=LOOPBACK)
            started = time.monotonic()
            result = courier().post(url, headers={}, body=b"{}")
            took = timedelta(seconds=time.monotonic() - started)
        assert isinstance(result, Unreachable)
        assert result.phase is Phase.TLS
        assert took <= DEADLINE + LATE

    def test_a_listener_that_accepts_nothing_costs_the_deadline(self) -> None:
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            port = full.getsockname()[1]
            waiting = [socket.socket() for _ in range(4)]
            for sock in waiting:
                sock.setblocking(False)
                sock.connect_ex(("127.0.0.1", port))
            url = parse(f"http://127.0.0.1:{port}/", policy=LOOPBACK)
            result = courier().post(url, headers={}, body=b"{}")
            for sock in waiting:
                sock.close()
        assert isinstance(result, Unreachable)
        assert result.phase is Phase.CONNECT
        assert DEADLINE - EARLY <= result.duration <= DEADLINE + LATE

    @pytest.mark.parametrize(
        "start",
        [
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7fffffff\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        ],
        ids=["until-close", "chunked", "length"],
    )
    def test_an_endless_body_is_cut_at_the_excerpt(self, start: bytes) -> None:
        with endpoint(flooding(start, b"y" * 65536)) as far:
            result = timed(far)
        assert isinstance(result, Answered)
        assert result.excerpt == "y" * EXCERPT_OCTETS
        assert result.duration < DEADLINE

    def test_endless_headers_end_the_attempt_early(self) -> None:
        with endpoint(flooding(b"HTTP/1.1 200 OK\r\n", b"X-A: " + b"b" * 1000 + b"\r\n")) as far:
            result = timed(far)
        assert isinstance(result, Unreachable)
        assert result.phase is Phase.HEADERS
        assert result.duration < DEADLINE

    def test_a_flood_of_informational_answers_ends_the_attempt_early(self) -> None:
        with endpoint(flooding(b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 1000)) as far:
            result = timed(far)
        assert isinstance(result, Unreachable)
        assert "exceeds" in result.reason
        assert result.duration < DEADLINE

    def test_64_kib_of_headers_are_still_an_answer(self) -> None:
        filler = [f"X-{n}: {'v' * 1000}" for n in range(64)]
        with endpoint(answering(status(200, *filler))) as far:
            assert isinstance(timed(far), Answered)

    @pytest.mark.parametrize(
        "script",
        [
            answering(status(200, "Content-Encoding: gzip", body=gzip.compress(bytes(64_000_000)))),
            flooding(b"HTTP/1.1 200 OK\r\n\r\n", bytes(65536)),
            flooding(b"HTTP/1.1 200 OK\r\n", b"X-A: " + b"b" * 1000 + b"\r\n"),
            flooding(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 1000),
            flooding(b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 1000),
        ],
        ids=["gzip-bomb", "body", "headers", "tiny-chunks", "1xx"],
    )
    def test_no_endpoint_costs_more_than_a_mebibyte(self, script: Script) -> None:
        with endpoint(script) as far:
            tracemalloc.start()
            try:
                result = timed(far)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        assert peak < 1024 * 1024
        assert isinstance(result, Unreachable) or len(result.excerpt.encode()) <= EXCERPT_OCTETS

    @pytest.mark.parametrize(
        "raw",
        [b"", b"SSH-2.0-OpenSSH_9\r\n\r\n", b"HTTP/9.9 abc\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"],
    )
    def test_what_is_not_http_is_no_answer(self, raw: bytes) -> None:
        with endpoint(answering(raw)) as far:
            result = timed(far)
        assert isinstance(result, Unreachable)
        assert result.phase is Phase.HEADERS

    def test_a_refused_connection_is_unreachable_at_once(self) -> None:
        with endpoint(answering(b"")) as far:
            pass
        result = post(far)
        assert isinstance(result, Unreachable)
        assert (result.phase, result.reason) == (Phase.CONNECT, "Connection refused")


def timed(far: Endpoint, *, body: bytes = b"{}") -> Answered | Unreachable:
    started = time.monotonic()
    result = post(far, body=body)
    took = timedelta(seconds=time.monotonic() - started)
    assert took <= DEADLINE + LATE
    assert abs(took - result.duration) < LATE
    return result


class TestGuard:
    def test_a_name_that_resolves_to_a_denied_address_is_never_connected_to(self) -> None:
        with endpoint(answering(status(200))) as far:
            url = parse(f"https://rebind.example.com:{far.port}/", policy=Policy())
            result = courier(Policy(), resolver=answers("127.0.0.1")).post(url, headers={}, body=b"{}")
            assert far.connections == 0
        assert isinstance(result, Unreachable)
        assert result.phase is Phase.VET

    def test_one_denied_answer_among_permitted_ones_means_no_connection_at_all(self) -> None:
        with endpoint(answering(status(200))) as far:
            url = parse(f"https://mixed.example.com:{far.port}/", policy=LOOPBACK)
            result = courier(resolver=answers("127.0.0.1", "10.0.0.1")).post(url, headers={}, body=b"{}")
            assert far.connections == 0
        assert isinstance(result, Unreachable)
        assert result.phase is Phase.VET

    def test_a_rebinding_resolver_is_asked_once_and_its_vetted_answer_is_pinned(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[str] = []

        def rebinding(host: str, /, *, within: timedelta) -> Sequence[str]:
            asked.append(host)
            return ["127.0.0.1"] if len(asked) == 1 else ["127.0.0.2"]

        def no_lookup(*_: object, **__: object) -> None:
            raise AssertionError("a second lookup")

        with endpoint(answering(status(200))) as vetted, socket.socket() as denied:
            denied.bind(("127.0.0.2", vetted.port))
            denied.listen()
            denied.setblocking(False)
            policy = Policy(allowed_networks=(ip_network("127.0.0.1/32"),))
            url = parse(f"http://rebind.example.com:{vetted.port}/", policy=policy)
            monkeypatch.setattr(socket, "getaddrinfo", no_lookup)
            result = courier(policy, resolver=rebinding).post(url, headers={}, body=b"{}")
            with pytest.raises(BlockingIOError):
                denied.accept()
        assert isinstance(result, Answered)
        assert (asked, vetted.connections) == (["rebind.example.com"], 1)

    def test_the_next_permitted_address_is_tried_when_one_refuses(self) -> None:
        with endpoint(answering(status(200))) as far:
            url = parse(f"http://two.example.com:{far.port}/", policy=LOOPBACK)
            result = courier(resolver=answers("127.0.0.9", "127.0.0.1")).post(url, headers={}, body=b"{}")
        assert isinstance(result, Answered)

    def test_plain_http_does_not_reach_a_public_address_by_name(self) -> None:
        url = parse("http://public.example.com/", policy=LOOPBACK)
        result = courier(resolver=answers("93.184.216.34")).post(url, headers={}, body=b"{}")
        assert isinstance(result, Unreachable)
        assert result.phase is Phase.VET


class HangingNames:
    """The system's resolver: names that start with `hang` are answered when they are released."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.released = threading.Event()

    def getaddrinfo(self, host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        self.asked.append(host)
        if host.startswith("hang"):
            self.released.wait(60)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))]


class TestLookups:
    @pytest.fixture
    def names(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[HangingNames]:
        hanging = HangingNames()
        monkeypatch.setattr(socket, "getaddrinfo", hanging.getaddrinfo)
        yield hanging
        hanging.released.set()
        await_that(lambda: not resolve._under_way)

    def test_a_lookup_that_hangs_costs_the_deadline_and_no_more(self, names: HangingNames) -> None:
        url = parse("https://hang.example.com/", policy=LOOPBACK)
        started = time.monotonic()
        result = courier().post(url, headers={}, body=b"{}")
        took = timedelta(seconds=time.monotonic() - started)
        assert isinstance(result, Unreachable)
        assert result.phase is Phase.RESOLVE
        assert took <= DEADLINE + LATE

    def test_a_long_deadline_does_not_wait_for_it_longer_than_the_budget(
        self, names: HangingNames, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert timedelta(seconds=5) >= resolve._BUDGET
        monkeypatch.setattr(resolve, "_BUDGET", timedelta(milliseconds=50))
        started = time.monotonic()
        with pytest.raises(Unresolved, match="too long"):
            system_resolver("hang.example.com", within=timedelta(seconds=60))
        assert time.monotonic() - started < 30

    def test_all_who_ask_for_a_name_share_one_lookup_and_its_answer(self, names: HangingNames) -> None:
        for _ in range(20):
            with pytest.raises(Unresolved):
                system_resolver("hang.example.com", within=timedelta(milliseconds=1))
        threading.Timer(0.05, names.released.set).start()
        assert system_resolver("hang.example.com", within=timedelta(seconds=30)) == ("127.0.0.1",)
        assert names.asked == ["hang.example.com"]

    def test_names_that_hang_starve_no_other(self, names: HangingNames) -> None:
        for number in range(100):
            with pytest.raises(Unresolved):
                system_resolver(f"hang{number}.example.com", within=timedelta(milliseconds=1))
        assert system_resolver("well.example.com", within=timedelta(seconds=30)) == ("127.0.0.1",)

    def test_when_too_many_hang_one_more_is_refused_without_a_wait(
        self, names: HangingNames, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(resolve, "_MOST", 2)
        for name in ("hang1.example.com", "hang2.example.com"):
            with pytest.raises(Unresolved, match="too long"):
                system_resolver(name, within=timedelta(milliseconds=1))
        with pytest.raises(Exhausted, match="too many"):
            system_resolver("well.example.com", within=timedelta(seconds=60))
        assert names.asked == ["hang1.example.com", "hang2.example.com"]
        names.released.set()
        await_that(lambda: not resolve._under_way)
        assert system_resolver("well.example.com", within=timedelta(seconds=30)) == ("127.0.0.1",)

    def test_a_thread_that_cannot_start_fails_its_lookup_and_takes_no_place(
        self, names: HangingNames, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(_thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as no_threads:
            no_threads.setattr(threading.Thread, "start", refuse)
            with pytest.raises(Exhausted, match="no free thread"):
                system_resolver("well.example.com", within=timedelta(seconds=30))
        assert not resolve._under_way
        assert system_resolver("well.example.com", within=timedelta(seconds=30)) == ("127.0.0.1",)

    @pytest.mark.parametrize(
        "error", [socket.gaierror(-2, "Name or service not known"), UnicodeError("label too long")]
    )
    def test_a_name_without_an_answer_is_unresolved(self, error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(socket, "getaddrinfo", fail)
        with pytest.raises(Unresolved, match="lookup failed"):
            system_resolver("none.example.com", within=timedelta(seconds=30))

    def test_the_system_resolver_answers_for_localhost_and_refuses_nonsense(self) -> None:
        assert "127.0.0.1" in system_resolver("localhost", within=timedelta(seconds=5))
        with pytest.raises(Unresolved):
            system_resolver("a..b", within=timedelta(seconds=5))


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


class TestTLS:
    @pytest.fixture
    def trusting(self, authority: trustme.CA) -> Courier:
        context = ssl.create_default_context()
        authority.configure_trust(context)
        return courier(tls=context, resolver=answers("127.0.0.1"))

    def server(self, authority: trustme.CA, *names: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*names).configure_cert(context)
        return context

    def test_sni_and_host_stay_the_name_while_the_address_is_pinned(
        self, authority: trustme.CA, trusting: Courier
    ) -> None:
        names: list[str | None] = []
        seen: list[bytes] = []
        tls = self.server(authority, "hooks.example.com")
        tls.sni_callback = lambda _socket, name, _context: names.append(name)
        with endpoint(answering(status(200), seen=seen), tls=tls) as far:
            url = parse(f"https://hooks.example.com:{far.port}/", policy=LOOPBACK)
            result = trusting.post(url, headers={}, body=b"{}")
        assert isinstance(result, Answered), result
        assert names == ["hooks.example.com"]
        assert headers_of(seen[0])["host"] == f"hooks.example.com:{far.port}"

    def test_a_certificate_of_another_name_is_refused(self, authority: trustme.CA, trusting: Courier) -> None:
        with endpoint(answering(status(200)), tls=self.server(authority, "other.example.com")) as far:
            url = parse(f"https://hooks.example.com:{far.port}/", policy=LOOPBACK)
            result = trusting.post(url, headers={}, body=b"{}")
        assert isinstance(result, Unreachable)
        assert result.phase is Phase.TLS
        assert "certificate" in result.reason

    def test_an_unknown_authority_is_refused_by_default(self, authority: trustme.CA) -> None:
        seen: list[bytes] = []
        tls = self.server(authority, "hooks.example.com")
        with endpoint(answering(status(200), seen=seen), tls=tls) as far:
            url = parse(f"https://hooks.example.com:{far.port}/", policy=LOOPBACK)
            result = courier(resolver=answers("127.0.0.1")).post(url, headers={}, body=b"{}")
        assert isinstance(result, Unreachable)
        assert (result.phase, seen) == (Phase.TLS, [])

    @pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
    def test_tls_below_1_2_is_not_spoken(self, authority: trustme.CA) -> None:
        tls = self.server(authority, "hooks.example.com")
        tls.set_ciphers("ALL:@SECLEVEL=0")
        tls.minimum_version = ssl.TLSVersion.TLSv1
        tls.maximum_version = ssl.TLSVersion.TLSv1_1
        with endpoint(answering(status(200)), tls=tls) as far:
            url = parse(f"https://hooks.example.com:{far.port}/", policy=LOOPBACK)
            result = courier(resolver=answers("127.0.0.1")).post(url, headers={}, body=b"{}")
        assert isinstance(result, Unreachable)
        assert result.phase is Phase.TLS
        assert "certificate" not in result.reason

    def test_an_address_literal_is_verified_as_an_address(self, authority: trustme.CA, trusting: Courier) -> None:
        with endpoint(answering(status(200)), tls=self.server(authority, "127.0.0.1")) as far:
            url = parse(f"https://127.0.0.1:{far.port}/", policy=LOOPBACK)
            assert isinstance(trusting.post(url, headers={}, body=b"{}"), Answered)

    def test_a_dripping_body_over_tls_costs_the_deadline(self, authority: trustme.CA, trusting: Courier) -> None:
        tls = self.server(authority, "hooks.example.com")
        with endpoint(dripping(b"HTTP/1.1 200 OK\r\n", b"A: b\r\n"), tls=tls) as far:
            url = parse(f"https://hooks.example.com:{far.port}/", policy=LOOPBACK)
            result = trusting.post(url, headers={}, body=b"{}")
        assert isinstance(result, Unreachable)
        assert result.duration <= DEADLINE + LATE

    def test_session_tickets_without_end_are_counted_and_end_the_attempt(
        self, authority: trustme.CA, trusting: Courier
    ) -> None:
        tls = self.server(authority, "hooks.example.com")
        tls.num_tickets = 50_000  # some 13 MB, which OpenSSL reads without an end to its call
        with endpoint(answering(status(200)), tls=tls) as far:
            url = parse(f"https://hooks.example.com:{far.port}/", policy=LOOPBACK)
            result = trusting.post(url, headers={}, body=b"{}")
        assert isinstance(result, Unreachable)
        assert "exceeds" in result.reason

    def test_an_early_answer_to_a_large_body_is_read_over_tls(self, authority: trustme.CA, trusting: Courier) -> None:
        def refuse(stream: socket.socket) -> None:
            stream.recv(1000)
            stream.sendall(status(413, body=b"too large"))
            while stream.recv(65536):
                pass

        with endpoint(refuse, tls=self.server(authority, "hooks.example.com")) as far:
            url = parse(f"https://hooks.example.com:{far.port}/", policy=LOOPBACK)
            result = trusting.post(url, headers={}, body=b"x" * 1_000_000)
        assert isinstance(result, Answered)
        assert result.status == 413

    def test_a_large_body_arrives_whole_over_tls(self, authority: trustme.CA, trusting: Courier) -> None:
        seen: list[bytes] = []
        body = bytes(range(256)) * 4000
        with endpoint(answering(status(200), seen=seen), tls=self.server(authority, "hooks.example.com")) as far:
            url = parse(f"https://hooks.example.com:{far.port}/", policy=LOOPBACK)
            assert isinstance(trusting.post(url, headers={}, body=body), Answered)
        assert seen[0].partition(b"\r\n\r\n")[2] == body

    def test_tls_that_ends_without_a_farewell_still_counts_by_its_status(
        self, authority: trustme.CA, trusting: Courier
    ) -> None:
        # The far side closes its socket without close_notify, in the middle of the body that it promised.
        raw = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart"
        with endpoint(answering(raw), tls=self.server(authority, "hooks.example.com")) as far:
            url = parse(f"https://hooks.example.com:{far.port}/", policy=LOOPBACK)
            result = trusting.post(url, headers={}, body=b"{}")
        assert isinstance(result, Answered)
        assert (result.status, result.excerpt) == (200, "part")

    def test_a_server_that_closes_in_its_handshake_is_unreachable(self, trusting: Courier) -> None:
        with endpoint(lambda stream: stream.shutdown(socket.SHUT_RDWR)) as far:
            url = parse(f"https://hooks.example.com:{far.port}/", policy=LOOPBACK)
            result = trusting.post(url, headers={}, body=b"{}")
        assert isinstance(result, Unreachable)
        assert result.phase is Phase.TLS
        assert result.reason

    def test_no_endpoint_costs_more_than_a_mebibyte_over_tls(self, authority: trustme.CA, tmp_path: Path) -> None:
        """Of the whole process, OpenSSL's part too: of that `tracemalloc` knows nothing."""
        if not Path("/proc/self/clear_refs").exists():
            pytest.skip("the peak of a process can be measured on Linux only")
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        tls, tickets = (self.server(authority, "127.0.0.1") for _ in range(2))
        tickets.num_tickets = 10_000
        with (
            endpoint(answering(status(200)), tls=tls) as friendly,
            endpoint(flooding(b"HTTP/1.1 200 OK\r\n\r\n", bytes(65536)), tls=tls) as body,
            endpoint(flooding(b"HTTP/1.1 200 OK\r\n", b"X-A: " + b"b" * 1000 + b"\r\n"), tls=tls) as headers,
            endpoint(flooding(b"", b"HTTP/1.1 102 Processing\r\n\r\n" * 1000), tls=tls) as informational,
            endpoint(answering(status(200)), tls=tickets) as handshake,
        ):
            ports = [str(far.port) for far in (friendly, body, headers, informational, handshake)]
            argv = [sys.executable, "-c", GROWTH, str(tmp_path / "ca.pem"), *ports]
            told = subprocess.run(argv, capture_output=True, text=True, timeout=100, check=True).stdout
            assert all(far.connections == 1 for far in (body, headers, informational, handshake))
        assert int(told) <= 1024


# Posts where nothing is wrong, until all is loaded; tells by how many KiB at most one hostile endpoint moves the peak.
GROWTH = """
import ssl, sys
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from actors.webhooks.address import parse
from actors.webhooks.delivery import Courier
from actors.webhooks.guard import Policy

def post(port):
    answer = courier.post(parse(f"https://127.0.0.1:{port}/", policy=policy), headers={}, body=b"{}")
    assert answer.phase in ("headers", "body"), answer

def resident(line):
    return next(int(each.split()[1]) for each in Path("/proc/self/status").read_text().splitlines() if line in each)

policy = Policy(allowed_networks=(ip_network("127.0.0.0/8"),))
tls = ssl.create_default_context(cafile=sys.argv[1])
courier = Courier(policy=policy, deadline=timedelta(seconds=20), tls=tls)
friendly, *hostile = sys.argv[2:]
for _ in range(3):
    post(friendly)
growth = []
for port in hostile:
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    post(port)
    growth.append(resident("VmHWM") - before)
print(max(growth))
"""


def test_one_courier_serves_many_threads_at_once() -> None:
    def slow(stream: socket.socket) -> None:
        body = read_request(stream).partition(b"\r\n\r\n")[2]
        stream.sendall(status(200, body=body))

    with endpoint(slow) as far:
        url = parse(f"http://127.0.0.1:{far.port}/", policy=LOOPBACK)
        shared = courier()
        results: dict[int, Answered | Unreachable] = {}

        def deliver(number: int) -> None:
            results[number] = shared.post(url, headers={}, body=str(number).encode())

        threads = [threading.Thread(target=deliver, args=(n,)) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {n: r.excerpt for n, r in results.items() if isinstance(r, Answered)} == {n: str(n) for n in range(16)}
