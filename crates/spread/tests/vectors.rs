//! The vectors that other implementations are held to (`docs/design/spread-vectors.json`).

use polder_spread::issue::{Grant, issue};
use polder_spread::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn keys_and_tickets_are_those_of_the_document() {
    let secret: [u8; 32] = std::array::from_fn(|n| n as u8);
    let key: [u8; 32] = std::array::from_fn(|n| 0xA0 ^ n as u8);
    let session = SessionId(std::array::from_fn(|n| 0xF0 | n as u8));
    let (epoch, node, grant) = (0x0102_0304, NodeId(0x1122_3344_5566_7788), [1, 2, 3, 4, 5, 6, 7, 8]);
    let e = epoch_key(&secret, epoch);
    let g = grant_key(&e, grant);
    let terms = Terms { starts: 1_800_000_000, lasts: 3600, pace: 14, rate: 17 };
    let relay = Grant { relay: NodeId(5), address: ([192, 0, 2, 1], 7443).into(), epoch, grant, key: g };
    let ticket = issue(session, key, node, terms, 9, &[relay]).expect("the library takes every key");
    let fields = [
        ("secret", hex(&secret)),
        ("epoch", format!("{epoch:08x}")),
        ("epoch_key", hex(&e)),
        ("grant", hex(&grant)),
        ("grant_key", hex(&g)),
        ("node", hex(&node.0.to_be_bytes())),
        ("peer_key", hex(&peer_key(&e, node))),
        ("session", hex(&session.0)),
        ("session_key", hex(&key)),
        ("starts", format!("{:08x}", terms.starts)),
        ("lasts", format!("{:04x}", terms.lasts)),
        ("pace", format!("{:02x}", terms.pace)),
        ("rate", format!("{:02x}", terms.rate)),
        ("mac_key", hex(&ticket.relays[0].mac)),
        ("destination", hex(&ticket.relays[0].destination)),
    ];
    let lines: Vec<String> = fields.iter().map(|(name, value)| format!("  \"{name}\": \"{value}\"")).collect();
    let want = format!("{{\n{}\n}}\n", lines.join(",\n"));
    assert_eq!(include_str!("../../../docs/design/spread-vectors.json"), want, "{want}");
}
