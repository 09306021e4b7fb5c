//! A TLS 1.3 ClientHello made by hand: a stranger's cheapest way to make a server work (RFC 8446 §4.1.2).

/// A record with a ClientHello for `name`, offering `alpn` protocols and an X25519 share. `random` fills its random fields.
///
/// Every 32 bytes are a valid X25519 share (RFC 7748 §5), so that the server computes, signs and encrypts before it can know
/// that nobody will answer.
pub fn client_hello(name: &str, alpn: &[&str], random: &[u8; 96]) -> Vec<u8> {
    let mut extensions = Vec::new();
    extension(&mut extensions, 0, &vector16(&[&[0][..], &vector16(name.as_bytes())].concat())); // server_name
    extension(&mut extensions, 10, &vector16(&0x001du16.to_be_bytes())); // supported_groups: x25519
    extension(&mut extensions, 13, &vector16(&[0x04, 0x03, 0x08, 0x04, 0x08, 0x07])); // ecdsa p-256, rsa-pss, ed25519
    extension(&mut extensions, 43, &[2, 0x03, 0x04]); // supported_versions: TLS 1.3
    let share = [&0x001du16.to_be_bytes()[..], &vector16(&random[64..])].concat();
    extension(&mut extensions, 51, &vector16(&share)); // key_share
    if !alpn.is_empty() {
        let protocols: Vec<u8> = alpn.iter().flat_map(|name| vector8(name.as_bytes())).collect();
        extension(&mut extensions, 16, &vector16(&protocols));
    }
    let mut hello = vec![0x03, 0x03];
    hello.extend(&random[..32]);
    hello.extend(vector8(&random[32..64])); // session id, as middleboxes expect (§D.4)
    hello.extend(vector16(&[0x13, 0x01, 0x13, 0x03]));
    hello.extend([1, 0]);
    hello.extend(vector16(&extensions));
    let length = u32::try_from(hello.len()).unwrap_or(0).to_be_bytes();
    let message = [&[1][..], &length[1..], &hello].concat();
    [&[22, 0x03, 0x01][..], &vector16(&message)].concat()
}

fn extension(out: &mut Vec<u8>, kind: u16, body: &[u8]) {
    out.extend(kind.to_be_bytes());
    out.extend(vector16(body));
}

fn vector16(body: &[u8]) -> Vec<u8> {
    [&u16::try_from(body.len()).unwrap_or(0).to_be_bytes()[..], body].concat()
}

fn vector8(body: &[u8]) -> Vec<u8> {
    [&[u8::try_from(body.len()).unwrap_or(0)][..], body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_nest_to_the_end() {
        let hello = client_hello("node1.node.o.test", &["h2"], &[7; 96]);
        assert_eq!(hello.len(), 5 + usize::from(u16::from_be_bytes([hello[3], hello[4]])));
        assert_eq!(hello.len(), 9 + usize::from(hello[6]) * 65536 + usize::from(hello[7]) * 256 + usize::from(hello[8]));
        let extensions = 9 + 2 + 32 + 33 + 6 + 2;
        let mut rest = &hello[extensions + 2..];
        assert_eq!(rest.len(), usize::from(u16::from_be_bytes([hello[extensions], hello[extensions + 1]])));
        let mut kinds = vec![];
        while let [high, low, long, short, tail @ ..] = rest {
            kinds.push(u16::from_be_bytes([*high, *low]));
            rest = &tail[usize::from(u16::from_be_bytes([*long, *short]))..];
        }
        assert_eq!((kinds, rest), (vec![0, 10, 13, 43, 51, 16], &[][..]));
    }
}
