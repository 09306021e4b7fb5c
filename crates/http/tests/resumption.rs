//! A resumed session is worth no more than a new one.
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use polder_types::*;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use std::io;
use std::sync::Arc;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

/// A client as browsers are: it keeps sessions.
fn browser(pki: &Pki, material: &IdentityMaterial) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from(pki.root.clone())).unwrap();
    let chain = material.chain.iter().map(|c| CertificateDer::from(c.to_vec())).collect();
    let key = PrivatePkcs8KeyDer::from(material.key.to_vec()).into();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    Arc::new(config).into()
}

/// One handshake: what the client saw of it, and whom the server took it for.
async fn shake(
    node: &Node,
    listener: &TcpListener,
    browser: &TlsConnector,
) -> (io::Result<Option<HandshakeKind>>, Result<Identity, String>) {
    let client = async {
        let socket = TcpStream::connect(listener.local_addr().unwrap()).await?;
        let mut stream = browser.connect(ServerName::try_from("ap.node.o.test").unwrap(), socket).await?;
        let kind = stream.get_ref().1.handshake_kind();
        // Tickets come behind the handshake; the server closes in good order, or not at all when it refuses.
        stream.read_to_end(&mut Vec::new()).await?;
        Ok(kind)
    };
    let server = async {
        let (socket, _) = listener.accept().await.unwrap();
        let world = node.plane.world().unwrap();
        match world.tls.accept(socket).await {
            Ok((mut stream, identity, _)) => {
                tokio::io::AsyncWriteExt::shutdown(&mut stream).await.unwrap();
                Ok(identity)
            }
            Err(e) => Err(e.about_certificate().unwrap_or_else(|| e.to_string())),
        }
    };
    tokio::join!(client, server)
}

/// An access point whose certificate a browser accepts: it has the DNS name that was asked for.
async fn access_point(pki: &Pki) -> Node {
    let node = Node::start(pki, "ap", Role::Node, pki.issue_named(Leaf::node("ap", 1), "ap.node.o.test"), vec![]).await;
    node.apply(|_| {});
    node
}

#[tokio::test]
async fn sessions_are_resumed_across_snapshots_and_never_past_a_revocation() {
    let pki = Pki::new();
    let node = access_point(&pki).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ann = browser(&pki, &pki.issue(Leaf::new("user", "ann")));
    let (seen, who) = shake(&node, &listener, &ann).await;
    assert_eq!((seen.unwrap(), &*who.unwrap().name), (Some(HandshakeKind::Full), "ann"));
    node.apply(|_| {}); // a new snapshot
    let (seen, who) = shake(&node, &listener, &ann).await;
    assert_eq!((seen.unwrap(), &*who.unwrap().name), (Some(HandshakeKind::Resumed), "ann"));
    node.apply(|s| s.revocations.identities = vec![format!("spiffe://{DOMAIN}/user/ann")]);
    let (seen, who) = shake(&node, &listener, &ann).await;
    assert!(who.unwrap_err().contains("revoked"));
    assert!(seen.is_err(), "no good end for the refused");
}

#[tokio::test]
async fn a_resumed_session_is_verified_by_the_roots_in_force() {
    let (old, new) = (Pki::new(), Pki::new());
    let node = access_point(&old).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ann = browser(&old, &old.issue(Leaf::new("user", "ann")));
    assert!(shake(&node, &listener, &ann).await.1.is_ok());
    // The root was replaced; the node keeps the DNS name but belongs to the new root now.
    let identity = new.issue_named(Leaf::node("ap", 1), "ap.node.o.test");
    node.apply(|s| (s.roots, s.identity) = (vec![new.root.clone().into()], identity));
    assert!(shake(&node, &listener, &ann).await.1.unwrap_err().contains("not issued by this overlay"));
}
