//! The laboratory's wide-area switch, its attackers, its load generator, its bare relay, and the spread plane by itself.
//!
//! Python calls one function, [`run`], in a process of its own for every tool; configuration and report are MessagePack.

pub mod chance;
pub mod datagrams;
pub mod fabric;
pub mod flood;
pub mod forge;
pub mod forgeries;
pub mod guard;
pub mod hello;
pub mod load;
pub mod pace;
pub mod packet;
pub mod relay;
pub mod spoof;
pub mod spray;
pub mod spread;
pub mod strangers;
pub mod survival;
pub mod switch;

use serde::{Deserialize, Serialize};

/// Why a tool of the laboratory did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The caller's mistake: a configuration that makes no sense.
    #[error("configuration: {0}")]
    Config(String),
    /// Not here, not against that target, or not so much.
    #[error("refused: {0}")]
    Refused(String),
    /// The system's answer.
    #[error("{0}")]
    System(#[from] std::io::Error),
}

/// Runs the tool called `name` to its end; returns its report (a MessagePack map, empty for the switch and the relay).
pub fn run(name: &str, config: &[u8]) -> Result<Vec<u8>, LabError> {
    match name {
        "switch" => switch::run(parse(config)?).map(|()| Vec::new()),
        "flood" => flood::run(&parse(config)?).map(|report| report_bytes(&report)),
        "spoof" => spoof::run(&parse(config)?).map(|report| report_bytes(&report)),
        "relay" => relay::run(&parse(config)?).map(|()| Vec::new()),
        "datagrams" => datagrams::run(&parse(config)?).map(|()| Vec::new()),
        "forgeries" => forgeries::run(&parse(config)?).map(|report| report_bytes(&report)),
        "survival" => survival::run(&parse(config)?).map(|report| report_bytes(&report)),
        "spray" => spray::run(&parse(config)?).map(|report| report_bytes(&report)),
        "spread-relays" => spread::relays::run(&parse(config)?).map(|()| Vec::new()),
        "spread-servlet" => spread::ends::serve(&parse(config)?).map(|()| Vec::new()),
        "spread-forwarder" => spread::ends::forward(&parse(config)?).map(|()| Vec::new()),
        "bulk-server" => spread::bulk::serve(&parse(config)?).map(|()| Vec::new()),
        "bulk-client" => spread::bulk::fetch(&parse(config)?).map(|report| report_bytes(&report)),
        "load" => load::run(&parse(config)?).map(|report| report_bytes(&report)),
        "strangers" => strangers::run(&parse(config)?).map(|report| report_bytes(&report)),
        _ => Err(LabError::Config(format!("there is no tool {name:?}"))),
    }
}

fn parse<'a, T: Deserialize<'a>>(config: &'a [u8]) -> Result<T, LabError> {
    rmp_serde::from_slice(config).map_err(|error| LabError::Config(error.to_string()))
}

fn report_bytes<T: Serialize>(report: &T) -> Vec<u8> {
    rmp_serde::to_vec_named(report).unwrap_or_default()
}
