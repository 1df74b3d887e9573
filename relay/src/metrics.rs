//! Counters of what the relay did and what it left undone, each with its reason.
//!
//! All sockets of a server count into one [`Metrics`]; [`Metrics::snapshot`] reads it. Names follow Prometheus: unit and
//! `_total` at the end, the reason as a label. No label ever holds an address.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::handler::{IgnoreReason, Response};

pub(crate) mod exporter;

macro_rules! counters {
    ($($(#[$doc:meta])* $field:ident: $name:literal, $help:literal;)*) => {
        /// Counters, shared by all sockets of a server. Reading them takes no lock.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $($field: AtomicU64,)*
        }

        /// Values of all counters since the server began. Each is exact; they are not read in one instant.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        #[non_exhaustive]
        pub struct Snapshot {
            $($(#[$doc])* pub $field: u64,)*
        }

        impl Metrics {
            /// Reads all counters.
            #[must_use]
            pub fn snapshot(&self) -> Snapshot {
                Snapshot { $($field: self.$field.load(Ordering::Relaxed),)* }
            }
        }

        impl Snapshot {
            /// Name with label, help and value of each counter; counters of one name stand together.
            fn samples(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$(($name, $help, self.$field),)*].into_iter()
            }
        }
    };
}

counters! {
    /// Datagrams that came.
    received: "halloo_relay_datagrams_received_total", "Datagrams received.";
    /// Bytes of them.
    received_bytes: "halloo_relay_received_bytes_total", "Bytes of datagrams received.";
    /// Binding requests answered with the client's address.
    bindings: "halloo_relay_responses_total{kind=\"binding\"}", "Responses sent.";
    /// Requests answered with error 400.
    bad_requests: "halloo_relay_responses_total{kind=\"bad_request\"}", "Responses sent.";
    /// Requests answered with error 420.
    unknown_attributes: "halloo_relay_responses_total{kind=\"unknown_attribute\"}", "Responses sent.";
    /// Bytes of all responses.
    sent_bytes: "halloo_relay_sent_bytes_total", "Bytes of responses sent.";
    /// Datagrams that were no STUN message.
    ignored_not_stun: "halloo_relay_ignored_total{reason=\"not_stun\"}", "Datagrams that got no response.";
    /// Messages whose FINGERPRINT was wrong.
    ignored_wrong_fingerprint: "halloo_relay_ignored_total{reason=\"wrong_fingerprint\"}", "Datagrams that got no response.";
    /// Indications.
    ignored_indication: "halloo_relay_ignored_total{reason=\"indication\"}", "Datagrams that got no response.";
    /// Responses nobody had asked for.
    ignored_unexpected_response: "halloo_relay_ignored_total{reason=\"unexpected_response\"}", "Datagrams that got no response.";
    /// Requests with a method nobody knows.
    ignored_unknown_method: "halloo_relay_ignored_total{reason=\"unknown_method\"}", "Datagrams that got no response.";
    /// Requests beyond their source's share.
    ignored_rate_limited: "halloo_relay_ignored_total{reason=\"rate_limited\"}", "Datagrams that got no response.";
    /// Requests from where nobody can be answered.
    ignored_unusable_source: "halloo_relay_ignored_total{reason=\"unusable_source\"}", "Datagrams that got no response.";
    /// Responses that didn't fit the buffer they were written to: an embedder's mistake.
    ignored_no_room: "halloo_relay_ignored_total{reason=\"no_room\"}", "Datagrams that got no response.";
    /// Responses the socket had no room for.
    dropped_socket_full: "halloo_relay_dropped_total{reason=\"socket_full\"}", "Responses that could not be sent.";
    /// Responses the system refused to send.
    dropped_send_failed: "halloo_relay_dropped_total{reason=\"send_failed\"}", "Responses that could not be sent.";
    /// Failures of receiving.
    receive_failures: "halloo_relay_receive_failures_total", "Errors while receiving.";
}

impl Metrics {
    pub(crate) fn count_received(&self, bytes: usize) {
        add(&self.received, 1);
        add(&self.received_bytes, bytes as u64);
    }

    pub(crate) fn count_receive_failure(&self) {
        add(&self.receive_failures, 1);
    }

    pub(crate) fn count_ignored(&self, reason: IgnoreReason) {
        let counter = match reason {
            IgnoreReason::NotStun => &self.ignored_not_stun,
            IgnoreReason::WrongFingerprint => &self.ignored_wrong_fingerprint,
            IgnoreReason::Indication => &self.ignored_indication,
            IgnoreReason::UnexpectedResponse => &self.ignored_unexpected_response,
            IgnoreReason::UnknownMethod => &self.ignored_unknown_method,
            IgnoreReason::RateLimited => &self.ignored_rate_limited,
            IgnoreReason::UnusableSource => &self.ignored_unusable_source,
            IgnoreReason::NoRoom => &self.ignored_no_room,
        };
        add(counter, 1);
    }

    pub(crate) fn count_sent(&self, response: Response, bytes: usize) {
        let counter = match response {
            Response::Binding => &self.bindings,
            Response::BadRequest => &self.bad_requests,
            Response::UnknownAttribute => &self.unknown_attributes,
        };
        add(counter, 1);
        add(&self.sent_bytes, bytes as u64);
    }

    pub(crate) fn count_dropped(&self, error: &std::io::Error) {
        let is_full = error.kind() == std::io::ErrorKind::WouldBlock;
        add(if is_full { &self.dropped_socket_full } else { &self.dropped_send_failed }, 1);
    }
}

/// Counters order nothing, so the weakest ordering does.
fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}

impl fmt::Display for Snapshot {
    /// Prometheus text format, version 0.0.4.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut described = "";
        for (sample, help, value) in self.samples() {
            let name = sample.split('{').next().unwrap_or(sample);
            if name != described {
                writeln!(f, "# HELP {name} {help}\n# TYPE {name} counter")?;
                described = name;
            }
            writeln!(f, "{sample} {value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_describes_each_name_once_and_shows_values() {
        let metrics = Metrics::default();
        metrics.count_received(20);
        metrics.count_sent(Response::Binding, 32);
        metrics.count_ignored(IgnoreReason::RateLimited);
        let text = metrics.snapshot().to_string();
        assert_eq!(text.matches("# TYPE halloo_relay_ignored_total counter").count(), 1);
        assert!(text.contains("halloo_relay_responses_total{kind=\"binding\"} 1\n"), "{text}");
        assert!(text.contains("halloo_relay_sent_bytes_total 32\n"), "{text}");
        assert!(text.contains("halloo_relay_ignored_total{reason=\"rate_limited\"} 1\n"), "{text}");
    }
}
