//! Traces: who begins them, how they travel, and what fails leaves its mark.
#![allow(clippy::unwrap_used)]

mod common;

use common::*;
use polder_http::overlay::Overlay;
use polder_http::trace::Context;
use polder_http::tunnel::{Opener, Target};
use polder_types::*;
use std::sync::Arc;

const BROUGHT: Context = Context { trace: 0xabc, span: 0xdef };

/// A span as it was told.
#[derive(Clone, Debug)]
struct Told {
    node: String,
    trace: String,
    span: String,
    parent: String,
    name: String,
    stage: String,
    error: String,
}

fn told(nodes: &[Node]) -> Vec<Told> {
    let mut all = Vec::new();
    for node in nodes {
        for event in node.heard.all() {
            if let Event::Span { trace, span, parent, name, stage, error, .. } = event {
                all.push(Told { node: node.name.clone(), trace, span, parent, name, stage, error });
            }
        }
    }
    all
}

async fn three(pki: &Pki, tracing: [Option<Tracing>; 3]) -> Vec<Node> {
    let nodes = overlay(pki, &["ap", "beacon", "servlet"]).await;
    let origin = origin(echo).await;
    let [first, second, third] = tracing;
    nodes[0].apply(|s| {
        s.sites[0].beacons = vec!["beacon".into()];
        s.tracing = first;
    });
    nodes[1].apply(|s| {
        s.beacons = vec![BeaconEntry { site: "wiki".into(), servlets: vec!["servlet".into()] }];
        s.tracing = second;
    });
    nodes[2].apply(|s| {
        s.servlets = vec![tcp(origin)];
        s.tracing = third;
    });
    nodes
}

fn tracing(sample_ppm: u32, honour: bool) -> Option<Tracing> {
    Some(Tracing { sample_ppm, honour, to_origin: false })
}

async fn open(node: &Node, brought: Option<Context>) -> bool {
    let target = Target { host: "wiki.test".into(), port: 443 };
    let who = Some(Arc::new(user("ann")));
    Overlay::new(node.plane.clone()).open_traced(&who, &target, &mut says("x"), brought).await.is_ok()
}

/// Names with their nodes, from the root down; fails unless the spans are one line.
fn line(spans: &[Told]) -> Vec<String> {
    let mut parent = spans.iter().find(|span| spans.iter().all(|other| other.span != span.parent)).unwrap();
    let mut names = vec![format!("{} {}", parent.node, parent.name)];
    while let Some(child) = spans.iter().find(|span| span.parent == parent.span) {
        names.push(format!("{} {}", child.node, child.name));
        parent = child;
    }
    assert_eq!(names.len(), spans.len(), "{spans:?}");
    names
}

#[tokio::test]
async fn one_opening_is_one_line_over_three_nodes() {
    let nodes = three(&Pki::new(), [tracing(1_000_000, false), tracing(0, false), tracing(0, false)]).await;
    assert!(open(&nodes[0], None).await);
    let spans = told(&nodes);
    let wanted = ["ap access point", "ap ask", "beacon hop", "beacon ask", "servlet hop", "servlet deliver"];
    assert_eq!(line(&spans), wanted);
    assert!(spans.iter().all(|span| span.trace == spans[0].trace && span.error.is_empty()));
    let stages: Vec<_> = spans.iter().filter(|span| span.name == "hop").map(|span| span.stage.as_str()).collect();
    assert_eq!(stages, ["beacon", "servlet"]);
    assert_eq!(spans.iter().filter(|span| span.parent.is_empty()).count(), 1);
}

#[tokio::test]
async fn who_does_not_trace_passes_the_context_on() {
    let nodes = three(&Pki::new(), [tracing(1_000_000, false), None, tracing(0, false)]).await;
    assert!(open(&nodes[0], None).await);
    assert_eq!(line(&told(&nodes)), ["ap access point", "ap ask", "servlet hop", "servlet deliver"]);
}

#[tokio::test]
async fn a_client_s_trace_is_joined_only_where_it_is_honoured() {
    for (setting, joined) in [(tracing(0, true), true), (tracing(0, false), false), (None, false)] {
        let nodes = three(&Pki::new(), [setting, tracing(0, false), tracing(0, false)]).await;
        assert!(open(&nodes[0], Some(BROUGHT)).await);
        let spans = told(&nodes);
        assert_eq!(!spans.is_empty(), joined);
        assert!(spans.iter().all(|span| span.trace == format!("{:032x}", BROUGHT.trace)));
        assert!(!joined || spans.iter().any(|span| span.parent == format!("{:016x}", BROUGHT.span)));
    }
}

#[tokio::test]
async fn a_client_s_trace_is_begun_anew_where_it_is_not_honoured() {
    let nodes = three(&Pki::new(), [tracing(1_000_000, false), None, None]).await;
    assert!(open(&nodes[0], Some(BROUGHT)).await);
    let spans = told(&nodes);
    assert_eq!(spans.len(), 2);
    assert!(spans.iter().all(|span| span.trace != format!("{:032x}", BROUGHT.trace)));
}

#[tokio::test]
async fn the_share_that_is_asked_for_is_sampled() {
    let nodes = three(&Pki::new(), [tracing(500_000, false), None, None]).await;
    for _ in 0..100 {
        assert!(open(&nodes[0], None).await);
    }
    let roots = told(&nodes).iter().filter(|span| span.parent.is_empty()).count();
    // 100 draws of 1/2: mean 50, deviation 5; beyond six of them once in 5·10⁸ runs.
    assert!((20..=80).contains(&roots), "{roots}");
}

#[tokio::test]
async fn what_fails_says_so_and_the_next_candidate_has_a_span_of_its_own() {
    let nodes = three(&Pki::new(), [tracing(1_000_000, false), tracing(0, false), tracing(0, false)]).await;
    nodes[2].apply(|s| s.servlets = vec![]);
    assert!(!open(&nodes[0], None).await);
    let spans = told(&nodes);
    let error = |name: &str| spans.iter().find(|span| span.name == name).unwrap().error.clone();
    assert_eq!(error("access point"), "destination_unavailable");
    assert_eq!(error("hop"), "destination_unavailable");
    assert!(spans.iter().all(|span| !span.error.is_empty()), "{spans:?}");
}
