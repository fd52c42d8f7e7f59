//! What the server counts, for Prometheus.

use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use prometheus::{
    HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder, core::Collector,
};
use reelgrad::retrieval::index::Index;

use super::Shared;
use super::refusal::{Code, Refusal};

/// Seconds at which the histogram of answers is divided.
const BUCKETS: [f64; 10] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0];

pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    seconds: HistogramVec,
    queries: IntCounter,
    batches: IntCounter,
    /// Requests that wait for the GPU.
    pub queue_length: IntGauge,
}

impl Metrics {
    pub fn new(index: &Index) -> Self {
        let registry = Registry::new();
        // Names and labels are fixed and right, and each is there once.
        fn known<C: Collector + Clone + 'static>(registry: &Registry, made: prometheus::Result<C>) -> C {
            let made = made.expect("a metric has a good name");
            registry.register(Box::new(made.clone())).expect("each metric is registered once");
            made
        }
        let counter = |name, help| known(&registry, IntCounter::new(name, help));
        let gauge = |name, help| known(&registry, IntGauge::new(name, help));
        let requests = Opts::new("reelgrad_requests_total", "Requests, by route and status.");
        let seconds = HistogramOpts::new("reelgrad_request_seconds", "Seconds of a request, by route.");
        let metrics = Self {
            requests: known(&registry, IntCounterVec::new(requests, &["route", "status"])),
            seconds: known(&registry, HistogramVec::new(seconds.buckets(BUCKETS.to_vec()), &["route"])),
            queries: counter("reelgrad_queries_total", "Queries of searches."),
            batches: counter("reelgrad_batches_total", "Batches in which they were answered."),
            queue_length: gauge("reelgrad_queue_length", "Requests that wait."),
            registry: registry.clone(),
        };
        gauge("reelgrad_index_clips", "Clips of the index.").set(index.len() as i64);
        gauge("reelgrad_index_videos", "Videos of the index.").set(index.videos().count() as i64);
        metrics
    }

    /// Queries, and batches of them.
    pub fn rounds(&self) -> [IntCounter; 2] {
        [self.queries.clone(), self.batches.clone()]
    }

    /// Counts an answer.
    pub fn answered(&self, route: &str, status: StatusCode, taken: Duration) {
        self.requests.with_label_values(&[route, status.as_str()]).inc();
        self.seconds.with_label_values(&[route]).observe(taken.as_secs_f64());
    }
}

/// GET /metrics
pub async fn text(State(server): Shared) -> Response {
    match TextEncoder::new().encode_to_string(&server.metrics.registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => Refusal::new(Code::Internal, error.to_string()).into_response(),
    }
}
