"""Bounds on what others may make a process hold or do: the knobs behind ``polder.snapshot.schema.Limits``."""

from __future__ import annotations

from pydantic import Field

from polder.settings.base import Settings
from polder.settings.quantities import Millis, Size


class Limits(Settings):
    """Same names and units as ``polder.snapshot.schema.Limits``: ``snapshot.Limits(**limits.model_dump())``."""

    tunnels_per_identity: int = Field(
        512,
        ge=1,
        le=1_000_000,
        description="Open tunnels per user. A browser opens some 6 per host and 256 in all; twice that lets two browsers share "
        "an identity. Costs about 12 KiB for each idle tunnel.",
    )
    tunnel_rate_per_identity: int = Field(
        200,
        ge=1,
        le=1_000_000,
        description="New tunnels per second per user, with a burst of twice that: a page of 100 images on fresh connections "
        "passes, a loop does not. 32 bytes per user seen in the last minute.",
    )
    connections_per_source: int = Field(
        256,
        ge=1,
        le=1_000_000,
        description="Connections per IPv4 address or IPv6 /64 of users and strangers. An office behind one address has some 50 "
        "forwarders with two connections each. Up to 40 KiB for each connection.",
    )
    handshake_rate_per_source: int = Field(
        50,
        ge=1,
        le=1_000_000,
        description="TLS handshakes per second per source, with a burst of twice that. One costs this node 1.2 ms of a core, so "
        "one source takes at most 6 % of it. 32 bytes per source seen in the last minute.",
    )
    connections: int = Field(
        16384,
        ge=16,
        le=10_000_000,
        description="Connections in all, links to nodes not counted. Bounds memory at about 640 MiB with full TLS buffers.",
    )
    replay_bytes: Size = Field(
        65536,
        ge=0,
        le=1 << 24,
        description="First bytes of a client kept for a retry on another path until one answers: a ClientHello is below 2 KiB, a "
        "request with cookies below 32 KiB. This much per tunnel that is being opened.",
    )
    open_timeout_ms: Millis = Field(
        2000,
        ge=50,
        le=60_000,
        description="Time for one leg of a path to be opened, before the opener gives up: six times the longest wide-area round trip "
        "(330 ms). A path has two to seven legs. Others are tried much sooner, by what was measured.",
    )
    header_timeout_ms: Millis = Field(
        10_000,
        ge=100,
        le=120_000,
        description="Time for a stranger's handshake and for a client's request head; ten seconds pass a bad mobile network and "
        "starve slowloris. Up to 40 KiB for each that waits.",
    )
    idle_timeout_ms: Millis = Field(
        600_000,
        ge=1000,
        le=86_400_000,
        description="Silence in both directions before a tunnel is closed: browsers keep idle connections for 300 s, WebSockets "
        "ping within 60 s. 12 KiB for each idle tunnel.",
    )
    stream_window: Size = Field(
        1 << 20,
        ge=65_535,
        le=(1 << 31) - 1,
        description="Flow-control window of one tunnel on a link: 1 MiB fills 80 Mbit/s at 100 ms. At most this much memory per "
        "tunnel whose receiver is slow.",
    )
    link_window: Size = Field(
        256 << 20,
        ge=65_535,
        le=(1 << 31) - 1,
        description="Flow-control window of a whole link: bounds what one peer can make this node hold. Receivers that take nothing "
        "hold a stream_window each; when half of the link's window could be theirs (128 of them), the slowest are cut.",
    )
    streams_per_link: int = Field(
        20_000,
        ge=1,
        le=1_000_000,
        description="Tunnels at once that a peer may open on a link: above the 10,000 idle tunnels a node is built for.",
    )
    max_hops: int = Field(
        32,
        ge=1,
        le=255,
        description="Most nodes that a tunnel may cross; ½·log2 N is 10 at a million nodes, so more is a loop. No memory.",
    )
    keepalive_timeout_ms: Millis = Field(
        60_000,
        ge=1000,
        le=3_600_000,
        description="Time that a client's connection may wait for its next request: nginx and browsers wait 60 to 75 s. Up to "
        "40 KiB for each connection that waits.",
    )
    stall_timeout_ms: Millis = Field(
        10_000,
        ge=1000,
        le=3_600_000,
        description="Time that the receiver of a plain-HTTP answer may take nothing at all before it is cut: a slow reader holds "
        "a tunnel and 64 KiB. Tunnels are bounded by idle_timeout_ms instead.",
    )
    body_rate_floor: int = Field(
        256,
        ge=0,
        le=1_000_000,
        description="Least bytes per second of a request body, over windows of 10 s: the slowest modem passes, slow-body attacks "
        "do not. 0 accepts any. No memory.",
    )
    streams_per_client: int = Field(
        256,
        ge=1,
        le=100_000,
        description="Concurrent HTTP/2 streams of a user's connection; browsers open up to 256 tunnels through a proxy.",
    )
    reset_rate_per_client: int = Field(
        50,
        ge=1,
        le=100_000,
        description="Streams per second that a user's HTTP/2 connection may open and reset (burst: twice that) before it is sent "
        "away: leaving a page of 100 images passes, rapid reset does not.",
    )
    silence_ms: Millis = Field(
        1500,
        ge=100,
        le=60_000,
        description="How long a peer that was asked for a sign of life may say nothing before its link is given up with its tunnels; "
        "anything that comes from it counts. Shorter hides hung nodes sooner, longer forgives a network that stutters.",
    )
    retry_percent: int = Field(
        20,
        ge=0,
        le=100,
        description="Repetitions after refusals, and beside candidates that are late, in percent of a site's tunnels: the most by which "
        "masking failures may multiply the load on a site that fails, at each node of a path. 40 bytes per site.",
    )
    retry_burst: int = Field(
        50,
        ge=0,
        le=10_000,
        description="Repetitions per site that may come at once; a tenth of them comes back each second. As many tunnels as are "
        "opened in the seconds in which a failure is found out. No memory.",
    )
    connections_per_identity: int = Field(
        256,
        ge=1,
        le=1_000_000,
        description="Open connections of one user to this node, whatever addresses they come from. A browser without a forwarder opens "
        "up to 32 to a proxy, a forwarder two. Up to 40 KiB for each.",
    )
    frame_rate_per_identity: int = Field(
        10_000,
        ge=100,
        le=100_000_000,
        description="HTTP/2 frames that carry little (control frames, heads, less than 512 bytes of data) and HTTP/1 requests per "
        "second of one user, with a burst of twice that; what is more waits. The busiest page is some 1000. At 1 to 10 µs each a "
        "user takes at most a tenth of a core. 40 bytes per user.",
    )
    head_bytes: int = Field(
        16384,
        ge=1024,
        le=65_535,
        description="Most bytes of a request's head, as sent in HTTP/1, decoded in HTTP/2: origins take 8 to 32 KiB. This much for each "
        "request that is being read. Say the same at all nodes: what is refused must not tell them apart.",
    )
    head_fields: int = Field(
        100,
        ge=16,
        le=256,
        description="Most field lines of a request's head; browsers send some 20. Say the same at all nodes. 40 bytes per field.",
    )
    stalled_per_identity: int = Field(
        32,
        ge=1,
        le=1_000_000,
        description="Receivers of one user that may take nothing for longer than a second at once (paused films); what is more is cut. "
        "Each may hold a stream_window of every link on its way, and enough of them would stop a link for everybody. While as many have "
        "yet to take what came for them, each new tunnel counts for twenty of tunnel_rate_per_identity.",
    )
    handshake_rate_per_identity: int = Field(
        5,
        ge=1,
        le=1_000_000,
        description="TLS handshakes per second of one user, with a burst of twice that, that count as a guest's: what is more, from "
        "however many addresses, competes with strangers' for their budget. A browser opens a few connections and keeps them. "
        "A kilobyte per user seen in the last hour.",
    )
    handshake_percent: int = Field(
        20,
        ge=1,
        le=100,
        description="Share of a thread that the TLS handshakes of strangers may take in the long run, in percent: one step at a time, all "
        "others' work in between. Less slows the arrival of a crowd that was never here: 20 % is some 150 new connections a second.",
    )
    work_percent_per_identity: int = Field(
        10,
        ge=1,
        le=100,
        description="Share of a thread that one user's connections may use, in percent, before they wait for their turn: then one step "
        "of one such user at a time, and all others' work in between. Alone he still uses all of it. 100: no bound. A step more of the "
        "runtime for each of his.",
    )
    spread_stream_window: Size = Field(
        4 << 20,
        ge=1 << 16,
        le=1 << 30,
        description="Spread plane: bytes that may be under way in one tunnel, each way. A tunnel carries at most this much in a "
        "round trip: 4 MiB are 100 Mbit/s over the longest wide-area one (330 ms). So much memory for each receiver that does not take.",
    )
    spread_session_window: Size = Field(
        8 << 20,
        ge=1 << 16,
        le=1 << 30,
        description="Spread plane: the same for all tunnels of a session together, so that one user's silent receivers hold at most "
        "this much.",
    )
    spread_streams: int = Field(
        256,
        ge=1,
        le=65_535,
        description="Spread plane: tunnels that a session may have open; more wait. As many as a browser opens in all.",
    )
    spread_idle_ms: Millis = Field(
        60_000,
        ge=5_000,
        le=600_000,
        description="Spread plane: silence after which a session is over; each end says something four times as often. A shorter one ends "
        "sessions that a short outage of both planes would not.",
    )
    spread_tolerated_percent: int = Field(
        5,
        ge=0,
        le=90,
        description="Spread plane: share of a round trip's bytes that may be lost, on the luckier half of the paths as well, before a "
        "sender slows down: chance and single relays lose what a full line would not. A higher one takes more than its share from "
        "others on a line that is full.",
    )
    refusal_rate: int = Field(
        1000,
        ge=0,
        le=1_000_000,
        description="New connections that this node accepts only to refuse them, per second and listener; 0: any number. What comes faster "
        "is dropped by the system by chance, before it costs anything; who is honest asks again a second later. Nodes, and the last "
        "addresses from which users came within the hour, always pass: 800 in all, or 200 where net.core.optmem_max is small; of an "
        "address that is refused more than twice handshake_rate_per_source, as many. Up to 70 KiB of the kernel's memory per listener "
        "while a flood lasts.",
    )
    flood_patience_ms: Millis = Field(
        5000,
        ge=0,
        le=600_000,
        description="How long a connection may go on sending more than frame_rate_per_identity, without a second's rest, before it is cut; "
        "0: for ever. Until then it is not read for a while again and again, and what it has sent waits in the kernel's buffers, which "
        "would take minutes to digest after the attacker has gone. No honest program is over that budget for longer than a burst.",
    )
    overwork_rest: int = Field(
        3,
        ge=0,
        le=100,
        description="How long users who take more than work_percent_per_identity rest after each step, as a multiple of it, while others "
        "are at work: with 3 a quarter of a thread is theirs in all, so that a machine that does other things too has a core left for "
        "them. More slows bulk beside other users.",
    )
    homes_per_identity: int = Field(
        16,
        ge=1,
        le=1024,
        description="Addresses from which one user counts as a guest, and users that one address remembers; the latest count. A user is at "
        "a few places, and a place has more users only behind a carrier's gateway. Bounds what an enrolled attacker with a thousand "
        "addresses is believed. 40 bytes for each.",
    )
    crowd_bytes: Size = Field(
        1 << 20,
        ge=65536,
        le=1 << 30,
        description="What all streams of a link that send more than 128 KiB a second have waiting to be written together; who sends little "
        "does not wait behind more than that. Enough to keep a connection busy between two turns of its task. As much memory per link.",
    )
    unsent_bytes: Size = Field(
        262144,
        ge=0,
        le=1 << 30,
        description="What the kernel may hold for a user beyond what is on its way (TCP_NOTSENT_LOWAT); 0: as much as it likes, which is "
        "megabytes for each who reads nothing. As many as a turn of reading yields, so that a long line stays full.",
    )
    memory_bytes: Size = Field(
        0,
        ge=0,
        le=1 << 46,
        description="Memory of this process on which the watermarks stand: from 80 % on strangers are turned away and nothing idle is "
        "kept, from 95 % on tunnels are refused and the idlest closed. 0: what the control group allows (MemoryMax), if it says so.",
    )
