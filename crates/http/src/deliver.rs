//! From a servlet to its site over TCP.

use crate::tunnel::Tunnel;
use bytes::Bytes;
use polder_types::Delivery;
use polder_wire::proxy2::{Proxy2, WORD};
use std::io;
use std::net::{IpAddr, SocketAddr};
use tokio::net::TcpSocket;

/// Connects to `address`, at the port that `ports` gives for the asked one. The address comes from the snapshot alone, never
/// from a name: what was registered is what is dialled.
async fn connect(address: IpAddr, bind: Option<IpAddr>, ports: &[(u16, u16)], asked: u16) -> io::Result<Tunnel> {
    let port = ports.iter().find(|(from, _)| *from == asked).map(|(_, to)| *to);
    let port = port.ok_or_else(|| io::Error::other("the site does not take this port"))?;
    let target = SocketAddr::new(address, port);
    let socket = if target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(source) = bind {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    let stream = socket.connect(target).await?;
    stream.set_nodelay(true)?;
    Ok(Tunnel::tcp(stream))
}

/// Connects as `delivery` says and tells what is to be told first.
pub(crate) async fn open(delivery: &Delivery, asked: u16, word: Option<&str>) -> io::Result<Tunnel> {
    let Delivery::Tcp { address, bind, ports, preface: told } = delivery else {
        return Err(io::Error::other("not a delivery over TCP"));
    };
    let mut tunnel = connect(*address, *bind, ports, asked).await?;
    if *told {
        preface(&mut tunnel, word).await?;
    }
    Ok(tunnel)
}

/// Says the access point's word about the user, if there is one, in front of everything else.
async fn preface(tunnel: &mut Tunnel, word: Option<&str>) -> io::Result<()> {
    let tlvs = word.map(|word| (WORD, word.as_bytes().to_vec())).into_iter().collect();
    let header = Proxy2 { addresses: None, tlvs }.encode().ok_or_else(|| io::Error::other("the word is too long"))?;
    tunnel.sink.send(Bytes::from(header)).await
}
