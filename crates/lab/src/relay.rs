//! A bare hop: mutual TLS 1.3 in and out and nothing else. It shows what a message costs at the least, under any proxy.
//!
//! The kernel wakes it, it reads once, decrypts, encrypts and writes once, with the libraries of our own data plane; there is no
//! framing, no sharing of links, no bound on anything.

use crate::{LabError, guard};
use serde::Deserialize;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig, version::TLS13};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// Read at once.
const CHUNK: usize = 65_536;

/// Where from, where to, and who we are.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Loopback, or an address of the laboratory.
    pub listen: SocketAddr,
    /// Likewise.
    pub to: SocketAddr,
    /// Our certificate (PEM).
    pub chain: PathBuf,
    /// Its key (PEM).
    pub key: PathBuf,
    /// Whom everybody trusts (PEM).
    pub root: PathBuf,
    /// Whether who comes speaks TLS.
    pub tls_in: bool,
    /// The name of the next hop; none: it is spoken to in plain TCP.
    pub next: Option<String>,
}

#[derive(Clone)]
struct Relay {
    to: SocketAddr,
    acceptor: Option<TlsAcceptor>,
    connector: Option<(TlsConnector, ServerName<'static>)>,
}

/// Relays until it is killed. Errors: the configuration; an address outside the laboratory; the system.
pub fn run(config: &Config) -> Result<(), LabError> {
    guard::here([config.listen, config.to])?;
    let relay = prepare(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(config.listen).await?;
        loop {
            let (near, _) = listener.accept().await?;
            let relay = relay.clone();
            tokio::spawn(async move {
                let _ = carry(relay, near).await; // who it was learns it from the closed connection
            });
        }
    })
}

fn prepare(config: &Config) -> Result<Relay, LabError> {
    fn wrong(error: impl ToString) -> LabError {
        LabError::Config(error.to_string())
    }
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&config.root).map_err(wrong)?).map_err(wrong)?;
    let roots = Arc::new(roots);
    let chain: Vec<_> = vec![CertificateDer::from_pem_file(&config.chain).map_err(wrong)?];
    let key = || PrivateKeyDer::from_pem_file(&config.key).map_err(wrong);
    let acceptor = if config.tls_in {
        let verifier = WebPkiClientVerifier::builder(roots.clone()).build().map_err(wrong)?;
        let builder = ServerConfig::builder_with_protocol_versions(&[&TLS13]).with_client_cert_verifier(verifier);
        Some(Arc::new(builder.with_single_cert(chain.clone(), key()?).map_err(wrong)?).into())
    } else {
        None
    };
    let connector = match &config.next {
        Some(name) => {
            let builder = ClientConfig::builder_with_protocol_versions(&[&TLS13]).with_root_certificates(roots);
            let tls = builder.with_client_auth_cert(chain, key()?).map_err(wrong)?;
            Some((Arc::new(tls).into(), ServerName::try_from(name.clone()).map_err(wrong)?))
        }
        None => None,
    };
    Ok(Relay { to: config.to, acceptor, connector })
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn carry(relay: Relay, near: TcpStream) -> io::Result<()> {
    near.set_nodelay(true)?;
    let far = TcpStream::connect(relay.to).await?;
    far.set_nodelay(true)?;
    let near: Box<dyn Stream> = match relay.acceptor {
        Some(acceptor) => Box::new(acceptor.accept(near).await?),
        None => Box::new(near),
    };
    let far: Box<dyn Stream> = match relay.connector {
        Some((connector, name)) => Box::new(connector.connect(name, far).await?),
        None => Box::new(far),
    };
    let ((from_near, to_near), (from_far, to_far)) = (split(near), split(far));
    tokio::try_join!(one_way(from_near, to_far), one_way(from_far, to_near)).map(|_| ())
}

async fn one_way(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match from.read(&mut buffer).await? {
            0 => return to.shutdown().await,
            count => to.write_all(&buffer[..count]).await?,
        }
        to.flush().await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_others_are_refused() {
        let config = Config {
            listen: "127.0.0.1:0".parse().unwrap(),
            to: "192.0.2.1:443".parse().unwrap(),
            chain: PathBuf::new(),
            key: PathBuf::new(),
            root: PathBuf::new(),
            tls_in: false,
            next: None,
        };
        assert!(matches!(run(&config), Err(LabError::Refused(why)) if why.contains("192.0.2.1")));
        let here = Config { to: config.listen, ..config };
        assert!(matches!(run(&here), Err(LabError::Config(_))), "no certificates");
    }
}
