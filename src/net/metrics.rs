//! What the mesh counts: calls by protocol and outcome, their time, and each bound that was hit.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use super::{CallError, Protocol};
use crate::telemetry::Bounds;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct CallLabels {
    protocol: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ProtocolLabel {
    protocol: &'static str,
}

/// How a call can end.
const OUTCOMES: [&str; 7] = ["answered", "unreachable", "busy", "too-large", "timeout", "broken", "refused"];

/// The mesh's own metrics. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct NetMetrics {
    calls: Family<CallLabels, Counter>,
    seconds: Family<ProtocolLabel, Histogram>,
    bounds: Bounds,
}

impl NetMetrics {
    pub(super) fn new(registry: &mut Registry, bounds: Bounds) -> Self {
        // From 100 µs to 13 s, which covers a loopback exchange and the longest deadline.
        let histogram: fn() -> Histogram = || Histogram::new(exponential_buckets(0.0001, 2.0, 18));
        let metrics = Self { calls: Family::default(), seconds: Family::new_with_constructor(histogram), bounds };
        for protocol in Protocol::ALL.map(Protocol::label) {
            for outcome in OUTCOMES {
                drop(metrics.calls.get_or_create(&CallLabels { protocol, outcome }));
            }
            drop(metrics.seconds.get_or_create(&ProtocolLabel { protocol }));
        }
        registry.register("syncmesh_rpc_calls", "Calls to peers that ended", metrics.calls.clone());
        registry.register("syncmesh_rpc_call_seconds", "Time until a call was answered", metrics.seconds.clone());
        metrics
    }

    /// A call ended.
    pub(super) fn called<T>(&self, protocol: Protocol, result: &Result<T, CallError>, took: Duration) {
        let outcome = match result {
            Ok(_) => "answered",
            Err(CallError::Unreachable(_)) => "unreachable",
            Err(CallError::Busy(_)) => "busy",
            Err(CallError::TooLarge { .. }) => "too-large",
            Err(CallError::Timeout(_)) => "timeout",
            Err(CallError::Broken(_)) => "broken",
            Err(CallError::Refused(_)) => "refused",
        };
        self.calls.get_or_create(&CallLabels { protocol: protocol.label(), outcome }).inc();
        if result.is_ok() {
            self.seconds.get_or_create(&ProtocolLabel { protocol: protocol.label() }).observe(took.as_secs_f64());
        }
    }

    /// A bound was hit.
    pub(super) fn bound(&self, bound: &'static str) {
        self.bounds.hit(bound);
    }
}
