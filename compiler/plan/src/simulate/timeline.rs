//! The simulated inference as a trace for Perfetto (ui.perfetto.dev) and chrome://tracing.

use serde_json::{Value, json};

use super::Prediction;
use partita_config::Cluster;

/// Trace events in the Chrome JSON format: one process per device, one row for computation and one for exchanges.
pub fn trace_json(prediction: &Prediction, cluster: &Cluster) -> Value {
    let mut events = Vec::new();
    for (index, device) in cluster.devices.iter().enumerate() {
        events.push(json!({"name": "process_name", "ph": "M", "pid": index, "args": {"name": device.name}}));
        for (row, name) in [(0, "compute"), (1, "links")] {
            events.push(json!({"name": "thread_name", "ph": "M", "pid": index, "tid": row, "args": {"name": name}}));
        }
    }
    for span in &prediction.spans {
        events.push(json!({
            "name": span.name,
            "cat": if span.node.is_none() { "exchange" } else { "compute" },
            "ph": "X",
            "ts": span.begin * 1e6,
            "dur": (span.end - span.begin) * 1e6,
            "pid": span.device,
            "tid": usize::from(span.node.is_none()),
        }));
    }
    json!({"displayTimeUnit": "ms", "traceEvents": events})
}
